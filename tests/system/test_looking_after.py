"""Doctor, workers, quarantine, hostile records: what an operator meets."""

from __future__ import annotations

import json
import random
import re
import signal
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.retry import MAX_MISSTARTS
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.support.disks import Disk, fill
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, break_machine, through_both_doors, wait_for_pid, waits_for


@through_both_doors
def test_a_start_that_fails_through_the_machine_quarantines_the_worker_until_it_is_resumed(cluster: Cluster) -> None:
    """X10: and the run is not lost by it."""
    worker = cluster.worker()
    [broken] = break_machine(cluster)
    back = submit(["true"], api=cluster.api)
    wait_until(lambda: cluster.api.store.workers()[0]["state"] == "quarantined")
    # The worker says that it is in quarantine at once, and then what became of the run.
    wait_until(lambda: (back.state, back.record.misstarts) == (RunState.PENDING, 1))
    waits = submit(["true"], api=cluster.api)
    status = cluster.run("launch-worker", "status").out
    left = re.search(r"takes no runs for ([\d.]+) s more", status)
    assert left is not None, status
    assert 20 <= float(left[1]) <= 30, "half a minute, less what this machine took to ask"
    assert "Not a directory" in cluster.run("launch-worker", "workers").out
    broken.unlink()
    assert cluster.run("launch-worker", "doctor").code == 1
    assert waits.state is RunState.PENDING
    name = cluster.api.store.workers()[0]["worker"]
    assert cluster.run("launch-worker", "workers", "resume", name).code == 0
    assert waits.wait(20) is RunState.FINISHED
    assert back.wait(20) is RunState.FINISHED
    assert worker.process.poll() is None


def test_programs_that_are_not_there_pause_no_worker(cluster: Cluster) -> None:
    cluster.worker()
    (cluster.folder / "text").write_text("no program")
    for command, cwd in [
        ("no-such-program", None),
        (str(cluster.folder / "text"), None),
        ("true", "/no/such/folder"),
    ] * 3:
        assert submit([command], api=cluster.api, cwd=cwd).wait(20) is RunState.FAILED
    assert submit(["true"], api=cluster.api).wait(5) is RunState.FINISHED
    assert cluster.api.store.workers()[0]["state"] == "running"


def test_a_run_goes_from_a_broken_worker_to_a_sound_one_and_uses_up_no_retry(cluster: Cluster) -> None:
    cluster.worker(name="broken")
    break_machine(cluster)
    run = submit(["true"], api=cluster.api)
    wait_until(lambda: run.refresh().misstarts == 1)
    cluster.worker(name="sound")
    assert run.wait(20) is RunState.FINISHED
    assert run.record.worker.startswith("sound@")
    assert run.record.attempt - run.record.first_attempt == 0


def test_a_start_that_failed_through_its_worker_waits_for_another_one_though_the_first_goes_on(
    cluster: Cluster,
) -> None:
    cluster.worker(name="sound", slots=1)
    busy = submit(["sh", "-c", waits_for(cluster.folder / "end")], api=cluster.api)
    wait_for_pid(busy)
    cluster.worker(name="broken", arguments=["--quarantine-after", "0"])
    break_machine(cluster)
    run = submit(["true"], api=cluster.api)
    wait_until(lambda: run.refresh().reason.startswith("not on broken@"), what="the first one has given it away")
    explained = " ".join(cluster.run("launch-worker", "explain", run.id).out.split())
    assert "the run shall not be tried on it again while another worker may take it" in explained
    (cluster.folder / "end").touch()
    assert run.wait(20) is RunState.FINISHED
    assert (run.record.worker.partition("@")[0], run.record.misstarts, run.record.attempt) == ("sound", 1, 2)


@through_both_doors
def test_rules_of_retries_and_another_worker_are_asked_for_at_the_command_line(cluster: Cluster) -> None:
    cluster.worker(name="w1", slots=1)
    cluster.worker(name="w2", slots=1)
    asked = ("launch-submit", "--quiet", "--retry", "7=2:50ms..100ms,failed=1:0s", "--not-on-same-worker")
    done = cluster.run(*asked, "--wait", "--", "sh", "-c", "test $LAUNCH_ATTEMPT != 1 || exit 7; exit $LAUNCH_ATTEMPT")
    run = cluster.runs()[0]
    assert (done.code, run.record.attempt, run.record.state) == (3, 3, RunState.FAILED)
    history = cluster.show(run.id)["history"]
    reasons = [step["reason"] for step in history if step["state"] == "Pending" and step["attempt"]]
    assert [reason.partition(", in")[0] for reason in reasons] == ["retry 1 of 2 after 7", "retry 1 of 1 after failed"]
    workers = [step["worker"].partition("@")[0] for step in history if step["state"] == "Running"]
    assert workers in (["w1", "w2", "w1"], ["w2", "w1", "w2"])
    assert cluster.run("launch-worker", "retry", "--not-on-same-worker", run.id).code == 0
    assert run.wait(20) is RunState.FAILED
    again = [step["worker"] for step in cluster.show(run.id)["history"] if step["state"] == "Running"]
    assert again[3].partition("@")[0] == workers[1]
    assert len(again) == 5, "a person's retry begins new counts"


def test_a_run_that_no_worker_can_start_fails_in_the_end(cluster: Cluster) -> None:
    cluster.worker(arguments=["--quarantine-after", "0"])
    break_machine(cluster)
    run = submit(["true"], api=cluster.api)
    for number in range(1, MAX_MISSTARTS + 1):
        wait_until(lambda number=number: run.refresh().misstarts == number)  # type: ignore[misc]
        redis_of(cluster.redis_url).zadd("launch:due", {run.id: 1}, xx=True)
        cluster.api.store.publish_due()
    assert run.wait(20) is RunState.FAILED
    assert "disk or system refused" in run.record.reason


def test_a_worker_with_too_little_room_takes_no_runs_and_says_so(cluster: Cluster) -> None:
    cluster.worker(env={"LAUNCH_MIN_FREE_BYTES": "500T"})
    run = submit(["true"], api=cluster.api)
    assert run.queue_consumers == 0
    assert "LAUNCH_MIN_FREE_BYTES" in cluster.run("launch-worker", "workers").out
    assert "takes no runs for now" in cluster.show(run.id)["reason"]
    cluster.worker(name="w2")
    assert run.wait(20) is RunState.FINISHED


def test_a_worker_that_is_started_on_a_full_disk_waits_for_room(cluster: Cluster, disk: Disk) -> None:
    folder = disk("4m")
    fill(folder)
    worker = cluster.worker(env={"LAUNCH_WORK_DIR": str(folder), "LAUNCH_MIN_FREE_BYTES": "0"}, wait=False)
    wait_until(lambda: "is full; the worker starts when there is room" in worker.log, what="it says so")
    (folder / "filler").unlink()
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@through_both_doors
def test_workers_drain_lets_a_worker_leave_when_its_job_has_ended(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sh", "-c", waits_for(cluster.folder / "end")], api=cluster.api)
    wait_for_pid(run)
    name = cluster.api.store.workers()[0]["worker"]
    assert cluster.run("launch-worker", "workers", "drain", name).code == 0
    wait_until(lambda: "worker.draining" in worker.log)
    (cluster.folder / "end").touch()
    assert worker.wait(20) == 0
    assert run.state is RunState.FINISHED
    gone = cluster.run("launch-worker", "workers", "drain", name)
    assert gone.code == 2
    assert "no live worker" in gone.err


def test_a_second_worker_of_one_name_starts_and_says_so(cluster: Cluster) -> None:
    first = cluster.worker(name="w1")
    second = cluster.worker(name="w1", arguments=("--logfile", str(cluster.folder / "second.log")), wait=False)
    said = f"Another worker is called {cluster.api.store.workers()[0]['worker']} too (on "
    wait_until(lambda: said in second.log, what="it is said in the terminal")
    assert f"pid {first.pid}): what is ordered of one" in second.log
    assert said in (cluster.folder / "second.log").read_text()
    wait_until(lambda: len(cluster.api.store.workers()) == 2, what="it has started")
    assert "Another worker" not in first.log


def test_a_worker_that_follows_one_of_its_name_that_was_killed_says_nothing_of_it(cluster: Cluster) -> None:
    cluster.worker(name="w1").kill()
    assert len(cluster.api.store.workers()) == 1, "it is still listed"
    second = cluster.worker(name="w1")
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert "nother worker" not in second.log


def test_what_is_published_to_a_workers_channels_and_is_no_word_of_ours_costs_one_line(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    owner = cluster.api.store.workers()[0]["owner"]
    token = run.refresh().token
    cancel = {"order": "cancel", "id": run.id, "token": str(token), "reason": "", "grace_us": ""}
    garbage: list[bytes | str] = [
        *("", "x", "null", "[]", "1e999", "[" * 100_000, "{" * 5, '"cancel"', "9" * 10_000, "\u0663", "../../x"),
        *(b"\xff\xfe\x00", b"\x80\x04K\x01.", '{"order": 1}', '{"order": "cancel"}', '{"order": "drain"}'),
        *(json.dumps(cancel | {"grace_us": wrong}) for wrong in ("soon", float("inf"), float("nan"))),
    ]
    redis = redis_of(cluster.redis_url)
    channels = [keys.orders_channel(owner), keys.DUE, keys.QUEUE_NEWS, keys.SWEEP_NEWS, keys.news_channel(run.id)]
    for channel in channels:
        for message in garbage:
            redis.publish(channel, message)
    for message in garbage:
        if message != '{"order": "drain"}':
            redis.publish(keys.admin_channel(owner), message)
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    assert submit(["true"], delay=0.3, api=cluster.api).wait(20) is RunState.FINISHED
    assert worker.log.count("message.unusable") == 1
    assert "Traceback" not in worker.log
    assert "failed" not in worker.log
    assert max(map(len, worker.log.splitlines())) < 1000
    assert worker.process.poll() is None


def test_doctor_finds_nothing_wrong_with_a_sound_system_and_names_what_is(cluster: Cluster) -> None:
    cluster.worker()
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    sound = cluster.run("launch-worker", "doctor")
    assert sound.code == 0, sound
    assert "records and indexes agree (1 runs" in sound.out
    redis = redis_of(cluster.redis_url)
    redis.zadd("launch:runs:state:Running", {cluster.runs()[0].id: 1})
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        findings = [json.loads(line) for line in cluster.run("launch-worker", "doctor", "--json").out.splitlines()]
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    errors = [finding["text"] for finding in findings if finding["level"] == "error"]
    assert any("noeviction" in text for text in errors)
    assert any("its indexes say" in text for text in errors)


def test_doctor_tells_that_a_snapshot_restore_lost_something(tmp_path: Path) -> None:
    server = RedisServer(snapshot=True)
    server.start()
    cluster = Cluster(server.url, tmp_path)
    try:
        cluster.worker()
        assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
        redis_of(cluster.redis_url).save()
        server.kill()
        server.start()
        assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
        assert "restored from a snapshot" in cluster.run("launch-worker", "doctor").out
    finally:
        cluster.close()
        server.stop()


@pytest.mark.parametrize("seed", [1, 2])
def test_malformed_huge_hostile_items_in_the_queue_or_in_a_run_record_touch_only_themselves(
    cluster: Cluster, seed: int
) -> None:
    """P41: random bytes, wrong types, unknown versions, huge bodies, missing records, in every queue and record."""
    rng = random.Random(seed)
    worker = cluster.worker("default,gpu", slots=4)
    redis = redis_of(cluster.redis_url)
    for number in range(120):
        queue = rng.choice(["default", "gpu", "default\x06\x166", "gpu\x06\x169", "maintenance"])
        redis.lpush(queue, _hostile_item(rng, number))
    for number in range(60):
        run_id = f"hostile{seed}x{number}"
        cluster.api.store.create(run_id, RunSpec(("true",), queue=rng.choice(["default", "gpu"])))
        _damage(cluster, rng, run_id)
    sound = [submit(["true"], queue=rng.choice(["default", "gpu"]), api=cluster.api) for _ in range(10)]
    for run in sound:
        assert run.wait(40) is RunState.FINISHED, worker.log[-3000:]
    assert worker.process.poll() is None
    for command in (["runs", "--limit", "1000"], ["runs", "--json"], ["status"], ["show", f"hostile{seed}x1"]):
        result = cluster.run("launch-worker", *command)
        assert "Traceback" not in result.err, result.err
    assert "heartbeat.failed" not in worker.log
    assert "pass.failed" not in worker.log


def _hostile_item(rng: random.Random, number: int) -> bytes:
    body = rng.choice(
        [
            *("[]", "null", "{}", "not json", '[["x"], {}, {}]', '[["x", "y", "z"], {"a": 1}, {}]', "[[1], {}, 7]"),
            *(
                '[[{"__type__": "datetime", "__value__": "never"}, 1], {}, {}]',
                '[["' + "x" * 1_000_000 + '", 1], {}, {}]',
            ),
            *('[["../../etc/passwd", 1], {}, {}]', f'[["hostile{number}", -1], {{}}, {{}}]'),
        ]
    )
    headers: dict[str, object] = {
        "id": f"h{number}",
        "task": rng.choice(["launch_worker.run", "os.system", "celery.map"]),
    }
    odd: dict[str, object] = {
        "eta": "x",
        "expires": [],
        "timelimit": 7,
        "retries": "x",
        "stamps": 1,
        "lang": None,
        "group": {},
        "chord": "x",
        "compression": "zlib",
        "stamped_headers": 9,
    }
    for name, value in odd.items():
        if rng.random() < 0.15:
            headers[name] = value
    envelope: dict[str, object] = {
        "body": body,
        "content-type": rng.choice(["application/json", "application/json", "application/x-python-serialize", None, 5]),
        "content-encoding": rng.choice(["utf-8", "binary", "no-such", None]),
        "headers": rng.choice([headers, headers, headers, None, [], "x"]),
        "properties": rng.choice(
            [
                {"delivery_tag": f"t{number}", "delivery_info": {"exchange": "", "routing_key": "x"}},
                {"delivery_tag": f"t{number}", "delivery_info": rng.choice([None, 5, "x"]), "priority": "high"},
                {"delivery_tag": rng.choice([None, 5, []])},
                {},
                None,
            ]
        ),
    }
    return rng.choice(
        [json.dumps(envelope).encode(), rng.randbytes(rng.randrange(1, 500)), json.dumps(envelope)[:200].encode()]
    )


def _damage(cluster: Cluster, rng: random.Random, run_id: str) -> None:
    redis = redis_of(cluster.redis_url)
    key = f"launch:run:{run_id}"
    how = rng.randrange(6)
    if how == 0:
        redis.delete(key)
    elif how == 1:
        redis.delete(key)
        redis.set(key, "a string")
    elif how == 2:
        specs = [
            "",
            "null",
            "[]",
            "{}",
            "{",
            '{"command": "rm -rf /"}',
            '{"command": [], "x": 1}',
            '{"command": ["\\u0000"]}',
        ]
        redis.hset(key, "spec", rng.choice(specs))
    elif how == 3:
        field = rng.choice(["attempt", "token", "created_at", "first_attempt", "priority", "queue", "name", "tags"])
        redis.hset(key, field, rng.choice([b"", b"x", b"\xff\xfe", b"-1", b"1e400", b"9" * 400]))
    elif how == 4:
        redis.delete(f"{key}:history")
        redis.set(f"{key}:history", "a string")
    else:
        redis.hdel(key, rng.choice(["state", "seq", "queue", "spec", "created_at"]))
