"""Makes kombu's Redis transport survive what ends a stock worker: garbage in a queue, a damaged key of a queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

import redis
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.celery.message import is_reply, rebuilt
from launch_worker.errors import LaunchError
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.broker")

_REFUSED_BEGINNING = 2000


class QueueClient(redis.Redis):
    """A client whose BRPOP returns messages of ours only, made anew; what it refuses is kept for people to read."""

    #: The list and the element that BRPOP returned last.
    taken: tuple[str, bytes] = ("", b"")

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if command_name != "BRPOP":
                raise
            if not str(error).startswith("WRONGTYPE"):
                # Read-only after a failover, out of memory, no rights: a stock worker would end; this one tries again.
                raise ConnectionError(str(error)) from error
            log.error("queue.damaged: a queue's key is not a list; it is set aside")
            heal()
            return None
        if command_name != "BRPOP" or not reply:
            return reply
        key, element = reply
        name = key.decode("utf-8", "replace")
        self.taken = (name, element)
        if _holds_replies(name):
            message, reason = (element, "") if is_reply(element) else (None, "it is no answer to a remote control")
        else:
            message, reason = rebuilt(name, element)
        if message is None:
            refuse(name, element, reason)
            return None
        return key, message


def _holds_replies(name: str) -> bool:
    if not name.endswith(".pidbox"):
        return False
    # A queue of runs may have any name.
    return not (LaunchAgent.initialized() and name in LaunchAgent.current().queues)


def refuse(key: str, element: bytes, reason: str) -> None:
    """Keep an element that was taken from a queue's list for people to read, and log it."""
    queue = key.partition("\x06")[0]
    log.error("item.refused queue=%s: %s", queue, reason)
    _with_store(lambda store: store.refuse(queue, reason, element[:_REFUSED_BEGINNING]))


def heal(*more: str) -> None:
    """Set keys of queues aside that are no lists: of all queues, of this worker's, and of these."""
    _with_store(lambda store: store.heal({*store.queues(), *LaunchAgent.current().queues, *more}))


def _with_store(call: Callable[[Store], object]) -> None:
    """Call with the store, or log that it failed: the refused element is in this process's log anyway."""
    try:
        call(LaunchAgent.current().api.store)
    except LaunchError as error:
        log.error("item.not_kept: %s", error)


class Channel(kombu_redis.Channel):
    """kombu's channel with our client, and one more transport option."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "strict_order")  # type: ignore[assignment]

    #: Queues that are consumed, and that the worker waits for itself (`queue_wait`).
    waited: ClassVar[frozenset[str]] = frozenset()
    #: Whether the agent's queues are served in their order, each with all its priorities before the next one's; else
    #: they take turns.
    strict_order = False

    @property
    def active_queues(self) -> list[str]:
        """The queues that kombu waits for."""
        return [name for name in super().active_queues if name not in Channel.waited]

    def note_waited(self) -> None:
        """Have the turns of the queues begin anew: others are waited for than before."""
        self._update_queue_cycle()  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for all priorities of a queue before the next queue; kombu asks for a priority of all queues first."""
        if not (self.strict_order and LaunchAgent.initialized()):
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
            return
        active, ranked = self.active_queues, LaunchAgent.current().queues
        # The system's own come first: they are short.
        queues = [name for name in active if name not in ranked] + [name for name in ranked if name in active]
        if not queues:
            return
        keys = [self._q_for_pri(name, step) for name in queues for step in self.priority_steps]  # type: ignore[no-untyped-call]
        words: list[Any] = ["BRPOP", *keys, timeout or self.brpop_timeout or 0]
        if self.global_keyprefix:
            words = self.client._prefix_args(words)
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()  # type: ignore[assignment]
        self.client.connection.send_command(*words)

    def _brpop_read(self, **options: Any) -> Any:
        """Refuse an element that causes an error of any kind, and take the next one."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, Empty, *self.connection_errors):
            raise
        except Exception as error:
            log.exception("item.failed")
            key, element = self.client.taken
            refuse(key, element, f"the broker's client cannot take it: {error!r:.200}")
            raise Empty from None

    def _receive_one(self, c: Any) -> Any:
        """Refuse a publication (remote control, events) that causes an error of any kind."""
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, Empty, *self.connection_errors):
            raise
        except Exception:
            log.exception("publication.refused")
            raise Empty from None

    def maybe_refresh_binding_expiry(self) -> None:
        """Leave it to the next second what a full Redis refuses; of a refusal kombu logs a traceback each time."""
        try:
            super().maybe_refresh_binding_expiry()  # type: ignore[no-untyped-call]
        except ResponseError as error:
            raise ConnectionError(str(error)) from error

    def _get_client(self) -> type[redis.Redis]:
        return QueueClient

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, Any]:
        """Make text of a body that kombu requeues as bytes: ours is not base64, and JSON has no bytes."""
        encoded, encoding = super().encode_body(body, encoding)  # type: ignore[no-untyped-call]
        return (encoded.decode() if isinstance(encoded, bytes) else encoded), encoding

    def _size(self, queue: str) -> int:
        try:
            size: int = super()._size(queue)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            log.error("queue.damaged queue=%s: its key is not a list; it is set aside", queue)
            _with_store(lambda store: store.heal([queue]))
            size = super()._size(queue)  # type: ignore[no-untyped-call]
        return size


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same, to the master that sentinels name."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "strict_order")  # type: ignore[assignment]


class Transport(kombu_redis.Transport):
    """What the `redis://` and `rediss://` schemes mean in this app."""

    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    """What `sentinel://` means in this app."""

    Channel = SentinelChannel
