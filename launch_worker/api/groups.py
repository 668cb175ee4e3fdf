"""Shows groups (arrays, bulk submissions, sweeps), waits for them, cancels them, and has their runs tried again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from launch_worker.api.connection import Connection
from launch_worker.api.patience import AWAY, Patience
from launch_worker.api.run import Run
from launch_worker.errors import RefusedError, UnknownRunError
from launch_worker.ids import GROUP_ID
from launch_worker.model.group import GroupRecord
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration

#: Runs that are read in one round trip.
_PAGE = 500
#: Exit codes where no run is left that could give one: as of a run that was Killed, and of one that Failed.
_NEVER_RAN, _FAILED = 143, 1


class Group:
    """One group. `record` is of the last read; `counts` and the like read it anew."""

    def __init__(self, api: Connection, record: GroupRecord) -> None:
        self.id = record.id
        #: As it was when last read.
        self.record = record
        self._api = api

    def __repr__(self) -> str:
        return f"<Group {self.id}>"

    def refresh(self) -> GroupRecord:
        """Read the record anew. Raises UnknownRunError once all its runs are deleted, and the group with them."""
        found = self._api.transport.group(self.id)
        if found is None:
            raise unknown_group(self.id)
        self.record = found
        return found

    @property
    def kind(self) -> str:
        """One of array, bulk, sweep."""
        return self.record.kind

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def size(self) -> int:
        """Number of its runs, those that are still to be submitted included."""
        return self.refresh().size

    @property
    def counts(self) -> dict[str, int]:
        """Number of its runs of each state now; Never: those that ended without an attempt, whatever their state."""
        return dict(self.refresh().counts)

    @property
    def is_over(self) -> bool:
        """Whether all its runs have ended now."""
        return self.refresh().is_over

    def runs(self) -> Iterator[Run]:
        """Yield its runs in the order of their submission, read a page at a time; deleted ones are left out."""
        skip = 0
        while ids := self._api.transport.group_runs(self.record, skip=skip, limit=_PAGE):
            for record in self._api.transport.records(ids):
                yield Run(self._api, record.id, record=record)
            skip += len(ids)

    def wait(self, timeout: float | None = None) -> str:
        """Block until all its runs have ended; returns how, as `GroupRecord.end` has it.

        Woken by the group's end, not by polling. Raises TimeoutError, and UnknownRunError once the group is deleted.
        Outlasts an outage of Redis of up to ten minutes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = Patience(deadline)
        while deadline is None or time.monotonic() < deadline:
            try:
                for record in self._api.transport.follow_group(self.id, deadline=deadline):
                    patience.has_answer()
                    self.record = record
                    if record.is_over:
                        return record.end
                if deadline is None or time.monotonic() < deadline:
                    raise unknown_group(self.id)
            except AWAY as error:
                patience.outlast(error)
        raise TimeoutError(f"group {self.id} is not over after {format_duration(timeout or 0)}")

    def cancel(self, *, reason: str = "", grace_s: float | None = None) -> tuple[int, int]:
        """Ask for the end of all its runs; it gets no more. Returns how many are Killed, and how many were asked.

        A sweep is cancelled as by `Sweep.cancel`. Raises RefusedError where all have ended.
        """
        if self.kind == "sweep":
            before = self.refresh()
            reason = reason or f"sweep {self.id} was cancelled by {self._api.actor}"
            done, state = self._api.transport.steer_sweep(self.id, "cancel", reason=reason)
            if not done or before.is_over:
                raise RefusedError(f"sweep {self.id} is {state}; nothing was changed")
            return before.counts["Pending"], before.counts["Running"]
        killed, asked = self._api.transport.cancel_group(self.record, reason=reason, grace_s=grace_s)
        if not killed and not asked:
            raise RefusedError(f"all runs of {self.kind_of()} {self.id} have ended; nothing was changed")
        return killed, asked

    def retry(self, *, only_failed: bool = False, not_on_same_worker: bool = False) -> int:
        """Start a new attempt of all its runs that have ended; `only_failed`: of those that are not Finished.

        With `not_on_same_worker` each goes to another worker than its last one, while there is one that may take it.
        Returns how many runs that are. Raises RefusedError for none, and for a sweep, which makes its runs itself.
        """
        if self.kind == "sweep":
            raise RefusedError(f"{self.id} is a sweep, which makes its runs itself; retry single runs of it")
        count = self._api.transport.retry_group(
            self.record, only_failed=only_failed, not_on_same_worker=not_on_same_worker
        )
        if not count:
            what = "has ended without being Finished" if only_failed else "has ended"
            raise RefusedError(f"no run of {self.kind_of()} {self.id} {what}; nothing was changed")
        return count

    def shell_exit_code(self) -> int:
        """The exit code by which a shell is told of its end: 0, or the code of its first run that did not finish."""
        if self.record.end == "Finished":
            return 0
        for run in self.runs():
            if run.record.state is not RunState.FINISHED and run.record.state.is_final:
                return run.shell_exit_code()
        # The runs are deleted, or were never submitted.
        return _NEVER_RAN if self.record.end == "Never" else _FAILED

    def kind_of(self) -> str:
        """The word by which sentences name it."""
        return "group" if self.kind == "bulk" else self.kind

    def as_json(self) -> dict[str, Any]:
        """The object of `show --json`."""
        return self.record.as_json()


class GroupApi(Connection):
    """A part of `Api`."""

    def group(self, group_id: str) -> Group:
        """The group with this id: an array's is `a` and the id of its first run, or that alone; a bulk submission's is
        `b` and the id of its first run; a sweep's is its own. `Run.group` has it. Raises UnknownRunError.
        """
        found = self.transport.group(group_id)
        if found is None:
            raise unknown_group(group_id)
        return Group(self, found)

    def find_group(self, group_id: str) -> Group | None:
        """The same; None where a text names no group: it may name a run. Raises UnknownRunError for a group's id."""
        found = self.transport.group(group_id)
        if found is None and GROUP_ID.fullmatch(group_id):
            raise unknown_group(group_id)
        return None if found is None else Group(self, found)


def unknown_group(group_id: str) -> UnknownRunError:
    shown = group_id if len(group_id) <= 40 and group_id.isprintable() else repr(group_id[:40])
    return UnknownRunError(f"there is no group {shown}; a run of one names it: launch-worker show RUN")
