"""Decides what follows an attempt that ended: a final state, a retry, or the queue once more."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from launch_worker.errors import InputError
from launch_worker.model.checks import parse_on_timeout
from launch_worker.model.needs import memory_range, parse_needs
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry_rules import Rule, counts_of, parse_rules, rule_for, text_of
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, format_size

#: Times that a run goes back to its queue because a worker could not start it; then it has failed.
MAX_MISSTARTS = 5
#: Seconds before it is tried elsewhere, doubled each time.
FIRST_MISSTART_DELAY_S = 2.0
#: Words of a spec without which an end is never followed by a retry; a text for the memory is a range.
_MAY_RETRY = re.compile(r'"(?:retries|retry)":|"memory":"')


#: Key of the time limits after which a run went on, among the counts of the rules of `--retry`.
_REQUEUE = "requeue"


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
    #: Counts of the rules of `--retry`, as the record keeps them from now on; '' leaves them as they are.
    retried: str = ""
    #: Needs of the run from now on; '' leaves them as they are.
    needs: str = ""
    #: Name of the worker that shall not get the run next, while another one may; '' for none.
    avoid: str = ""

    @property
    def counts_as(self) -> int:
        """For the scripts: 0 a retry, 1 a preemption, 2 nothing, 3 a start that failed through the worker."""
        return 3 if self.is_misstart else 2 if self.is_free else int(self.is_preemption)


def next_step(record: Record, outcome: Outcome, spec: RunSpec) -> NextStep:
    """Decide from the outcome, the retry policy, and what the record says of the attempts before.

    Retries count from the record's `first_attempt` on: `launch-worker retry` begins a new count. That a preempted
    run goes back to its queue under its id, at most five times by default, is W&B's (its Launch agent's `max_tries`).
    The same record and outcome give the same step, so that a report may be repeated.
    """
    if outcome.unbegun:
        return NextStep(outcome, retry_delay_s=0.0, retry_reason="back in its queue: it had not begun", is_free=True)
    if outcome.preempted:
        preemptions = record.preemptions
        if preemptions < spec.max_preemptions:
            words = f"preempted {preemptions + 1} of {spec.max_preemptions} times"
            return NextStep(outcome, retry_delay_s=0.0, retry_reason=words, is_preemption=True)
        outcome = replace(outcome, reason=f"{outcome.reason}; it was preempted {preemptions} times before, and no more")
    if outcome.cause == "timeout" and (most := parse_on_timeout(spec.on_timeout)):
        counts = counts_of(record.retried)
        if (gone_on := counts.get(_REQUEUE, 0)) < most:
            words = f"goes on after its time limit, {gone_on + 1} of {most} times"
            kept = text_of(counts | {_REQUEUE: gone_on + 1})
            return NextStep(outcome, retry_delay_s=0.0, retry_reason=words, is_free=True, retried=kept)
        outcome = replace(outcome, reason=f"{outcome.reason}; it went on {gone_on} times before, and no more")
    if outcome.worker_fault and outcome.phase != "run" and record.misstarts < MAX_MISSTARTS:
        words = f"back in its queue, for the start failed through its worker: {outcome.reason}"
        delay_s = FIRST_MISSTART_DELAY_S * 2**record.misstarts
        return NextStep(outcome, retry_delay_s=delay_s, retry_reason=words, is_misstart=True, avoid=record.worker)
    # A worker that stops hands on what would be tried again if the worker had died.
    ended = Outcome(RunState.CRASHED) if outcome.by_shutdown else outcome
    counts, rule = counts_of(record.retried), _rule_of(record, ended, spec)
    if rule is None:
        return NextStep(outcome)
    retried = max(0, record.attempt - record.first_attempt)
    used = counts.get(rule.key, 0) if spec.retry or rule.key == "oom" else retried
    most = rule.count if spec.retries is None else min(rule.count, used + spec.retries - retried)
    memory = _next_memory(record, spec) if ended.cause == "oom" else 0
    if used >= most:
        if memory and used < rule.count:
            more = f"no attempt with {format_size(memory)} of memory follows, for --retries allows {spec.retries}"
            outcome = replace(outcome, reason=f"{outcome.reason}; {more}")
        return NextStep(outcome)
    step = NextStep(outcome, retry_delay_s=0.0, retry_reason="handed back by its worker")
    if spec.retry or rule.key == "oom":
        step = replace(step, retried=text_of(counts | {rule.key: used + 1}))
    if outcome.by_shutdown:
        return step
    delay_s = rule.delay_s(used, plain_s=spec.retry_delay_s, seed=f"{record.id}.{record.attempt}")
    reason = f"retry {used + 1} of {most}"
    if spec.retry or rule.key == "oom":
        reason += f" after {rule.when}"
    step = replace(step, retry_delay_s=delay_s, avoid=record.worker if spec.not_on_same_worker else "")
    if memory:
        needs = parse_needs(record.needs)
        step = replace(step, needs=f"{needs.gpus}:{needs.millicores}:{memory}")
        reason += f" with {format_size(memory)} of memory"
    if delay_s:
        reason += f"{',' if step.retried else ''} in {format_duration(delay_s)}"
    return replace(step, retry_reason=reason)


def _rule_of(record: Record, ended: Outcome, spec: RunSpec) -> Rule | None:
    """The rule by which a run is tried again after an end; None for none."""
    rules = parse_rules(spec.retry)
    if ended.cause == "oom" and all(rule.key != "oom" for rule in rules) and (left := _doublings(record, spec)):
        return Rule("oom", counts_of(record.retried).get("oom", 0) + left)
    if not spec.retry:
        rules = tuple(Rule(word, spec.retries or 0) for word in spec.retry_on)
    return rule_for(rules, ended)


def _next_memory(record: Record, spec: RunSpec) -> int:
    """The bytes of memory that the next attempt needs after one that had too little; 0 for no more than it had."""
    now, (_, most) = parse_needs(record.needs).memory, memory_range(spec.memory)
    return min(2 * now, most) if 0 < now < most else 0


def _doublings(record: Record, spec: RunSpec) -> int:
    """How often the memory that the run needs can still be doubled."""
    now, (_, most) = parse_needs(record.needs).memory, memory_range(spec.memory)
    count = 0
    while 0 < now < most:
        now, count = 2 * now, count + 1
    return count


def next_step_of(record: Record, outcome: Outcome) -> NextStep:
    """Decide from a record alone; a run with a damaged spec is not tried again."""
    if record.yields and outcome.state is RunState.CRASHED:
        # As in W&B: a run that goes silent after it called itself preempted goes back to its queue.
        outcome = replace(outcome, preempted=True)
    elif not outcome.preempted and not _MAY_RETRY.search(record.spec):
        # The spec is not read: thousands may have to be decided at once.
        return NextStep(outcome)
    try:
        spec = parse_spec(record.spec)
    except InputError:
        return NextStep(outcome)
    return next_step(record, outcome, spec)


def has_retries_left(record: Record, spec: RunSpec, *, after: RunState) -> bool:
    """Whether an attempt that ends in state `after` is followed by another one."""
    if not (spec.retries or spec.retry):
        return False
    return next_step(record, Outcome(after), spec).retry_delay_s is not None
