"""A run or a group says in one sentence what it does or how it ended, in every state and for every end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.model.group import KINDS, GroupRecord
from launch_worker.model.run import Record
from launch_worker.model.sentences import common_reason, sentence_of, sentence_of_group
from launch_worker.model.states import RunState

S = 1_000_000
NOW = 1_900_000_000 * S


def record(state: RunState, **more: Any) -> Record:
    known: dict[str, Any] = {"queue": "gpu", "created_at": NOW - 180 * S}
    if state is not RunState.PENDING:
        known |= {"attempt": 1, "worker": "celery@vm", "started_at": NOW - 150 * S}
    if state.is_final:
        known["ended_at"] = NOW - 120 * S
    return Record(state=state, **known | more)


@pytest.mark.parametrize(
    ("run", "why", "said"),
    [
        (record(RunState.PENDING), "", "Pending for 3 min in queue gpu: it is about to start."),
        (record(RunState.PENDING), "queue paused", "Pending for 3 min in queue gpu: queue paused."),
        (
            record(RunState.PENDING, due_at=NOW + 3600 * S),
            "scheduled for 2030-01-01T00:00:00.000+00:00",
            "Pending for 3 min: it starts in 1 h.",
        ),
        (
            record(RunState.PENDING, due_at=NOW + 30 * S, attempt=1),
            "retry 1 of 2 in 30 s",
            "Pending for 3 min: retry 1 of 2 in 30 s; it starts in 30 s.",
        ),
        (record(RunState.PENDING, due_at=NOW - S), "", "Pending for 3 min: it is due."),
        (
            record(RunState.PENDING, waits_for={"x": "ok"}),
            "after run x (ok)",
            "Pending for 3 min in queue gpu: after run x (ok).",
        ),
        (record(RunState.PENDING, created_at=0), "", "Pending in queue gpu: it is about to start."),
        (record(RunState.RUNNING), "", "Running for 2 min 30 s on celery@vm."),
        (
            record(RunState.RUNNING, spec=json.dumps({"timeout_s": 7200}), attempt=2),
            "pulling image busybox",
            "Running for 2 min 30 s of 2 h at most on celery@vm, attempt 2: pulling image busybox.",
        ),
        (
            record(RunState.RUNNING, cancel_at=NOW - 5 * S),
            "stopping: cancelled by ada",
            "Running for 2 min 30 s on celery@vm; it was asked to stop 5 s ago: cancelled by ada.",
        ),
        (
            record(RunState.RUNNING, is_held=True),
            "its container may live on vm",
            "Running for 2 min 30 s on celery@vm, as far as anybody knows: its container may live on vm.",
        ),
        (record(RunState.FINISHED, exit_code=0), "", "Finished after 30 s on celery@vm, 2 min ago."),
        (
            record(RunState.FINISHED, late_exit="SIGKILL"),
            "",
            "Finished after 30 s on celery@vm, 2 min ago: its process ended later by SIGKILL.",
        ),
        (
            record(RunState.FAILED, started_at=NOW - 120 * S - 45_000, exit_code=127, reason="exit code 127"),
            "exit code 127",
            "Failed after 45 ms on celery@vm, 2 min ago: exit code 127, a command was not found.",
        ),
        (
            record(RunState.FAILED, exit_code=1, reason="KeyError: 'label' (exit code 1)"),
            "KeyError: 'label' (exit code 1)",
            "Failed after 30 s on celery@vm, 2 min ago: KeyError: 'label' (exit code 1).",
        ),
        (
            record(RunState.FAILED, signal="SIGSEGV", reason="ended by SIGSEGV"),
            "ended by SIGSEGV",
            "Failed after 30 s on celery@vm, 2 min ago: ended by SIGSEGV, it crashed in native code.",
        ),
        (
            record(RunState.FAILED, exit_code=143, reason="exit code 143"),
            "exit code 143",
            "Failed after 30 s on celery@vm, 2 min ago: exit code 143, it was asked to end.",
        ),
        (
            record(RunState.FAILED, exit_code=137, reason="exit code 137"),
            "exit code 137",
            "Failed after 30 s on celery@vm, 2 min ago: exit code 137, it was ended by SIGKILL.",
        ),
        (
            record(RunState.FAILED, exit_code=3, reason="exit code 3", attempt=2, ended_at=None),
            "exit code 3",
            "Failed in attempt 2 on celery@vm: exit code 3.",
        ),
        (record(RunState.CRASHED), "worker w died", "Crashed after 30 s on celery@vm, 2 min ago: worker w died."),
        (
            record(RunState.KILLED, attempt=0, worker="", started_at=None),
            "cancelled by ada",
            "Killed before it started, 2 min ago: cancelled by ada.",
        ),
    ],
)
def test_a_run_says_what_it_does_or_how_it_ended(run: Record, why: str, said: str) -> None:
    assert sentence_of(run, why, now_us=NOW) == said


def group(kind: str = "array", **more: Any) -> GroupRecord:
    counts = dict.fromkeys(KINDS, 0) | more.pop("counts")
    return GroupRecord("a1", kind, "1", sum(counts.values()), counts, created_at=NOW - 60 * S, **more)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            group(counts={"Finished": 16, "Failed": 4}, name="part", ended_at=NOW - 30 * S),
            "Array part of 20 runs, over after 30 s, 30 s ago: 4 failed, 16 finished.",
        ),
        (
            group("bulk", counts={"Finished": 1, "Running": 2, "Pending": 3000}),
            "Bulk submission of 3,003 runs, goes on: 2 running, 3,000 waiting, 1 finished.",
        ),
        (group("sweep", counts={}, is_open=True), "Sweep of 0 runs, more are to come: none yet."),
        (group(counts={"Finished": 1}), "Array of 1 run, over: 1 finished."),
        (
            group(counts={"Failed": 2, "Running": 1, "Never": 8}, halted=2),
            "Array of 11 runs, goes on, halted after 2 failed runs (--max-fails): 2 failed, 1 running, 8 never ran.",
        ),
    ],
)
def test_a_group_says_how_its_runs_are(of: GroupRecord, said: str) -> None:
    assert sentence_of_group(of, now_us=NOW) == said


def test_the_reason_that_most_failed_runs_share_is_found() -> None:
    reasons = ["exit code 1", "worker w died", "exit code 1", ""]
    found = [record(RunState.FAILED, reason=reason) for reason in reasons]
    assert common_reason(found) == ("exit code 1", 2)
    assert common_reason([]) == ("", 0)
