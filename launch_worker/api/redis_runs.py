"""Reads, follows, lists and steers runs in Redis and, where there is one, in the archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from launch_worker.api.filters import Filter, Order
from launch_worker.api.listing import Listing
from launch_worker.api.redis_acts import RedisActs
from launch_worker.api.redis_connection import TURN_S
from launch_worker.api.shown import attempt_of, run_as_json
from launch_worker.api.transport import LogPart, Place, Seen, check_part
from launch_worker.errors import (
    ArchiveError,
    DeletedRunError,
    SettingsError,
    UnknownRunError,
)
from launch_worker.ids import RUN_ID
from launch_worker.maintenance.passes import catch_up
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Log, Piece
from launch_worker.model.needs import NOTHING, parse_needs
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.units import since_ms
from launch_worker.model.usage import Measured
from launch_worker.redis_url import mask_url

if TYPE_CHECKING:
    from launch_worker.archive.past import PastLog
    from launch_worker.database.database import Database
    from launch_worker.logs.output import Output
    from launch_worker.model.explanation import Explanation, Surroundings
    from launch_worker.store.logs import LogChunk

T = TypeVar("T")

#: Seconds for which a follower waits for output on its way to the store, while none comes; and between two looks.
_STORE_S = 20.0
STORE_TURN_S = 0.3
#: Readings of a run, at most, until its history and its record are of one moment.
_READS = 5
#: Runs of a queue's line that are searched for those that fit.
LINE_LIMIT = 1000


class Opened(NamedTuple):
    """One attempt's output, to be read."""

    output: Output
    #: Number of the attempt, and that of the run's latest one.
    attempt: int
    latest: int
    #: Whether more of it may come.
    is_growing: bool = False


class Filler:
    """Finds what a follower needs and Redis has dropped: it is in the store of logs, or will be there in a moment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown = mask_url(url)
        #: The run as it is.
        self.record: Record | None = None
        #: Whether the follower waits for the store.
        self.is_waiting = False
        self._end = 0
        self._since_s = 0.0

    def output(self, place: Place, until: int) -> Iterator[tuple[int, bytes]]:
        """Yield the stored output between a place and a later byte: pieces, each with its first byte's number."""
        if self._is_stored(place, until):
            from launch_worker.logs.opening import read_stored

            assert self.record is not None
            yield from read_stored(self._url, self.record, place.attempt, place.end, until)

    def waits_for(self, place: Place, until: int) -> bool:
        """Whether the worker will have stored the output between a place and a later byte soon."""
        now_s = time.monotonic()
        if not self.is_waiting or place.end != self._end:
            self._end, self._since_s = place.end, now_s
        self.is_waiting = self._is_stored(place, until) and now_s - self._since_s < _STORE_S
        return self.is_waiting

    def _is_stored(self, place: Place, until: int) -> bool:
        """Whether something is missing that a worker stores."""
        return until > place.end and bool(self._url) and self.record is not None and self.record.log_url == self._shown


class RedisRuns(RedisActs):
    """The part of the transport for runs."""

    # -- read ------------------------------------------------------------------------------------------------------

    def find(self, run_id: str) -> Record:
        self.store.check_id(run_id)
        catch_up(self.store, self.settings)
        return self.store.get(run_id)

    def record(self, run_id: str) -> Record:
        return self.store.get(run_id)

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        return self.store.records(run_ids)

    def shown(self, run_id: str) -> dict[str, Any]:
        try:
            record = self.find(run_id)
        except UnknownRunError as unknown:

            def look(database: Database) -> dict[str, Any] | None:
                from launch_worker.archive.past import find

                found = find(database, run_id)
                return None if found is None else found.as_json()

            return self._past(unknown, look)
        return run_as_json(self, record, history=True)

    def explain(self, run_id: str) -> Explanation:
        # Few commands need it: start-up time.
        from launch_worker.model.explanation import Surroundings, explain

        shown = self.shown(run_id)
        record = Record.from_json(shown)
        around = Surroundings() if record.state is not RunState.PENDING else self.around(record)
        return explain(record, shown["reason"] or "", around, now_us=self.store.now_us())

    def around(self, record: Record) -> Surroundings:
        """What is around a Pending run, for `explain`."""
        from launch_worker.model.explanation import Surroundings

        queue = self.store.settings_of("queue", record.queue)
        pool = queue.get("pool", "")
        return Surroundings(
            workers=self.workers_around(),
            is_queue_paused=bool(queue.get("paused")),
            pool=pool,
            is_pool_paused=bool(pool and self.store.settings_of("pool", pool).get("paused")),
            place=self.place_in_line(record),
            others=self._states_of(list(record.waits_for)),
        )

    def workers_around(self) -> list[dict[str, Any]]:
        """The live workers with their room, as `Store.workers_with_room` has them."""
        return self.store.workers_with_room()

    def place_in_line(self, record: Record) -> int | None:
        """The place of a Pending run in its queue, 1 for the next run; None for a run that is not ready."""
        return self.store.place_in_line(record)

    def _states_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The state of each of these runs that is there."""
        return {one.id: one.state.value for one in self.records([one for one in ids if RUN_ID.fullmatch(one)])}

    def _past(self, unknown: UnknownRunError, look: Callable[[Database], T | None]) -> T:
        """What the archive has of a run that Redis does not have. Raises the error, where that is nothing."""
        try:
            database = self.archive()
            found = None if database is None else look(database)
        except ArchiveError as error:
            raise UnknownRunError(f"{unknown}; the archive could not be asked: {error}") from None
        if found is None:
            raise unknown
        return found

    def transitions(self, run_id: str) -> list[Transition]:
        return self.store.history(run_id)

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        return self.store.metrics(run_id)

    def measured(self, run_id: str, attempt: int | None, *, timeout_s: float) -> tuple[Record, Measured]:
        try:
            record = self.find(run_id)
        except UnknownRunError as unknown:

            def look(database: Database) -> tuple[Record, Measured] | None:
                from launch_worker.archive.past import find_measured

                return find_measured(database, run_id, attempt)

            record, measured = self._past(unknown, look)
            attempt_of(record, attempt)
            return record, measured
        number = attempt_of(record, attempt)
        if number == record.attempt and record.state is RunState.RUNNING:
            kept = self._ask_usage(record, timeout_s=timeout_s)
            return record, Measured.of(number, kept, is_running=True)
        return record, Measured.of(number, self.store.usage_of(record, number), is_running=False)

    def _ask_usage(self, record: Record, *, timeout_s: float) -> str:
        return self.store.ask_usage(record, timeout_s=timeout_s)

    def advice_by_earlier(self, record: Record) -> list[str]:
        asked = parse_needs(record.needs)
        if asked == NOTHING:
            return []
        try:
            database = self.archive()
            if database is None:
                return []
            from launch_worker.archive.earlier import advice

            whose = {"name": record.name, "project": record.project, "author": record.author}
            return advice(database, **whose, asked=asked, before=record.created_at)
        except (ArchiveError, SettingsError):
            return []

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> Listing:
        catch_up(self.store, self.settings)
        return Listing(self, wanted, order, per_page=per_page)

    def in_line(self, wanted: Filter, *, queue: str, limit: int) -> list[tuple[Record, int | None]]:
        catch_up(self.store, self.settings)
        takes_all = wanted.is_decided and set(wanted.narrow) <= {"queue", "state"}
        found: list[tuple[Record, int | None]] = []
        for name in [queue] if queue else sorted(self.store.queues()):
            # Runs that do not match the filter are left out, but counted in the places of the others.
            for record in self.store.line(name, limit=limit if takes_all else LINE_LIMIT):
                if record.state is RunState.PENDING and wanted.matches(record):
                    found.append((record, self.store.place_in_line(record)))
                if len(found) == limit:
                    return found
        return found

    def now_us(self) -> int:
        return self.store.now_us()

    # -- output ----------------------------------------------------------------------------------------------------

    def output(self, run_id: str, part: LogPart) -> Iterator[Piece]:
        check_part(part)
        from launch_worker.logs.parts import first_lines

        output = self.open_output(run_id, part.get("attempt")).output
        if (tail := part.get("tail")) is not None:
            return output.tail(tail)
        if (since := part.get("since")) is not None:
            pieces = output.since(since_ms(since, self.store.now_us() // 1000))
        else:
            pieces = output.from_line(part.get("from_line") or 1)
        if (pattern := part.get("grep")) is not None:
            pieces = output.grep(pattern, pieces)
        return first_lines(pieces, part.get("lines"))

    def open_output(
        self, run_id: str, attempt: int | None, *, read_live: Callable[[Record, int], Sequence[LogChunk]] | None = None
    ) -> Opened:
        """The output of an attempt (None: the latest), of a run that Redis has no more too. Raises LaunchError.

        `read_live` reads what Redis has of it, as `logs.opening.open_output` says.
        """
        from launch_worker.logs.opening import open_output

        try:
            record = self.record(run_id)
        except DeletedRunError:
            raise
        except UnknownRunError as unknown:
            return self._open_past_output(run_id, attempt, unknown)
        number = attempt_of(record, attempt)
        live = None if read_live is None else partial(read_live, record, number)
        output = open_output(self.store, run_id, number, url=self.settings.log_url, record=record, read_live=live)
        return Opened(output, number, record.attempt, is_growing=number == record.attempt and not record.state.is_final)

    def _open_past_output(self, run_id: str, attempt: int | None, unknown: UnknownRunError) -> Opened:
        """The output of a run that Redis has forgotten: where it is the archive knows, or the store of logs itself."""
        from launch_worker.logs.opening import latest_stored, open_output, open_past_output

        url = self.settings.log_url

        def find(number: int | None) -> PastLog:
            def look(database: Database) -> PastLog | None:
                from launch_worker.archive.past import find_log

                return find_log(database, run_id, number)

            return self._past(unknown, look)

        try:
            found = find(attempt)
        except DeletedRunError:
            raise
        except UnknownRunError:
            if not url or not (number := latest_stored(url, run_id, attempt)):
                raise
            return Opened(open_output(self.store, run_id, number, url=url, record=None), number, number)
        output = open_past_output(
            run_id,
            found.attempt,
            url=url,
            packed=found.packed,
            is_packed=found.is_packed,
            kept_at=found.record.log_url,
            find_again=lambda: find(found.attempt).packed,
        )
        return Opened(output, found.attempt, found.record.attempt)

    def newest_output(self, run_id: str, attempt: int) -> Log:
        place, data, missing = Place(attempt), bytearray(), 0
        for seen in self._new_output(run_id, place, attempt, None):
            place, missing = seen.place, missing + seen.missing
            data += seen.data
        return Log(bytes(data), missing, attempt=attempt, entry=place.entry, end=place.end)

    def follow(
        self,
        run_id: str,
        place: Place | None,
        *,
        logs: bool,
        attempt: int | None,
        deadline: float | None,
    ) -> Iterator[Seen]:
        if place is None or place.state is None:
            record = self.record(run_id)
            place = self.begin(record, place, attempt=attempt)
            yield Seen(place, record, record.state)
        turn_s = min(TURN_S, self.settings.pass_s)
        filler = Filler(self.settings.log_url)
        with self.store.watch(run_id) as wait_for_news:
            while True:
                for seen in self.news_of(run_id, place, filler, logs=logs, attempt=attempt):
                    place = seen.place
                    yield seen
                if place.is_end:
                    return
                if deadline is not None and (turn_s := min(turn_s, deadline - time.monotonic())) <= 0:
                    return
                if filler.is_waiting:
                    wait_for_news(min(turn_s, STORE_TURN_S))
                elif not wait_for_news(turn_s):
                    self.catch_up()

    def catch_up(self) -> None:
        """Do the passes that are late, where nobody else is left to do them."""
        catch_up(self.store, self.settings)

    def begin(self, record: Record, place: Place | None, *, attempt: int | None) -> Place:
        """The place of a follower who knows the record, and perhaps some output."""
        return replace(place or Place(attempt or record.attempt), state=record.state)

    def news_of(self, run_id: str, place: Place, filler: Filler, *, logs: bool, attempt: int | None) -> Iterator[Seen]:
        """Yield what is new of a run now after a place; the last Seen of an ended run says that it is the end."""
        history, record = self._history_and_record(run_id)
        if logs:
            filler.record = record
            for seen in self._new_output(run_id, place, record.attempt if attempt is None else attempt, filler):
                place = seen.place
                yield seen
            if filler.is_waiting:
                return
        told = len(history) if place.seen is None else place.seen
        for at, transition in enumerate(history[told:], told + 1):
            place = replace(place, seen=at, state=transition.state)
            # The next transition of the same step says whether this was an end.
            if not transition.state.is_final or at == len(history):
                yield Seen(place, record, transition.state)
        is_end = record.state.is_final or (attempt is not None and attempt < record.attempt)
        is_told = record.state is place.state or not (is_end or place.seen is None)
        place = replace(place, seen=max(told, len(history)), state=record.state, is_end=is_end)
        yield Seen(place, record, None if is_told else record.state)

    def _history_and_record(self, run_id: str) -> tuple[list[Transition], Record]:
        """Read both of one moment: after a change between the two reads it would be told as another transition."""
        for _ in range(_READS):
            history, record = self.store.history(run_id), self.record(run_id)
            if not history or history[-1].state is record.state:
                break
        return history, record

    def _new_output(self, run_id: str, place: Place, attempt: int, filler: Filler | None) -> Iterator[Seen]:
        """Yield new output of the place's attempt and of later ones, up to `attempt`.

        Output that Redis has dropped comes from the store of logs, by the `filler`. It ends early where that waits.
        """
        while True:
            for chunk in self.store.log(run_id, place.attempt, after=place.entry):
                if filler is not None:
                    for offset, stored in filler.output(place, chunk.offset):
                        place, data, missing = place.past(place.entry, offset, stored)
                        yield Seen(place, data=data, missing=missing)
                    if filler.waits_for(place, chunk.offset):
                        return
                place, data, missing = place.past(chunk.entry, chunk.offset, chunk.data)
                yield Seen(place, data=data, missing=missing)
            if place.attempt >= attempt:
                return
            place = place.in_attempt(place.attempt + 1)
