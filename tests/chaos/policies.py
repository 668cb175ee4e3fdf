"""Checks what a run's own rules promise: which ends are tried again, time limits, and when a group is halted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from launch_worker.model.history import Transition
from launch_worker.model.states import RunState

#: Words of the reasons with which a run goes back to its queue and none of its rules is used up.
_FREE = ("preempted", "had not begun", "the start failed through its worker", "goes on after its time limit")
#: Word of the reason of a run that a halted group does not start.
NOT_STARTED = "not started, for "
_BAD = (RunState.FAILED, RunState.CRASHED)


def rules_of(texts: Sequence[str]) -> dict[str, int]:
    """How often a run is tried again, by the condition: `crashed`, or an exit code."""
    return {when: int(count) for when, _, count in (text.partition("=") for text in texts)}


def retried_otherwise(history: Sequence[Transition], rules: Mapping[str, int], *, is_cancelled: bool) -> Iterator[str]:
    """Ends that were tried again and should not have been, or the other way round."""
    used: Counter[str] = Counter()
    ended: Transition | None = None
    for step in history:
        if step.state is RunState.RUNNING:
            ended = None
        elif step.state.is_final:
            ended = step
        elif ended is not None:
            condition = _condition(ended)
            if step.reason.startswith("retry asked for by"):
                used.clear()
            elif said := re.match(r"retry \d+ of \d+ after (\w+)", step.reason):
                if said[1] != condition:
                    truth = f"attempt {ended.attempt} is {ended.state}: {ended.reason}"
                    yield f"it was tried again after {said[1]}, and {truth}"
                used[said[1]] += 1
            elif step.reason.startswith("handed back"):
                used["crashed"] += 1
            elif not any(word in step.reason for word in _FREE):
                yield f"it went back to its queue for no reason of its rules: {step.reason}"
            ended = None
    for condition, count in used.items():
        if count > rules.get(condition, 0):
            yield f"it was tried again {count} times after {condition}, with the rules {dict(rules)}"
    if ended is None or is_cancelled or ended.state is RunState.FINISHED:
        return
    if used[_condition(ended)] < rules.get(_condition(ended), 0):
        yield f"it is {ended.state} ({ended.reason}), and is not tried again, with the rules {dict(rules)}"


def _condition(ended: Transition) -> str:
    """The condition of an end, of those that the harness has rules for; '' for others."""
    if ended.state is RunState.CRASHED or "shut down" in ended.reason:
        return "crashed"
    found = re.match(r"exit code (\d+)", ended.reason) if ended.state is RunState.FAILED else None
    return found[1] if found else ""


def halted_otherwise(histories: Mapping[str, Sequence[Transition]], max_fails: int) -> Iterator[str]:
    """Runs of a group that began after it was to be halted, or were not started though it was not."""
    halted_at = _halted_at(histories, max_fails)
    for run_id, history in histories.items():
        for before, after in pairwise(history):
            begins = before.state is RunState.PENDING and after.state is RunState.RUNNING
            if begins and halted_at is not None and after.at > halted_at:
                late_s = (after.at - halted_at) / 1e6
                yield f"{run_id}: it began {late_s:.3f} s after {max_fails} runs of its group had failed"
            if after.reason.startswith(NOT_STARTED) and (halted_at is None or after.at < halted_at):
                yield f"{run_id}: it was {after.reason}, and fewer than {max_fails} had failed"


def _halted_at(histories: Mapping[str, Sequence[Transition]], max_fails: int) -> int | None:
    """The server time at which so many runs had failed for good; None for never."""
    changes: list[tuple[int, int]] = []
    for history in histories.values():
        for at, step in enumerate(history):
            after = history[at + 1] if at + 1 < len(history) else None
            if step.state in _BAD and (after is None or after.state is not RunState.PENDING):
                changes.append((step.at, 1))
                # One that was Crashed, and proved alive.
                changes += [(after.at, -1)] if after is not None else []
    failed = 0
    for at, change in sorted(changes):
        failed += change
        if max_fails and failed >= max_fails:
            return at
    return None
