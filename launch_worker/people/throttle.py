"""Slows down those who guess passwords, without a way to lock somebody else out.

A name that others guess at is never refused: a login with it only takes longer, and that by seconds at most. An address
from which logins fail again and again is refused for a while, and it alone; where the same person logged in from that
address before, only failures with this name count there.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launch_worker.errors import LoginError

#: Failures that cost nothing: people mistype.
_FREE = 5
#: Seconds of the first wait; each further failure doubles it.
_FIRST_S = 0.5
#: Seconds of the longest wait for a login with a name that others guess at.
_MOST_FOR_NAME_S = 2.0
#: Seconds between two logins from an address that guesses, at most.
_MOST_FOR_ADDRESS_S = 60.0
#: Seconds that a login may wait for its turn; one that would wait longer is refused.
_PATIENCE_S = 5.0
#: Seconds after which half of the failures are forgotten.
_HALF_LIFE_S = 300.0
#: Names, addresses and pairs that are remembered, the ones used last.
_MOST_KEYS = 20_000

#: Kind and parts of what is counted: an address, a name, or both.
Key = tuple[str, ...]


class TooManyLoginsError(LoginError):
    """This address has failed too often; `wait_s` says when it may try again."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__(f"too many logins from this address have failed; try again in {max(1, round(wait_s))} s")


@dataclass
class _Count:
    failures: float = 0.0
    #: Time of the last change of `failures`.
    at: float = 0.0
    #: Time before which no further login of this address begins.
    free_at: float = 0.0


class Throttle:
    """The failed logins of one server. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[Key, _Count] = OrderedDict()
        self._known: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, name: str, address: str) -> float:
        """Take a turn for a login. Returns the seconds to wait before it; raises TooManyLoginsError.

        Tell `failed` or `succeeded` afterwards. Names are in their one spelling (`names.folded_name`).
        """
        now, place = self._clock(), _network(address)
        with self._lock:
            is_known = (name, place) in self._known
            count = self._count(("both", name, place) if is_known else ("address", place), now)
            gap = min(_wait(count.failures), _MOST_FOR_ADDRESS_S)
            wait = max(0.0, count.free_at - now)
            if wait > _PATIENCE_S:
                raise TooManyLoginsError(wait)
            count.free_at = now + wait + gap
            if not is_known:
                wait = max(wait, min(_wait(self._count(("name", name), now).failures), _MOST_FOR_NAME_S))
            return wait

    def failed(self, name: str, address: str) -> None:
        now, place = self._clock(), _network(address)
        with self._lock:
            is_known = (name, place) in self._known
            for key in [("both", name, place)] if is_known else [("address", place), ("name", name)]:
                count = self._count(key, now)
                count.failures += 1
                count.free_at = max(count.free_at, now + min(_wait(count.failures), _MOST_FOR_ADDRESS_S))

    def succeeded(self, name: str, address: str) -> None:
        place = _network(address)
        with self._lock:
            self._known[(name, place)] = None
            self._known.move_to_end((name, place))
            _shorten(self._known)
            self._counts.pop(("both", name, place), None)

    def _count(self, key: Key, now: float) -> _Count:
        """The failures of a key as they are now: some are forgotten as time goes by."""
        count = self._counts.setdefault(key, _Count(at=now))
        count.failures *= 0.5 ** ((now - count.at) / _HALF_LIFE_S)
        count.at = now
        self._counts.move_to_end(key)
        _shorten(self._counts)
        return count


def _wait(failures: float) -> float:
    over = failures - _FREE
    return _FIRST_S * 2 ** min(over, 20) if over >= 0 else 0.0


def _shorten(kept: OrderedDict[Key, Any]) -> None:
    while len(kept) > _MOST_KEYS:
        kept.popitem(last=False)


def _network(address: str) -> str:
    """The addresses that one person may have: of IPv6 a whole network of 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
