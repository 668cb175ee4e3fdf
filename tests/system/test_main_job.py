"""Submit, run, see: the main job through real workers."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import (
    Cluster,
    job_processes,
    stamps,
    states,
    through_both_doors,
    wait_for_output,
    wait_for_pid,
    waits_for,
)

PYTHON = "python3"


def test_an_item_on_a_queue_is_run_by_its_worker_and_recorded(cluster: Cluster) -> None:
    """P1."""
    cluster.worker("gpu")
    run = submit(["sh", "-c", "echo $LAUNCH_RUN_ID $LAUNCH_ATTEMPT $LAUNCH_QUEUE"], queue="gpu", api=cluster.api)
    assert run.wait(20) is RunState.FINISHED
    assert run.logs().decode().split() == [run.id, "1", "gpu"]
    shown = cluster.show(run.id)
    assert [step["state"] for step in shown["history"]] == ["Pending", "Running", "Finished"]
    assert (shown["exit_code"], shown["signal"], shown["attempt"]) == (0, None, 1)
    assert shown["host"]
    assert shown["pid"]
    assert shown["worker"].startswith("w1@")


@pytest.mark.main_path
def test_a_run_whose_queue_nobody_consumes_stays_pending_and_says_so(cluster: Cluster) -> None:
    """P2."""
    cluster.worker("gpu")
    result = cluster.run("launch-submit", "-q", "cpu", "--quiet", "--", "true")
    assert result.code == 0
    assert "no worker consumes queue cpu; start one with" in result.err
    shown = cluster.show(result.out.strip())
    assert shown["state"] == "Pending"
    assert shown["reason"] == "no worker consumes queue cpu"


@through_both_doors
@pytest.mark.main_path
def test_follow_prints_the_output_and_exits_with_the_jobs_code(cluster: Cluster) -> None:
    cluster.worker()
    result = cluster.run("launch-submit", "--follow", "--", PYTHON, "-c", 'import sys; print("hi"); sys.exit(3)')
    assert (result.code, result.out) == (3, "hi\n")
    run_id = result.err.split()[1]
    shown = cluster.show(run_id)
    assert (shown["state"], shown["exit_code"], shown["phase"]) == ("Failed", 3, "run")


@pytest.mark.parametrize(
    ("script", "code", "state"),
    [
        ("exit 0", 0, "Finished"),
        ("exit 255", 255, "Failed"),
        ("kill -9 $$", 137, "Failed"),
        ("kill -11 $$", 139, "Failed"),
    ],
)
def test_wait_exits_with_the_contracts_code(cluster: Cluster, script: str, code: int, state: str) -> None:
    """P29, P35."""
    cluster.worker()
    result = cluster.run("launch-submit", "--wait", "--json", "--", "sh", "-c", script)
    assert result.code == code, result
    shown = json.loads(result.out)
    assert shown["state"] == state
    if "kill" in script:
        assert shown["signal"] == {137: "SIGKILL", 139: "SIGSEGV"}[code]
        assert shown["signal"] in shown["reason"]


@pytest.mark.parametrize("command", ["no-such-program", "/etc/hostname", "/no/such/program"])
def test_a_command_that_cannot_start_fails_in_phase_start_and_is_named(cluster: Cluster, command: str) -> None:
    """P9."""
    cluster.worker()
    run = submit([command], api=cluster.api)
    assert run.wait(20) is RunState.FAILED
    assert run.record.phase == "start"
    assert command in run.record.message
    assert run.record.ended_at is not None
    assert run.record.ended_at - run.record.created_at < 5_000_000


def test_arguments_arrive_as_they_were_given(cluster: Cluster) -> None:
    """W8: spaces, quotes, ;, newlines, empty strings, 100 kB; no shell."""
    words = ["a b", "'\"", "; rm -rf /", "line\nbreak", "", "ü€", "$HOME", "x" * 100_000, "-q"]
    cluster.worker()
    script = "import sys, json; print(json.dumps([len(w) if len(w) > 99 else w for w in sys.argv[1:]]))"
    run = submit([PYTHON, "-c", script, *words], api=cluster.api)
    assert run.wait(20) is RunState.FINISHED, run.logs()
    assert json.loads(run.logs()) == [100_000 if len(word) > 99 else word for word in words]


@pytest.mark.main_path
def test_a_job_sees_its_own_environment_and_not_the_brokers(cluster: Cluster, tmp_path: Path) -> None:
    """W9, W6: env-from values never enter Redis."""
    cluster.worker(env={"SECRET_OF_WORKER": "s3cr3t-value", "AWS_KEY": "hidden-value"})
    result = cluster.run(
        *("launch-submit", "--follow", "-e", "A=1", "--env-from", "SECRET_OF_WORKER", "--cwd", str(tmp_path)),
        *("--name", "see", "--project", "me/proj", "--", "sh", "-c", "env; pwd"),
    )
    assert result.code == 0, result
    seen = dict(line.split("=", 1) for line in result.out.splitlines() if "=" in line)
    assert (seen["A"], seen["SECRET_OF_WORKER"]) == ("1", "s3cr3t-value")
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert (seen["LAUNCH_NAME"], seen["LAUNCH_PROJECT"]) == ("see", "me/proj")
    assert str(tmp_path) in result.out.splitlines()
    assert "hidden-value" not in result.out
    assert "LAUNCH_REDIS_URL" not in seen
    assert cluster.redis_url.split(":")[2].split("@")[0] not in result.out
    everything = _dump(cluster)
    # The job itself printed it; nothing else may have it.
    assert all("s3cr3t-value" not in text for key, text in everything.items() if ":log:" not in key)
    assert "s3cr3t-value" not in cluster.parts[0].log


def test_a_variable_that_the_worker_lacks_fails_the_run_in_phase_agent(cluster: Cluster) -> None:
    """P8: the worker goes on."""
    cluster.worker()
    run = submit(["true"], env_from=["NOT_THERE"], api=cluster.api)
    assert run.wait(20) is RunState.FAILED
    assert run.record.phase == "agent"
    assert "NOT_THERE" in run.record.reason
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED


@pytest.mark.main_path
def test_a_hundred_runs_on_two_workers_are_each_executed_once(cluster: Cluster, tmp_path: Path) -> None:
    """P7."""
    cluster.worker(name="a", slots=4)
    cluster.worker(name="b", slots=4)
    done = tmp_path / "done"
    runs = [submit(["sh", "-c", f"echo $LAUNCH_RUN_ID >> {done}"], api=cluster.api) for _ in range(100)]
    for run in runs:
        assert run.wait(60) is RunState.FINISHED
    assert sorted(stamps(done)) == sorted(run.id for run in runs)
    assert {run.refresh().worker.split("@")[0] for run in runs} == {"a", "b"}


@pytest.mark.main_path
def test_a_job_longer_than_the_visibility_timeout_is_executed_once(cluster: Cluster, tmp_path: Path) -> None:
    """X4: with visibility_timeout set by the operator's celeryconfig.py."""
    (tmp_path / "celeryconfig.py").write_text(
        'broker_transport_options = {"visibility_timeout": 2, "unacked_restore_interval": 1}\n'
    )
    (tmp_path / "celeryconfig.py").chmod(0o644)
    cluster.worker(name="a")
    cluster.worker(name="b")
    done = tmp_path / "done"
    run = submit(["sh", "-c", f"echo start >> {done}; sleep 8; echo end >> {done}"], api=cluster.api)
    assert run.wait(30) is RunState.FINISHED
    assert stamps(done) == ["start", "end"]


def test_a_long_job_does_not_hold_back_what_another_worker_could_run(cluster: Cluster) -> None:
    """No prefetch hoarding."""
    cluster.worker(name="a", slots=1)
    cluster.worker(name="b", slots=1)
    long_run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(long_run)
    for run in [submit(["true"], api=cluster.api) for _ in range(6)]:
        assert run.wait(30) is RunState.FINISHED
    long_run.cancel()
    assert long_run.wait(20) is RunState.KILLED


@pytest.mark.main_path
def test_garbage_in_a_queue_is_kept_aside_and_the_worker_goes_on(cluster: Cluster) -> None:
    worker = cluster.worker()
    redis = redis_of(cluster.redis_url)
    garbage = [
        *(b"\xff\x00garbage", b"", b"{}", b"[]", b"null", b"1", b'{"properties": {}}', b'"text"', b"[" * 100_000),
        json.dumps({"body": "!!!", "properties": {"delivery_tag": "x", "body_encoding": "base64"},
                    "headers": {}}).encode(),
        json.dumps({"body": "W10=", "properties": {"delivery_tag": "x", "body_encoding": "base64"}, "headers": {},
                    "content-type": "application/x-python-serialize"}).encode(),
        json.dumps({"body": "[[], {}, {}]", "properties": {"delivery_tag": "x"}, "content-type": "application/json",
                    "headers": {"id": "1", "task": "no.such.task", "eta": "not a time"}}).encode(),
        json.dumps({"body": "[[], {}, {}]", "properties": {"delivery_tag": "x"}, "content-type": "application/json",
                    "headers": {"id": "1", "task": "launch_worker.run", "eta": "not a time"}}).encode(),
        json.dumps({"body": '[["nope", 1], {}, {}]', "properties": {"delivery_tag": "x"}, "headers": {"id": "nope",
                    "task": "launch_worker.run"}, "content-type": "application/json"}).encode(),
        json.dumps({"body": '[[{"a": 1}, [2]], {}, {}]', "properties": {"delivery_tag": "x"}, "headers": {"id": "nope",
                    "task": "launch_worker.run"}, "content-type": "application/json"}).encode(),
    ]  # fmt: skip
    for item in garbage:
        redis.lpush("default", item)
    run = submit(["true"], api=cluster.api)
    assert run.wait(20) is RunState.FINISHED
    wait_until(lambda: redis.llen("default") == 0)
    assert worker.process.poll() is None
    assert len(cluster.api.store.refused(limit=100)) >= 10
    assert "refused" in cluster.run("launch-worker", "status").out


def test_a_damaged_queue_key_does_not_stop_the_worker(cluster: Cluster) -> None:
    """P3."""
    redis_of(cluster.redis_url).set("gpu", "not a list")
    worker = cluster.worker("gpu,default")
    assert submit(["true"], queue="default", api=cluster.api).wait(20) is RunState.FINISHED
    redis_of(cluster.redis_url).set("default\x06\x166", "not a list")
    assert submit(["true"], queue="gpu", api=cluster.api).wait(20) is RunState.FINISHED
    assert submit(["true"], queue="default", api=cluster.api).wait(20) is RunState.FINISHED
    assert worker.process.poll() is None


def test_time_limit_ends_the_job_and_says_so(cluster: Cluster) -> None:
    cluster.worker()
    result = cluster.run("launch-submit", "--wait", "--json", "--timeout", "0.5", "--", "sleep", "100")
    shown = json.loads(result.out)
    assert (shown["state"], shown["signal"]) == ("Failed", "SIGTERM")
    assert "time limit of 0.5 s" in shown["reason"]
    assert result.code == 128 + signal.SIGTERM


def test_stall_limit_spares_a_job_that_prints_and_ends_a_silent_one(cluster: Cluster) -> None:
    cluster.worker()
    talking = submit(["sh", "-c", "for i in $(seq 14); do echo $i; sleep 0.4; done"], stall_timeout=4, api=cluster.api)
    silent = submit(["sleep", "100"], stall_timeout=4, api=cluster.api)
    assert silent.wait(20) is RunState.FAILED
    assert "no output for 4 s" in silent.record.reason
    assert talking.wait(20) is RunState.FINISHED


@through_both_doors
@pytest.mark.main_path
def test_the_log_of_a_running_job_can_be_followed_live(cluster: Cluster) -> None:
    cluster.worker()
    two, three = cluster.folder / "two", cluster.folder / "three"
    script = f"echo one; {waits_for(two)}; echo two; {waits_for(three)}; echo three"
    run = submit(["sh", "-c", script], api=cluster.api)
    wait_for_output(run, b"one")
    follower = cluster.open("launch-worker", "logs", "-f", run.id)
    assert follower.stdout is not None
    for line, flag in ((b"one\n", two), (b"two\n", three)):
        assert follower.stdout.readline() == line
        flag.touch()
    out, err = follower.communicate(timeout=20)
    assert (out, err, follower.returncode) == (b"three\n", b"", 0)
    assert cluster.run("launch-worker", "logs", "--tail", "2", run.id).out == "two\nthree\n"


def test_binary_output_comes_back_byte_for_byte(cluster: Cluster) -> None:
    cluster.worker()
    script = "import os, sys; sys.stdout.buffer.write(bytes(range(256)) * 400)"
    run = submit([PYTHON, "-c", script], api=cluster.api)
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == bytes(range(256)) * 400


@pytest.mark.main_path
def test_a_failed_run_is_tried_again_with_its_logs_kept(cluster: Cluster, tmp_path: Path) -> None:
    """P36."""
    cluster.worker()
    script = f"echo attempt $LAUNCH_ATTEMPT; echo x >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) = 3 ]"
    result = cluster.run(
        "launch-submit", "--retries", "2", "--retry-delay", "0.3", "--follow", "--", "sh", "-c", script
    )
    assert result.code == 0, result
    assert result.out == "attempt 1\nattempt 2\nattempt 3\n"
    run_id = result.err.split()[1]
    shown = cluster.show(run_id)
    assert [step["state"] for step in shown["history"]] == [
        *("Pending", "Running", "Failed", "Pending", "Running", "Failed", "Pending", "Running", "Finished")
    ]
    assert "retry 1 of 2 in 0.3 s" in [step["reason"] for step in shown["history"]]
    assert cluster.run("launch-worker", "logs", "--attempt", "1", run_id).out == "attempt 1\n"


@through_both_doors
def test_an_ended_run_can_be_retried_by_hand(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sh", "-c", "[ $LAUNCH_ATTEMPT = 2 ]"], api=cluster.api)
    assert run.wait(20) is RunState.FAILED
    assert cluster.run("launch-worker", "retry", run.id).code == 0
    assert run.wait(20) is RunState.FINISHED
    refused = cluster.run("launch-worker", "retry", "000000000000000")
    assert refused.code == 2


def test_a_worker_that_was_busy_when_it_was_asked_takes_up_what_was_scheduled(cluster: Cluster, tmp_path: Path) -> None:
    """A due run starts on time without beat: agents promote it themselves."""
    cluster.worker()
    done = tmp_path / "n"
    run = submit(
        ["sh", "-c", f"date +%s.%N >> {done}; [ $LAUNCH_ATTEMPT = 2 ]"], retries=1, retry_delay=2, api=cluster.api
    )
    assert run.wait(20) is RunState.FINISHED
    first, second = (float(stamp) for stamp in stamps(done))
    assert 2.0 <= second - first < 3.5


def test_the_worker_runs_from_any_folder_and_the_job_in_the_submitters(cluster: Cluster, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cluster.worker(cwd=elsewhere)
    result = cluster.run("launch-submit", "--follow", "--", "pwd")
    assert result.out.strip() == str(tmp_path)
    gone = cluster.run("launch-submit", "--wait", "--cwd", "/no/such/folder", "--", "pwd")
    assert gone.code == 1
    assert "'/no/such/folder' does not exist" in gone.err


def test_the_worker_says_in_one_sentence_what_is_wrong_with_its_settings(cluster: Cluster) -> None:
    part = cluster.worker(env={"LAUNCH_LEASE_S": "1", "LAUNCH_HEARTBEAT_S": "5"}, wait=False)
    assert part.wait(20) != 0
    assert "LAUNCH_LEASE_S (1 s) must be at least twice LAUNCH_HEARTBEAT_S (5 s)" in part.log
    assert "Traceback" not in part.log


def test_a_work_dir_that_cannot_be_used_is_named_in_one_sentence(cluster: Cluster) -> None:
    part = cluster.worker(env={"LAUNCH_WORK_DIR": "/proc/nowhere"}, wait=False)
    assert part.wait(20) != 0
    assert "LAUNCH_WORK_DIR /proc/nowhere" in part.log
    assert "Traceback" not in part.log


def test_another_pool_than_threads_is_refused(cluster: Cluster) -> None:
    part = cluster.worker(arguments=["-P", "solo"], wait=False)
    assert part.wait(20) != 0
    assert "needs the threads pool" in part.log
    assert "Traceback" not in part.log


def test_two_jobs_of_one_worker_do_not_disturb_each_other(cluster: Cluster) -> None:
    cluster.worker(slots=2)
    stays = submit(["sh", "-c", f"{waits_for(cluster.folder / 'end')}; echo done"], api=cluster.api)
    wait_for_pid(stays)
    killed = submit(["sleep", "600"], api=cluster.api)
    os.kill(wait_for_pid(killed), signal.SIGKILL)
    assert killed.wait(20) is RunState.FAILED
    assert stays.refresh().state is RunState.RUNNING
    (cluster.folder / "end").touch()
    assert stays.wait(20) is RunState.FINISHED
    assert states(stays) == ["Pending", "Running", "Finished"]
    assert not job_processes(killed.id)


def _dump(cluster: Cluster) -> dict[str, str]:
    """Everything in Redis, as text by key."""
    redis = redis_of(cluster.redis_url)
    readers = {
        b"hash": redis.hgetall,
        b"string": redis.get,
        b"stream": redis.xrange,
        b"set": redis.smembers,
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"list": lambda key: redis.lrange(key, 0, -1),
    }
    return {key.decode(): repr(readers[redis.type(key)](key)) for key in redis.scan_iter()}


def test_a_slot_that_comes_free_is_used_at_once(cluster: Cluster) -> None:
    """P12."""
    cluster.worker(slots=2)
    script = "date +%s.%N; until [ -e $LAUNCH_NAME ]; do sleep 0.05; done; date +%s.%N"
    names = ("brief", "long", "brief")
    runs = [submit(["sh", "-c", script], name=name, cwd=cluster.folder, api=cluster.api) for name in names]
    for run in runs[:2]:
        wait_for_pid(run)
    (cluster.folder / "brief").touch()
    assert runs[2].wait(30) is RunState.FINISHED
    (cluster.folder / "long").touch()
    for run in runs:
        assert run.wait(30) is RunState.FINISHED
    spans = sorted(tuple(map(float, run.logs().split())) for run in runs)
    first_end = min(spans[0][1], spans[1][1])
    # At once on a machine that is not stalled; else the slot would stay empty until the second job's end.
    assert first_end <= spans[2][0] < max(spans[0][1], spans[1][1])


@through_both_doors
@pytest.mark.main_path
def test_a_log_that_is_not_whole_says_so_and_begins_at_a_line(cluster: Cluster) -> None:
    cluster.worker(env={"LAUNCH_LOG_BYTES": "64K"})
    script = 'for i in $(seq 30000); do echo "line $i: \u00e4\u20ac"; done'
    run = submit(["sh", "-c", script], api=cluster.api)
    assert run.wait(30) is RunState.FINISHED
    whole = "".join(f"line {number}: \u00e4\u20ac\n" for number in range(1, 30_001))
    for arguments in ([], ["-f"], ["-f", "--tail", "100000"]):
        result = cluster.run("launch-worker", "logs", *arguments, run.id)
        assert whole.endswith("\n" + result.out)
        missing = len(whole.encode()) - len(result.out.encode())
        assert f"{missing:,} bytes" in result.err
    output = run.output()
    assert (output.text, output.missing) == (result.out, missing)
    assert run.logs().decode() == result.out
    shown = json.loads(cluster.run("launch-worker", "logs", "--json", run.id).out)
    assert (shown["log"], shown["missing_bytes"]) == (result.out, missing)
    assert missing - 70_000 < cluster.show(run.id)["log_missing_bytes"] <= missing
    assert "before it are kept nowhere" in cluster.run("launch-worker", "show", run.id).out
    last = cluster.run("launch-worker", "logs", "--tail", "2", run.id)
    assert (last.out, last.err) == ("line 29999: \u00e4\u20ac\nline 30000: \u00e4\u20ac\n", "")


def test_what_a_python_job_prints_is_seen_at_once_and_is_a_sign_of_life(cluster: Cluster) -> None:
    cluster.worker()
    script = "import time\nfor i in range(10): print(i); time.sleep(0.5)\nprint('waits'); time.sleep(600)"
    run = submit([sys.executable, "-c", script], stall_timeout=4, api=cluster.api)
    wait_for_output(run, b"0\n")
    assert run.wait(30) is RunState.FAILED
    assert run.record.reason == "no output for 4 s"
    assert run.logs() == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\nwaits\n"
