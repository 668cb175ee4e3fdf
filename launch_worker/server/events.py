"""Follows the change feed for all streams of events: one reader, and its newest events for all who follow."""

from __future__ import annotations

import asyncio
import bisect
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

from starlette.concurrency import run_in_threadpool

from launch_worker.errors import LaunchError
from launch_worker.server.told import GAP, Place, Teller, Told, gap
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.server")

#: Changes that are read at once.
_PAGE = 1000
#: Seconds of one wait for changes, and between two tries while Redis is away.
_WAIT_S = 0.5
#: Seconds between two renewals of the feed.
_RENEW_S = 60.0
#: Seconds after which those who follow are woken, though nothing happens.
_TURN_S = 5.0
#: Seconds for which the reader goes on when nobody follows.
_LINGER_S = 60.0
#: Events that are held for those who follow, and their bytes: who is farther behind is too slow.
_MOST_EVENTS = 20_000
_MOST_BYTES = 16 << 20
#: Seconds for which the reader waits at most until who follows has taken its events.
_HAND_OVER_S = 2.0
#: Seconds of the pause after that, at most: it is as long as the loop was busy with the events.
_MOST_PAUSE_S = 0.25
#: Number that is larger than those of all places of a millisecond.
_LAST_NUMBER = (1 << 64) - 1


class Events:
    """The reader of the feed: it begins with the first who follows, and ends some time after the last one."""

    def __init__(self, store: Store, acting: Store) -> None:
        """`acting`: the store that may have the feed kept, which is a write."""
        self._store = store
        self._acting = acting
        self._reading: Reading | None = None
        self._beginning = asyncio.Lock()

    async def reading(self, stopping: asyncio.Event) -> Reading:
        """What all follow until the server stops. Raises BrokerUnavailableError where it has yet to begin."""
        async with self._beginning:
            if self._reading is None or not self._reading.is_wanted():
                begun = Reading(self._store, self._acting, stopping)
                await run_in_threadpool(begun.begin)
                self._reading = begun
            return self._reading

    def stop(self) -> None:
        """End the reader; for before the store is closed."""
        if self._reading is not None:
            self._reading.stop()


class Reading:
    """One thread that reads the feed, and the newest events. All but what is said otherwise is for the loop alone."""

    def __init__(self, store: Store, acting: Store, stopping: asyncio.Event) -> None:
        self._store = store
        self._acting = acting
        self._teller = Teller(store)
        self._loop = asyncio.get_running_loop()
        self._server_stopping = stopping
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="events", daemon=True)
        self._ending: asyncio.Task[None] | None = None

        #: Whether no more events come.
        self.is_over = False
        #: Number of the first event that is held, and of the one after the last: events are counted from 0.
        self.first = 0
        self._held: list[Told] = []
        self._bytes = 0
        #: Place after which all events are held, of the feed that there is now; and number of the first of those.
        self._after = self.newest = Place(0, 0)
        self._since = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._woken_at = time.monotonic()

        # Of both threads.
        self._lock = threading.Lock()
        self._followers = 0
        self._used_at = time.monotonic()
        self._is_unused = False

        # Of the reader.
        self._place = Place(0, 0)
        self._renew_at = 0.0
        #: Whether changes may have been lost since the last one that was read.
        self._is_doubtful = False

    # -- for who follows -------------------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """Number of the next event to come."""
        return self.first + len(self._held)

    def begin(self) -> None:
        """Have the feed kept, and read it from now on; called once, in a thread. Raises BrokerUnavailableError."""
        self._keep()
        self._place = self._after = self.newest = _newest(self._store)
        self._renew_at = time.monotonic() + _RENEW_S
        self._thread.start()
        self._loop.call_soon_threadsafe(self._watch)

    def is_wanted(self) -> bool:
        """Keep the reader for somebody who is about to follow; False where it has ended."""
        with self._lock:
            self._used_at = time.monotonic()
            return not self._is_unused and not self._stopping.is_set()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep the reader until the end of the block."""
        with self._lock:
            self._followers += 1
        try:
            yield
        finally:
            with self._lock:
                self._followers -= 1
                self._used_at = time.monotonic()

    def event(self, number: int) -> Told:
        """An event that is held."""
        return self._held[number - self.first]

    def number_after(self, place: Place) -> int | None:
        """The number of the first event after a place; None where some of them are not held."""
        if place < self._after:
            return None
        start = max(0, self._since - self.first)
        return self.first + bisect.bisect_right(self._held, place, lo=start, key=attrgetter("place"))

    async def news(self) -> None:
        """Wait until there may be other events, or some seconds have gone by."""
        if self.is_over:
            return
        woken = self._loop.create_future()
        self._waiting.add(woken)
        try:
            await woken
        finally:
            self._waiting.discard(woken)

    def page_after(self, place: Place) -> list[Told] | None:
        """Earlier events than those that are held; None where the feed has lost some. Blocks, and asks Redis."""
        if place.number < 0:
            changes = self._store.changes(f"{place.ms - 1}-{_LAST_NUMBER}" if place.ms else "0-0", count=_PAGE)
            return self._teller.told(changes)
        found = self._store.changes_since(str(place), count=_PAGE)
        return None if found is None else self._teller.told(found)

    def has(self, place: Place) -> bool:
        """Whether the feed has the entry of this place, and so all later ones. Blocks, and asks Redis."""
        return self._store.changes_since(str(place), count=0) is not None

    def gap(self) -> Told:
        """The event for who was at a place that the feed has no more. Blocks, and asks Redis."""
        return gap(_newest(self._store))

    # -- the reader ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the reader, and wait for it; not in the loop."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        self._ending = asyncio.ensure_future(self._end_with_server())

    async def _end_with_server(self) -> None:
        await self._server_stopping.wait()
        self.is_over = True
        self._wake()

    def _read(self) -> None:
        while not self._stopping.is_set() and not self._is_over_without():
            try:
                self._step()
            except LaunchError as error:
                log.debug("events.away: %s", error)
                self._pause()
            except Exception:
                log.exception("events.failed")
                self._pause()
        if not self._server_stopping.is_set():
            self._loop.call_soon_threadsafe(self._end)

    def _is_over_without(self) -> bool:
        """Whether nobody has followed for some time: then nobody can any more."""
        with self._lock:
            self._is_unused = not self._followers and time.monotonic() - self._used_at > _LINGER_S
            return self._is_unused

    def _pause(self) -> None:
        self._is_doubtful = True
        self._hand_over([])
        self._stopping.wait(_WAIT_S)

    def _keep(self) -> None:
        """Have the feed kept. Raises LaunchError where that fails, and there is no feed."""
        try:
            self._acting.want_changes()
        except LaunchError as error:
            # Another may keep it; and the user that acts may be locked out of Redis while the one that reads is not.
            if not self._store.newest_change():
                raise
            log.debug("events.not_kept: %s", error)

    def _step(self) -> None:
        if time.monotonic() >= self._renew_at:
            self._keep()
            self._renew_at = time.monotonic() + _RENEW_S
            self._is_doubtful = True
        changes = [] if self._is_doubtful else self._store.changes(str(self._place), count=_PAGE, block_s=_WAIT_S)
        # Who is as far behind as the feed reaches back does not see that some of it is lost.
        if self._is_doubtful or len(changes) == _PAGE:
            if not self.has(self._place):
                lost = self.gap()
                self._place = lost.place
                self._is_doubtful = False
                self._hand_over([lost])
                return
            self._is_doubtful = False
        told = self._teller.told(changes)
        if told:
            self._place = told[-1].place
        self._hand_over(told)

    def _hand_over(self, told: Sequence[Told]) -> None:
        """Give events to those who follow, and let the loop do other things for as long as that has taken."""
        began = time.monotonic()
        if not told and began - self._woken_at < _TURN_S:
            return
        taken = threading.Event()
        self._loop.call_soon_threadsafe(self._take, told, taken)
        taken.wait(_HAND_OVER_S)
        self._stopping.wait(min(time.monotonic() - began, _MOST_PAUSE_S))

    # -- in the loop again -----------------------------------------------------------------------------------------

    def _take(self, told: Sequence[Told], taken: threading.Event) -> None:
        for one in told:
            self._held.append(one)
            self._bytes += one.size
            self.newest = one.place
            if one.kind == GAP:
                self._after, self._since = one.place, self.end
        self._forget()
        self._wake()
        # Those who follow are woken before this is called.
        self._loop.call_soon(self._loop.call_soon, taken.set)

    def _forget(self) -> None:
        count = max(0, len(self._held) - _MOST_EVENTS)
        self._bytes -= sum(one.size for one in self._held[:count])
        while self._bytes > _MOST_BYTES:
            self._bytes -= self._held[count].size
            count += 1
        if count:
            if self.first + count > self._since:
                self._after = self._held[count - 1].place
            del self._held[:count]
            self.first += count

    def _wake(self) -> None:
        self._woken_at = time.monotonic()
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)
        self._waiting.clear()

    def _end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self.is_over = True
        self._wake()


def _newest(store: Store) -> Place:
    """The place of the newest change."""
    return Place.of_text(store.newest_change()) or Place(0, 0)
