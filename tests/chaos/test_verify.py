"""The checks find what they are there to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch_worker.ids import new_run_id
from launch_worker.logs.packing import SmallLog, new_name, pack
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.history import Transition
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.outputs.content import store_folder
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.store.logs import LogChunk
from tests.chaos.evidence import Cancel, Evidence, Group, Journal, Life, Span, Stamps
from tests.chaos.leftovers import check_logs, damaged_runs
from tests.chaos.outputs import check_outputs, content
from tests.chaos.policies import halted_otherwise, retried_otherwise
from tests.chaos.verify import Findings, RunFacts, _attempts, check_runs
from tests.chaos.vitals import Vitals
from tests.chaos.whole_logs import check_whole_logs

_RUN = "20260101-aaaa"


def stamps(first: float, last: float, *, code: int | None = 0, worker_pid: int = 10, starts: int = 1) -> Stamps:
    ended_at = None if code is None else last
    return Stamps([first] * starts, {1}, worker_pid, code, ended_at, last, first, last)


def facts(*steps: tuple[str, float, int, str], written: dict[int, Stamps], retries: int = 0) -> RunFacts:
    history = [
        Transition(RunState(state), round(at * 1e6), attempt, "w1@host" if attempt else "", reason)
        for state, at, attempt, reason in steps
    ]
    last = history[-1]
    record = Record.from_hash(
        {"id": _RUN, "state": last.state.value, "reason": last.reason, "attempt": str(last.attempt)}
    )
    return RunFacts(record, history, list(_attempts(history, written, 0.0)), written, retries=retries)


def evidence() -> Evidence:
    return Evidence(lives=[Life("w1", 10, 0.0, 1000.0)])


def check(run: RunFacts, seen: Evidence | None = None, journal: Journal | None = None) -> Findings:
    return check_runs([run], seen or evidence(), journal or Journal(), unknown=())


ONE = (("Pending", 1, 0, ""), ("Running", 2, 1, ""))


def test_a_true_end_is_no_violation() -> None:
    findings = check(facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)}))
    assert findings.violations == []
    assert (findings.runs, findings.attempts) == (1, 1)


@pytest.mark.parametrize(
    ("end", "written", "violation"),
    [
        (("Finished", 5, 1, ""), {1: stamps(2.1, 4.9, code=3)}, "its job ended with code 3"),
        (("Finished", 5, 1, ""), {1: stamps(2.1, 4.9, code=None)}, "never ended by itself"),
        (("Finished", 5, 1, ""), {}, "its job never started"),
        (("Failed", 5, 1, "exit code 3"), {1: stamps(2.1, 4.9, code=4)}, "its job ended with code 4"),
        (("Failed", 5, 1, "ended by SIGKILL"), {1: stamps(2.1, 4.9, code=None)}, "nobody sent it that"),
        (("Failed", 5, 1, "No space left on device"), {1: stamps(2.1, 4.9)}, "the disk was not full"),
        (("Failed", 5, 1, "the exit status was lost"), {1: stamps(2.1, 4.9)}, "no guard was killed"),
        (("Failed", 5, 1, "some bug"), {1: stamps(2.1, 4.9)}, "knows no cause"),
        (("Killed", 5, 1, "cancelled"), {1: stamps(2.1, 4.9)}, "nobody asked for it"),
        (("Killed", 5, 1, "the worker shut down (w1@host)"), {1: stamps(2.1, 4.9)}, "not told to shut down"),
        (("Crashed", 9, 1, "heartbeats stopped"), {1: stamps(2.1, 4.9, code=None)}, "which had no trouble"),
        (("Running", 9, 1, "alive"), {1: stamps(2.1, 4.9, code=None)}, "from Running to Running"),
        (("Finished", 5, 1, ""), {1: stamps(2.1, 4.9, starts=2)}, "executed 2 times"),
        (("Finished", 5, 1, ""), {1: stamps(2.1, 4.9), 2: stamps(6, 7)}, "is not in its history"),
    ],
)
def test_an_untrue_end_is_found(end: tuple[str, float, int, str], written: dict[int, Stamps], violation: str) -> None:
    found = check(facts(*ONE, end, written=written)).violations
    assert any(violation in text for text in found), found


AGAIN = (*ONE, ("Crashed", 9, 1, "heartbeats stopped"), ("Pending", 9, 1, "retry"), ("Running", 10, 2, ""))


def test_attempts_that_overlap_are_found() -> None:
    seen = evidence()
    seen.cuts["w1"] = [Span(3, 9)]
    for last, wrong in ((9.9, False), (10.2, True)):
        written = {1: stamps(2.1, last, code=None), 2: stamps(10.1, 11)}
        found = check(facts(*AGAIN, ("Finished", 11.1, 2, ""), written=written, retries=1), seen).violations
        assert bool(found) is wrong, found
        assert all("still lived" in text for text in found)


def test_a_run_that_is_lost_or_not_final_or_retried_too_often_or_too_seldom_is_found() -> None:
    seen = evidence()
    seen.cuts["w1"] = [Span(3, 9)]
    journal = Journal(acknowledged={"20260101-bbbb": 1.0})
    assert "is lost" in check(facts(*ONE, written={}), seen, journal).violations[0]
    assert any("still Running" in text for text in check(facts(*ONE, written={}), seen).violations)
    written = {1: stamps(2.1, 5, code=None), 2: stamps(10.1, 11)}
    too_often = facts(*AGAIN, ("Finished", 11.1, 2, ""), written=written)
    assert any("with 0 retries" in text for text in check(too_often, seen).violations)
    too_seldom = facts(*AGAIN[:3], written={1: stamps(2.1, 5, code=None)}, retries=1)
    assert any("with 1 retries" in text for text in check(too_seldom, seen).violations)


def test_a_cancelled_run_that_went_on_is_found() -> None:
    journal = Journal(cancels={_RUN: [Cancel(1.4, 1.5, "killed Killed")]})
    found = check(facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)}), journal=journal).violations
    assert len(found) == 2
    asked = Journal(cancels={_RUN: [Cancel(4.0, 4.1, "requested Running")]})
    killed = facts(*ONE, ("Killed", 5, 1, "chaos"), written={1: stamps(2.1, 3.0)})
    assert any("before anyone asked" in text for text in check(killed, journal=asked).violations)


@pytest.mark.parametrize(("killed_at", "is_tolerated"), [(5.5, True), (8.0, False)])
def test_a_lost_end_is_tolerated_only_when_its_worker_was_killed_at_once(killed_at: float, is_tolerated: bool) -> None:
    seen = Evidence(lives=[Life("w1", 10, 0.0, killed_at, killed_at=killed_at)])
    findings = check(facts(*ONE, ("Crashed", 9.5, 1, "w1 died"), written={1: stamps(2.1, 5.0)}), seen)
    assert bool(findings.tolerated) is is_tolerated
    assert bool(findings.violations) is not is_tolerated


@pytest.mark.parametrize(("slot", "is_tolerated"), [("w1", True), ("w2", False)])
def test_a_status_lost_with_the_guard_of_the_worker_before_is_tolerated(slot: str, is_tolerated: bool) -> None:
    """That worker's guard was killed, it took the job in, and then left it to the next one of its name."""
    before = Life(slot, 10, 0.0, 4.0, upgraded_at=3.5, guard_killed_at=[3.0])
    seen = Evidence(lives=[before, Life("w1", 11, 4.0)])
    lost = facts(*ONE, ("Failed", 5, 1, "the exit status was lost"), written={1: stamps(2.1, 4.9)})
    findings = check(lost, seen)
    assert bool(findings.tolerated) is is_tolerated
    assert any("no guard was killed" in text for text in findings.violations) is not is_tolerated


@pytest.mark.parametrize(("guard_killed_at", "is_tolerated"), [(4.6, True), (5.2, False)])
def test_an_end_that_nobody_saw_between_two_workers_is_tolerated(guard_killed_at: float, is_tolerated: bool) -> None:
    """A guard that saw the end kept it on disk, whatever became of the guard later."""
    before = Life("w1", 10, 0.0, 4.8, upgraded_at=4.5, guard_killed_at=[guard_killed_at])
    seen = Evidence(lives=[before, Life("w1", 11, 6.0)])
    findings = check(facts(*ONE, ("Crashed", 6.5, 1, "w1 died"), written={1: stamps(2.1, 5.0)}), seen)
    assert bool(findings.tolerated) is is_tolerated
    assert bool(findings.violations) is not is_tolerated


@pytest.mark.parametrize(
    ("killed_at", "kept", "is_tolerated"),
    [(2.2, [0, 2], True), (2.2, [0, 1, 1, 2], False), (2.2, [1, 0], False), (9.0, [0, 2], False)],
)
def test_output_that_a_killed_engine_had_read_is_tolerated(
    killed_at: float, kept: list[int], is_tolerated: bool
) -> None:
    run = facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)})
    run.lines, run.is_container = 3, True
    run.logs[1] = "".join(f"{_RUN}.1 line {number}\n" for number in kept).encode()
    findings = check(run, Evidence(engine_killed_at=[killed_at]))
    assert bool(findings.tolerated) is is_tolerated
    assert bool(findings.violations) is not is_tolerated


def test_a_job_that_outlived_its_killed_worker_is_found() -> None:
    seen = Evidence(lives=[Life("w1", 10, 0.0, 3.0, killed_at=3.0)])
    found = check(facts(*ONE, ("Crashed", 7.5, 1, "died"), written={1: stamps(2.1, 9.0, code=None)}), seen).violations
    assert any("longer than its killed worker" in text for text in found)


def test_a_crashed_run_that_went_back_and_was_never_tried_again_may_have_ended_by_itself() -> None:
    steps = (*ONE, ("Crashed", 9, 1, "heartbeats stopped"), ("Pending", 9, 1, "retry"), ("Killed", 10, 1, "halted"))
    frozen = Evidence(lives=[Life("w1", 10, 0.0, 1000.0, stopped=[Span(5.3, 9.5)])])
    found = check(facts(*steps, written={1: stamps(2.1, 4.9)}), frozen).violations
    assert not [text for text in found if "is Crashed" in text]
    found = check(facts(*steps[:-2], written={1: stamps(2.1, 4.9)}), frozen).violations
    assert [text for text in found if "is Crashed" in text]


def test_output_that_was_lost_or_doubled_is_found() -> None:
    run = facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)})
    run.lines = 2
    for kept, wrong in (([0, 1], False), ([0], True), ([0, 1, 1], True)):
        run.logs[1] = "".join(f"{_RUN}.1 line {number}\n" for number in kept).encode()
        assert bool(check(run).violations) is wrong


def holder(run_id: str, *steps: tuple[str, float, int, str], first: float, last: float) -> RunFacts:
    """A run that had device 0 and a key."""
    run = facts(*steps, written={1: replace(stamps(first, last), devices=("0",))})
    record = replace(run.record, id=run_id, concurrency_key="licence")
    return replace(run, record=record, gpus=1)


def test_a_device_and_a_key_that_two_jobs_had_at_once_are_found() -> None:
    one = holder("one", *ONE, ("Finished", 5, 1, ""), first=2.1, last=4.9)
    other = holder("other", *ONE, ("Finished", 7, 1, ""), first=4.5, last=6.9)
    found = check_runs([one, other], evidence(), Journal(), unknown=()).violations
    assert [text.split(" ms ")[0] for text in found] == [
        "other.1: it had device 0 of w1 400",
        "other.1: it had key licence 400",
    ]


def named(run_id: str, run: RunFacts) -> RunFacts:
    return replace(run, record=replace(run.record, id=run_id))


@pytest.mark.parametrize(
    ("steps", "starts", "violation"),
    [
        ((("Running", 6, 1, ""), ("Finished", 7, 1, "")), 1, ""),
        ((("Running", 4, 1, ""), ("Finished", 7, 1, "")), 1, "began while member was Running"),
        ((("Running", 6, 1, ""), ("Finished", 7, 1, "")), 2, "was executed 2 times"),
        ((("Killed", 6, 0, "group b1 has runs that failed"),), 0, "is Killed unexecuted"),
    ],
)
def test_a_run_that_is_not_executed_once_after_its_group_is_found(
    steps: tuple[tuple[str, float, int, str], ...], starts: int, violation: str
) -> None:
    member = named("member", facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)}))
    written = {1: stamps(6.1, 6.9, starts=starts)} if starts else {}
    then = named("then", facts(("Pending", 1, 0, ""), *steps, written=written))
    journal = Journal(groups=[Group("b1", ["member"], "then")])
    found = check_runs([member, then], evidence(), journal, unknown=()).violations
    found = [text for text in found if "it waited for group" in text]
    assert [violation in text for text in found] == [True] * bool(violation)


def test_a_run_that_was_let_go_by_the_end_of_a_silent_workers_run_may_begin_beside_it() -> None:
    alive = (*ONE, ("Crashed", 4, 1, "heartbeats stopped"), ("Running", 5, 1, "alive"), ("Finished", 7, 1, ""))
    member = named("member", facts(*alive, written={1: stamps(2.1, 6.9)}))
    steps = (("Pending", 1, 0, ""), ("Running", 6, 1, ""), ("Finished", 7, 1, ""))
    then = named("then", facts(*steps, written={1: stamps(6.1, 6.9)}))
    journal = Journal(groups=[Group("b1", ["member"], "then")])
    found = check_runs([member, then], evidence(), journal, unknown=()).violations
    assert not [text for text in found if "it waited for group" in text]


def test_what_a_silent_workers_job_holds_is_nobodys_fault() -> None:
    one = holder("one", *ONE, ("Crashed", 4, 1, "heartbeats stopped"), first=2.1, last=4.9)
    other = holder("other", *ONE, ("Finished", 7, 1, ""), first=4.5, last=6.9)
    seen = Evidence(lives=[Life("w1", 10, 0.0, 1000.0, stopped=[Span(1, 4.5)])])
    found = check_runs([one, other], seen, Journal(), unknown=()).violations
    assert not [text for text in found if "it had" in text]


def test_a_run_with_other_devices_than_it_wanted_is_found() -> None:
    run = replace(holder("one", *ONE, ("Finished", 5, 1, ""), first=2.1, last=4.9), gpus=2)
    assert "wanted 2" in check(run).violations[0]


def test_a_flood_whose_newest_line_is_missing_is_found() -> None:
    run = facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)})
    run.last_line = b"16383"
    for kept, wrong in ((b"16382\n16383  \n", False), (b"16381\n16382\n", True), (b"", True)):
        run.logs[1] = kept
        assert bool(check(run).violations) is wrong


def test_a_whole_log_that_lacks_or_alters_a_byte_of_a_flood_is_found(tmp_path: Path) -> None:
    run = facts(*ONE, ("Finished", 5, 1, ""), written={1: stamps(2.1, 4.9)})
    run = replace(run, record=replace(run.record, id="1m83cyvtfq1tc69"), last_line=b"32767", logs={1: b""})
    url = f"file://{tmp_path}"
    printed = b"".join(b"%-63d\n" % number for number in range(32768))
    assert [problem[-13:] for problem in check_whole_logs(url, [run])] == ["is not stored"]
    altered = printed[:-3] + b"x \n"
    for kept, offset, end, wrong in (
        (printed, 0, len(printed), False),
        (printed[65536:], 65536, len(printed), False),
        (printed[:-64], 0, len(printed) - 64, True),
        (altered, 0, len(printed), True),
    ):
        chunks = [LogChunk(f"{at}-0", offset + at, kept[at : at + 65536]) for at in range(0, len(kept), 65536)]
        stored = StoredLogs(url)
        [manifest] = pack(stored, new_name(), [SmallLog(run.record.id, 1, 1, chunks)])
        stored.put_manifest(replace(manifest, end=end))
        assert bool(list(check_whole_logs(url, [run]))) is wrong


@pytest.mark.parametrize(
    ("written", "away", "is_wrong"),
    [({}, [Span(3, 4)], False), ({}, [], True), ({1: stamps(2.1, 4.9)}, [Span(3, 4)], True)],
)
def test_a_run_may_fail_by_its_engine_only_if_that_was_away_and_no_job_began(
    written: dict[int, Stamps], away: list[Span], is_wrong: bool
) -> None:
    seen = evidence()
    seen.engine_away = away
    run = facts(*ONE, ("Failed", 5, 1, "the container engine does not answer"), written=written)
    assert bool(check(run, seen).violations) is is_wrong


def test_a_damaged_record_must_end_failed_and_unexecuted() -> None:
    seen = Evidence(damaged={"a": "token 'x'", "b": "token 'x'", "c": "token 'x'"})
    found = list(damaged_runs(seen, {"a": "Failed", "b": "Pending", "c": "Failed"}, {"c"}))
    assert [text.split(":")[0] for text in found] == ["b", "c"]


def test_words_in_logs_that_should_not_be_there_are_found(tmp_path: Path) -> None:
    log = tmp_path / "w1.0.log"
    log.write_text("all is well\nERROR guard.died pid=3\n[…] CRITICAL Unrecoverable error: x\n")
    life = Life("w1", 10, 0.0, log_path=str(log))
    assert len(check_logs([log], Evidence(lives=[life]))) == 2
    life.guard_killed_at.append(1.0)
    assert len(check_logs([log], Evidence(lives=[life]))) == 1


def test_a_child_that_is_not_reaped_is_found() -> None:
    vitals = Vitals()
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        vitals.look({os.getpid(): "tests"})
    # A process that runs many tests may have other children, much memory and many files.
    reaped = "tests: it does not reap its child "
    assert not any(wrong.startswith(reaped) for wrong in vitals.wrong)
    vitals.look({os.getpid(): "tests"})
    os.waitpid(child, 0)
    assert any(wrong.startswith(reaped) for wrong in vitals.wrong)


def test_a_checkpoint_that_was_lost_or_half_is_found() -> None:
    steps = (*ONE, ("Crashed", 3, 1, "w1 died"), ("Pending", 3, 1, ""), ("Running", 4, 2, ""), ("Finished", 5, 2, ""))

    def found(kept: int, *state: int) -> list[str]:
        before, after = stamps(2.1, 2.9, code=None), stamps(4.1, 4.9)
        before.found, before.kept, after.found = (0, 0), kept, (state[0], state[1])
        violations = check(facts(*steps, written={1: before, 2: after}, retries=1)).violations
        return [text for text in violations if "checkpoint" in text]

    assert found(3, 3, 3) == found(3, 5, 5) == []
    [lost] = found(3, 2, 2)
    assert lost.startswith(f"{_RUN}: an acknowledged checkpoint was lost: attempt 2 went on from epoch 2, and epoch 3")
    assert found(3, 4, 3) == [f"{_RUN}: a checkpoint was half: attempt 2 found epochs 4 and 3"]


# -- outputs and inputs ------------------------------------------------------------------------------------------------


def left(folder: Path, run_id: str, attempt: int, contents: dict[str, bytes]) -> None:
    """Have these kept as the outputs of an attempt."""
    for name, data in contents.items():
        (folder / str(attempt)).mkdir(parents=True, exist_ok=True)
        (folder / str(attempt) / name).write_bytes(data)
    stored = StoredOutputs(f"file://{folder}/store")
    stored.put_manifest(store_folder(folder / str(attempt), stored, run_id=run_id, attempt=attempt))


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[str, RunFacts]:
    """The store, and a run that has left three outputs there, as its record says."""
    run_id = new_run_id()
    left(tmp_path, run_id, 1, {f"part-{number}": content(f"{run_id}.1", number) for number in range(3)})
    run = facts(*ONE, ("Finished", 5, 1, ""), written={1: replace(stamps(2.1, 4.9), left=3)})
    kept = json.dumps({"1": {"files": 3, "bytes": 1, "at": "4500000"}})
    return f"file://{tmp_path}/store", replace(run, record=replace(run.record, id=run_id, outputs=kept))


def test_the_jobs_outputs_are_what_the_verifier_takes_them_for(tmp_path: Path) -> None:
    names = {
        "LAUNCH_RUN_ID": "r",
        "LAUNCH_ATTEMPT": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "LAUNCH_OUTPUT_DIR": str(tmp_path),
    }
    job = [sys.executable, "-I", "-S", str(Path(__file__).with_name("job.py")), str(tmp_path), "0", "0", "outputs=3"]
    subprocess.run(job, env=os.environ | names, check=True)
    assert [(tmp_path / f"part-{number}").read_bytes() for number in range(3)] == [
        content("r.1", number) for number in range(3)
    ]
    assert Stamps.read(tmp_path / "r.1").left == 3


def test_an_output_that_was_called_kept_and_is_lost_half_or_missing_is_found(outputs: tuple[str, RunFacts]) -> None:
    url, run = outputs
    assert list(check_outputs(url, [run], {})) == []
    other = replace(run, stamps={1: replace(run.stamps[1], left=4)})
    assert "left 4 outputs, and part-3 is not among those kept" in next(check_outputs(url, [other], {}))
    nothing = replace(run, record=replace(run.record, outputs=""))
    assert "left 3 outputs, which are not kept" in next(check_outputs(url, [nothing], {}))
    assert list(check_outputs(url, [replace(nothing, was_disk_full=True)], {})) == []
    stored = StoredOutputs(url)
    manifest = stored.manifest(run.record.id, 1)
    assert manifest is not None
    wrong, *rest = manifest.files
    stored.put_manifest(replace(manifest, files=(wrong._replace(path="part-2"), *rest[:1])))
    assert "part-2 was called kept, and is half or another's" in next(check_outputs(url, [run], {}))
    lost = replace(run, record=replace(run.record, id=new_run_id()))
    assert next(check_outputs(url, [lost], {})).endswith("its outputs were called kept, and are lost")


@pytest.mark.parametrize(
    ("took", "spoiled", "violation"),
    [
        (("1", 3), [], ""),
        (("1", 2), [], "was given 2 outputs"),
        (("2", 3), [], "was given 3 outputs"),
        (("1", 3), ["part-1"], "was given part-1 otherwise"),
    ],
)
def test_an_input_that_is_not_what_was_left_is_found(
    outputs: tuple[str, RunFacts], took: tuple[str, int], spoiled: list[str], violation: str
) -> None:
    url, other = outputs
    given = replace(stamps(6.1, 6.9), took=(f"{other.record.id}.{took[0]}", took[1]), spoiled=spoiled)
    run = facts(("Pending", 1, 0, ""), ("Running", 6, 1, ""), ("Finished", 7, 1, ""), written={1: given})
    found = list(check_outputs(url, [other, run], {_RUN: other.record.id}))
    assert [violation in text for text in found] == [True] * bool(violation)


def test_a_run_that_was_told_of_no_outputs_though_there_were_some_is_found(outputs: tuple[str, RunFacts]) -> None:
    url, other = outputs
    for began, wrong in ((4, False), (6, True)):
        end = ("Failed", 7, 1, f"run {other.record.id} left no outputs, and this run takes some of it (--input)")
        run = facts(("Pending", 1, 0, ""), ("Running", began, 1, ""), end, written={})
        assert bool(list(check_outputs(url, [other, run], {_RUN: other.record.id}))) is wrong


# -- rules, time limits, halted groups ---------------------------------------------------------------------------------

FAILED_3 = (*ONE, ("Failed", 3, 1, "exit code 3"))


def then_again(reason: str, *end: str) -> tuple[tuple[str, float, int, str], ...]:
    """A run that failed, and went back to its queue for this reason, to its end in a second attempt."""
    state, why = end or ("Finished", "")
    return (*FAILED_3, ("Pending", 3, 1, reason), ("Running", 4, 2, ""), (state, 5, 2, why))


@pytest.mark.parametrize(
    ("steps", "rules", "violation"),
    [
        (then_again("retry 1 of 1 after 3", "Failed", "exit code 3"), {"3": 1}, ""),
        (then_again("retry 1 of 1 after 3", "Failed", "exit code 3"), {"3": 2}, "is not tried again"),
        (FAILED_3, {"3": 1}, "is not tried again"),
        (FAILED_3, {"4": 1}, ""),
        (then_again("retry 1 of 1 after 4"), {"4": 1}, "tried again after 4"),
        (then_again("retry 1 of 1 after 3"), {"crashed": 1}, "1 times after 3"),
        (then_again("because"), {"3": 1}, "for no reason"),
        (then_again("preempted 1 of 5 times"), {}, ""),
    ],
)
def test_an_end_that_is_not_tried_again_as_its_rules_say_is_found(
    steps: tuple[tuple[str, float, int, str], ...], rules: dict[str, int], violation: str
) -> None:
    found = list(retried_otherwise(facts(*steps, written={}).history, rules, is_cancelled=False))
    assert [violation in text for text in found] == [True] * bool(violation), found


@pytest.mark.parametrize(
    ("ended_at", "ahead", "violation"),
    [
        (5.2, [4.2], ""),
        (5.2, [], "it got no signal ahead"),
        (5.2, [4.2, 4.3], "got the signal ahead of its end 2 times"),
        (4.0, [3.5], "it ran for 2.0 s, and may for 3 s"),
    ],
)
def test_a_time_limit_that_came_early_or_without_its_signal_is_found(
    ended_at: float, ahead: list[float], violation: str
) -> None:
    written = {1: replace(stamps(2.1, ended_at, code=None), ahead=ahead)}
    run = facts(*ONE, ("Failed", ended_at, 1, "time limit of 3 s reached"), written=written)
    found = check(replace(run, timeout_s=3.0)).violations
    assert [violation in text for text in found] == [True] * bool(violation), found


def test_a_run_that_goes_on_too_often_after_its_time_limit_is_found() -> None:
    steps: list[tuple[str, float, int, str]] = [("Pending", 1, 0, "")]
    for number in (1, 2, 3):
        steps += [("Running", 5 * number, number, ""), ("Failed", 5 * number + 4, number, "time limit of 3 s reached")]
        steps += [("Pending", 5 * number + 4, number, f"goes on after its time limit, {number} of 2 times")]
    run = replace(
        facts(*steps, ("Running", 30, 4, ""), ("Finished", 31, 4, ""), written={4: stamps(30, 31)}), timeout_s=3.0
    )
    assert any("went on 3 times" in text for text in check(run).violations)


@pytest.mark.parametrize(
    ("second", "violation"),
    [
        ((("Killed", 4.0, 0, "not started, for 1 run of its group failed (--max-fails 1)"),), ""),
        (
            (("Killed", 2.5, 0, "not started, for 1 run of its group failed (--max-fails 1)"),),
            "fewer than 1 had failed",
        ),
        ((("Running", 2.5, 1, ""), ("Finished", 5, 1, "")), ""),
        ((("Running", 3.5, 1, ""), ("Finished", 5, 1, "")), "it began 0.500 s after 1 runs"),
    ],
)
def test_a_group_that_is_halted_too_late_or_too_soon_is_found(
    second: tuple[tuple[str, float, int, str], ...], violation: str
) -> None:
    histories = {
        "a": facts(*FAILED_3, written={}).history,
        "b": facts(("Pending", 1, 0, ""), *second, written={}).history,
    }
    found = list(halted_otherwise(histories, 1))
    assert [violation in text for text in found] == [True] * bool(violation), found


@pytest.mark.parametrize(("wheel", "is_wrong"), [("2", False), ("", False), ("1", True), ("none", True)])
def test_an_environment_that_is_another_ones_is_found(wheel: str, is_wrong: bool) -> None:
    written = {1: replace(stamps(2.1, 4.9), wheel=wheel)}
    run = replace(facts(*ONE, ("Finished", 5, 1, ""), written=written), wheel="2")
    assert any("and wanted version 2" in text for text in check(run).violations) is is_wrong


def test_a_crashed_run_that_proves_alive_halts_no_group() -> None:
    alive = (*ONE, ("Crashed", 3, 1, "heartbeats stopped"), ("Running", 4, 1, "alive"), ("Finished", 6, 1, ""))
    late = (("Pending", 1, 0, ""), ("Running", 5, 1, ""), ("Finished", 6, 1, ""))
    failed = (("Pending", 1, 0, ""), ("Running", 2, 1, ""), ("Failed", 4.5, 1, "exit code 3"))
    histories = {str(number): facts(*steps, written={}).history for number, steps in enumerate((alive, late, failed))}
    assert list(halted_otherwise(histories, 2)) == []
    assert len(list(halted_otherwise(histories, 1))) == 1
