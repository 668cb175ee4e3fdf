"""Shows a run, and lists of runs, to Python: snapshots that are read anew when asked, lists that read as they go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from launch_worker.api.connection import Connection
from launch_worker.api.filters import Filter, Order
from launch_worker.api.listing import Listing
from launch_worker.errors import (
    BrokerUnavailableError,
    DeletedRunError,
    InputError,
    LaunchError,
    RefusedError,
    UnknownRunError,
)
from launch_worker.maintenance.passes import catch_up
from launch_worker.model.log_pieces import Joiner, Log
from launch_worker.model.outcome import Outcome, shell_exit_code
from launch_worker.model.retry import next_step_of
from launch_worker.model.run import Record, Transition
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration, isoformat, parse_duration, parse_time
from launch_worker.model.usage import Measured, Usage
from launch_worker.store.answers import CancelWord
from launch_worker.store.files import SavedFile, saved_files

if TYPE_CHECKING:
    from launch_worker.logs.reading import Output, Piece
    from launch_worker.store.store import Store

#: Seconds of the longest block on Redis in one call; a wait is a loop of them.
_TURN_S = 2.0
#: Seconds of an outage of Redis that a follower outlasts.
_PATIENCE_S = 600.0
MAX_PER_PAGE = 1000


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
        self._record = self._api.store.get(self.id)
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
    def created_at(self) -> str:
        """ISO 8601 in UTC, by the server's clock."""
        return isoformat(self.record.created_at) or ""

    @property
    def transitions(self) -> list[Transition]:
        """Every change of its state, the oldest first."""
        return self._api.store.history(self.id)

    # -- what its job reported -------------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics that the job reported, the oldest first; the newest 1000 are kept."""
        return self._api.store.metrics(self.id)

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
        record = self.refresh()
        number = attempt or record.attempt
        if number == record.attempt and record.state is RunState.RUNNING:
            kept = self._api.store.ask_usage(record, timeout_s=timeout_s)
            return Measured.of(number, kept, is_running=True)
        return Measured.of(number, self._api.store.usage_of(record, number), is_running=False)

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
        record = self.record
        shown = record.as_json()
        waits = record.state is RunState.PENDING and not shown["reason"]
        if waits:
            shown["reason"] = self._api.why_waiting(record.queue) or None
        if history:
            shown["history"] = [transition.as_json() for transition in self.transitions]
            shown["files"] = [file.as_json() for file in saved_files(record)]
        return shown

    # -- what can be done to it --------------------------------------------------------------------------------------

    def stop(self, *, reason: str = "", grace_s: float | None = None) -> CancelWord:
        """The same as `cancel`, under W&B's name."""
        return self.cancel(reason=reason, grace_s=grace_s)

    def delete(self) -> None:
        """Delete the run with all that is kept of it. A Pending run is never executed, and waiters are notified.

        A look-up says "deleted" for as long as runs are kept. A second call changes nothing. Raises RefusedError while
        it runs, UnknownRunError.
        """
        if not self._api.store.delete(self.id, who=self._api.actor, keep_s=self._api.settings.retention_s):
            raise RefusedError(f"run {self.id} is Running; stop it first with: launch-worker cancel {self.id}")

    def cancel(self, *, reason: str = "", grace_s: float | None = None) -> CancelWord:
        """Ask for the run's end. Returns 'killed' (it was Pending) or 'requested'. Raises RefusedError when final.

        `grace_s` 0 is SIGKILL at once; None is the run's own grace.
        """
        reason = reason or f"cancelled by {self._api.actor}"
        word, state = self._api.store.cancel(self.id, reason=reason, grace_s=grace_s, actor=self._api.actor)
        if word == "final":
            raise RefusedError(f"run {self.id} is already {state}; nothing was changed")
        return word

    def preempt(self, *, reason: str = "") -> None:
        """Ask for the job's end, so that the run goes back to its queue. Raises RefusedError unless it is Running."""
        reason = reason or f"preempted by {self._api.actor}"
        word, state = self._api.store.preempt(self.id, reason=reason, actor=self._api.actor)
        if word != "requested":
            raise RefusedError(f"run {self.id} is {state}; only a Running run can be preempted")

    def retry(self) -> None:
        """Start a new attempt of an ended run. Raises RefusedError for one that has not ended."""
        actor = self._api.actor
        state = self._api.store.requeue(self.id, reason=f"retry asked for by {actor}", actor=actor)
        if state:
            held = self.refresh().why_held() if self.record.is_held else ""
            raise RefusedError(f"run {self.id} is {state}; {held or 'only an ended run can be retried'}")

    def confirm_ended(self) -> RunState:
        """Say that nothing of the job is left, of a run that is held (`record.is_held`): its worker left it unended.

        It is Crashed then, or Pending again when it has retries left; returns which. Raises RefusedError for a run that
        is not held.
        """
        record, actor = self.refresh(), self._api.actor
        if not (record.is_held and self._api.store.release(self.id, record.token, actor=actor)):
            why = f"worker {record.worker} reports on it" if record.state is RunState.RUNNING else "it does not run"
            raise RefusedError(f"run {self.id} is {record.state}, and {why}; there is nothing to confirm")
        outcome = Outcome(RunState.CRASHED, reason=f"{actor} confirmed that its job on {record.host} has ended")
        [answer] = self._api.store.crash_many([(self.id, record.token, next_step_of(record, outcome))])
        if isinstance(answer, LaunchError):
            raise answer
        return self.refresh().state

    def logs(
        self,
        *,
        attempt: int | None = None,
        from_line: int | None = None,
        lines: int | None = None,
        tail: int | None = None,
        since: str | float | None = None,
        grep: str | None = None,
    ) -> bytes:
        """All output that is kept of an attempt (the latest by default), or the part that is asked for.

        Where LAUNCH_LOG_URL is set that is the whole output, else the newest. `read_logs` has the arguments, says what
        is missing, and holds little of a large output at once.
        """
        pieces = self.read_logs(attempt=attempt, from_line=from_line, lines=lines, tail=tail, since=since, grep=grep)
        return b"".join(piece.data for piece in pieces)

    def read_logs(
        self,
        *,
        attempt: int | None = None,
        from_line: int | None = None,
        lines: int | None = None,
        tail: int | None = None,
        since: str | float | None = None,
        grep: str | None = None,
    ) -> Iterator[Piece]:
        """Yield the output of an attempt piece by piece, each with the number of its first line (from 1).

        A piece with a `gap` comes after output that cannot be read: how many bytes, how many lines if that is known,
        and why. `from_line` and `since` (seconds ago, a duration such as "10m", or a time) say where to begin, `lines`
        how many lines at most, `tail` how many of the last ones instead. `grep` is a regular expression; only lines
        that have it in them are left.
        Raises InputError; LaunchError for a store that does not answer.
        """
        if tail is not None and not (from_line is lines is since is grep is None):
            raise InputError("tail does not go with from_line, lines, since or grep; leave it out, or those")
        if from_line is not None and since is not None:
            raise InputError("from_line and since both say where to begin; leave one of them out")
        for name, number in (("from_line", from_line), ("lines", lines), ("tail", tail), ("attempt", attempt)):
            least = 0 if name in ("lines", "tail") else 1
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
                raise InputError(f"{name} must be a whole number of {least} or more, not {number!r:.40}")
        from launch_worker.logs.reading import first_lines

        output = self._open_output(attempt)
        if tail is not None:
            return output.tail(tail)
        if since is not None:
            pieces = output.since(since_ms(since, self._api.store.now_us() // 1000))
        else:
            pieces = output.from_line(from_line or 1)
        return first_lines(pieces if grep is None else output.grep(grep, pieces), lines)

    def attempt_number(self, attempt: int | None) -> int:
        """The attempt, the latest for None. Raises InputError for one that the run has not had."""
        latest = self.refresh().attempt
        if attempt is not None and attempt > latest:
            raise InputError(f"run {self.id} has had {latest} attempts; there is no attempt {attempt} yet")
        return latest if attempt is None else attempt

    def _open_output(self, attempt: int | None) -> Output:
        from launch_worker.logs.reading import latest_stored, open_output

        url = self._api.settings.log_url
        record: Record | None = None
        try:
            number = self.attempt_number(attempt)
            record = self.record
        except DeletedRunError:
            raise
        except UnknownRunError:
            # Redis may have deleted the run after its time, and the log is there.
            if not url or not (number := latest_stored(url, self.id, attempt)):
                raise
        return open_output(self._api.store, self.id, number, url=url, record=record)

    def output(self, *, attempt: int | None = None) -> Log:
        """The newest output as `text`, and the number of its bytes that are `missing` because they are not kept."""
        number = attempt if attempt is not None else self.refresh().attempt
        pieces = list(_Shown(number).output_until(self._api.store, self.id, number))
        last = pieces[-1] if pieces else Log(b"", attempt=number)
        data = b"".join(piece.data for piece in pieces)
        return replace(last, data=data, missing=sum(piece.missing for piece in pieces))

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

        Starts with the state as it is now, and the output from its kept beginning, or `after` what `output()` gave;
        `on_missing` is called with the number of bytes that are missing before the next output. A run that ends and is
        Pending again in one step has not ended. `deadline` is monotonic seconds. Outlasts an outage of Redis of up to
        ten minutes, then raises BrokerUnavailableError.
        """
        record = self.refresh()
        view = _View(_Shown(attempt or record.attempt, after=after) if logs else None, attempt)
        yield record.state, b""
        away_since: float | None = None
        while not view.ended and (deadline is None or time.monotonic() < deadline):
            try:
                with self._api.store.watch(self.id) as wait_for_news:
                    for news in self._watched(view, wait_for_news, deadline, on_missing):
                        away_since = None
                        yield news
            except BrokerUnavailableError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _PATIENCE_S:
                    raise
                time.sleep(_TURN_S / 2)

    def _watched(
        self,
        view: _View,
        wait_for_news: Callable[[float], bool],
        deadline: float | None,
        on_missing: Callable[[int], None],
    ) -> Iterator[tuple[RunState | None, bytes]]:
        store = self._api.store
        while True:
            # In this order: a change between the two reads is seen twice rather than never.
            history = store.history(self.id)
            record = self.refresh()
            if view.seen is None:
                view.seen = len(history)
            fresh, view.seen = history[view.seen :], len(history)
            if view.shown is not None:
                until = record.attempt if view.attempt is None else view.attempt
                for piece in view.shown.output_until(store, self.id, until):
                    if piece.missing:
                        on_missing(piece.missing)
                    yield None, piece.data
            for at, transition in enumerate(fresh):
                view.last = transition.state
                # The next transition of the same step says whether this was an end.
                if not transition.state.is_final or at == len(fresh) - 1:
                    yield transition.state, b""
            if record.state.is_final or (view.attempt is not None and view.attempt < record.attempt):
                view.ended = True
                if record.state is not view.last:
                    yield record.state, b""
                return
            turn_s = min(_TURN_S, self._api.settings.pass_s)
            if deadline is not None:
                turn_s = min(turn_s, deadline - time.monotonic())
                if turn_s <= 0:
                    return
            if not wait_for_news(turn_s):
                catch_up(store, self._api.settings)

    def shell_exit_code(self) -> int:
        """The exit code of `launch-submit --wait` once the run has ended."""
        record = self.refresh()
        return shell_exit_code(record.state, record.exit_code, record.signal)


def since_ms(since: str | float, now_ms: int, *, what: str = "since") -> int:
    """The time, milliseconds since 1970, that `since` means: a duration before now, or the latest such time."""
    try:
        return now_ms - int(1000 * parse_duration(since, what=what))
    except InputError:
        try:
            at_ms = parse_time(since, now_s=now_ms / 1000, what=what) // 1000
        except InputError:
            raise InputError(
                f"{what} {str(since)[:60]!r} is neither a duration, as 10m, nor a time, as 2030-01-31T14:30 or 14:30"
            ) from None
    # `14:30` is the next such time.
    return at_ms - 86_400_000 if at_ms > now_ms else at_ms


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
        data = self._api.store.read_file(self._run_id, self.name)
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


class Runs(Sequence[Run]):
    """W&B's `Runs`: the runs that fit a filter, in an order, read page by page as they are taken.

    Each is a snapshot of when its page was read, and is read once. `len()` asks an index where that decides the filter
    (no filter, or one field of state, queue, project, sweep), else it reads all; it counts what is there then, so it
    can differ from what an iteration finds while runs come and go. By creation time runs come in the order of the
    index; for every other order all that fit are looked at first. A negative index and an open slice read all.
    Where there is an archive, it is asked, and what is newer in Redis is taken from there.
    """

    def __init__(self, api: Connection, wanted: Filter, order: Order, *, per_page: int) -> None:
        self._api = api
        self._listing = Listing(api, wanted, order, per_page=per_page)
        self.per_page = per_page
        self._taken: list[Run] = []
        self._more: Iterator[Record] | None = None
        self._is_complete = False

    def __repr__(self) -> str:
        return f"<Runs, {len(self._taken)} of them read>"

    def __len__(self) -> int:
        counted = None if self._is_complete else self._listing.count()
        if counted is not None:
            return counted
        self._take(None)
        return len(self._taken)

    def __bool__(self) -> bool:
        self._take(1)
        return bool(self._taken)

    def __iter__(self) -> Iterator[Run]:
        at = 0
        while True:
            self._take(at + 1)
            if at >= len(self._taken):
                return
            yield self._taken[at]
            at += 1

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        if isinstance(index, slice):
            start, stop = index.start or 0, index.stop
            is_bounded = stop is not None and start >= 0 and stop >= 0 and (index.step or 1) > 0
            self._take(stop if is_bounded else None)
            return self._taken[index]
        self._take(index + 1 if index >= 0 else None)
        if not -len(self._taken) <= index < len(self._taken):
            raise IndexError(f"there are only {len(self._taken)} such runs")
        return self._taken[index]

    @property
    def notices(self) -> list[str]:
        """Sentences about what was read so far: that the archive lags, or could not be asked."""
        return self._listing.notices

    def update(self) -> None:
        """Drop all runs read: the next access reads anew."""
        self._taken, self._more, self._is_complete = [], None, False

    def _take(self, count: int | None) -> None:
        """Read until this number of runs is known, or all are."""
        if self._is_complete or (count is not None and len(self._taken) >= count):
            return
        if self._more is None:
            self._more = self._listing.records()
        missing = None if count is None else count - len(self._taken)
        found = [Run(self._api, record.id, record=record, is_snapshot=True) for record in islice(self._more, missing)]
        self._taken += found
        self._is_complete = missing is None or len(found) < missing


class _Shown:
    """The place up to which a run's output has been shown."""

    def __init__(self, attempt: int, *, after: Log | None = None) -> None:
        self.attempt = attempt
        self._after, self._joiner = "-", Joiner()
        if after is not None and after.attempt == attempt:
            self._after, self._joiner = after.entry, Joiner(end=after.end, is_at_line=after.data[-1:] in (b"", b"\n"))

    def output_until(self, store: Store, run_id: str, attempt: int) -> Iterator[Log]:
        """New output of the current attempt and of later ones, up to `attempt`."""
        while True:
            for chunk in store.log(run_id, self.attempt, after=self._after):
                self._after = chunk.entry
                data, missing = self._joiner.add(chunk.offset, chunk.data)
                yield Log(data, missing, attempt=self.attempt, entry=chunk.entry, end=self._joiner.end)
            if self.attempt >= attempt:
                return
            self.attempt, self._after, self._joiner = self.attempt + 1, "-", Joiner()


@dataclass
class _View:
    """The part of a run that a follower has seen, across losses of its connection."""

    shown: _Shown | None
    #: Attempt that is followed; None for the run to its end.
    attempt: int | None
    #: Number of transitions seen; None at the beginning.
    seen: int | None = None
    last: RunState | None = None
    ended: bool = False
