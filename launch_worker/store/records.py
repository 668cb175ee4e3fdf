"""Reads single runs: their records, their history, and why a run is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launch_worker.errors import DeletedRunError, UnknownRunError
from launch_worker.ids import ID_RULE, RUN_ID
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.history import Transition
from launch_worker.model.run import Record, unknown_run
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_json, read_map, read_whole

#: Records that are read in one round trip.
_PAGE = 500
#: Priority of a record that does not say its own.
_PRIORITY = str(PRIORITIES["medium"])


class Records(Client):
    """The part of `Store` that reads single runs."""

    def get(self, run_id: str) -> Record:
        """The run's record now. Raises UnknownRunError."""
        self.check_id(run_id)
        found = self.records([run_id])
        if not found:
            raise self.unknown(run_id)
        return found[0]

    def peek(self, run_id: str) -> Record | None:
        """The run's record now; None when there is no such run."""
        return next(iter(self.records([run_id])), None)

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        """The records of these runs, in this order; runs that are gone are left out."""
        hashes: list[Any] = []
        for start in range(0, len(run_ids), _PAGE):
            with clear_errors(self.url):
                pipe = self._redis.pipeline(transaction=False)
                for run_id in run_ids[start : start + _PAGE]:
                    pipe.hgetall(keys.run(run_id))
                hashes += pipe.execute(raise_on_error=False)
        return [
            record_of(run_id, pairs(fields))
            for run_id, fields in zip(run_ids, hashes, strict=True)
            if fields and not isinstance(fields, Exception)
        ]

    def known(self, run_ids: Sequence[str]) -> set[str]:
        """Those of these runs that are there."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.exists(keys.run(run_id))
            answers = pipe.execute() if run_ids else []
        return {run_id for run_id, is_there in zip(run_ids, answers, strict=True) if is_there}

    def check_id(self, run_id: str) -> None:
        """Raise UnknownRunError for a text that cannot be a run's id: in a key it could name something else."""
        if not RUN_ID.fullmatch(run_id):
            raise UnknownRunError(f"there is no run {run_id[:40]!r}: {ID_RULE}")

    def unknown(self, run_id: str) -> UnknownRunError:
        """The error for a run that is not there; a deleted run is named as such while its deletion is remembered."""
        with clear_errors(self.url):
            mark = self._redis.get(keys.deleted(run_id))
        if not mark:
            return unknown_run(run_id)
        deleted = read_map(mark)
        at = read_whole(str(deleted.get("at", "")))
        when = "" if at is None else f" at {isoformat(at)}"
        error = DeletedRunError(f"run {run_id} was deleted by {deleted.get('by') or 'somebody'}{when}")
        error.project = deleted.get("project")
        return error

    def history(self, run_id: str) -> list[Transition]:
        """Every transition of a run, the oldest first."""
        with clear_errors(self.url):
            # No transaction: a Redis that is full refuses reads in one.
            pipe = self._redis.pipeline(transaction=False)
            pipe.hget(keys.run(run_id), "created_at")
            pipe.lrange(keys.history(run_id), 0, -1)
            created, lines = pipe.execute()
        found = [step for line in lines if (step := _transition(text(line))) is not None]
        created_at = read_whole(created) or 0
        # The scripts write the first transition only where it has a reason.
        if created_at and (not found or (found[0].state, found[0].at) != (RunState.PENDING, created_at)):
            found.insert(0, Transition(RunState.PENDING, created_at, 0, "", ""))
        return found


def record_of(run_id: str, fields: dict[str, str]) -> Record:
    """The record of this run; the hash has neither the id nor a priority of `medium`."""
    return Record.from_hash({"priority": _PRIORITY, **fields, "id": run_id})


def _transition(text_line: str) -> Transition | None:
    """A line of the history; None for a line that no script of ours wrote."""
    try:
        line = read_json(text_line)
        return Transition(
            state=RunState(line["state"]),
            at=int(line["at"]),
            attempt=int(line.get("attempt", 0)),
            worker=str(line.get("worker", "")),
            reason=str(line.get("reason", "")),
            exit_code=int(line["exit_code"]) if "exit_code" in line else None,
            signal=str(line.get("signal", "")),
            phase=str(line.get("phase", "")),
            actor=str(line.get("actor", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
