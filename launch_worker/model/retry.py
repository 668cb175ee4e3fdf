"""Decides what follows an attempt that ended: a final state, a retry, or the queue once more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from launch_worker.errors import InputError
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration

#: Times that a run goes back to its queue because a worker could not start it; then it has failed.
MAX_MISSTARTS = 5
#: Seconds before it is tried elsewhere, doubled each time.
FIRST_MISSTART_DELAY_S = 2.0


@dataclass(frozen=True)
class NextStep:
    """The arrow to write: the outcome's state, and Pending again after `retry_delay_s` unless that is None."""

    outcome: Outcome
    retry_delay_s: float | None = None
    retry_reason: str = ""
    #: Whether it counts as a preemption, and not as a retry.
    is_preemption: bool = False
    #: Whether it counts as nothing.
    is_free: bool = False
    #: Whether it counts as a start that failed through the worker.
    is_misstart: bool = False

    @property
    def counts_as(self) -> int:
        """For the scripts: 0 a retry, 1 a preemption, 2 nothing, 3 a start that failed through the worker."""
        return 3 if self.is_misstart else 2 if self.is_free else int(self.is_preemption)


def next_step(
    outcome: Outcome, *, spec: RunSpec, attempt: int, first_attempt: int = 1, preemptions: int = 0, misstarts: int = 0
) -> NextStep:
    """Decide from the outcome and the retry policy; `first_attempt` is where the policy began to count.

    (`launch-worker retry` begins a new count.) `preemptions`: how often the run was preempted before. That a preempted
    run goes back to its queue under its id, at most five times by default, is W&B's (its Launch agent's `max_tries`).
    `misstarts`: how often its start failed through a worker before.
    """
    if outcome.unbegun:
        return NextStep(outcome, retry_delay_s=0.0, retry_reason="back in its queue: it had not begun", is_free=True)
    if outcome.preempted:
        if preemptions < spec.max_preemptions:
            words = f"preempted {preemptions + 1} of {spec.max_preemptions} times"
            return NextStep(outcome, retry_delay_s=0.0, retry_reason=words, is_preemption=True)
        outcome = replace(outcome, reason=f"{outcome.reason}; it was preempted {preemptions} times before, and no more")
    if outcome.worker_fault and outcome.phase != "run" and misstarts < MAX_MISSTARTS:
        words = f"back in its queue, for the start failed through its worker: {outcome.reason}"
        delay_s = FIRST_MISSTART_DELAY_S * 2**misstarts
        return NextStep(outcome, retry_delay_s=delay_s, retry_reason=words, is_misstart=True)
    retried = attempt - first_attempt
    if outcome.by_shutdown and retried < spec.retries and RunState.CRASHED.value.lower() in spec.retry_on:
        return NextStep(outcome, retry_delay_s=0.0, retry_reason="handed back by its worker")
    if outcome.state.value.lower() not in spec.retry_on or retried >= spec.retries:
        return NextStep(outcome)
    reason = f"retry {retried + 1} of {spec.retries}"
    if spec.retry_delay_s:
        reason += f" in {format_duration(spec.retry_delay_s)}"
    return NextStep(outcome, retry_delay_s=spec.retry_delay_s, retry_reason=reason)


def next_step_of(record: Record, outcome: Outcome) -> NextStep:
    """Decide from a record alone; a run with a damaged spec is not tried again."""
    if record.yields and outcome.state is RunState.CRASHED:
        # As in W&B: a run that goes silent after it called itself preempted goes back to its queue.
        outcome = replace(outcome, preempted=True)
    elif not outcome.preempted and '"retries"' not in record.spec:
        # The spec is not read: thousands may have to be decided at once.
        return NextStep(outcome)
    try:
        spec = parse_spec(record.spec)
    except InputError:
        return NextStep(outcome)
    return next_step(
        outcome,
        spec=spec,
        attempt=record.attempt,
        first_attempt=record.first_attempt,
        preemptions=record.preemptions,
        misstarts=record.misstarts,
    )


def has_retries_left(spec: RunSpec, *, attempt: int, first_attempt: int, after: RunState) -> bool:
    """Whether an attempt that ends in state `after` is followed by another one."""
    return next_step(Outcome(after), spec=spec, attempt=attempt, first_attempt=first_attempt).retry_delay_s is not None
