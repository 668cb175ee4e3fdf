"""Makes, shows, changes, pauses and deletes queues and pools, for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from launch_worker.api.connection import Connection
from launch_worker.errors import InputError, RefusedError
from launch_worker.model.checks import MAX_LIMIT, check_queue_name
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.queues.pool import PoolConfig
    from launch_worker.queues.queue import QueueConfig

#: Rank in its pool of a queue that was given none.
USUAL_RANK = 1000
MAX_RANK = 1_000_000


@dataclass(frozen=True)
class Queue:
    """A queue at the time it was read."""

    name: str
    #: Most runs of it at once; None for no limit.
    limit: int | None
    paused: bool
    #: Name of its pool, '' for none, and its place there, 1 the first.
    pool: str
    rank: int | None
    #: Numbers of runs that are ready, and of runs that wait for their time or for other runs.
    waiting: int
    later: int
    running: int
    #: Number of live workers that consume it.
    workers: int
    #: The JSON of `launch_worker.queues.queue.QueueConfig`, '' for none.
    config_json: str = ""
    #: Reason why its configuration cannot be read; runs are refused meanwhile. '' for none.
    problem: str = ""
    #: Settings that an admin set, by name.
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> QueueConfig:
        """The configuration. Raises InputError when it is damaged."""
        return _queue_config(self.config_json)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "waiting": self.waiting,
            "later": self.later,
            "running": self.running,
            "limit": self.limit,
            "paused": self.paused,
            "pool": self.pool or None,
            "rank": self.rank,
            "workers": self.workers,
            "resource": self.settings.get("resource"),
            "description": self.settings.get("description"),
            "container": self.settings.get("container", {}),
            "defaults": self.settings.get("defaults", {}),
            "variables": self.settings.get("variables", {}),
            "macro_env": self.settings.get("macro_env", []),
            "priorities": self.settings.get("priorities", True),
            "problem": self.problem or None,
        }


@dataclass(frozen=True)
class Pool:
    """A pool at the time it was read."""

    name: str
    limit: int | None
    paused: bool
    #: Names of its queues, in the order in which they are served.
    queues: tuple[str, ...]
    waiting: int
    running: int
    config_json: str = ""
    problem: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> PoolConfig:
        """The configuration. Raises InputError when it is damaged."""
        return _pool_config(self.config_json)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "waiting": self.waiting,
            "running": self.running,
            "limit": self.limit,
            "paused": self.paused,
            "queues": list(self.queues),
            "description": self.settings.get("description"),
            "defaults": self.settings.get("defaults", {}),
            "problem": self.problem or None,
        }


class PoolSettings(TypedDict, total=False):
    """The settings of a pool. None takes a setting away; those of `defaults` change one by one."""

    #: Most runs at once of all its queues.
    limit: int | None
    #: Defaults of runs, behind those of their queue: options of `launch-submit` by name.
    defaults: Mapping[str, Any] | None
    description: str | None


class QueueSettings(PoolSettings, total=False):
    """The settings of a queue. None takes a setting away; those of `container` and `defaults` change one by one.

    `container` and `macro_env` are trusted by workers: they may reach their machines.
    """

    pool: str | None
    #: Its place in the pool, 1 the first.
    rank: int | None
    resource: str | None
    container: Mapping[str, Any] | None
    variables: Mapping[str, Any] | None
    macro_env: Sequence[str] | None
    priorities: bool | None


class QueueApi(Connection):
    """The part of `Api` that is about queues and pools.

    A setting that is not given stays as it is. Everything raises InputError before anything is written, and
    BrokerUnavailableError.
    """

    # -- queues --------------------------------------------------------------------------------------------------

    def create_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue:
        """Make a queue; refused where it is there already. (The first run submitted to a queue makes it, too.)"""
        check_queue_name(name)
        fields = self._queue_fields(None, settings)
        if not self.store.configure("queue", name, fields, create=True, actor=self.actor):
            raise InputError(f"queue {name!r} is there already; change it with: launch-worker queues set {name}")
        return self.queue(name)

    def set_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue:
        """Change some of a queue's settings. Runs that were submitted keep the defaults that they got."""
        fields = self._queue_fields(self._known_queue(name), settings)
        self.store.configure("queue", name, fields, actor=self.actor)
        return self.queue(name)

    def queue(self, name: str) -> Queue:
        """The queue of this name. Raises InputError when there is none."""
        lines = self.store.lines()
        if name not in lines:
            raise _no_queue(name)
        return self._queue(name, *lines[name])

    def queues(self) -> list[Queue]:
        """Every queue that was made, or submitted to, by name."""
        return [self._queue(name, *line) for name, line in self.store.lines().items()]

    def pause_queue(self, name: str) -> None:
        """Let nothing of the queue start any more. Running runs go on."""
        self._known_queue(name)
        self.store.configure("queue", name, {"paused": "1"}, actor=self.actor)

    def resume_queue(self, name: str) -> None:
        """Let a paused queue go on: waiting runs start at once where there is place."""
        self._known_queue(name)
        self.store.configure("queue", name, {"paused": None}, actor=self.actor)

    def delete_queue(self, name: str) -> None:
        """Take a queue and its settings away. Raises RefusedError while runs wait in it; those that run go on."""
        self._known_queue(name)
        reason = self.store.delete_queue(name, actor=self.actor)
        if reason:
            raise RefusedError(f"queue {name!r} was not deleted: {reason}; cancel them or wait for them")

    # -- pools ---------------------------------------------------------------------------------------------------

    def create_pool(self, name: str, **settings: Unpack[PoolSettings]) -> Pool:
        """Make a pool; refused where it is there already. Queues are put into it with `set_queue(…, pool=…)`."""
        from launch_worker.queues.pool import check_pool_name

        check_pool_name(name)
        fields = self._pool_fields(None, settings)
        if not self.store.configure("pool", name, fields, create=True, actor=self.actor):
            raise InputError(f"pool {name!r} is there already; change it with: launch-worker pools set {name}")
        return self.pool(name)

    def set_pool(self, name: str, **settings: Unpack[PoolSettings]) -> Pool:
        """Change some of a pool's settings."""
        self.store.configure("pool", name, self._pool_fields(self.pool(name), settings), actor=self.actor)
        return self.pool(name)

    def pool(self, name: str) -> Pool:
        """The pool of this name. Raises InputError when there is none."""
        self._known_pool(name)
        return self._pool(name, self.store.queues())

    def pools(self) -> list[Pool]:
        """Every pool, by name."""
        waiting = self.store.queues()
        return [self._pool(name, waiting) for name in self.store.pools()]

    def pause_pool(self, name: str) -> None:
        """Let nothing of any queue of the pool start any more. Running runs go on."""
        self._known_pool(name)
        self.store.configure("pool", name, {"paused": "1"}, actor=self.actor)

    def resume_pool(self, name: str) -> None:
        """Let a paused pool go on; a queue that is paused itself stays paused."""
        self._known_pool(name)
        self.store.configure("pool", name, {"paused": None}, actor=self.actor)

    def delete_pool(self, name: str) -> None:
        """Take a pool away. Raises RefusedError while queues are in it."""
        self._known_pool(name)
        reason = self.store.delete_pool(name, actor=self.actor)
        if reason:
            raise RefusedError(
                f"pool {name!r} was not deleted: {reason}; take them out with: launch-worker queues set QUEUE --pool ''"
            )

    # -- what both need ------------------------------------------------------------------------------------------

    def _known_queue(self, name: str) -> dict[str, str]:
        if name not in self.store.queue_names():
            raise _no_queue(name)
        return self.store.settings_of("queue", name)

    def _known_pool(self, name: str) -> None:
        if name not in self.store.pools():
            raise InputError(f"there is no pool {name!r}; make it with: launch-worker pools create {name}")

    def _queue_fields(self, before: dict[str, str] | None, settings: QueueSettings) -> dict[str, str | None]:
        given = _given(settings, QueueSettings)
        kept = before or {}
        fields = _numbers(given)
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
        config = _changed(_queue_config(kept.get("config", "")), given)
        if in_pool:
            config.check_defaults(_pool_config(self.store.settings_of("pool", in_pool).get("config", "")).defaults)
        if given:
            fields["config"] = _kept(config)
        return fields

    def _pool_fields(self, before: Pool | None, settings: PoolSettings) -> dict[str, str | None]:
        given = _given(settings, PoolSettings)
        fields = _numbers(given)
        if not given:
            return fields
        config = _changed(_pool_config(before.config_json if before else ""), given)
        for name in before.queues if before else ():
            try:
                _queue_config(self.store.settings_of("queue", name).get("config", "")).check_defaults(config.defaults)
            except InputError as error:
                raise InputError(f"queue {name!r} is in this pool: {error}") from None
        fields["config"] = _kept(config)
        return fields

    def _queue(self, name: str, waiting: int, later: int) -> Queue:
        kept = self.store.settings_of("queue", name)
        settings, problem = _readable(_queue_config, kept.get("config", ""))
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
            settings=settings,
        )

    def _pool(self, name: str, waiting: Mapping[str, int]) -> Pool:
        kept = self.store.settings_of("pool", name)
        settings, problem = _readable(_pool_config, kept.get("config", ""))
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
            settings=settings,
        )


def _queue_config(text: str) -> QueueConfig:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.queues.queue import QueueConfig

    return QueueConfig.from_json(text)


def _pool_config(text: str) -> PoolConfig:
    from launch_worker.queues.pool import PoolConfig

    return PoolConfig.from_json(text)


def _given(settings: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The settings by themselves. Raises TypeError for one that is not known, as a call does."""
    for name in settings:
        if name not in known.__annotations__:
            raise TypeError(f"there is no setting {name!r}; there are: {', '.join(sorted(known.__annotations__))}")
    return dict(settings)


def _numbers(given: dict[str, Any]) -> dict[str, str | None]:
    """The store's fields of the settings that are numbers, which are taken out of what was given."""
    bounds = {"limit": (0, MAX_LIMIT), "rank": (1, MAX_RANK)}
    return {
        name: _number(name, given.pop(name), least=least, most=most)
        for name, (least, most) in bounds.items()
        if name in given
    }


#: Values of settings that were taken away.
_NOTHING: dict[str, Any] = {"resource": "", "variables": {}, "macro_env": (), "priorities": True, "description": ""}


def _changed(config: Any, given: Mapping[str, Any]) -> Any:
    settings = {}
    for name, value in given.items():
        if name in ("container", "defaults"):
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
    return int(text) if text and text.isdecimal() else None


def _no_queue(name: str) -> InputError:
    return InputError(f"there is no queue {name!r}; list them with: launch-worker queues")
