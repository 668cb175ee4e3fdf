"""Delivers notices from the outbox: a thread for each channel that has some, so that no receiver holds another up."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from launch_worker.database.database import Database
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.notice import Lent, Notice
from launch_worker.model.notify import CHANNEL_NAME, field_of
from launch_worker.notifications import message as messages
from launch_worker.notifications.channel import Channel
from launch_worker.notifications.channels import Channels
from launch_worker.notifications.compose import Composer
from launch_worker.notifications.message import Message
from launch_worker.notifications.rules import Rules
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.senders.senders import TIMEOUT_S, Senders
from launch_worker.settings import Settings
from launch_worker.store.notices import AT_ONCE, SENDER_LIFE_S, Fate
from launch_worker.store.store import Store
from launch_worker.untrusted.text import read_whole

log = logging.getLogger("launch_worker.notifications")

#: Seconds between two looks at the channels, and at what is due, where no news come.
_LOOK_S = 5.0
#: Seconds between two looks whether another sender still has a channel.
_HELD_LOOK_S = 1.0
#: Seconds after which a thread that waits looks whether it is to stop.
_TURN_S = 0.5
#: Seconds of a lease, which each try to send renews.
_LEASE_S = 15.0
#: Seconds until a notice is tried again: first, and at most.
_AGAIN_S = 5.0
_AGAIN_CAP_S = 7200.0
#: Seconds for which a receiver that fails is left alone: first, at most, and at most where it asks for it itself.
_PAUSE_S = 1.0
_PAUSE_CAP_S = 60.0
_ASKED_CAP_S = 86400.0
#: Seconds after its making in which a notice is tried.
GIVE_UP_S = 3 * 86400.0
#: Channels to which notices are sent at once: a thread each.
_MOST_THREADS = 64
#: Seconds of a stop in which threads come to an end.
_STOP_S = 3.0
#: Notices in one digest at most.
MOST_PARTS = AT_ONCE


class _Sends(Protocol):
    def send(self, channel: Channel, message: Message, *, timeout_s: float = ...) -> None: ...


class Deliverer:
    """Sends what is in the outbox, from `start` to `stop`. Any number of processes may have one.

    Each channel is lent to one of them at a time, so its notices go in their order. A sender that dies between the
    sending of a notice and the note of it has it sent again, with the same id.
    """

    def __init__(
        self,
        store: Store,
        channels: Callable[[], Sequence[Channel]],
        senders: _Sends,
        *,
        look: Callable[[], object] = lambda: None,
        look_s: float = _LOOK_S,
        lease_s: float = _LEASE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`channels` reads all channels; `look` has the rules put their notices into the outbox."""
        self._store = store
        self._read_channels = channels
        self._senders = senders
        self._look = look
        self._look_s = look_s
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._holder = f"{pid_space()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._composer = Composer(store)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        #: Channels by name; None until they were read once.
        self._channels: dict[str, Channel] | None = None
        self._known = threading.Event()
        #: Threads that send, by channel; and the server time in microseconds before which a channel is not looked at.
        self._active: dict[str, threading.Thread] = {}
        self._next_at: dict[str, int] = {}
        self._paused: set[str] = set()
        #: Word of the failure that was logged last, of a part that does its work again and again.
        self._said = ""

    def start(self) -> None:
        """Start the threads."""
        for name, run in (("notices", self._run), ("channels", self._keep), ("rules", self._watch_rules)):
            thread = threading.Thread(target=run, name=f"launch-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop; a send that is under way may be cut, and is made again by another sender."""
        self._stopping.set()
        deadline = time.monotonic() + _STOP_S
        for thread in (*self._threads, *self._active.copy().values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    # -- the threads that last -----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Read the channels, and tell submitters of them, again and again."""
        while not self._stopping.is_set():
            self._tried("notices.channels_unread", self._read)
            self._stopping.wait(self._look_s)

    def _read(self) -> None:
        try:
            found = self._read_channels()
        except LaunchError:
            if self._channels is None:
                raise
            # As they were known: the database may be away for a while.
            self._register()
            raise
        self._channels = {channel.name: channel for channel in found}
        self._known.set()
        self._register()

    def _register(self) -> None:
        channels = self._channels or {}
        projects: dict[str, list[str]] = {}
        for channel in channels.values():
            for project, states in channel.projects.items():
                projects.setdefault(project, []).append(f"{channel.name}:{'+'.join(states) or 'end'}")
        told = {project: field_of(asked) for project, asked in projects.items()}
        self._store.keep_channels(sorted(channels), told, life_s=SENDER_LIFE_S)

    def _watch_rules(self) -> None:
        while not self._stopping.wait(self._look_s):
            self._tried("notices.rules_failed", self._look)

    def _tried(self, word: str, act: Callable[[], object]) -> None:
        """Do it; a failure is said once."""
        try:
            act()
            self._said = "" if self._said == word else self._said
        except LaunchError as error:
            if self._said != word:
                self._said = word
                log.warning("%s: %s", word, error)
        except Exception:
            # A fault of one part must not end the sending of notices.
            log.exception("%s", word)

    def _run(self) -> None:
        """Look at what is due, and wait for news, again and again."""
        while not self._known.wait(_TURN_S):
            if self._stopping.is_set():
                return
        while not self._stopping.is_set():
            try:
                with self._store.watch_outbox() as wait:
                    with self._lock:
                        # News may have been missed.
                        self._next_at.clear()
                    while not self._stopping.is_set():
                        self._dispatch()
                        self._await(wait)
            except BrokerUnavailableError as error:
                log.warning("notices.wait: %s", error)
                self._stopping.wait(1.0)
            except Exception:
                log.exception("notices.failed")
                self._stopping.wait(self._look_s)

    def _await(self, wait: Callable[[float], bool]) -> None:
        """Wait for a new notice, or until a channel is to be looked at again."""
        began = time.monotonic()
        while not self._stopping.is_set():
            with self._lock:
                # A thread that ends sets another time.
                first = min(self._next_at.values(), default=0)
            until_s = (first - self._now_us()) / 1e6 if first else self._look_s
            left_s = min(max(until_s, 0.1), began + self._look_s - time.monotonic())
            if left_s <= 0:
                return
            if wait(min(left_s, _TURN_S)):
                with self._lock:
                    # A receiver that failed stays alone; another channel may have something now.
                    self._next_at = {name: self._next_at[name] for name in self._paused & {*self._next_at}}
                return
            if left_s <= _TURN_S:
                return

    def _now_us(self) -> int:
        # The clocks of machines may differ by seconds: it decides only when to ask.
        return time.time_ns() // 1000

    def _dispatch(self) -> None:
        """Start a thread for each channel that may have due notices."""
        now = self._now_us()
        for name in self._store.channels_with_notices():
            with self._lock:
                is_busy = name in self._active
                is_early = self._next_at.get(name, 0) > now
                if is_busy or is_early or len(self._active) >= _MOST_THREADS:
                    continue
                thread = threading.Thread(target=self._serve, args=(name,), name=f"launch-channel-{name}", daemon=True)
                self._active[name] = thread
            thread.start()

    # -- one channel ---------------------------------------------------------------------------------------------------

    def _serve(self, name: str) -> None:
        """Send what a channel has, until nothing is due."""
        next_at, is_paused = self._now_us() + int(self._look_s * 1e6), False
        try:
            while not self._stopping.is_set():
                lent = self._store.lend_notices(name, self._holder, lease_s=self._lease_s)
                if lent.holder and self._is_dead(lent.holder):
                    self._store.return_channel(name, lent.holder)
                    continue
                if not lent.notices:
                    # 0: nothing waits. The time is the server's; a short while at least passes until it asks again.
                    next_at, is_paused = lent.until or next_at, lent.why != "due"
                    if lent.why == "held":
                        # Who holds it may die before its lease is over.
                        next_at = min(next_at, self._now_us() + int(_HELD_LOOK_S * 1e6))
                    break
                if not self._send_all(name, lent):
                    break
            else:
                self._store.return_channel(name, self._holder)
        except LaunchError as error:
            log.warning("notices.unsent channel=%s: %s", name, error)
        except Exception:
            log.exception("notices.unsent channel=%s", name)
        finally:
            with self._lock:
                self._active.pop(name, None)
                self._next_at[name] = next_at
                (self._paused.add if is_paused else self._paused.discard)(name)

    def _is_dead(self, holder: str) -> bool:
        """Whether a sender that sees the same pids has ended without a word; its lease need not run out."""
        space, _, rest = holder.partition(":")
        if space != self._holder.partition(":")[0]:
            return False
        try:
            os.kill(int(rest.partition(":")[0]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def _channel(self, name: str) -> Channel | None:
        channel = (self._channels or {}).get(name)
        if channel is None and CHANNEL_NAME.fullmatch(name):
            # One that was made a moment ago.
            self._read()
            channel = (self._channels or {}).get(name)
        return channel

    def _send_all(self, name: str, lent: Lent) -> bool:
        """Send these notices in order. False where the rest is another sender's, or for later."""
        channel, renewed = self._channel(name), time.monotonic()

        def settle(of: Sequence[Notice], fate: Fate, **more: object) -> bool:
            nonlocal renewed
            ids = [notice.id for notice in of]
            is_held = self._store.settle_notices(name, self._holder, ids, fate, lease_s=self._lease_s, **more)  # type: ignore[arg-type]
            renewed = time.monotonic()
            return is_held

        if channel is None:
            log.warning("notices.unknown channel=%s notices=%d: there is no such channel", name, len(lent.notices))
            return settle(lent.notices, "unknown", words="there is no such channel")
        now = self._store.now_us()
        quiet_until = channel.quiet_until(now)
        if quiet_until is not None:
            return settle(lent.notices, "put_off", next_at=quiet_until, mark=f"quiet.{quiet_until}")
        failures = lent.failures
        for mark, found in groupby(lent.notices, key=lambda notice: notice.mark or notice.id):
            parts = list(found)
            if self._stopping.is_set() or time.monotonic() - renewed > self._lease_s - self._timeout_s - 2.0:
                # Somebody else may have the channel before this send is over.
                return True
            digest = _digest_id(name, mark, parts) if parts[0].mark else ""
            try:
                self._senders.send(channel, self._message(channel, parts, digest), timeout_s=self._timeout_s)
            except BrokerUnavailableError:
                raise
            except SendError as error:
                if error.is_final:
                    log.warning("notices.refused channel=%s notice=%s: %s", name, parts[0].id, error)
                    if not settle(parts, "refused", words=str(error)):
                        return False
                    continue
                return self._later(name, parts, error, failures, digest, settle)
            except Exception as error:
                # A fault of a sender, or of a text: the notice is tried again, and the others go on.
                log.exception("notices.failed channel=%s notice=%s", name, parts[0].id)
                return self._later(name, parts, SendError(type(error).__name__), failures, digest, settle)
            failures = 0
            if not settle(parts, "sent"):
                return False
        return True

    def _later(
        self,
        name: str,
        parts: Sequence[Notice],
        error: SendError,
        failures: int,
        digest: str,
        settle: Callable[..., bool],
    ) -> bool:
        """Note that a receiver failed. A notice that is too old by now is given up."""
        now = self._store.now_us()
        made_at = min(read_whole(str(notice.facts.get("at") or "")) or now for notice in parts)
        if now - made_at > GIVE_UP_S * 1e6:
            log.error("notices.given_up channel=%s notice=%s: %s", name, parts[0].id, error)
            settle(parts, "given_up", words=str(error))
        pause_s = min(_PAUSE_S * 2.0 ** min(failures, 20), _PAUSE_CAP_S) * random.uniform(0.5, 1.0)
        again_s = min(_AGAIN_S * 2.0 ** min(parts[0].tries, 20), _AGAIN_CAP_S) * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = min(error.retry_after_s, _ASKED_CAP_S)
        log.log(
            logging.WARNING if failures in (0, 10, 100) else logging.DEBUG,
            "notices.later channel=%s failures=%d pause_s=%.0f: %s",
            *(name, failures + 1, pause_s, error),
        )
        settle(
            parts,
            "later",
            next_at=now + int(max(again_s, pause_s) * 1e6),
            pause_until=now + int(pause_s * 1e6),
            words=str(error),
            mark=digest,
        )
        return True

    def _message(self, channel: Channel, parts: Sequence[Notice], digest: str) -> Message:
        found = [self._composer.message(notice, has_output=channel.has_output and not digest) for notice in parts]
        return messages.digest(digest, found[-1].at, found) if digest else found[0]


def deliverer_of(store: Store, database: Database, settings: Settings) -> Deliverer:
    """The deliverer of a process that has the database."""
    rules = Rules(
        store, database, tell=lambda channel, name, alarm: store.notify(channel, name, {"alarm": alarm.as_text()})
    )
    return Deliverer(store, Channels(database).all, Senders(settings), look=rules.look)


def pid_space() -> str:
    """Where a pid means one process: a machine since its start, and a namespace, which a container has for itself."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        # Nobody else is in it.
        return f"{socket.gethostname()}.{secrets.token_hex(8)}"
    return f"{socket.gethostname()}.{boot}.{namespace}"


def _digest_id(channel: str, mark: str, parts: Sequence[Notice]) -> str:
    """The id of a digest: the same for the same parts, which nothing is added to once it is due."""
    if mark.startswith("digest."):
        return mark
    said = "\n".join([channel, mark, *(notice.id for notice in parts)])
    return f"digest.{hashlib.sha256(said.encode()).hexdigest()[:32]}"
