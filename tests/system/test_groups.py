"""Groups, as people use them: a file of runs is cancelled, waited for and tried again as one, and calls back once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import Api, submit, submit_many
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import RefusedError, UnknownRunError
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, Result, stamps, states, through_both_doors, waits_for


def submit_lines(cluster: Cluster, *lines: Any, options: tuple[str, ...] = ()) -> Result:
    (cluster.folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = cluster.run("launch-submit", "--from-file", "jobs.jsonl", *options)
    assert result.code == 0, result
    return result


@through_both_doors
def test_a_file_of_runs_is_one_group_for_every_command(cluster: Cluster) -> None:
    marker = cluster.folder / "mended"
    script = f"[ $N = 0 ] || [ -e {marker} ] || exit $N"
    said = submit_lines(cluster, *({"command": ["sh", "-c", script], "env": {"N": f"{n}"}} for n in (0, 3, 4))).out
    *_, last = said.splitlines()
    assert last.startswith("group b")
    assert last.endswith(": 3 runs")
    group = last.split()[1].rstrip(":")
    callback = cluster.run("launch-submit", "--quiet", "--after", f"{group}:failed", "--", "true").out.strip()
    cluster.worker()
    waited = cluster.run("launch-worker", "wait", group)
    assert (waited.code, waited.out) == (3, f"group {group} is over: 1 Finished, 2 Failed\n")
    assert cluster.run("launch-worker", "wait", callback).code == 0
    shown = json.loads(cluster.run("launch-worker", "show", group, "--json").out)
    assert (shown["kind"], shown["size"], shown["end"], shown["is_over"]) == ("bulk", 3, "Failed", True)
    assert {state: count for state, count in shown["counts"].items() if count} == {"Finished": 1, "Failed": 2}
    assert "Failed" in cluster.run("launch-worker", "show", group).out
    marker.touch()
    retried = cluster.run("launch-worker", "retry", group, "--failed")
    assert retried.out == f"group {group}: 2 runs are Pending again\n"
    assert cluster.run("launch-worker", "wait", group, "--timeout", "60").code == 0
    refused = cluster.run("launch-worker", "retry", group, "--failed")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    refused = cluster.run("launch-worker", "cancel", group)
    assert refused.code == 1
    assert f"all runs of group {group} have ended" in refused.err
    assert cluster.show(group[1:])["group"] == group


@through_both_doors
def test_a_group_is_cancelled_as_one(cluster: Cluster) -> None:
    ids = submit_lines(cluster, *[{"command": ["sleep", "60"]}] * 4, options=("--quiet",)).out.split()
    assert len(ids) == 4, "--quiet prints the ids alone"
    group = cluster.show(ids[2])["group"]
    cluster.worker(slots=2)
    wait_until(lambda: cluster.api.group(group).counts["Running"] == 2)
    result = cluster.run("launch-worker", "cancel", "--now", group, "--json")
    assert json.loads(result.out) == {"id": group, "cancel": "bulk", "killed": 2, "requested": 2}
    assert cluster.run("launch-worker", "wait", group).code == 143
    assert {cluster.api.run(run_id).state for run_id in ids} == {RunState.KILLED}


@through_both_doors
def test_an_array_of_which_too_many_runs_failed_is_not_started_any_further(cluster: Cluster) -> None:
    marker = cluster.folder / "mended"
    sent = cluster.run(
        *("launch-submit", "--array", "0-7", "--max-fails", "2", "--json", "--"),
        *("sh", "-c", f"echo $LAUNCH_ARRAY_INDEX >> ran; [ -e {marker} ]"),
    )
    group = json.loads(sent.out.splitlines()[0])["group"]
    cluster.worker(slots=1)
    assert cluster.run("launch-worker", "wait", group).code == 1
    assert stamps(cluster.folder / "ran") == ["0", "1"]
    shown = cluster.run("launch-worker", "show", group).out
    assert "halted after 2 failed runs (--max-fails)" in shown
    assert "All 2 that failed say: exit code 1" in " ".join(shown.split())
    killed = cluster.runs(state="killed")
    assert {run.record.reason for run in killed} == {"not started, for 2 runs of its group failed (--max-fails 2)"}
    marker.touch()
    assert cluster.run("launch-worker", "retry", group).code == 0
    assert cluster.run("launch-worker", "wait", group).code == 0
    assert len(stamps(cluster.folder / "ran")) == 2 + 8


@through_both_doors
def test_what_is_no_group_is_told_in_one_sentence(cluster: Cluster) -> None:
    for words in (("cancel",), ("wait",), ("retry", "--failed"), ("show",)):
        result = cluster.run("launch-worker", *words, "b1m83cyvtfq1tc69")
        assert result.code != 0
        assert result.err == (
            "launch-worker: there is no group b1m83cyvtfq1tc69; a run of one names it: launch-worker show RUN\n"
        )
    result = cluster.run("launch-submit", "--after", "b1m83cyvtfq1tc69", "--", "true")
    assert (result.code, result.out) == (2, "")
    assert "there is no run or group b1m83cyvtfq1tc69" in result.err


@through_both_doors
def test_a_sweep_is_a_group_for_every_command(cluster: Cluster) -> None:
    config = {"method": "grid", "command": ["true"], "parameters": {"x": {"values": [1, 2]}}}
    sweep = cluster.api.create_sweep(config)
    then = submit(["true"], after=[sweep.id], api=cluster.api)
    cluster.worker()
    assert cluster.run("launch-worker", "wait", sweep.id).code == 0
    assert then.wait(30) is RunState.FINISHED
    shown = json.loads(cluster.run("launch-worker", "show", sweep.id, "--json").out)
    assert (shown["kind"], shown["counts"]["Finished"], shown["end"]) == ("sweep", 2, "Finished")
    assert cluster.run("launch-worker", "cancel", sweep.id).code == 1


def test_python_has_groups(cluster: Cluster) -> None:
    first, *_ = submit_many([{"command": ["sh", "-c", f"exit {code}"]} for code in (0, 5)], api=cluster.api)
    group = cluster.api.group(first.group)
    assert (group.kind, group.size, group.is_over) == ("bulk", 2, False)
    assert next(group.runs()).id == first.id
    with pytest.raises(TimeoutError):
        group.wait(0.1)
    with pytest.raises(RefusedError, match="no run of group"):
        group.retry()
    cluster.worker()
    assert group.wait(30) == "Failed"
    assert group.counts["Failed"] == 1
    assert group.shell_exit_code() == 5
    assert group.retry(only_failed=True) == 1
    assert group.wait(30) == "Failed"
    for run in group.runs():
        run.delete()
    with pytest.raises(UnknownRunError):
        group.refresh()
    with pytest.raises(UnknownRunError):
        Api(settings=cluster.api.settings).group("nonsense")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, which keeps what it acknowledged."""
    made = RedisServer(aof="always")
    made.start()
    yield made
    made.stop()


def test_a_group_calls_back_once_whatever_dies(server: RedisServer, tmp_path: Path) -> None:
    cluster = Cluster(server.url, tmp_path)
    try:
        _calls_back_once(cluster, server, tmp_path)
    finally:
        cluster.close()


def _calls_back_once(cluster: Cluster, server: RedisServer, folder: Path) -> None:
    flag, ended, called = folder / "flag", folder / "ended", folder / "called"
    gated = f"{waits_for(flag)}; echo $LAUNCH_RUN_ID >> {ended}"
    jobs: list[dict[str, Any]] = [{"command": ["sh", "-c", f"echo $LAUNCH_RUN_ID >> {ended}"]} for _ in range(6)]
    jobs += [{"command": ["sh", "-c", gated], "retries": 9} for _ in range(4)]
    runs = submit_many(jobs, api=cluster.api)
    group = cluster.api.group(runs[0].group)
    # It says how many runs of the group had ended when it was called. Only the last worker takes it: the others are
    # killed, and none of them may be executing the call then.
    words = ["sh", "-c", f"sort -u {ended} | wc -l >> {called}"]
    then = submit(words, queue="calls", after=[f"{group.id}:any"], api=cluster.api)
    cluster.beat()
    for _ in range(2):
        worker = cluster.worker(slots=4)
        # Those without retries have ended: a kill would be their end.
        wait_until(lambda: (group.counts["Finished"], group.counts["Running"]) == (6, 4))
        worker.kill()
        wait_until(lambda: group.counts["Running"] == 0, what="its runs are Crashed, and Pending again")
    server.kill()
    server.start()
    worker = cluster.worker(slots=4)
    wait_until(lambda: group.counts["Running"] == 4)
    # The last jobs end while Redis is away, and their worker is killed as soon as it has told of an end.
    server.kill()
    flag.touch()
    assert not called.exists()
    server.start()
    wait_until(lambda: group.counts["Running"] < 4 or worker.process.poll() is not None)
    worker.kill()
    cluster.worker("default,calls", slots=4)
    assert group.wait(60) in ("Finished", "Failed")
    assert then.wait(60) is RunState.FINISHED, states(then)
    # A retry of a run of a group that was over calls nobody again.
    runs[0].retry()
    assert runs[0].wait(30) is RunState.FINISHED
    assert group.wait(30) in ("Finished", "Failed")
    assert states(then) == ["Pending", "Running", "Finished"]
    assert stamps(called) == [str(len(jobs))]
