"""A worker pauses for what is wrong with its machine, and for nothing else."""

from __future__ import annotations

from launch_worker.agent.quarantine import FIRST_PAUSE_S, LONGEST_PAUSE_S, Quarantine
from launch_worker.model.outcome import Outcome
from launch_worker.model.states import RunState

FULL = Outcome(RunState.FAILED, reason="the disk is full", phase="start", worker_fault=True)
MISTYPED = Outcome(RunState.FAILED, reason="command 'x' was not found on this worker", phase="start")
GOOD = Outcome(RunState.FINISHED)


def test_a_mistyped_program_never_pauses_a_worker() -> None:
    quarantine = Quarantine(after=1)
    assert not any(quarantine.note(MISTYPED, whose=f"run{count}", now=count) for count in range(100))
    assert not quarantine.is_on


def test_what_is_wrong_with_the_machine_pauses_it_at_once_and_longer_each_time() -> None:
    quarantine, now, pauses = Quarantine(after=1), 0.0, []
    for count in range(10):
        assert quarantine.note(FULL, whose=f"run{count}", now=now)
        assert quarantine.until is not None
        pauses.append(quarantine.until - now)
        now = quarantine.until
        assert quarantine.is_over(now=now)
        quarantine.lift()
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert max(pauses) == LONGEST_PAUSE_S


def test_a_mistyped_program_between_two_faults_says_nothing_of_the_machine() -> None:
    quarantine = Quarantine(after=2)
    assert not quarantine.note(FULL, whose="a", now=0)
    assert not quarantine.note(MISTYPED, whose="b", now=1)
    assert quarantine.note(FULL, whose="c", now=2)


def test_a_job_that_ran_between_two_faults_clears_the_machine() -> None:
    quarantine = Quarantine(after=2)
    assert not quarantine.note(FULL, whose="a", now=0)
    assert not quarantine.note(GOOD, whose="b", now=1)
    assert not quarantine.note(FULL, whose="c", now=2)


def test_a_shortage_is_said_as_long_as_it_lasts() -> None:
    quarantine = Quarantine(after=0)
    quarantine.shortage = "the disk has 3 MiB free"
    assert quarantine.is_on
    assert quarantine.describe(now=0) == "takes no runs for now: the disk has 3 MiB free"


def test_what_only_the_fetch_of_code_needs_keeps_no_other_run_away() -> None:
    """A worker without git starts all runs that bring no code from git."""
    quarantine = Quarantine(after=1)
    no_git = Outcome(RunState.FAILED, reason="git is not installed", phase="build", worker_fault=True)
    assert not quarantine.note(no_git, whose="a", now=0.0, spec='{"uri": "https://h/r"}')
    assert not quarantine.is_on
    assert (quarantine.unable(now=29.0), quarantine.unable(now=30.0)) == (("uri",), ())
    assert quarantine.describe(now=1.0) == (
        "fails to start runs with code from git: other workers are to take them for now"
    )


def test_without_its_engine_a_worker_leaves_containers_to_others() -> None:
    quarantine = Quarantine(after=1)
    away = Outcome(RunState.FAILED, reason="no answer", phase="start", worker_fault=True, engine_fault=True)
    assert not quarantine.note(away, whose="a", now=0.0, spec='{"image": "a", "uri": "https://h/r"}')
    assert (quarantine.is_on, quarantine.unable(now=1.0)) == (False, ("image",))
