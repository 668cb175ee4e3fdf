"""How an exit becomes an outcome, and what comes after it: pure decisions."""

from __future__ import annotations

import signal

import pytest

from launch_worker.model.outcome import Outcome, outcome_of_exit, shell_exit_code, signal_name
from launch_worker.model.retry import MAX_MISSTARTS, NextStep, has_retries_left, next_step
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState

S = RunState


def spec(*, retries: int = 2, delay_s: float = 0.0, on: tuple[str, ...] = ("failed", "crashed")) -> RunSpec:
    return RunSpec(command=("true",), retries=retries, retry_delay_s=delay_s, retry_on=on)


def test_exit_zero_is_finished_without_a_reason() -> None:
    assert outcome_of_exit(0) == Outcome(S.FINISHED, exit_code=0)


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_another_exit_code_is_failed_in_the_run_with_that_code(code: int) -> None:
    """P35."""
    outcome = outcome_of_exit(code)
    assert (outcome.state, outcome.phase, outcome.exit_code, outcome.signal) == (S.FAILED, "run", code, "")
    assert outcome.reason == f"exit code {code}"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_death_by_signal_is_failed_with_the_signals_name(number: signal.Signals) -> None:
    """P29, P35."""
    outcome = outcome_of_exit(-number)
    assert (outcome.state, outcome.phase, outcome.exit_code, outcome.signal) == (S.FAILED, "run", None, number.name)
    assert number.name in outcome.message


def test_a_real_time_signal_has_a_name_too() -> None:
    assert signal_name(40) == "SIG40"


def test_a_finished_or_killed_run_is_never_retried() -> None:
    for state in (S.FINISHED, S.KILLED):
        assert next_step(Outcome(state), spec=spec(retries=9), attempt=1).retry_delay_s is None


@pytest.mark.parametrize("state", [S.FAILED, S.CRASHED])
def test_retries_are_used_up_one_by_one(state: RunState) -> None:
    """P36."""
    steps = [next_step(Outcome(state), spec=spec(retries=2), attempt=attempt) for attempt in (1, 2, 3)]
    assert [step.retry_delay_s for step in steps] == [0.0, 0.0, None]
    assert [step.retry_reason for step in steps] == ["retry 1 of 2", "retry 2 of 2", ""]


def test_no_retries_is_the_default() -> None:
    plain = RunSpec(command=("true",))
    assert next_step(Outcome(S.FAILED), spec=plain, attempt=1) == NextStep(Outcome(S.FAILED))


def test_the_delay_is_kept_and_told() -> None:
    step = next_step(Outcome(S.FAILED), spec=spec(retries=3, delay_s=30), attempt=2)
    assert (step.retry_delay_s, step.retry_reason) == (30, "retry 2 of 3 in 30 s")


@pytest.mark.parametrize(("on", "failed", "crashed"), [(("failed",), True, False), (("crashed",), False, True)])
def test_only_the_chosen_ends_are_retried(on: tuple[str, ...], failed: bool, crashed: bool) -> None:
    policy = spec(on=on)
    assert (next_step(Outcome(S.FAILED), spec=policy, attempt=1).retry_delay_s is not None) is failed
    assert (next_step(Outcome(S.CRASHED), spec=policy, attempt=1).retry_delay_s is not None) is crashed


def test_a_requeue_begins_a_new_count() -> None:
    policy = spec(retries=1)
    assert next_step(Outcome(S.FAILED), spec=policy, attempt=3).retry_delay_s is None
    step = next_step(Outcome(S.FAILED), spec=policy, attempt=3, first_attempt=3)
    assert (step.retry_delay_s, step.retry_reason) == (0.0, "retry 1 of 1")


def test_a_shutdown_hands_the_run_back_at_once_when_a_crash_would_be_retried() -> None:
    """X8."""
    ended = Outcome(S.KILLED, reason="the worker shut down", by_shutdown=True)
    step = next_step(ended, spec=spec(retries=1, delay_s=60), attempt=1)
    assert (step.retry_delay_s, step.retry_reason) == (0.0, "handed back by its worker")
    for policy in (spec(retries=0), spec(retries=1, on=("failed",))):
        assert next_step(ended, spec=policy, attempt=1).retry_delay_s is None


def test_a_run_that_had_not_begun_goes_back_whatever_its_policy_and_uses_nothing_up() -> None:
    ended = Outcome(S.KILLED, reason="its worker stopped", unbegun=True)
    for policy, attempt in ((spec(retries=0), 1), (spec(retries=1, delay_s=60), 2)):
        step = next_step(ended, spec=policy, attempt=attempt, preemptions=5)
        assert (step.retry_delay_s, step.is_preemption, step.counts_as) == (0.0, False, 2)


def test_has_retries_left_agrees_with_the_next_step() -> None:
    policy = spec(retries=1, on=("crashed",))
    assert has_retries_left(policy, attempt=1, first_attempt=1, after=S.CRASHED)
    assert not has_retries_left(policy, attempt=2, first_attempt=1, after=S.CRASHED)
    assert not has_retries_left(policy, attempt=1, first_attempt=1, after=S.FAILED)


@pytest.mark.parametrize(
    ("state", "exit_code", "signal_", "code"),
    [
        (S.FINISHED, 0, "", 0),
        (S.FAILED, 3, "", 3),
        (S.FAILED, None, "SIGSEGV", 139),
        (S.FAILED, None, "SIGKILL", 137),
        (S.FAILED, None, "", 1),
        (S.FAILED, 0, "", 1),
        (S.KILLED, None, "SIGTERM", 143),
        (S.KILLED, 0, "", 143),
        (S.CRASHED, None, "", 70),
        (S.CRASHED, None, "SIGKILL", 70),
    ],
)
def test_the_shells_exit_code_is_that_of_the_contract(
    state: RunState, exit_code: int | None, signal_: str, code: int
) -> None:
    assert shell_exit_code(state, exit_code, signal_) == code


@pytest.mark.parametrize("phase", ["agent", "build", "start"])
def test_a_start_that_failed_through_the_worker_uses_up_no_retry_some_times(phase: str) -> None:
    outcome = Outcome(RunState.FAILED, reason="the disk is full", phase=phase, worker_fault=True)
    spec = RunSpec(command=("true",))
    steps = [next_step(outcome, spec=spec, attempt=count + 1, first_attempt=1, misstarts=count) for count in range(6)]
    assert [step.counts_as for step in steps] == [3] * MAX_MISSTARTS + [0]
    delays = [step.retry_delay_s for step in steps]
    assert delays == [2.0, 4.0, 8.0, 16.0, 32.0, None], "never at once, and not for ever"
    assert "the disk is full" in steps[0].retry_reason


def test_a_job_that_had_begun_is_not_given_back_for_its_workers_fault() -> None:
    outcome = Outcome(RunState.FAILED, phase="run", worker_fault=True)
    assert next_step(outcome, spec=RunSpec(command=("true",)), attempt=1).retry_delay_s is None
