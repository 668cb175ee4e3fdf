"""Configures, reads, pauses and deletes queues and pools in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from launch_worker.api.redis_connection import RedisConnection
from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.model.checks import MAX_LIMIT, check_queue_name
from launch_worker.queues.admits import admits_text, read_admits
from launch_worker.queues.described import MAX_RANK, USUAL_RANK, Pool, Queue, read_pool, read_queue
from launch_worker.untrusted.text import read_json, read_whole

if TYPE_CHECKING:
    from launch_worker.api.transport import Kind
    from launch_worker.queues.pool import PoolConfig
    from launch_worker.queues.queue import QueueConfig


class RedisQueues(RedisConnection):
    """The part of the transport for queues and pools."""

    def queue(self, name: str) -> Queue:
        lines = self.store.lines()
        if name not in lines:
            raise _no_queue(name)
        return self._queue(name, *lines[name])

    def queues(self) -> list[Queue]:
        return [self._queue(name, *line) for name, line in self.store.lines().items()]

    def pool(self, name: str) -> Pool:
        self._known_pool(name)
        return self._pool(name, self.store.queues())

    def pools(self) -> list[Pool]:
        waiting = self.store.queues()
        return [self._pool(name, waiting) for name in self.store.pools()]

    def configure(self, kind: Kind, name: str, settings: Mapping[str, Any], *, create: bool) -> None:
        if create:
            # Imported on demand: start-up time of commands.
            from launch_worker.queues.pool import check_pool_name

            (check_queue_name if kind == "queue" else check_pool_name)(name)
        if kind == "queue":
            fields = self._queue_fields(None if create else self._known_queue(name), settings)
        else:
            fields = self._pool_fields(None if create else self.pool(name), settings)
        if not self.store.configure(kind, name, fields, create=create, actor=self.actor):
            raise InputError(f"{kind} {name!r} is there already; change it with: launch-worker {kind}s set {name}")

    def pause(self, kind: Kind, name: str, *, paused: bool) -> None:
        self._check_known(kind, name)
        self.store.configure(kind, name, {"paused": "1" if paused else None}, actor=self.actor)

    def drop(self, kind: Kind, name: str) -> None:
        self._check_known(kind, name)
        if kind == "queue":
            reason, advice = self.store.delete_queue(name, actor=self.actor), "cancel them or wait for them"
        else:
            reason = self.store.delete_pool(name, actor=self.actor)
            advice = "take them out with: launch-worker queues set QUEUE --pool ''"
        if reason:
            raise RefusedError(f"{kind} {name!r} was not deleted: {reason}; {advice}")

    def _check_known(self, kind: Kind, name: str) -> None:
        if kind == "pool":
            self._known_pool(name)
        elif name not in self.store.queue_names():
            raise _no_queue(name)

    def _known_queue(self, name: str) -> dict[str, str]:
        self._check_known("queue", name)
        return self.store.settings_of("queue", name)

    def _known_pool(self, name: str) -> None:
        if name not in self.store.pools():
            raise NotFoundError(f"there is no pool {name!r}; make it with: launch-worker pools create {name}")

    def _queue_fields(self, before: dict[str, str] | None, settings: Mapping[str, Any]) -> dict[str, str | None]:
        given = dict(settings)
        kept = before or {}
        fields = _numbers(given) | _admitted(kept.get("admits", ""), given)
        if "pool" in given:
            pool = given.pop("pool")
            if pool:
                self._known_pool(pool)
            fields["pool"] = pool or None
        in_pool = fields.get("pool", kept.get("pool"))
        if not in_pool:
            if fields.get("rank"):
                raise InputError("rank is a place in a pool and this queue is in none; give it one with --pool POOL")
            if kept.get("rank"):
                fields["rank"] = None
        if not (given or fields.get("pool")):
            return fields
        config = _changed(read_queue(kept.get("config", "")), given)
        if in_pool:
            config.check_defaults(read_pool(self.store.settings_of("pool", in_pool).get("config", "")).defaults)
        if given:
            fields["config"] = _kept(config)
        return fields

    def _pool_fields(self, before: Pool | None, settings: Mapping[str, Any]) -> dict[str, str | None]:
        given = dict(settings)
        kept = self.store.settings_of("pool", before.name) if before else {}
        fields = _numbers(given) | _admitted(kept.get("admits", ""), given)
        if not given:
            return fields
        config = _changed(read_pool(before.config_json if before else ""), given)
        for name in before.queues if before else ():
            try:
                read_queue(self.store.settings_of("queue", name).get("config", "")).check_defaults(config.defaults)
            except InputError as error:
                raise InputError(f"queue {name!r} is in this pool: {error}") from None
        fields["config"] = _kept(config)
        return fields

    def _queue(self, name: str, waiting: int, later: int) -> Queue:
        kept = self.store.settings_of("queue", name)
        settings, problem = _readable(read_queue, kept.get("config", ""))
        pool = kept.get("pool", "")
        return Queue(
            name=name,
            limit=_read_number(kept.get("limit")),
            paused=bool(kept.get("paused")),
            pool=pool,
            rank=(_read_number(kept.get("rank")) or USUAL_RANK) if pool else None,
            waiting=waiting,
            later=later,
            running=self.store.running_in("queue", name),
            workers=self.store.consumers(name),
            config_json=kept.get("config", ""),
            problem=problem,
            admits=read_admits(kept.get("admits", "")),
            settings=settings,
        )

    def _pool(self, name: str, waiting: Mapping[str, int]) -> Pool:
        kept = self.store.settings_of("pool", name)
        settings, problem = _readable(read_pool, kept.get("config", ""))
        queues = tuple(queue for queue, _ in self.store.pool_queues(name))
        return Pool(
            name=name,
            limit=_read_number(kept.get("limit")),
            paused=bool(kept.get("paused")),
            queues=queues,
            waiting=sum(waiting.get(queue, 0) for queue in queues),
            running=self.store.running_in("pool", name),
            config_json=kept.get("config", ""),
            problem=problem,
            admits=read_admits(kept.get("admits", "")),
            settings=settings,
        )


def _admitted(before: str, given: dict[str, Any]) -> dict[str, str | None]:
    """The store's field of the setting `admits`, which is taken out of what was given."""
    if "admits" not in given:
        return {}
    wanted = given.pop("admits")
    changed = {} if wanted is None else read_admits(before) | dict(wanted)
    return {"admits": admits_text({group: priority for group, priority in changed.items() if priority}) or None}


def _numbers(given: dict[str, Any]) -> dict[str, str | None]:
    """The store's fields of the settings that are numbers, which are taken out of what was given."""
    bounds = {"limit": (0, MAX_LIMIT), "rank": (1, MAX_RANK)}
    return {
        name: _number(name, given.pop(name), least=least, most=most)
        for name, (least, most) in bounds.items()
        if name in given
    }


#: Values of settings that were taken away.
_NOTHING: dict[str, Any] = {
    "resource": "",
    "variables": {},
    "macro_env": (),
    "allow_env": (),
    "allow_uris": (),
    "priorities": True,
    "description": "",
    "sandbox": "",
    "writable": (),
    "run_as": "",
    "sealing_key": "",
    "signers": (),
}
#: Settings of which entries change one by one.
_MAPS = ("container", "defaults", "accounts", "limits")


def _changed(config: Any, given: Mapping[str, Any]) -> Any:
    settings = {}
    for name, value in given.items():
        if name in _MAPS:
            settings[name] = dict.fromkeys(getattr(config, name)) if value is None else value
        else:
            settings[name] = _NOTHING[name] if value is None else value
    return config.changed(**settings)


def _kept(config: QueueConfig | PoolConfig) -> str | None:
    text = config.to_json()
    return None if text == "{}" else text


def _readable(read: Any, text: str) -> tuple[dict[str, Any], str]:
    """The settings for people, and the reason why there are none, '' for no reason."""
    try:
        settings: dict[str, Any] = read_json(read(text).to_json())
    except InputError as error:
        return {}, str(error)
    return settings, ""


def _number(what: str, value: Any, *, least: int, most: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{what} must be a whole number from {least} to {most:,}, not {value!r}")
    return str(value)


def _read_number(text: str | None) -> int | None:
    return read_whole(text)


def _no_queue(name: str) -> NotFoundError:
    return NotFoundError(f"there is no queue {name!r}; list them with: launch-worker queues")
