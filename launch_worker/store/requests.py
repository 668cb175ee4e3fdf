"""Writes what people ask of a run: its end, its preemption, a new attempt, its deletion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from launch_worker.errors import LaunchError
from launch_worker.model.units import as_us
from launch_worker.store.answers import CancelWord, DeleteWord, PreemptWord
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text


class Requests(Records):
    """The part of `Store` for what people ask of a run."""

    def cancel(
        self, run_id: str, *, reason: str, grace_s: float | None = None, actor: str = ""
    ) -> tuple[CancelWord, str]:
        """Pending -> Killed; a Running run's owner is asked to stop it. Returns what was done, and the state.

        `actor` is the person who asks for it; '' for a part of the system.
        """
        word, state = self._stop(run_id, grace_s, reason, actor, preempt=False)
        return cast(CancelWord, word), state

    def preempt(self, run_id: str, *, reason: str, actor: str = "") -> tuple[PreemptWord, str]:
        """Ask a Running run's owner to end it, so that it runs again. Returns what was done, and the state."""
        word, state = self._stop(run_id, None, reason, actor, preempt=True)
        return cast(PreemptWord, word), state

    def _stop(self, run_id: str, grace_s: float | None, reason: str, actor: str, *, preempt: bool) -> tuple[str, str]:
        self.check_id(run_id)
        grace_us = "" if grace_s is None else as_us(grace_s)
        word, state = self._call("cancel", run_id, grace_us, reason, int(preempt), self.named(actor))
        if text(word) == "unknown":
            raise self.unknown(run_id)
        return text(word), text(state)

    def requeue(
        self, run_id: str, *, reason: str, actor: str = "", from_scratch: bool = False, elsewhere: bool = False
    ) -> str:
        """A final state -> Pending. Returns '', or the state from which that is not possible.

        The new attempt goes on from the newest checkpoint, unless `from_scratch`; with `elsewhere` it goes to another
        worker than the last one, while there is one that may take it.
        """
        self.check_id(run_id)
        done, state = self._call("requeue", run_id, reason, self.named(actor), int(from_scratch), int(elsewhere))
        if not done and not state:
            raise self.unknown(run_id)
        return text(state)

    def delete(self, run_id: str, *, who: str, keep_s: float) -> bool:
        """Delete a run and all that is kept with it; a Pending run is Killed first. False for a Running run.

        For `keep_s` a look-up says who deleted the run. A repeated call changes nothing. Raises UnknownRunError.
        """
        self.check_id(run_id)
        word: DeleteWord = "again"
        while word == "again":
            reply = self._call("delete", run_id, f"deleted by {who}", who, round(keep_s * 1e6), self.named(who))
            word = cast(DeleteWord, text(reply))
        if word == "unknown":
            raise self.unknown(run_id)
        return word == "deleted"

    # -- the same for many runs, each in a step of its own ---------------------------------------------------------

    def cancel_many(
        self, run_ids: Sequence[str], *, reason: str, grace_s: float | None = None, actor: str = ""
    ) -> list[tuple[str, str] | LaunchError]:
        """As `cancel` for each; an unknown run's word is 'unknown'."""
        grace_us = "" if grace_s is None else as_us(grace_s)
        asked_by = self.named(actor)
        replies = self._call_many("cancel", [(run_id, grace_us, reason, 0, asked_by) for run_id in run_ids])
        return [one if isinstance(one, LaunchError) else (text(one[0]), text(one[1])) for one in replies]

    def requeue_many(
        self, run_ids: Sequence[str], *, reason: str, actor: str = ""
    ) -> list[tuple[bool, str] | LaunchError]:
        """As `requeue` for each: whether it was done, and the state that refused; '' for an unknown run."""
        replies = self._call_many("requeue", [(run_id, reason, self.named(actor)) for run_id in run_ids])
        return [one if isinstance(one, LaunchError) else (bool(one[0]), text(one[1])) for one in replies]

    def delete_many(self, run_ids: Sequence[str], *, who: str, keep_s: float) -> list[DeleteWord | LaunchError]:
        """As `delete` for each; 'again' where further runs are to be told: call it again."""
        keep_us, asked_by = round(keep_s * 1e6), self.named(who)
        calls = [(run_id, f"deleted by {who}", who, keep_us, asked_by) for run_id in run_ids]
        return [
            one if isinstance(one, LaunchError) else cast(DeleteWord, text(one))
            for one in self._call_many("delete", calls)
        ]
