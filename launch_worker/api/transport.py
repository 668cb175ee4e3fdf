"""Defines what every way to a launch system can do, be it through Redis or through a server: the one `Transport`.

`Api`, `Run`, `Runs`, queues, sweeps and the commands stand on it. Its operations have values of `model` and plain JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict

from launch_worker.api.filters import Filter, Order
from launch_worker.api.naming import Meant
from launch_worker.errors import InputError
from launch_worker.model.allowance import Allowance
from launch_worker.model.finding import Finding
from launch_worker.model.group import GroupRecord
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Joiner, Log, Piece
from launch_worker.model.many import Done, ManyAct
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile, RunFiles
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial
from launch_worker.model.totals import By, Total
from launch_worker.model.usage import Measured
from launch_worker.model.worker import WorkerOrder
from launch_worker.queues.described import Pool, Queue
from launch_worker.settings import Settings
from launch_worker.store.answers import CancelWord
from launch_worker.submission.options import Item
from launch_worker.submission.sent import Sent
from launch_worker.trust.trusted import TrustedKey

if TYPE_CHECKING:
    from launch_worker.model.explanation import Explanation

_PLACE = re.compile(r"(\d{1,9})\.(-|\d{1,18}-\d{1,18})\.(\d{1,18})\.([01])([01])\.(\d{0,9})\.([A-Za-z]*)", re.ASCII)

#: What an admin configures.
Kind = Literal["queue", "pool"]


class LogPart(TypedDict, total=False):
    """The part of a run's output that is asked for; without any of these all of the latest attempt's."""

    attempt: int | None
    #: Number of the line at which it begins, from 1.
    from_line: int | None
    #: Seconds ago, a duration such as "10m", or a time, at which it begins.
    since: str | float | None
    #: Number of lines at most.
    lines: int | None
    #: Number of the last lines, in place of all that is above but `attempt`.
    tail: int | None
    #: Regular expression; only lines that have it in them are left.
    grep: str | None


def check_part(part: LogPart) -> None:
    """Raises InputError for parts that exclude each other, TypeError for an unknown one, as a call does."""
    if unknown := part.keys() - LogPart.__annotations__.keys():
        raise TypeError(f"there is no part {min(unknown)!r}; there are: {', '.join(LogPart.__annotations__)}")
    given = {name for name, value in part.items() if value is not None}
    if "tail" in given and given & {"from_line", "lines", "since", "grep"}:
        raise InputError("tail does not go with from_line, lines, since or grep; leave it out, or those")
    if {"from_line", "since"} <= given:
        raise InputError("from_line and since both say where to begin; leave one of them out")
    for name, number in part.items():
        if name in ("since", "grep") or number is None:
            continue
        least = 0 if name in ("lines", "tail") else 1
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InputError(f"{name} must be a whole number of {least} or more, not {number!r:.40}")


@dataclass(frozen=True)
class Place:
    """The place in the life of a run up to which a follower has seen it."""

    #: Attempt whose output is shown, the last entry of it, its end in bytes, and whether that is a line's end.
    attempt: int
    entry: str = "-"
    end: int = 0
    is_at_line: bool = True
    #: Number of transitions seen; None at the beginning.
    seen: int | None = None
    state: RunState | None = None
    #: Whether there is nothing more to see.
    is_end: bool = False

    @classmethod
    def after(cls, log: Log) -> Place:
        """The place behind an output that was read as a whole."""
        return cls(log.attempt, log.entry, log.end, is_at_line=log.data[-1:] in (b"", b"\n"))

    def to_text(self) -> str:
        """The place as an event's id, which `of_text` reads."""
        seen, state = "" if self.seen is None else self.seen, "" if self.state is None else self.state.value
        flags = f"{self.is_at_line:d}{self.is_end:d}"
        return f"{self.attempt}.{self.entry}.{self.end}.{flags}.{seen}.{state}"

    @classmethod
    def of_text(cls, text: str) -> Place:
        """Read an event's id. Raises InputError."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise InputError(f"{text[:60]!r} is not the id of an event of this stream")
        attempt, entry, end, is_at_line, is_end, seen, state = match.groups()
        known = RunState.parse(state) if state else None
        is_at, is_over = is_at_line == "1", is_end == "1"
        return cls(int(attempt), entry, int(end), is_at, int(seen) if seen else None, known, is_over)

    def past(self, entry: str, offset: int, data: bytes) -> tuple[Place, bytes, int]:
        """The place behind the next entry; what is to be shown of it, and the number of bytes missing before that."""
        joiner = Joiner(end=self.end, is_at_line=self.is_at_line)
        shown, missing = joiner.add(offset, data)
        is_at_line = shown.endswith(b"\n") if shown else self.is_at_line
        return replace(self, entry=entry, end=joiner.end, is_at_line=is_at_line), shown, missing

    def in_attempt(self, attempt: int) -> Place:
        """The beginning of another attempt's output."""
        return replace(self, attempt=attempt, entry="-", end=0, is_at_line=True)


class Seen(NamedTuple):
    """What a follower sees next, and the place behind it."""

    place: Place
    #: The run as it is, where something but its output is new.
    record: Record | None = None
    #: Its new state; None for output.
    state: RunState | None = None
    data: bytes = b""
    #: Number of bytes that are missing before the data.
    missing: int = 0


class RunList(Protocol):
    """A list of runs, read as it is taken."""

    #: Sentences for people about what was read so far, each once.
    notices: list[str]

    def records(self) -> Iterator[Record]:
        """Yield the runs in their order."""

    def count(self) -> int | None:
        """How many there are, where that is known without reading them."""

    def counts(self, by: Sequence[str]) -> dict[tuple[str, ...], int]:
        """How many have which values of these fields, of `runs.COUNTED`. Raises InputError without an archive."""


class Submits(Protocol):
    """A way to a launch system for those who submit only."""

    #: Called while a folder is sent, with the bytes that are sent and all bytes.
    on_upload: Callable[[int, int], None]

    @property
    def settings(self) -> Settings: ...

    @property
    def actor(self) -> str:
        """Who acts, for people."""

    def send_items(self, items: Iterable[Item], *, strict: bool = False) -> Iterator[tuple[Sent, Item]]:
        """Submit runs and arrays of runs in order, many in a round trip. `strict` refuses an unknown queue.

        All that was submitted before an error is yielded before it is raised.
        """

    def check_items(self, items: Sequence[Item], *, strict: bool) -> None:
        """Check all items. Raises InputError, with its place in its file, for the first that could not be submitted."""

    def complete(self, given: Mapping[str, Any], *, fresh: bool = False) -> RunSpec:
        """The run that these arguments are, with the defaults of its queue. Raises InputError."""

    def send_folder(self, folder: str) -> str:
        """Send a folder of this machine, unless this connection has sent it. Returns its sha256. Raises InputError."""

    def live_workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers, as they last spoke."""


class Transport(Submits, Protocol):
    """A way to a launch system. Every operation raises BrokerUnavailableError, and LaunchError for a refusal."""

    def send(
        self,
        given: Mapping[str, Any],
        *,
        delay_s: float = 0.0,
        at_us: int | None = None,
        strict: bool = False,
        run_id: str = "",
    ) -> Sent:
        """Submit one run, of arguments of RunSpec. With `run_id` a repeated call changes nothing."""

    # -- runs, read ------------------------------------------------------------------------------------------------

    def find(self, run_id: str) -> Record:
        """The run that a person names, when nobody else was left to do the passes they are done. UnknownRunError."""

    def record(self, run_id: str) -> Record:
        """The run now. Raises UnknownRunError, which says so where the run was deleted."""

    def meant_by(self, word: str) -> Meant:
        """All runs and groups that a word of a person may mean: a name, the beginning of an id, `@`."""

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        """These runs in this order; those that are gone are left out."""

    def shown(self, run_id: str) -> dict[str, Any]:
        """The object of `show --json`, of a run that only the archive has too. Raises UnknownRunError."""

    def explain(self, run_id: str) -> Explanation:
        """Why a run waits, of one that does not what it does, of the archive's too. Raises UnknownRunError."""

    def why_waiting(self, queue: str) -> str:
        """Why a ready run of a queue that breaks no limit has not been taken; '' where it will be, or not known."""

    def transitions(self, run_id: str) -> list[Transition]:
        """Every change of the run's state, the oldest first."""

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """The rows of metrics that the job reported, the oldest first; the newest 1000 are kept."""

    def measured(self, run_id: str, attempt: int | None, *, timeout_s: float) -> tuple[Record, Measured]:
        """What an attempt (None: the latest) used, of a run that only the archive has too. Raises UnknownRunError.

        The worker of a running one is asked, for so many seconds at most.
        """

    def advice_by_earlier(self, record: Record) -> list[str]:
        """Sentences, where the run asks for far more or less than earlier ones of its name used; none if not known."""

    def files(self, run_id: str, attempt: int | None) -> RunFiles:
        """The files of an attempt (None: the latest of which outputs are kept), of a run of the archive too.

        Raises UnknownRunError; InputError for an attempt that it has not had; LaunchError for a store that is away.
        """

    def read_file(self, run_id: str, file: KeptFile, start: int, end: int | None = None) -> Iterator[bytes]:
        """The content of a file that `files` has named, or a range of it. Raises InputError for one that is gone."""

    def read_files(self, run_id: str, files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        """The contents of several files of one attempt, each to be taken before the next one. Raises as `read_file`."""

    def output(self, run_id: str, part: LogPart) -> Iterator[Piece]:
        """The part of an attempt's output, piece by piece. Raises InputError; LaunchError for a store that is away."""

    def newest_output(self, run_id: str, attempt: int) -> Log:
        """The newest output, as it is kept with the run, as one."""

    def follow(
        self,
        run_id: str,
        place: Place | None,
        *,
        logs: bool,
        attempt: int | None,
        deadline: float | None,
    ) -> Iterator[Seen]:
        """Yield what is new of a run after a place, until its end, or `deadline` (monotonic seconds).

        The first Seen has the record as it is now. With `attempt` it is the end of this attempt.
        """

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> RunList:
        """The runs that fit, in this order."""

    def in_line(self, wanted: Filter, *, queue: str, limit: int) -> list[tuple[Record, int | None]]:
        """Pending runs that fit and their places, queue by queue; those that are not ready have none and are last."""

    def now_us(self) -> int:
        """The launch system's time, microseconds since 1970."""

    # -- runs, steered ---------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None) -> CancelWord:
        """Ask for the run's end. Returns what was done. Without `reason` it names who acts. Raises RefusedError."""

    def preempt(self, run_id: str, *, reason: str) -> None:
        """Ask for the job's end, so that the run goes back to its queue. Raises RefusedError unless it is Running."""

    def retry(self, run_id: str, *, from_scratch: bool = False, not_on_same_worker: bool = False) -> None:
        """Start a new attempt of an ended run; `from_scratch` passes its checkpoint over. Raises RefusedError.

        With `not_on_same_worker` another worker than the last one gets it, while there is one that may.
        """

    def confirm_ended(self, run_id: str) -> Record:
        """Say that nothing is left of the job of a held run; it is Crashed, or Pending again. Raises RefusedError."""

    def delete(self, run_id: str) -> None:
        """Delete the run with all that is kept of it. Raises RefusedError while it runs."""

    def act_on_many(
        self, act: ManyAct, run_ids: Sequence[str], *, reason: str, grace_s: float | None
    ) -> Iterator[Done]:
        """Do this to each of the runs, many in a round trip; yields what became of each, in order.

        `reason` and `grace_s` are for a cancel. Raises BrokerUnavailableError where Redis, or ServerUnavailableError
        where the server goes away: those that were yielded are done.
        """

    # -- groups ----------------------------------------------------------------------------------------------------

    def group(self, group_id: str) -> GroupRecord | None:
        """The group now, by its own id or that of an array's first run; None for none."""

    def known_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """The groups now, by these ids, without those that are not there or whose counts the person may not see."""

    def group_runs(self, group: GroupRecord, *, skip: int, limit: int) -> list[str]:
        """The ids of its runs in the order of their submission, `limit` at most (0: all); some may be deleted."""

    def follow_group(self, group_id: str, *, deadline: float | None) -> Iterator[GroupRecord]:
        """Yield the group now, and again when something may be new, until it is over, deleted, or `deadline`."""

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        """Ask for the end of all runs of an array or a bulk submission, which gets no more.

        Returns how many are Killed, and how many are to stop.
        """

    def retry_group(self, group: GroupRecord, *, only_failed: bool, not_on_same_worker: bool = False) -> int:
        """Start a new attempt of the ended runs of an array or a bulk submission; returns how many.

        `only_failed` leaves the Finished ones alone. With `not_on_same_worker` another worker than its last one gets
        each of them, while there is one that may.
        """

    # -- queues and pools ------------------------------------------------------------------------------------------

    def queue_names(self) -> list[str]:
        """Every queue that a run was submitted to, or that was configured."""

    def queues(self) -> list[Queue]:
        """Every queue, by name."""

    def queue(self, name: str) -> Queue:
        """One queue. Raises InputError when there is none."""

    def pools(self) -> list[Pool]:
        """Every pool, by name."""

    def pool(self, name: str) -> Pool:
        """One pool. Raises InputError when there is none."""

    def configure(self, kind: Kind, name: str, settings: Mapping[str, Any], *, create: bool) -> None:
        """Change settings; None takes one away. With `create` it must be new, else it must be there."""

    def pause(self, kind: Kind, name: str, *, paused: bool) -> None:
        """Let nothing of it start any more, or let it go on."""

    def drop(self, kind: Kind, name: str) -> None:
        """Delete it. Raises RefusedError for one that is in use."""

    def allowances(self) -> list[Allowance]:
        """What users, groups and projects may have at once, and have now, by name."""

    def allow(self, name: str, *, waiting: int | None, running: int | None, gpus: int | None) -> bool:
        """Set an allowance; without any number it is removed. Returns whether it is new. Raises InputError."""

    # -- keys ------------------------------------------------------------------------------------------------------

    def trusted_keys(self) -> list[TrustedKey]:
        """The signing keys that workers trust, and those that were revoked, by name."""

    def trust_key(self, key: str, *, name: str, is_server: bool) -> TrustedKey:
        """Trust a public signing key. Raises InputError for a name that another key has."""

    def revoke_key(self, word: str) -> TrustedKey:
        """Revoke the key with this name or id. Raises InputError for none."""

    # -- workers, sweeps, schedules, the whole ---------------------------------------------------------------------

    def workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers, with the number of runs as it is now."""

    def gone_workers(self) -> list[dict[str, Any]]:
        """The workers that were lost or left in the last hour; none where no archive tells of them."""

    def order(self, worker: str, word: WorkerOrder) -> int:
        """Order the workers of this name to do something; returns how many were told. Raises InputError for none."""

    def create_sweep(self, sweep_id: str, fields: Mapping[str, str | int]) -> str:
        """Keep a sweep that was checked, and make its first runs. Returns its id, this one or one made of it."""

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        """The sweep now; None for none."""

    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, the newest first."""

    def trials(self, sweep_id: str) -> list[Trial]:
        """The sweep's runs by number, with their parameters and results."""

    def steer_sweep(self, sweep_id: str, word: SweepOrder, *, reason: str) -> tuple[bool, str]:
        """Carry out the order. Returns whether that was possible, and the state now."""

    def follow_sweep(self, sweep_id: str, *, deadline: float | None) -> Iterator[SweepRecord]:
        """Yield the sweep now, and again when something may be new, until it is over or `deadline` has come."""

    def schedules(self) -> list[tuple[str, str, int]]:
        """Each schedule's name, its JSON, and its next time in microseconds; the next one first."""

    def schedule(self, name: str) -> tuple[str, int] | None:
        """JSON and next time of one; None for none."""

    def keep_schedule(self, name: str, text: str, next_us: int) -> tuple[str, int]:
        """Keep a schedule that was checked. Returns its text and its next time, as they are kept."""

    def pause_schedule(self, name: str, *, paused: bool) -> bool:
        """Let its times come and go without a run, or with runs again. False for none. Raises InputError."""

    def delete_schedule(self, name: str) -> bool:
        """Take a schedule away. False for none."""

    def acts(self, *, who: str, what: str, target: str, since_us: int | None, limit: int) -> list[dict[str, Any]]:
        """Lines of the audit, the newest first, of who has this text in their name; '' is anybody and anything."""

    def sums(
        self, by: Sequence[By], *, since_us: int, until_us: int | None, project: str
    ) -> list[tuple[tuple[str, ...], Total]]:
        """What attempts used that ended in this time, by groups, the largest first."""

    def status(self) -> dict[str, Any]:
        """The object of `status --json`: runs by state, queues, pools, workers, passes, problems."""

    def listen(self, *, on_news: Callable[[], None], stopped: Callable[[], bool]) -> None:
        """Call `on_news` when it listens, and after each change of a run, until `stopped`; there may be more calls.

        What changes of queues and workers need not be news.
        """

    def findings(self) -> Iterator[Finding]:
        """Every check of the installation, the most basic first."""
