"""Defines the words that a job says to its worker, and what those of its own end make of the attempt's outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from launch_worker.model.outcome import Outcome, outcome_of_exit, signal_name
from launch_worker.model.states import RunState


@dataclass(frozen=True)
class Finish:
    """The job said that it is done, with this exit code, whatever becomes of its process."""

    exit_code: int


@dataclass(frozen=True)
class Preempting:
    """The job said that its machine is being taken away: the run goes on in another attempt, however this one ends."""


@dataclass(frozen=True)
class HeedsStop:
    """The job watches for a stop: it gets time to end by itself before it is signalled."""


@dataclass(frozen=True)
class CheckpointReady:
    """The job said that its folder of checkpoints has a complete state now."""

    #: Number by which the job is answered.
    label: int


Word: TypeAlias = Finish | Preempting | HeedsStop | CheckpointReady


@dataclass(frozen=True)
class Words:
    """All that a job has said of its own end, and of its latest checkpoint."""

    finish: int | None = None
    preempting: bool = False
    heeds_stop: bool = False
    #: Label of the latest complete state; 0 for none.
    checkpoint: int = 0

    def with_word(self, word: Word) -> Words:
        """These words and one more; the first `finish` stays."""
        if isinstance(word, Finish):
            return self if self.finish is not None else replace(self, finish=word.exit_code)
        if isinstance(word, CheckpointReady):
            return replace(self, checkpoint=word.label)
        return replace(self, preempting=True) if isinstance(word, Preempting) else replace(self, heeds_stop=True)

    def each(self) -> list[Word]:
        words: list[Word] = []
        if self.heeds_stop:
            words.append(HeedsStop())
        if self.checkpoint:
            words.append(CheckpointReady(self.checkpoint))
        if self.preempting:
            words.append(Preempting())
        if self.finish is not None:
            words.append(Finish(self.finish))
        return words


def outcome_by_words(ended: Outcome, words: Words, *, status: int | None, preempt_exit_code: int) -> Outcome:
    """The outcome of an attempt: how its job `ended`, corrected by what the job had said of its end."""
    if words.finish is not None:
        late = "unknown" if status is None else str(status) if status >= 0 else signal_name(-status)
        return replace(outcome_of_exit(words.finish, preempt_exit_code=preempt_exit_code), late_exit=late)
    is_cancelled = ended.state is RunState.KILLED and not ended.by_shutdown
    if not words.preempting or ended.preempted or is_cancelled:
        return ended
    state = RunState.FAILED if ended.state is RunState.FINISHED else ended.state
    reason = f"preempted ({ended.reason or f'exit code {ended.exit_code}'})"
    return replace(ended, state=state, reason=reason, preempted=True, phase=ended.phase or "run")
