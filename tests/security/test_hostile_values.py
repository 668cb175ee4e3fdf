"""Texts, marks and settings of one person beside everybody else's."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from launch_worker.model.schedule import Schedule
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.security.site import Site
from tests.system.conftest import wait_for_pid

EVIL = "\x1b]0;PWN\x07\x9b31m\u202e<script>\r\nforged"
DEEP = "[" * 3000 + "]" * 3000


def test_hostile_schedules_and_sweeps_hold_up_no_good_one(site: Site) -> None:
    producer, api = site.client("producer"), site.api("producer")
    given = {"command": ["true"], "queue": "default", "name": "good-one"}
    kept = json.loads(Schedule("good", "0 3 1 1 *", given).to_json())
    hostile: dict[str, Any] = {
        "deep": DEEP,
        "zone": json.dumps(kept | {"name": "zone", "timezone": "../../etc/passwd"}),
        "words": json.dumps(kept | {"name": "words", "cron": "* " * 5000}),
        "queue": json.dumps(kept | {"name": "queue", "given": given | {"queue": EVIL}}),
        "n" * 100_000: json.dumps(kept),
        EVIL: json.dumps(kept | {"name": EVIL}),
    }
    for name in ("01deep", "01none"):
        producer.hset(keys.sweep(name), mapping={"config": DEEP, "state": "RUNNING", "workers": "1", "made": "0"})
        producer.zadd(keys.SWEEPS, {name: 1})
        producer.sadd(keys.SWEEPS + ":live", name)
    for name, text in hostile.items():
        producer.set(keys.schedule(name), text)
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
    sweep = api.create_sweep(config, queue="default")
    now = api.store.now_us()
    api.transport.keep_schedule("good", json.dumps(kept), now + 10**12)
    # All are due at once, the good one last.
    producer.zadd(keys.SCHEDULES, dict.fromkeys(hostile, now - 1) | {"good": now})
    wait_until(lambda: list(api.runs(filters={"name": "good-one"})), what="the good schedule has made its run")
    assert sweep.wait(20) == "FINISHED"
    producer.zrem(keys.SCHEDULES, *hostile, "good")
    producer.delete(*map(keys.schedule, hostile))
    producer.zrem(keys.SWEEPS, "01deep", "01none")
    producer.srem(keys.SWEEPS + ":live", "01deep", "01none")


def test_a_queue_of_any_name_is_shown_as_text(site: Site) -> None:
    name = EVIL + "q" * 100_000
    site.client("producer").sadd(keys.QUEUES, name)
    site.client("producer").lpush(name, "x")
    try:
        shown = site.cluster.run("launch-worker", "queues")
        assert shown.code == 0, shown.err[-500:]
        assert not set(shown.out) & set("\x1b\x07\x9b\u202e\r")
        assert [line for line in shown.out.splitlines() if line.startswith("default")]
    finally:
        site.client("admin").srem(keys.QUEUES, name)
        site.client("admin").delete(name)


def test_variables_of_a_job_steer_neither_git_nor_the_worker(site: Site) -> None:
    mark = site.home / "steered"
    touch = f"touch {mark}; false"
    env = {
        "GIT_SSH_COMMAND": touch,
        "GIT_SSH": touch,
        "GIT_ASKPASS": touch,
        "BASH_ENV": str(mark),
        "PATH": "/nowhere",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.sshCommand",
        "GIT_CONFIG_VALUE_0": touch,
        "LD_PRELOAD": str(mark),
        "PYTHONPATH": str(site.home),
        "PYTHONSTARTUP": str(mark),
        "HOME": "/nowhere",
    }
    run = site.submit("true", uri="ssh://git@127.0.0.1:1/nothing.git", env=env)
    assert run.wait(30) is RunState.FAILED
    assert run.record.phase == "build"
    assert not mark.exists()
    assert site.submit("/bin/true", env=env).wait(20) is RunState.FINISHED
    assert not mark.exists()


def test_a_process_with_another_runs_marks_ends_and_that_run_is_not_disturbed(site: Site) -> None:
    flag = site.folder / f"marked-{time.monotonic_ns()}"
    other = site.submit("sh", "-c", f"until [ -e {flag} ]; do sleep 0.05; done")
    wait_for_pid(other)
    marks = f"LAUNCH_RUN_ID={other.id} LAUNCH_TOKEN={other.record.token} LAUNCH_ATTEMPT=1"
    run = site.submit("sh", "-c", f"env {marks} setsid sleep 4702.2 >/dev/null 2>&1 </dev/null & sleep 0.1")
    assert run.wait(20) is RunState.FINISHED
    assert other.refresh().state is RunState.RUNNING
    flag.touch()
    assert other.wait(20) is RunState.FINISHED
    wait_until(lambda: not _with("4702.2"), what="it has ended with the run whose marks it wore")


def _with(word: str) -> list[int]:
    found = []
    for process in tree.table():
        try:
            if not process.zombie and word in Path(f"/proc/{process.id.pid}/cmdline").read_text():
                found.append(process.id.pid)
        except OSError:
            continue
    return found


def test_what_a_job_says_of_itself_is_one_line_of_text(site: Site) -> None:
    said = json.dumps({"message": EVIL})
    run = site.submit(
        "sh", "-c", "printf '%s\\n' \"$SAID\" >> $LAUNCH_RUN_DIR/to_worker; sleep 600", env={"SAID": said}
    )
    wait_until(lambda: "script" in run.refresh().reason, what="it is shown")
    assert run.refresh().reason.isprintable()


def test_a_variable_that_a_worker_lends_is_nowhere_but_in_its_job(site: Site) -> None:
    """Redis' keys and files, all that goes to Redis, what commands show, the worker's folder and log, command lines."""
    secret = site.cluster.env["HUB_TOKEN"]
    with site.client("admin").monitor() as monitor:
        run = site.submit("sh", "-c", "echo ${#HUB_TOKEN}; exec sleep 600", env_from=["HUB_TOKEN"])
        wait_until(lambda: run.logs().strip() == str(len(secret)).encode(), what="the job has it")
        shown = site.cluster.run("launch-worker", "show", run.id)
        lines = " ".join(_commands())
        run.cancel(grace_s=0)
        assert run.wait(20) is RunState.KILLED
        site.client("admin").ping()
        heard = []
        while "PING" not in (command := monitor.next_command()["command"]):
            heard.append(command)
    assert len(heard) > 10
    assert secret not in "\n".join(heard) + shown.out + site.worker.log + lines
    admin = site.client("admin")
    dumped = [admin.dump(key) or b"" for key in admin.scan_iter()]
    kept = [path.read_bytes() for root in (site.redis.folder, site.home) for path in root.rglob("*") if path.is_file()]
    assert not [data for data in (*dumped, *kept) if secret.encode() in data]


def _commands() -> list[str]:
    return [
        path.read_text(errors="replace")
        for process in tree.table()
        if (path := Path(f"/proc/{process.id.pid}/cmdline")).exists()
    ]
