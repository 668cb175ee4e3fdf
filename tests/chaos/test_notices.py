"""The checks of what a receiver was told find what they are there to find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch_worker.model.history import Transition
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from tests.chaos.evidence import Group
from tests.chaos.notices import delays, ends_of, read_told, told_otherwise_of
from tests.chaos.verify import RunFacts

_RUN = "1m83cyvtfq1tc69"
#: State, time and attempt of each transition: one that was tried again, and ended for good.
_STEPS = (
    ("Pending", 0, 0),
    ("Running", 1, 1),
    ("Failed", 2, 1),
    ("Pending", 2, 1),
    ("Running", 3, 2),
    ("Finished", 4, 2),
)
_END = f"{_RUN}.2.Finished.chaos"


def run(*, notify: str = "chaos", steps: Any = _STEPS, array: str = "", run_id: str = _RUN) -> RunFacts:
    history = [Transition(RunState(state), at, attempt, "w1@host", "") for state, at, attempt in steps]
    state, _, attempt = steps[-1]
    spec = json.dumps({"command": ["true"], **({"notify": [notify]} if notify else {})})
    record = Record.from_hash({"id": run_id, "state": state, "attempt": str(attempt), "spec": spec, "array": array})
    return RunFacts(record, history, [], {})


def told(notice_id: str = _END, state: str = "Finished", attempt: int = 2, answer: str = "204", **more: Any) -> Any:
    data = {"id": _RUN, "state": state, "attempt": attempt, "ended_at": "2026-01-01T00:00:00+00:00"}
    return {"id": notice_id, "at": 1767225602.0, "type": f"run.{state.lower()}", "answer": answer, "data": data, **more}


def test_an_end_after_which_a_run_is_tried_again_is_none() -> None:
    assert ends_of(run().history) == [("Finished", 2)]


@pytest.mark.parametrize(
    ("notices", "wrong"),
    [
        ([told()], ""),
        ([told(answer="500"), told(answer="close"), told()], ""),
        ([], "Finished of attempt 2 was told 0 times, not 1"),
        ([told(answer="500")], "Finished of attempt 2 was told 0 times, not 1"),
        ([told(), told(f"{_RUN}.2p7.Finished.chaos")], "Finished of attempt 2 was told by 2 ids"),
        ([told(), told(f"{_RUN}.1.Failed.chaos", "Failed", 1)], "Failed of attempt 1 was told, and its ends are"),
        ([told(), told(attempt=1)], "was told in 2 tries, and not the same in each"),
        ([told(), told(f"{_RUN}.2.Running.chaos", "Running")], "Running was told, and it asked for ['chaos']"),
    ],
)
def test_an_end_that_is_not_told_or_doubled_or_untrue_is_found(notices: list[Any], wrong: str) -> None:
    found = list(told_otherwise_of([run()], [], notices))
    assert wrong in found[0] if wrong else found == [], found


def test_a_crash_that_a_killed_redis_forgot_may_be_told_again_with_another_reason() -> None:
    crash = run(steps=(*_STEPS[:5], ("Crashed", 4, 2)))
    notice_id = f"{_RUN}.2.Crashed.chaos"
    first, again = told(notice_id, "Crashed"), told(notice_id, "Crashed")
    first["data"]["reason"], again["data"]["reason"] = "heartbeats stopped", "its worker died"
    again["at"] += 5
    between = first["at"] + 2
    assert list(told_otherwise_of([crash], [], [first, again], redis_kills=[between])) == []
    assert "not the same in each" in next(told_otherwise_of([crash], [], [first, again], redis_kills=[between + 5]))
    again["data"]["exit_code"] = 3
    assert "not the same in each" in next(told_otherwise_of([crash], [], [first, again], redis_kills=[between]))


def test_a_run_that_crashed_twice_may_be_told_again_with_the_other_reason() -> None:
    reasons = ("heartbeats stopped", "its worker died")
    twice = run(steps=(*_STEPS[:5], ("Crashed", 4, 2), ("Running", 5, 2), ("Crashed", 6, 2)))
    crashes = (step for step in twice.history if step.state is RunState.CRASHED)
    for step, reason in zip(crashes, reasons, strict=True):
        twice.history[twice.history.index(step)] = replace(step, reason=reason)
    notice_id = f"{_RUN}.2.Crashed.chaos"
    first, again = told(notice_id, "Crashed"), told(notice_id, "Crashed")
    first["data"]["reason"], again["data"]["reason"] = reasons
    assert list(told_otherwise_of([twice], [], [first, again])) == []
    again["data"]["reason"] = "another one"
    assert "not the same in each" in next(told_otherwise_of([twice], [], [first, again]))


def test_who_did_not_ask_must_not_be_told() -> None:
    assert list(told_otherwise_of([run(notify="")], [], [])) == []
    assert "it asked for no notice" in next(told_otherwise_of([run(notify="")], [], [told()]))
    assert "which is not there" in next(told_otherwise_of([], [], [told()]))
    assert list(told_otherwise_of([], [], [told()], {_RUN})) == []


def test_a_start_that_is_not_told_is_found() -> None:
    asked = run(notify="chaos:end+running")
    starts = [told(f"{_RUN}.{attempt}.Running.chaos", "Running", attempt) for attempt in (1, 2)]
    assert list(told_otherwise_of([asked], [], [told(), *starts])) == []
    assert "attempts [1] began, and nobody was told" in next(told_otherwise_of([asked], [], [told(), starts[1]]))


def of_group(notice: str, answer: str = "204", **counts: int) -> Any:
    data = {"id": f"b{_RUN}", "counts": counts}
    return {"id": f"b{_RUN}.1.{notice}.chaos", "at": 0.0, "type": notice, "answer": answer, "data": data}


def test_a_group_that_is_not_told_or_with_other_counts_is_found() -> None:
    members = [run(array=f"b{_RUN}", notify="chaos:end+first-failure")]
    group = Group(f"b{_RUN}", [_RUN], "then")
    assert list(told_otherwise_of(members, [group], [of_group("group.ended", Finished=1, Failed=0)])) == []
    assert "its end was not told" in next(told_otherwise_of(members, [group], []))
    assert "it has {'Finished': 1}" in next(told_otherwise_of(members, [group], [of_group("group.ended", Failed=1)]))
    both = [of_group("group.ended", Finished=1), of_group("group.failing")]
    assert "its first failure was told 1 times, and none failed" in next(told_otherwise_of(members, [group], both))


def test_the_line_in_which_a_receiver_was_killed_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "told").write_text(json.dumps(told()) + '\n{"id": "1m8')
    assert read_told(tmp_path / "told") == [told()]
    assert delays([told(answer="500", at=0.0), told(), told()]) == [2.0]
