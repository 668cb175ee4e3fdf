"""Shows a run to Python: a snapshot, which is read anew when asked, and what can be done to the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from launch_worker.api.connection import Connection
from launch_worker.api.patience import AWAY, Patience
from launch_worker.api.shown import attempt_of, run_as_json
from launch_worker.api.transport import LogPart, Place, check_part
from launch_worker.errors import InputError
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Log, Piece
from launch_worker.model.outcome import shell_exit_code
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile, LeftOut, RunFiles
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, isoformat
from launch_worker.model.usage import Measured, Usage
from launch_worker.store.answers import CancelWord

if TYPE_CHECKING:
    from launch_worker.api.downloads import Fetched


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

    def files(self, *, attempt: int | None = None) -> Files:
        """The files that are kept with it, by path: outputs of an attempt, and files that were saved with the record.

        Without `attempt` it is the latest attempt of which outputs are kept. Raises InputError for an attempt that it
        has not had.
        """
        return Files(self._api, self.id, self._api.transport.files(self.id, attempt))

    def file(self, path: str, *, attempt: int | None = None) -> RunFile:
        """The file at this path. Raises InputError when there is none."""
        return self.files(attempt=attempt).file(path)

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

    def retry(self, *, from_scratch: bool = False, not_on_same_worker: bool = False) -> None:
        """Start a new attempt of an ended run. Raises RefusedError for one that has not ended.

        The attempt goes on from the run's newest checkpoint, or with `from_scratch` begins anew. With
        `not_on_same_worker` another worker than the last one gets it, while there is one that may take it.
        """
        self._api.transport.retry(self.id, from_scratch=from_scratch, not_on_same_worker=not_on_same_worker)

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


class Files(list["RunFile"]):
    """The files that are kept with a run, as they were listed."""

    def __init__(self, api: Connection, run_id: str, found: RunFiles) -> None:
        super().__init__(RunFile(api, run_id, file) for file in found.files)
        self._api = api
        self._run_id = run_id
        self._found = found

    @property
    def attempt(self) -> int | None:
        """The attempt that left the outputs; None where there are none."""
        return self._found.attempt

    @property
    def left_out(self) -> list[LeftOut]:
        """Files that the job left and that are not kept, each with `path` and `why`: the first thousand of them."""
        return list(self._found.left_out)

    @property
    def left_out_count(self) -> int:
        """Number of all files that are not kept."""
        return self._found.left_out_count

    @property
    def notices(self) -> list[str]:
        """Sentences for people: that more is on its way, or where it is."""
        return list(self._found.notices)

    @property
    def is_sending(self) -> bool:
        """Whether a worker is still to send the outputs."""
        return self._found.is_sending

    def file(self, path: str) -> RunFile:
        """The file at this path. Raises InputError when there is none."""
        return RunFile(self._api, self._run_id, self._found.file(self._run_id, path))

    def below(self, *paths: str) -> list[RunFile]:
        """The files at these paths and in these folders. Raises InputError where there is none."""
        return [RunFile(self._api, self._run_id, file) for file in self._found.below(self._run_id, paths)]

    def download(
        self,
        root: str | os.PathLike[str] = ".",
        *paths: str,
        replace: bool = False,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Fetched:
        """Have them in the folder `root`, or those at some paths and in some folders; what is there is not fetched.

        Another try goes on where one was ended. Returns how many they are, and how many were there. Raises InputError
        for a file that is there with another content, unless it shall be replaced.
        """
        from launch_worker.api.downloads import fetch

        files = self._found.below(self._run_id, paths)
        return fetch(files, Path(root), self._read, self._read_some, replace=replace, on_bytes=on_bytes)

    def _read_some(self, files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        return self._api.transport.read_files(self._run_id, files)

    def _read(self, file: KeptFile, start: int) -> Iterator[bytes]:
        """The content from a byte on; an outage after its first piece is outlasted."""
        patience, has_begun = Patience(None), False
        while True:
            try:
                for piece in self._api.transport.read_file(self._run_id, file, start):
                    patience.has_answer()
                    has_begun = True
                    start += len(piece)
                    yield piece
                return
            except AWAY as error:
                if not has_begun:
                    raise
                patience.outlast(error)


class RunFile:
    """A file that is kept with a run: an output of its job, or what a failed start left or a tool saved."""

    def __init__(self, api: Connection, run_id: str, file: KeptFile) -> None:
        self._api = api
        self._run_id = run_id
        self._file = file
        #: Relative path with `/` between its parts.
        self.path = self.name = file.path
        #: Size in bytes.
        self.size = file.size
        #: Attempt that left it; None for a saved file.
        self.attempt = file.attempt
        #: One of output, saved.
        self.kind = file.kind
        #: Hash of an output's content; '' for a saved file, and for a link to a folder.
        self.sha256 = file.sha256
        #: What it leads to, from the folder in which it stands, where it is a symbolic link; '' for a file.
        self.link = file.link

    def __repr__(self) -> str:
        return f"<RunFile {self.path} of run {self._run_id}>"

    @property
    def saved_at(self) -> str:
        """ISO 8601 in UTC: an output's last change by its worker's clock, a saved file's time by the server's."""
        return isoformat(self._file.at or None) or ""

    def as_json(self) -> dict[str, Any]:
        """The object of `files --json`."""
        return self._file.as_json()

    def read(self) -> bytes:
        """All of it. Raises InputError when it is gone."""
        return b"".join(self.pieces())

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield its content from a byte on, piece by piece. Raises InputError when it is gone."""
        return self._api.transport.read_file(self._run_id, self._file, start)

    def download(self, root: str | os.PathLike[str] = ".", *, replace: bool = False) -> Path:
        """Have it in the folder `root`, at its path; for a link what it leads to. Returns where it is.

        Raises as `Files.download`.
        """
        from launch_worker.api.downloads import fetch

        fetch([self._file._replace(link="")], Path(root), lambda _, start: self.pieces(start), replace=replace)
        return Path(root) / self.path
