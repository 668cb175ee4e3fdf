"""What `launch-submit` can ask for, through real commands, workers and a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Run
from launch_worker.ids import new_run_id
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, Result, stamps, states, through_both_doors

pytestmark = through_both_doors


def submit_ids(cluster: Cluster, *arguments: str) -> list[str]:
    result = cluster.run("launch-submit", "--quiet", *arguments)
    assert result.code == 0, result
    return result.out.split()


def submit_one(cluster: Cluster, *arguments: str) -> Run:
    (run_id,) = submit_ids(cluster, *arguments)
    return Run(cluster.api, run_id)


def submit_lines(cluster: Cluster, *lines: Any, options: tuple[str, ...] = ()) -> Result:
    path = cluster.folder / "jobs.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return cluster.run("launch-submit", "--from-file", "jobs.jsonl", *options)


def known_runs(cluster: Cluster) -> list[Record]:
    return list(cluster.api.store.runs())


def most_at_once(records: list[Record]) -> int:
    spans = [(record.started_at or 0, record.ended_at or 0) for record in records]
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


def test_a_plain_submit_imports_only_what_it_uses(cluster: Cluster, door: str) -> None:
    program = """
import sys
from launch_worker.cli.programs import submit
sys.argv = ["launch-submit", "--quiet", "--env", "A=1", "--tag", "x", "--", "true"]
try:
    submit()
finally:
    print(*sys.modules)
"""
    result = cluster.run(sys.executable, "-c", program)
    assert result.code == 0, result
    run_id, *names = result.out.split()
    assert Run(cluster.api, run_id).state is RunState.PENDING
    imported = {name.partition(".")[0] for name in names}
    used, unused = ("hiredis", {"ssl", "http"}) if door == "redis" else ("http", {"hiredis", "zlib"})
    assert {used, "click"} <= imported
    assert not imported & {"redis", "asyncio", "celery", "kombu", "pydantic", "pydantic_core", "rich", "flower"}
    assert not imported & unused
    assert not imported & {"jsonschema", "croniter"}
    assert not imported & {"docker", "yaml", "fsspec", "pathspec", "optuna"}
    own = {name.removeprefix("launch_worker.") for name in names if name.startswith("launch_worker.")}
    assert not own & {
        "filters",
        "api.client",
        "api.transport",
        "giturl",
        "passes",
        "queue_api",
        "retry",
        "run",
        "runs",
        "schedules",
    }
    assert not own & {
        "containers",
        "store.items",
        "store.reading",
        "store.store",
        "store.sweeps",
        "sweep_api",
        "sweeps",
    }


@pytest.mark.main_path
def test_a_delayed_run_starts_at_its_time_and_says_what_it_waits_for(cluster: Cluster) -> None:
    """P11."""
    cluster.worker()
    run = submit_one(cluster, "--delay", "10", "--", "true")
    assert "scheduled" in cluster.show(run.id)["reason"]
    assert run.wait(20) is RunState.FINISHED
    assert run.record.started_at is not None
    # At once on a machine that is not stalled.
    assert 10_000_000 <= run.record.started_at - run.record.created_at <= 15_000_000


def test_a_run_can_wait_for_a_time(cluster: Cluster) -> None:
    cluster.worker()
    at_us = cluster.api.store.now_us() + 8_000_000
    run = submit_one(cluster, "--at", f"{at_us / 1e6:.6f}", "--", "true")
    assert run.wait(20) is RunState.FINISHED
    assert run.record.started_at is not None
    assert -1 <= run.record.started_at - at_us <= 5_000_000, "at once on a machine that is not stalled"


@pytest.mark.parametrize(
    ("script", "ok", "any_end", "failed"),
    [("exit 0", "Finished", "Finished", "Killed"), ("exit 3", "Killed", "Finished", "Finished")],
)
def test_a_run_waits_for_another_ones_end(cluster: Cluster, script: str, ok: str, any_end: str, failed: str) -> None:
    first = submit_one(cluster, "--", "sh", "-c", script)
    waiting = [submit_one(cluster, "--after", first.id + wish, "--", "true") for wish in ("", ":any", ":failed")]
    assert all(first.id in cluster.show(run.id)["reason"] for run in waiting)
    cluster.worker()
    assert [run.wait(20).value for run in waiting] == [ok, any_end, failed]
    first_end = first.refresh().ended_at or 0
    for run in waiting:
        started_at = run.refresh().started_at
        assert started_at is None or started_at >= first_end
        assert run.record.state is not RunState.KILLED or first.id in run.record.reason


def test_an_array_is_one_submit_and_never_more_than_its_limit_run_at_once(cluster: Cluster) -> None:
    cluster.worker(slots=6)
    marks = cluster.folder / "marks"
    script = f"echo $LAUNCH_ARRAY_INDEX >> {marks}; sleep 0.3"
    ids = submit_ids(cluster, "--array", "0-10:2,1%2", "--wait", "--", "sh", "-c", script)
    assert len(ids) == 7
    assert sorted(map(int, stamps(marks))) == [0, 1, 2, 4, 6, 8, 10]
    records = [cluster.api.store.get(run_id) for run_id in ids]
    assert [json.loads(record.spec)["array_index"] for record in records] == [0, 1, 2, 4, 6, 8, 10]
    assert {record.array for record in records} == {ids[0]}
    assert most_at_once(records) == 2


def test_waiting_for_an_array_exits_with_the_first_code_that_is_not_0(cluster: Cluster) -> None:
    cluster.worker(slots=4)
    result = cluster.run(
        "launch-submit", "--array", "0-3", "--wait", "--", "sh", "-c", "exit $((LAUNCH_ARRAY_INDEX * 2))"
    )
    assert result.code == 2, result
    assert result.err.count("Failed") == 3


@pytest.mark.parametrize("array", ["", "5-1", "x", "0-99%0", "0-9999999"])
def test_a_wrong_array_is_refused(cluster: Cluster, array: str) -> None:
    result = cluster.run("launch-submit", "--array", array, "--", "true")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("launch-submit: ")
    assert result.err.count("\n") == 1
    assert known_runs(cluster) == []


@pytest.mark.main_path
def test_a_file_of_jobs_is_submitted_in_order_and_waited_for(cluster: Cluster) -> None:
    cluster.worker("default,gpu")
    marks = cluster.folder / "marks"
    result = submit_lines(
        cluster,
        {"command": ["sh", "-c", f"echo $A$B >> {marks}"], "env": {"B": "2"}, "tag": "one", "queue": "gpu"},
        b"",
        {"name": "second", "env-from": ["HOME"], "retries": 1, "timeout": "5m"},
        {"array": "0-1", "command": ["sh", "-c", "exit 4"], "retries": 0},
        options=("--quiet", "--wait", "-e", "A=1", "--tag", "all", "--", "true"),
    )
    assert result.code == 4, result
    first, second, *others = (cluster.api.store.get(run_id) for run_id in result.out.split())
    assert stamps(marks) == ["12"]
    assert (first.queue, first.tags, first.state) == ("gpu", ("one",), RunState.FINISHED)
    assert (second.queue, second.name, second.tags) == ("default", "second", ("all",))
    assert json.loads(second.spec)["env_from"] == ["HOME"]
    assert [(other.state, other.exit_code) for other in others] == [(RunState.FAILED, 4)] * 2


def test_jobs_come_from_standard_input_too(cluster: Cluster) -> None:
    done = subprocess.run(
        ["launch-submit", "--from-file", "-", "--json"],
        input=b'{"command": ["true"], "name": "a"}\n{"command": ["true"], "name": "b"}\n',
        env=cluster.env,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"command": "true"}, "the command must be a list of arguments"),
        ({"command": []}, "the command is empty"),
        ({"command": ["true"], "retries": "3"}, "retries must be a whole number"),
        ({"command": ["true"], "retries": -1}, "retries must be"),
        ({"command": ["true"], "quue": "gpu"}, "'quue' is not an option of a run; do you mean 'queue'?"),
        ({"command": ["true"], "queue": "a/b"}, "queue 'a/b' is not allowed"),
        ({"command": ["true"], "after": "0" * 15}, f"there is no run or group {'0' * 15} to wait for"),
        ({"command": ["true"], "after": ["x"]}, "after 'x' is no run or group to wait for"),
        ({"command": ["true"], "at": "soon"}, "at 'soon' is not a time"),
        ({"command": ["true"], "upload": "no-such-folder"}, "is not a folder"),
        (b'{"command": ["\xff"]}', "is not UTF-8"),
        (b'{"command": ["true"]', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"set": {"a": ' * 50_000, "nested too deeply"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_sent(cluster: Cluster, line: Any, problem: str) -> None:
    result = submit_lines(cluster, {"command": ["true"]}, b"", line, {"command": ["true"]})
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("launch-submit: jobs.jsonl:3: ")
    assert problem in result.err
    assert result.err.count("\n") == 1
    assert known_runs(cluster) == []


@pytest.mark.parametrize("content", [None, b"", b"\n \n"])
def test_a_file_without_jobs_is_refused(cluster: Cluster, content: bytes | None) -> None:
    if content is not None:
        (cluster.folder / "jobs.jsonl").write_bytes(content)
    result = cluster.run("launch-submit", "--from-file", "jobs.jsonl")
    assert result.code == 2
    assert "jobs.jsonl" in result.err


def test_a_folder_that_many_lines_share_is_sent_once(cluster: Cluster) -> None:
    code = cluster.folder / "code"
    code.mkdir()
    (code / "hello.sh").write_text("echo hello\n")
    cluster.worker()
    result = submit_lines(
        cluster, *({"command": ["sh", "hello.sh"]} for _ in range(3)), options=("--quiet", "--wait", "--upload", "code")
    )
    assert result.code == 0, result
    runs = [Run(cluster.api, run_id) for run_id in result.out.split()]
    assert {run.logs() for run in runs} == {b"hello\n"}
    assert len({json.loads(run.record.spec)["upload"] for run in runs}) == 1


def test_many_runs_show_a_bar_on_a_terminal_and_only_there(cluster: Cluster) -> None:
    reader, writer = os.openpty()
    done = subprocess.run(
        ["launch-submit", "--array", "0-19", "--", "true"],
        env=cluster.env | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        timeout=30,
        check=True,
    )
    os.close(writer)
    seen = os.read(reader, 100_000).decode()
    os.close(reader)
    assert "submitting" in seen
    assert done.stdout.startswith(b"20 runs submitted, ")


def test_a_strict_submit_refuses_a_queue_that_nobody_knows(cluster: Cluster) -> None:
    """W13, W7."""
    submit_one(cluster, "-q", "cpu", "--", "true")
    result = cluster.run("launch-submit", "--strict", "-q", "gpuu", "--", "true")
    assert (result.code, result.out) == (2, "")
    assert "there is no queue 'gpuu'; known are: " in result.err
    assert "cpu" in result.err
    result = submit_lines(cluster, {"command": ["true"]}, {"command": ["true"], "queue": "gpuu"}, options=("--strict",))
    assert "jobs.jsonl:2: there is no queue 'gpuu'" in result.err
    assert len(known_runs(cluster)) == 1
    submit_one(cluster, "--strict", "-q", "cpu", "--", "true")
    submit_one(cluster, "--strict", "--", "true")


def test_a_priority_where_the_queue_has_none_is_refused(cluster: Cluster) -> None:
    """W12."""
    assert cluster.run("launch-worker", "queues", "create", "plain", "--no-priorities").code == 0
    result = cluster.run("launch-submit", "-q", "plain", "--priority", "high", "--", "true")
    assert (result.code, result.out) == (2, "")
    assert "priorit" in result.err
    assert known_runs(cluster) == []
    submit_one(cluster, "-q", "plain", "--", "true")


@pytest.mark.main_path
def test_four_levels_keep_their_order_and_the_line_is_shown(cluster: Cluster) -> None:
    """W12: FIFO inside one level."""
    levels = ["low", "medium", "critical", "high", "low", "medium", "critical", "high"]
    lines = [{"command": ["true"], "priority": level, "name": f"{level}-{at // 4}"} for at, level in enumerate(levels)]
    assert submit_lines(cluster, *lines).code == 0
    expected = [f"{level}-{at}" for level in ("critical", "high", "medium", "low") for at in (0, 1)]
    listed = cluster.run("launch-worker", "runs", "--pending", "--json").out.splitlines()
    assert [(json.loads(line)["place"], json.loads(line)["name"]) for line in listed] == list(enumerate(expected, 1))
    cluster.worker(slots=1)
    wait_until(lambda: all(record.state is RunState.FINISHED for record in known_runs(cluster)), what="all ran")
    ran = sorted(known_runs(cluster), key=lambda record: record.started_at or 0)
    assert [record.name for record in ran] == expected


def test_a_run_that_did_not_start_in_time_is_killed_with_that_reason(cluster: Cluster) -> None:
    cluster.beat()
    run = submit_one(cluster, "-q", "nobody", "--expires", "1", "--", "true")
    assert run.wait(20) is RunState.KILLED
    assert "expire" in run.record.reason or "did not start" in run.record.reason
    assert (run.record.ended_at or 0) - run.record.created_at < 15_000_000
    assert states(run) == ["Pending", "Killed"]


def test_a_run_that_started_in_time_is_left_alone_when_it_would_expire(cluster: Cluster) -> None:
    cluster.worker()
    cluster.beat()
    run = submit_one(cluster, "--expires", "6", "--", "sleep", "8")
    assert run.wait(20) is RunState.FINISHED


def test_runs_of_the_same_key_take_turns(cluster: Cluster) -> None:
    cluster.worker(slots=4)
    runs = [
        submit_one(cluster, "--concurrency-key", "licence", "--limit-key", "1", "--", "sleep", "0.3") for _ in "abc"
    ]
    assert [run.wait(20) for run in runs] == [RunState.FINISHED] * 3
    assert most_at_once([run.record for run in runs]) == 1


def test_a_run_says_by_its_exit_code_that_it_was_preempted_and_runs_again(cluster: Cluster) -> None:
    """W17."""
    cluster.worker("gpu")
    run = submit_one(cluster, "-q", "gpu", "--", "sh", "-c", "test $LAUNCH_ATTEMPT -ge 3 || exit 85")
    assert run.wait(30) is RunState.FINISHED
    assert (run.record.attempt, run.record.preemptions, run.record.queue) == (3, 2, "gpu")


@pytest.mark.parametrize(("options", "code", "attempts"), [((), 85, 6), (("--max-preemptions", "1"), 85, 2)])
def test_a_run_is_preempted_only_so_often(cluster: Cluster, options: tuple[str, ...], code: int, attempts: int) -> None:
    """W17: at most 5 by default."""
    cluster.worker()
    run = submit_one(cluster, *options, "--", "sh", "-c", f"exit {code}")
    assert run.wait(30) is RunState.FAILED
    assert (run.record.attempt, run.record.exit_code) == (attempts, code)


def test_another_exit_code_can_mean_preemption(cluster: Cluster) -> None:
    cluster.worker()
    script = "test $LAUNCH_ATTEMPT = 2 || exit 9"
    run = submit_one(cluster, "--preempt-exit-code", "9", "--", "sh", "-c", script)
    assert run.wait(30) is RunState.FINISHED
    plain = submit_one(cluster, "--preempt-exit-code", "9", "--", "sh", "-c", "exit 85")
    assert plain.wait(30) is RunState.FAILED
    assert plain.record.attempt == 1


@pytest.mark.main_path
def test_a_running_run_is_preempted_on_request_and_runs_again(cluster: Cluster) -> None:
    """W17."""
    cluster.worker()
    run = submit_one(cluster, "--", "sh", "-c", "test $LAUNCH_ATTEMPT = 2 || exec sleep 60")
    wait_until(lambda: run.refresh().pid, what="it runs")
    result = cluster.run("launch-worker", "preempt", run.id)
    assert (result.code, result.err) == (0, "")
    assert run.wait(20) is RunState.FINISHED
    assert (run.record.attempt, run.record.preemptions) == (2, 1)
    result = cluster.run("launch-worker", "preempt", run.id)
    assert result.code == 1
    assert "only a Running run can be preempted" in result.err


def test_values_are_given_as_json_or_text(cluster: Cluster) -> None:
    cluster.worker()
    run = submit_one(
        cluster, "--set", "lr=0.1", "--set", "name=big net", "--", "sh", "-c", 'echo "$0|$1"', "${lr}", "${name}"
    )
    assert run.wait(20) is RunState.FINISHED
    assert run.logs() == b"0.1|big net\n"


def test_watching_in_a_pipe_prints_once_a_change(cluster: Cluster) -> None:
    run = submit_one(cluster, "--name", "first", "--", "true")
    watcher = cluster.open("launch-worker", "runs", "--watch", "--json")
    assert watcher.stdout is not None
    try:
        assert json.loads(watcher.stdout.readline())["id"] == run.id
        time.sleep(2.5)
        run.cancel()
        assert json.loads(watcher.stdout.readline())["state"] == "Killed"
    finally:
        watcher.terminate()
        watcher.communicate(timeout=10)


def test_a_listing_is_sorted_by_what_is_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        submit_one(cluster, "--name", name, "--", "true")
    listed = cluster.run("launch-worker", "runs", "--sort", "name", "--json").out.splitlines()
    assert [json.loads(line)["name"] for line in listed] == ["a", "b", "c"]


@pytest.mark.parametrize(("presses", "code", "state"), [(1, 130, "Running"), (2, 143, "Killed")])
def test_ctrl_c_leaves_several_runs_alone_and_a_second_one_cancels_them(
    cluster: Cluster, presses: int, code: int, state: str
) -> None:
    cluster.worker()
    waiter = cluster.open("launch-submit", "--array", "0-1", "--wait", "--", "sleep", "60")
    assert waiter.stderr is not None
    said = iter(waiter.stderr.readline, b"")
    assert any(b"waiting for 2 runs" in line for line in said)
    wait_until(lambda: [r.state.value for r in known_runs(cluster)] == ["Running"] * 2, what="both run")
    waiter.send_signal(signal.SIGINT)
    if presses == 2:
        assert any(b"detached" in line for line in said)
        waiter.send_signal(signal.SIGINT)
    _, err = waiter.communicate(timeout=30)
    assert waiter.returncode == code, err
    assert [record.state.value for record in known_runs(cluster)] == [state] * 2
    for record in known_runs(cluster):
        if not record.state.is_final:
            Run(cluster.api, record.id).cancel(grace_s=0)
    wait_until(lambda: all(record.state.is_final for record in known_runs(cluster)), what="all have ended")


@pytest.mark.main_path
def test_a_submission_with_a_key_is_made_once(cluster: Cluster) -> None:
    command = ("launch-submit", "--unique", "report 2026-01-01", "--", "true")
    first, again = cluster.run(*command), cluster.run(*command)
    run_id = first.out.split()[1]
    assert first.out == f"run {run_id} submitted to queue default\n"
    assert (again.code, again.out) == (0, f"run {run_id} was submitted before; nothing was changed\n")
    assert len(cluster.runs()) == 1
    chosen = new_run_id()
    assert cluster.run("launch-submit", "--quiet", "--id", chosen, "--", "true").out == f"{chosen}\n"


def test_a_key_that_holds_until_the_end_makes_one_run_at_a_time(cluster: Cluster) -> None:
    command = ("launch-submit", "--json", "--unique", "sync:until-end", "--", "true")
    first, again = (json.loads(cluster.run(*command).out) for _ in range(2))
    assert (first["is_new"], again["is_new"], again["id"]) == (True, False, first["id"])
    assert cluster.run("launch-worker", "cancel", first["id"]).code == 0
    second = json.loads(cluster.run(*command).out)
    assert (second["is_new"], second["id"] != first["id"]) == (True, True)
    line = {"command": ["true"], "unique": "sync:until-end"}
    (cluster.folder / "jobs.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"array": "0-1"}) + "\n")
    same, *array = cluster.run("launch-submit", "--quiet", "--from-file", "jobs.jsonl").out.split()
    assert same == second["id"]
    assert len(array) == 2
    assert len(cluster.runs()) == 2, "the array of that key is named by the run that has it"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--unique", "k:for ever"), "is not a duration"),
        (("--id", "../../../x"), "an id has 15 characters"),
        (("--id", "0" * 15, "--unique", "k"), "leave out one of them"),
        (("--unique", ""), "unique '' is not allowed"),
        (("--unique", "k", "--cron", "@daily"), "--unique does not go with --cron"),
        (("--unique", "k", "--from-file", "jobs.jsonl"), "write unique into each line of jobs.jsonl"),
    ],
)
def test_a_wrong_id_or_key_is_refused(cluster: Cluster, arguments: tuple[str, ...], problem: str) -> None:
    (cluster.folder / "jobs.jsonl").write_text('{"command": ["true"]}\n')
    result = cluster.run("launch-submit", *arguments, "--", "true")
    assert result.code == 2
    assert problem in result.err
    assert cluster.runs() == []


def test_the_id_of_an_array_stands_for_all_its_runs(cluster: Cluster) -> None:
    ids = submit_ids(cluster, "--array", "0-3", "--", "sleep", "60")
    [then] = submit_ids(cluster, "--after", f"{ids[0]}:any", "--", "true")
    cluster.worker(slots=2)
    wait_until(lambda: cluster.api.store.counts()[RunState.RUNNING] == 2)
    result = cluster.run("launch-worker", "cancel", "--now", ids[0])
    assert result.out == f"array {ids[0]}: 2 runs are Killed, which had not started; 2 are being stopped\n"
    waited = cluster.run("launch-worker", "wait", ids[0], then)
    assert waited.code == 143
    assert all(f"run {run_id} Killed" in waited.out for run_id in ids)
    assert f"run {then} Finished" in waited.out
    assert cluster.run("launch-worker", "cancel", ids[0]).code != 0


def test_a_run_whose_folder_its_worker_has_not_says_where_it_ran(cluster: Cluster) -> None:
    cluster.worker()
    for script, state, before in (("pwd; echo x > result", "Finished", ""), ("exit 3", "Failed", "exit code 3; ")):
        gone = cluster.folder / "gone"
        gone.mkdir()
        words = ["launch-submit", "--delay", "1s", "--quiet", "--", "sh", "-c", script]
        sent = subprocess.run(words, cwd=gone, env=cluster.env, capture_output=True, text=True, check=True, timeout=30)
        gone.rmdir()
        run = cluster.api.run(sent.stdout.strip())
        run.wait(20)
        said = f"{before}it ran in an empty folder, deleted at its end with what was in it, "
        said += f"for this worker has no '{gone}'"
        assert (run.record.state.value, run.record.reason.partition("; name")[0]) == (state, said)
        shown = cluster.run("launch-worker", "show", "--all", run.id).out
        assert ["submitted", "from", str(gone)] in [line.split() for line in shown.splitlines()]
        assert "\ncwd " not in shown
    result = cluster.run("launch-submit", "--wait", "--json", "--", "true")
    assert not json.loads(result.out)["reason"], "it ran where it was submitted"


def test_a_queue_may_refuse_runs_whose_folder_its_worker_has_not(cluster: Cluster) -> None:
    cluster.worker()
    assert cluster.run("launch-worker", "queues", "create", "default", "--default", "cwd_required=true").code == 0
    gone = cluster.folder / "gone"
    gone.mkdir()
    words = ["launch-submit", "--delay", "1s", "--quiet", "--", "true"]
    sent = subprocess.run(words, cwd=gone, env=cluster.env, capture_output=True, text=True, check=True, timeout=30)
    gone.rmdir()
    run = cluster.api.run(sent.stdout.strip())
    assert run.wait(20) is RunState.FAILED
    assert (run.record.phase, run.record.reason) == (
        "start",
        f"working directory {str(gone)!r} does not exist on this worker",
    )
    here = cluster.run("launch-submit", "--wait", "--json", "--", "true")
    assert here.code == 0
