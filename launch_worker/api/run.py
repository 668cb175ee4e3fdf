"""Shows a run to Python: a snapshot, which is read anew when asked, and what can be done to the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from launch_worker.api.connection import Connection
from launch_worker.api.patience import AWAY, Patience
from launch_worker.api.shown import attempt_of, run_as_json
from launch_worker.api.transport import LogPart, Place, check_part
from launch_worker.errors import InputError
from launch_worker.model.log_pieces import Log, Piece
from launch_worker.model.outcome import shell_exit_code
from launch_worker.model.run import Record, Transition
from launch_worker.model.saved_files import SavedFile, saved_files
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, isoformat
from launch_worker.model.usage import Measured, Usage
from launch_worker.store.answers import CancelWord


class Run:
    """One run, as W&B's `Run` of its public Api has it, and with what can be done to it.

    `record` is as it was when last read. A run that was submitted or asked for by its id reads its `state` anew each
    time; one of a list (`Api.runs`) stays as it was listed until `update()`.
    """

    def __init__(
        self,
        api: Connection,
        run_id: str,
        *,
        record: Record | None = None,
        queue_consumers: int = -1,
        is_new: bool = True,
        is_snapshot: bool = False,
    ) -> None:
        self.id = run_id
        self._api = api
        self._record = record
        self._is_snapshot = is_snapshot
        #: Live workers that consumed the run's queue when it was submitted; -1 when that is not known.
        self.queue_consumers = queue_consumers
        #: False where a run with the same id or key was there already: nothing was changed.
        self.is_new = is_new

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        return self._record if self._record is not None else self.refresh()

    def refresh(self) -> Record:
        """Read the record from Redis. Raises UnknownRunError, which says so where the run was deleted."""
        self._record = self._api.transport.record(self.id)
        return self._record

    def update(self) -> None:
        """Read the run anew: its attributes are of this time afterwards. Raises UnknownRunError.

        W&B's `update()` writes changes of config and tags; here both are fixed when a run is submitted.
        """
        self.refresh()

    def _now(self) -> Record:
        return self.record if self._is_snapshot else self.refresh()

    @property
    def state(self) -> RunState:
        """Pending, Running, Finished, Failed, Killed or Crashed; equal to that text in any letter case, as W&B's."""
        return self._now().state

    @property
    def exit_code(self) -> int | None:
        return self._now().exit_code

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each name that the job reported; a copy."""
        return dict(self._now().summary_values)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def project(self) -> str:
        """ENTITY/PROJECT, as it was submitted; '' for none. (W&B's has the second part only.)"""
        return self.record.project

    @property
    def entity(self) -> str:
        return self.record.project.rpartition("/")[0]

    @property
    def path(self) -> list[str]:
        """W&B's [entity, project, id]; `Api.run` takes it joined with slashes."""
        return [*(self.record.project.split("/") if self.record.project else ()), self.id]

    @property
    def queue(self) -> str:
        return self.record.queue

    @property
    def tags(self) -> tuple[str, ...]:
        """Fixed when the run is submitted."""
        return self.record.tags

    @property
    def config(self) -> dict[str, Any]:
        """The hyperparameters that it was submitted with, as its job finds them; a copy."""
        return dict(self.record.config)

    @property
    def sweep(self) -> str:
        """The id of the sweep that made it; '' for none."""
        return self.record.sweep

    @property
    def group(self) -> str:
        """The id of the array, bulk submission or sweep of which it is a run (`Api.group`); '' for a run of none."""
        return self.record.group

    @property
    def created_at(self) -> str:
        """ISO 8601 in UTC, by the server's clock."""
        return isoformat(self.record.created_at) or ""

    @property
    def transitions(self) -> list[Transition]:
        """Every change of its state, the oldest first."""
        return self._api.transport.transitions(self.id)

    # -- what its job reported -------------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics that the job reported, the oldest first; the newest 1000 are kept."""
        return self._api.transport.metrics(self.id)

    def history(self, samples: int = 500, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """W&B's `history(pandas=False)`: at most `samples` rows of metrics, evenly chosen, the first and last included.

        With `keys` only rows that have all of these keys, and of such a row these and W&B's internal ones (`_step`).
        For the changes of its state see `transitions`.
        """
        if samples < 1:
            raise InputError(f"samples must be 1 or more, not {samples}")
        rows = self.metrics()
        if keys is not None:
            names = [keys] if isinstance(keys, str) else list(keys)
            rows = [
                {name: value for name, value in row.items() if name in names or name.startswith("_")}
                for row in rows
                if all(name in row for name in names)
            ]
        if len(rows) <= samples:
            return rows
        step = (len(rows) - 1) / max(1, samples - 1)
        return [rows[round(at * step)] for at in range(samples)]

    @property
    def usage(self) -> Usage:
        """What its latest attempt used of its machine; nothing is known while that runs (`measured` asks its worker).

        What the job itself reported are its `metrics()`.
        """
        return Usage.of(self._now().usage)

    def measured(self, *, attempt: int | None = None, timeout_s: float = 3.0) -> Measured:
        """What an attempt (the latest by default) used of its machine, with samples over time.

        The worker of a running one is asked, for so many seconds at most: without its answer nothing is known.
        """
        self._record, measured = self._api.transport.measured(self.id, attempt, timeout_s=timeout_s)
        return measured

    def files(self) -> list[RunFile]:
        """The files that are kept with it, by name."""
        return [RunFile(self._api, self.id, file) for file in saved_files(self.refresh())]

    def file(self, name: str) -> RunFile:
        """The file of this name. Raises InputError when there is none."""
        files = self.files()
        for file in files:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in files) or "none"
        raise InputError(f"run {self.id} has no file {name[:60]!r}; there are: {known}")

    def as_json(self, *, history: bool = False) -> dict[str, Any]:
        """The object of `runs --json`; with `history` that of `show --json`."""
        return run_as_json(self._api.transport, self.record, history=history)

    # -- what can be done to it --------------------------------------------------------------------------------------

    def stop(self, *, reason: str = "", grace_s: float | None = None) -> CancelWord:
        """The same as `cancel`, under W&B's name."""
        return self.cancel(reason=reason, grace_s=grace_s)

    def delete(self) -> None:
        """Delete the run with all that is kept of it. A Pending run is never executed, and waiters are notified.

        A look-up says "deleted" for as long as runs are kept. A second call changes nothing. Raises RefusedError while
        it runs, UnknownRunError.
        """
        self._api.transport.delete(self.id)

    def cancel(self, *, reason: str = "", grace_s: float | None = None) -> CancelWord:
        """Ask for the run's end. Returns 'killed' (it was Pending) or 'requested'. Raises RefusedError when final.

        `grace_s` 0 is SIGKILL at once; None is the run's own grace.
        """
        return self._api.transport.cancel(self.id, reason=reason, grace_s=grace_s)

    def preempt(self, *, reason: str = "") -> None:
        """Ask for the job's end, so that the run goes back to its queue. Raises RefusedError unless it is Running."""
        self._api.transport.preempt(self.id, reason=reason)

    def retry(self, *, from_scratch: bool = False) -> None:
        """Start a new attempt of an ended run. Raises RefusedError for one that has not ended.

        The attempt goes on from the run's newest checkpoint, or with `from_scratch` begins anew.
        """
        self._api.transport.retry(self.id, from_scratch=from_scratch)

    def confirm_ended(self) -> RunState:
        """Say that nothing of the job is left, of a run that is held (`record.is_held`): its worker left it unended.

        It is Crashed then, or Pending again when it has retries left; returns which. Raises RefusedError for a run that
        is not held.
        """
        self._record = self._api.transport.confirm_ended(self.id)
        return self._record.state

    def logs(self, **part: Unpack[LogPart]) -> bytes:
        """All output that is kept of an attempt (the latest by default), or the part that is asked for.

        Where LAUNCH_LOG_URL is set that is the whole output, else the newest. `read_logs` has the arguments, says what
        is missing, and holds little of a large output at once.
        """
        return b"".join(piece.data for piece in self.read_logs(**part))

    def read_logs(self, **part: Unpack[LogPart]) -> Iterator[Piece]:
        """Yield the output of an attempt piece by piece, each with the number of its first line (from 1).

        A piece with a `gap` comes after output that cannot be read: how many bytes, how many lines if that is known,
        and why. `from_line` and `since` (seconds ago, a duration such as "10m", or a time) say where to begin, `lines`
        how many lines at most, `tail` how many of the last ones instead. `grep` is a regular expression; only lines
        that have it in them are left.
        Raises InputError; LaunchError for a store that does not answer.
        """
        check_part(part)
        return self._api.transport.output(self.id, part)

    def attempt_number(self, attempt: int | None) -> int:
        """The attempt, the latest for None. Raises InputError for one that the run has not had."""
        return attempt_of(self.refresh(), attempt)

    def output(self, *, attempt: int | None = None) -> Log:
        """The newest output as `text`, and the number of its bytes that are `missing` because they are not kept."""
        number = attempt if attempt is not None else self.refresh().attempt
        return self._api.transport.newest_output(self.id, number)

    def wait(self, timeout: float | None = None, *, timeout_s: float | None = None) -> RunState:
        """Block until the run has ended, in whatever way, and will not be retried; returns its state.

        `timeout` are seconds (`timeout_s` is the same). Raises TimeoutError, and UnknownRunError when the run is
        deleted meanwhile. Woken by the transition itself, not by polling.
        """
        seconds = timeout if timeout_s is None else timeout_s
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float, type(None))):
            raise InputError(f"timeout must be a number of seconds, not {seconds!r:.40}")
        deadline = None if seconds is None else time.monotonic() + seconds
        for state, _ in self.follow(logs=False, deadline=deadline):
            if state is not None and state.is_final:
                return state
        raise TimeoutError(f"run {self.id} is still {self.refresh().state} after {format_duration(seconds or 0)}")

    def follow(
        self,
        *,
        logs: bool = True,
        attempt: int | None = None,
        after: Log | None = None,
        deadline: float | None = None,
        on_missing: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[RunState | None, bytes]]:
        """Yield (new state, b'') for each transition and (None, output) as the job prints, until the run has ended.

        Starts with the state as it is now, and the output from its kept beginning (where LAUNCH_LOG_URL is set that is
        all of it), or `after` what `output()` gave;
        `on_missing` is called with the number of bytes that are missing before the next output. A run that ends and is
        Pending again in one step has not ended. `deadline` is monotonic seconds. Outlasts an outage of Redis of up to
        ten minutes, then raises BrokerUnavailableError.
        """
        place = None if after is None else Place.after(after)
        has_begun, patience = False, Patience(deadline)
        while True:
            try:
                told = self._api.transport.follow(self.id, place, logs=logs, attempt=attempt, deadline=deadline)
                for seen in told:
                    has_begun, place = True, seen.place
                    patience.has_answer()
                    self._record = seen.record or self._record
                    if seen.missing:
                        on_missing(seen.missing)
                    if seen.state is not None or seen.record is None:
                        yield seen.state, seen.data
                return
            except AWAY as error:
                if not has_begun:
                    raise
                patience.outlast(error)

    def shell_exit_code(self) -> int:
        """The exit code of `launch-submit --wait` once the run has ended."""
        # Who has waited for the end has it: no outage right after it hides the job's exit code.
        record = self.record if self.record.state.is_final else self.refresh()
        return shell_exit_code(record.state, record.exit_code, record.signal)


class RunFile:
    """A file that is kept with a run: what a failed start left (`LaunchAgent.fail_run_queue_item`), or a tool saved."""

    def __init__(self, api: Connection, run_id: str, file: SavedFile) -> None:
        self._api = api
        self._run_id = run_id
        self.name = file.name
        #: Size in bytes.
        self.size = file.size
        self._file = file

    def __repr__(self) -> str:
        return f"<RunFile {self.name} of run {self._run_id}>"

    @property
    def saved_at(self) -> str:
        """ISO 8601 in UTC, by the server's clock."""
        return isoformat(self._file.saved_at) or ""

    def read(self) -> bytes:
        """All of it. Raises InputError when it is gone."""
        data = self._api.transport.read_file(self._run_id, self.name)
        if data is None:
            raise InputError(f"file {self.name!r} of run {self._run_id} is gone, with its run")
        return data

    def download(self, root: str | os.PathLike[str] = ".", *, replace: bool = False) -> Path:
        """Write it into the folder `root`, which is made where it is missing. Returns its path.

        Raises InputError for one that is there already, unless it shall be replaced.
        """
        data = self.read()
        path = Path(root) / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb" if replace else "xb") as made:
                made.write(data)
        except FileExistsError:
            raise InputError(f"{path} is there already; give replace=True, or another folder") from None
        return path
