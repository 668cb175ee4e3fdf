"""Calls scripts on one Redis, and reads what producers look at too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from launch_worker.errors import LaunchError
from launch_worker.redis_url import RedisUrl
from launch_worker.store import keys
from launch_worker.store.redis.library import function_of, is_loaded_already, library
from launch_worker.store.redis.transport import Again, NotReady, Transport
from launch_worker.store.redis.wire import Wire
from launch_worker.untrusted.text import clean, read_map

if TYPE_CHECKING:
    from launch_worker.store.redis.redis_py import RedisPy

#: Characters of an actor's name at most.
_MOST_ACTOR = 200


class Client:
    """Base of the store's parts: one connection, one rule for repeating. Thread-safe. Raises BrokerUnavailableError."""

    def __init__(self, url: str, *, client_name: str = "launch", is_quick: bool = False) -> None:
        """With `is_quick`, which is for one thread only, redis-py is not imported unless something goes wrong."""
        self.url = url
        self._name = client_name
        self._transport: Transport
        if is_quick and Wire.fits(url):
            self._transport = Wire(url, name=client_name)
        else:
            self._transport = self._use_redis_py()

    def _use_redis_py(self) -> RedisPy:
        from launch_worker.store.redis.connection import connect
        from launch_worker.store.redis.redis_py import RedisPy

        # redis-py's annotations fit neither RESP2 nor RESP3 replies.
        self._redis: Any = connect(self.url, name=self._name)
        self._redis_py = RedisPy(self._redis, self.url)
        return self._redis_py

    def close(self) -> None:
        self._transport.close()

    def trim(self) -> None:
        """Close connections that no call has needed since the last trim."""
        self._redis_py.trim()

    @cached_property
    def acl_user(self) -> str:
        """The user by whom this client logs in to Redis; '' for the usual one."""
        user = RedisUrl.parse(self.url).username
        return "" if user == "default" else user

    def named(self, actor: str) -> str:
        """The name of a person who acts, as changes tell it: with the ACL user, if not the usual one; '' stays ''.

        It is what the client says: Redis cannot vouch for it.
        """
        return named(actor, self.acl_user) if actor else ""

    def exists(self, run_id: str) -> bool:
        """Whether there is such a run, or a group by its id as names in Redis have it."""
        return bool(self._command("EXISTS", keys.run(run_id), keys.group(run_id), keys.sweep(run_id)))

    def workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers, without values that no worker can have written."""
        owners = self._command("ZRANGE", keys.WORKERS, 0, -1)
        found = self._command("MGET", *(keys.worker(text(owner)) for owner in owners)) if owners else []
        return [said for description in found if (said := described(read_map(description or b"")))]

    def notice_channels(self) -> tuple[str, ...] | None:
        """The names of the channels that notices may go to; None while no process sends notices."""
        found = self._command("GET", keys.NOTICE_SENDER)
        return None if found is None else tuple(text(found).split())

    def trusted_key(self, key_id: str) -> str:
        """The signing key with an id as an admin has it kept (JSON), revoked ones too; '' for none."""
        return text(self._command("HGET", keys.TRUSTED_KEYS, key_id) or "")

    def queue_names(self) -> list[str]:
        """Every queue that a run was submitted to, or that was configured."""
        return sorted(text(name) for name in self._command("SMEMBERS", keys.QUEUES))

    def settings_of(self, kind: str, name: str) -> dict[str, str]:
        """The fields that an admin set of a queue or a pool (`kind`): config, limit, paused, pool, rank."""
        return pairs(self._command("HGETALL", keys.queue(name) if kind == "queue" else keys.pool(name)))

    def _command(self, *words: object) -> Any:
        """Send a command, which may be repeated. Raises NotReady, which only a call of a function may be refused by."""
        try:
            return self._transport.call(*words)
        except Again:
            self._transport.close()
            self._transport = self._use_redis_py()
            return self._transport.call(*words)

    def _error(self, problem: Exception) -> LaunchError:
        """The server's refusal as one sentence."""
        from launch_worker.store.redis.connection import clear_error

        return clear_error(self.url, problem)

    def _call(self, script: str, *args: object) -> Any:
        call = ("FCALL", function_of(script), 0, *args)
        try:
            return self._command(*call)
        except NotReady:
            pass
        try:
            self._make_ready(script)
            return self._command(*call)
        except NotReady as refused:
            raise self._error(refused) from refused

    def _call_many(self, script: str, calls: Sequence[Sequence[object]]) -> list[Any]:
        """The replies of these calls of one script, in one round trip after the first; an error of one is its reply.

        Each call is a step of its own. Raises BrokerUnavailableError, after which some may have been made.
        """
        from launch_worker.store.redis.connection import clear_errors

        if not calls:
            return []
        replies = [self._call(script, *calls[0])]
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for args in calls[1:]:
                pipe.execute_command("FCALL", function_of(script), 0, *args)
            replies += pipe.execute(raise_on_error=False) if len(calls) > 1 else []
        return [self._error(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def _make_ready(self, script: str) -> None:
        """Give the server what it lacks for a call that it has refused: the library."""
        try:
            self._command("FUNCTION", "LOAD", library().text)
        except LaunchError as error:
            if error.__cause__ is None or not is_loaded_already(error.__cause__):
                raise


#: Fields of a worker's description, and their types.
_SAID: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("worker", "owner", "host", "state"), str),
    **dict.fromkeys(("pid", "slots", "running"), int),
    "queues": list,
}


def described(said: dict[str, Any]) -> dict[str, Any]:
    """A worker's description, checked; empty for JSON that is no description."""
    if not all(isinstance(said.get(name), kind) for name, kind in _SAID.items()):
        return {}
    said["queues"] = [str(queue) for queue in said["queues"]]
    said["problem"] = None if said.get("problem") is None else str(said["problem"])
    # A worker of an older version does not say what it has.
    if not _is_capacity(said):
        for name in ("devices", "cpus", "memory"):
            said.pop(name, None)
    return said


def _is_capacity(said: dict[str, Any]) -> bool:
    devices, amounts = said.get("devices"), [said.get("cpus"), said.get("memory")]
    if not isinstance(devices, list) or not all(isinstance(device, dict) and "id" in device for device in devices):
        return False
    numbers: list[Any] = []
    for amount in amounts:
        if not isinstance(amount, dict):
            return False
        numbers += [amount.get("total"), amount.get("free")]
    for device in devices:
        use = device.get("use") or {}
        runs = device.get("runs") or []
        if not isinstance(use, dict) or not isinstance(runs, list):
            return False
        device["runs"] = [str(run) for run in runs]
        numbers += [device.get("memory") or 0, *(use.get(name) or 0 for name in ("memory_used", "memory_total"))]
    return all(isinstance(number, (int, float)) for number in numbers)


def named(actor: str, acl_user: str) -> str:
    """A person's name with the ACL user, if that is not the usual one."""
    suffix = f" as {clean(acl_user)[: _MOST_ACTOR // 2]}" if acl_user else ""
    return f"{clean(actor)[: _MOST_ACTOR - len(suffix)]}{suffix}"


def text(value: bytes | str) -> str:
    """A reply's bytes as text; what is not UTF-8 is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def pairs(fields: Any) -> dict[str, str]:
    """A hash's reply, a map or a flat list, as a dict of text."""
    if isinstance(fields, list) and len(fields) % 2 == 0:
        try:
            words = map(bytes.decode, fields)
            return dict(zip(words, words, strict=True))
        except (UnicodeDecodeError, TypeError):
            pass  # what is damaged is read below
    items = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return {text(name): text(value) for name, value in items}
