"""kombu's Redis transport, made to survive what a stock worker dies of: garbage in a queue, a queue's key damaged."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

import redis
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError, ResponseError

from launch_worker.agent import LaunchAgent
from launch_worker.errors import LaunchError
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.broker")

_REFUSED_BEGINNING = 2000


def refusal(queue: str, item: bytes) -> str:
    """Why a queue element cannot be a Celery message; '' for one that can."""
    try:
        message = json.loads(item)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(message, dict):
        return "it is not a JSON object"
    properties, headers, body = message.get("properties"), message.get("headers"), message.get("body")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "it has no properties with a delivery tag"
    if not isinstance(properties.get("delivery_info") or {}, dict):
        return "its delivery info is not an object"
    if not isinstance(headers, dict):
        return "it has no headers"
    if not isinstance(body, str):
        return "its body is not text"
    encoding = properties.get("body_encoding")
    if encoding not in (None, "base64", "utf-8"):
        return "its body encoding is unknown"
    try:
        content = json.loads(base64.b64decode(body, validate=True) if encoding == "base64" else body)
    except (ValueError, RecursionError, binascii.Error):
        return "its body is not JSON"
    if message.get("content-type") != "application/json":
        return "its content type is not application/json"
    # Answers to `celery inspect` arrive by BRPOP too, and are not tasks.
    return "" if queue.endswith(".pidbox") else _no_task(headers, content)


def _no_task(headers: dict[str, Any], content: Any) -> str:
    if not all(isinstance(headers.get(name), str) for name in ("id", "task")):
        return "its headers name no task and id"
    if not (isinstance(content, list) and len(content) == 3):
        return "its body is not [args, kwargs, embed]"
    args, kwargs, embed = content
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(embed, (dict, type(None))):
        return "its body is not [args, kwargs, embed]"
    if headers["task"] == "launch_worker.run" and [type(argument) for argument in args] != [str, int]:
        return "its arguments are not a run and a number"
    return ""


class QueueClient(redis.Redis):
    """A client whose BRPOP hands out well-formed messages only. What it refuses is kept aside for reading."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if command_name != "BRPOP":
                raise
            if not str(error).startswith("WRONGTYPE"):
                # Read-only after a failover, out of memory, no rights: a stock worker ends. This one tries again.
                raise ConnectionError(str(error)) from error
            log.error("queue.damaged: a queue's key is not a list; it is set aside")
            _with_store(lambda store: store.heal({*store.queues(), *LaunchAgent.current().queues}))
            return None
        if command_name == "BRPOP" and reply:
            queue, item = reply
            name = queue.decode("utf-8", "replace").partition("\x06")[0]
            reason = refusal(name, item)
            if reason:
                log.error("item.refused queue=%s: %s", name, reason)
                _with_store(lambda store: store.refuse(name, reason, item[:_REFUSED_BEGINNING]))
                return None
        return reply


def _with_store(call: Callable[[Store], object]) -> None:
    """Best effort: what could not be kept aside is in this process's log."""
    try:
        call(LaunchAgent.current().api.store)
    except LaunchError as error:
        log.error("item.not_kept: %s", error)


class Channel(kombu_redis.Channel):
    """kombu's channel with our client."""

    #: The agent's queues are served in their order, each with all its priorities before the next; else they take turns.
    strict_order: ClassVar[bool] = False

    def _brpop_start(self, timeout: float | None = None) -> None:
        """kombu's own asks for a priority of all queues before the next priority."""
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

    def _get_client(self) -> type[redis.Redis]:
        return QueueClient

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, Any]:
        """kombu requeues an item with its body as bytes; ours is not base64, and JSON has no bytes."""
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


class Transport(kombu_redis.Transport):
    """What the `redis://` and `rediss://` schemes mean in this app."""

    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    """What `sentinel://` means in this app."""

    Channel = SentinelChannel
