"""Calls scripts on one Redis, and reads what producers look at too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch_worker.errors import LaunchError
from launch_worker.redis_url import RedisUrl
from launch_worker.store import keys
from launch_worker.store.redis.library import function_of, is_loaded_already, is_not_ready, library
from launch_worker.store.redis.wire import Again, Refused, Wire
from launch_worker.untrusted.text import clean, read_map

#: Characters of an actor's name at most.
_MOST_ACTOR = 200


class Client:
    """Base of the store's parts: one connection, one rule for repeating. Thread-safe. Raises BrokerUnavailableError."""

    def __init__(self, url: str, *, client_name: str = "launch", is_quick: bool = False) -> None:
        """With `is_quick`, which is for one thread only, redis-py is not imported unless something goes wrong."""
        self.url = url
        self._name = client_name
        self._wire: Wire | None = None
        if is_quick and Wire.fits(url):
            self._wire = Wire(url, name=client_name)
        else:
            self._go_whole()

    def _go_whole(self) -> None:
        """Use redis-py from now on."""
        from launch_worker.store.redis.connection import connect
        from launch_worker.store.redis.lending import Lender

        self.close()
        self._wire = None
        # redis-py's annotations fit neither RESP2 nor RESP3 replies.
        self._redis: Any = connect(self.url, name=self._name)
        self._lender = Lender(self._redis)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
        elif "_redis" in self.__dict__:
            self._lender.close()
            self._redis.close()

    def named(self, actor: str) -> str:
        """The name of a person who acts, as changes tell it: with the ACL user, if not the usual one; '' stays ''.

        It is what the client says: Redis cannot vouch for it.
        """
        user = RedisUrl.parse(self.url).username
        suffix = f" as {clean(user)}" if user and user != "default" else ""
        return f"{clean(actor)[: _MOST_ACTOR - len(suffix)]}{suffix}" if actor else ""

    def exists(self, run_id: str) -> bool:
        """Whether there is such a run."""
        return bool(self._command("EXISTS", keys.run(run_id)))

    def workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers, without values that no worker can have written."""
        owners = self._command("ZRANGE", keys.WORKERS, 0, -1)
        found = self._command("MGET", *(keys.worker(text(owner)) for owner in owners)) if owners else []
        return [said for description in found if (said := _described(read_map(description or b"")))]

    def queue_names(self) -> list[str]:
        """Every queue that a run was submitted to, or that was configured."""
        return sorted(text(name) for name in self._command("SMEMBERS", keys.QUEUES))

    def settings_of(self, kind: str, name: str) -> dict[str, str]:
        """The fields that an admin set of a queue or a pool (`kind`): config, limit, paused, pool, rank."""
        return pairs(self._command("HGETALL", keys.queue(name) if kind == "queue" else keys.pool(name)))

    def _command(self, *args: str | int) -> Any:
        """Send a command that only reads."""
        if self._wire is not None:
            try:
                return self._wire.call(*args)
            except Again:
                self._go_whole()
            except Refused as refused:
                raise self._error(refused) from refused
        from launch_worker.store.redis.connection import clear_errors

        with clear_errors(self.url):
            return self._redis.execute_command(*args)

    def _error(self, problem: Exception) -> LaunchError:
        """The server's refusal as one sentence."""
        from launch_worker.store.redis.connection import clear_error

        return clear_error(self.url, problem)

    def _call(self, script: str, *args: object) -> Any:
        call = ("FCALL", function_of(script), 0, *args)
        if self._wire is not None:
            try:
                try:
                    return self._wire.call(*call)
                except Refused as refused:
                    if not is_not_ready(refused):
                        raise
                _load(self._wire.call)
                return self._wire.call(*call)
            except Again:
                self._go_whole()
            except Refused as refused:
                raise self._error(refused) from refused
        from redis.exceptions import ResponseError

        from launch_worker.store.redis.connection import clear_errors

        with clear_errors(self.url):
            try:
                return self._lender.call(*call)
            except ResponseError as error:
                if not is_not_ready(error):
                    raise
            self._make_ready(script)
            return self._lender.call(*call)

    def _make_ready(self, script: str) -> None:
        """Give the server what it lacks for a call that it has refused: the library."""
        _load(self._lender.call)


def _load(call: Callable[..., Any]) -> None:
    """Load the library by `call`, which sends one command. Does nothing when the server has it."""
    try:
        call("FUNCTION", "LOAD", library().text)
    except Exception as error:
        if not is_loaded_already(error):
            raise


#: Fields of a worker's description, and their types.
_SAID: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("worker", "owner", "host", "state"), str),
    **dict.fromkeys(("pid", "slots", "running"), int),
    "queues": list,
}


def _described(said: dict[str, Any]) -> dict[str, Any]:
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


def text(value: bytes | str) -> str:
    """A reply's bytes as text; what is not UTF-8 is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def pairs(fields: Any) -> dict[str, str]:
    """A hash's reply, a map or a flat list, as a dict of text."""
    items = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    return {text(name): text(value) for name, value in items}
