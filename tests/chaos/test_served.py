"""The checks of what people were answered and told find what they are there to find."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from launch_worker.database.audit import DONE, write_act
from launch_worker.database.database import Database
from launch_worker.model.history import Transition
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from tests.chaos.evidence import Journal
from tests.chaos.served import followed_otherwise, submitted_otherwise, told_otherwise, unaudited
from tests.chaos.verify import Attempt, RunFacts
from tests.support.archives import empty_sqlite

_RUN = "20260101-aaaa"
_STATES = ("Pending", "Running", "Finished")


def run(run_id: str = _RUN, *, mark: str = "", states: tuple[str, ...] = _STATES) -> RunFacts:
    history = [Transition(RunState(state), at, 1, "w1@host", "") for at, state in enumerate(states)]
    record = Record.from_hash({"id": run_id, "state": states[-1], "attempt": "1"})
    attempt = Attempt(1, 1.0, "w1@host", state=RunState(states[-1]))
    return RunFacts(record, history, [attempt], {}, logs={1: b"one\ntwo\n"}, lines=2, mark=mark)


def test_a_submission_that_is_lost_or_doubled_or_another_is_found() -> None:
    journal = Journal(submitted={"ada.1.0": _RUN})
    assert list(submitted_otherwise(journal, [run(mark="ada.1.0")])) == []
    assert "there is none" in next(submitted_otherwise(journal, []))
    assert "there is ['other']" in next(submitted_otherwise(journal, [run("other", mark="ada.1.0")]))
    twice = [run(mark="ada.1.0"), run("other", mark="ada.1.0")]
    assert "is 2 runs" in next(submitted_otherwise(Journal(), twice))


def test_an_act_that_the_audit_lacks_is_found(tmp_path: Path) -> None:
    (tmp_path / "archive.db").write_bytes(empty_sqlite())
    database = Database(f"sqlite:///{tmp_path / 'archive.db'}")
    with database.writing() as connection:
        write_act(connection, actor="ada", what="cancel", kind="run", target=_RUN, address="127.0.0.1", result=DONE)
        write_act(connection, actor="ada", what="retry", kind="run", target=_RUN, address="127.0.0.1", result="no")
    journal = Journal()
    journal.acts.update([("ada", "cancel", _RUN, True), ("ada", "retry", _RUN, False)])
    assert list(unaudited(journal, database)) == []
    journal.acts.update([("ada", "retry", _RUN, True)])
    assert "retry of 20260101-aaaa by ada was done 1 times, the audit has 0" in next(unaudited(journal, database))
    database.close()


def line(state: str | None = None, number: int | None = 1, data: bytes = b"", **more: Any) -> dict[str, Any]:
    plain = {"attempt": 1, "number": number, "is_end": False, "state": state, "missing": 0}
    return plain | {"data": base64.b64encode(data).decode()} | more


BEGUN = (line("Pending", None), line(number=1), line("Running", 2))
OUTPUT = line(number=2, data=b"one\ntwo\n")
END = line("Finished", 3, is_end=True)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ((*BEGUN, OUTPUT, END), ""),
        ((*BEGUN, OUTPUT), "was not told its end"),
        ((*BEGUN, BEGUN[-1], OUTPUT, END), "was told of transitions [2, 2, 3]"),
        ((*BEGUN[:2], OUTPUT, END), "was not told of transition 2, to Running"),
        ((*BEGUN[:2], line("Failed", 2), OUTPUT, END), "told that transition 2 is to Failed, and it is to Running"),
        ((*BEGUN, END), "was told 0 bytes of attempt 1, which printed 8"),
        ((*BEGUN, OUTPUT, OUTPUT, END), "was told bytes 8 to 16 of attempt 1 otherwise"),
        ((*BEGUN, line(number=2, data=b"two\n", missing=4), END), "was told bytes 4 to 8 of attempt 1 otherwise"),
    ],
)
def test_what_a_follower_was_told_twice_or_never_or_wrongly_is_found(told: tuple[Any, ...], wrong: str) -> None:
    found = list(followed_otherwise(run(), told))
    assert wrong in found[0] if wrong else found == [], found


def event(state: str, at: int, run_id: str = _RUN, kind: str = "run") -> dict[str, Any]:
    return {"kind": kind, "id": f"17-{at}", "data": {"id": run_id, "state": state}}


EVENTS = tuple(event(state, at) for at, state in enumerate(_STATES))


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (EVENTS, ""),
        (EVENTS[1:], "they tell ['Running', 'Finished']"),
        ((*EVENTS, event("Finished", 9)), "they tell ['Pending', 'Running', 'Finished', 'Finished']"),
        ((EVENTS[0], EVENTS[2], EVENTS[1]), "their ids do not rise"),
        ((*EVENTS, event("Pending", 9, "hidden")), "which this person does not see"),
        ((*EVENTS, event("", 9, kind="gap")), "there is a gap"),
    ],
)
def test_an_event_that_is_missing_or_doubled_or_of_what_is_hidden_is_found(events: tuple[Any, ...], wrong: str) -> None:
    found = list(told_otherwise(events, {_RUN: run()}, ()))
    assert wrong in found[0] if wrong else found == [], found
