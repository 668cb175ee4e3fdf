"""The Python side: submit runs, look at them, wait for them, stop them."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from launch_worker.bulk import Item, read_options
from launch_worker.errors import BrokerUnavailableError, InputError, RefusedError
from launch_worker.ids import new_run_id
from launch_worker.passes import catch_up
from launch_worker.queue_api import QueueApi
from launch_worker.retry import shell_exit_code
from launch_worker.run import Record, Transition
from launch_worker.settings import Settings
from launch_worker.spec import RunSpec, check_queue_name
from launch_worker.states import RunState
from launch_worker.store.store import ConfigChanged, Store
from launch_worker.submission import resolve
from launch_worker.sweep_api import SweepApi

# Who looks at runs asked for no log lines; a worker configures its own.
logging.getLogger("launch_worker").addHandler(logging.NullHandler())

#: Longest block on Redis in one call; a wait is a loop of these.
_TURN_S = 2.0
#: How long an outage a follower outlasts.
_PATIENCE_S = 600.0


class Api(QueueApi, SweepApi):
    """A connection to one launch system. `url` wins over LAUNCH_REDIS_URL."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env(redis_url=url)
        self._store: Store | None = None
        #: By queue: its configuration and its pool's, as last seen.
        self._configs: dict[str, tuple[str, str]] = {}
        #: Folders that were sent, and what they are kept as.
        self._sent: dict[str, str] = {}

    @property
    def store(self) -> Store:
        """Connected to at its first call."""
        if self._store is None:
            self._store = Store(self.settings.redis_url, settle_s=2 * self.settings.heartbeat_s)
        return self._store

    def submit(
        self,
        run: RunSpec | Mapping[str, Any],
        *,
        delay_s: float = 0.0,
        at_us: int | None = None,
        strict: bool = False,
        run_id: str = "",
    ) -> Run:
        """Write the run and its queue item in one step; the queue's and its pool's defaults complete what was given.

        `run` are RunSpec's arguments, of those that were really given. It waits for `at_us` (server microseconds), or
        for so long. `strict` refuses a queue that nobody knows. Raises InputError, BrokerUnavailableError.
        """
        given = _given(run) if isinstance(run, RunSpec) else run
        run_id = run_id or new_run_id()
        while True:
            spec, queue_config, pool_config = self.resolve(given)
            try:
                created = self.store.create(
                    run_id,
                    spec,
                    queue_config=queue_config,
                    pool_config=pool_config,
                    delay_s=delay_s,
                    at_us=at_us,
                    if_queue_known=strict,
                )
            except ConfigChanged as changed:
                # Most queues have none, and need no look before.
                self._configs[spec.queue] = changed.queue_config, changed.pool_config
            else:
                return Run(self, run_id, queue_consumers=created.consumers)

    def submit_item(self, item: Item, *, strict: bool = False) -> Iterator[Run]:
        """Submit what `bulk` read: a run, or the runs of an array one by one. Raises as `submit`."""
        given = dict(item.given)
        if item.upload is not None:
            # Before a folder is read: what is wrong otherwise.
            self.resolve(given)
            given["upload"] = self.send_folder(item.upload)
        when: dict[str, Any] = {"delay_s": item.delay_s or 0.0, "at_us": item.at_us, "strict": strict}
        if item.array is None:
            yield self.submit(given, **when)
            return
        first_id = new_run_id()
        for index in item.array.indexes:
            numbered = given | {"array": first_id, "array_index": index, "array_limit": item.array.limit}
            run_id = first_id if index == item.array.indexes[0] else ""
            yield self.submit(numbered, run_id=run_id, **when)

    def resolve(self, given: Mapping[str, Any], *, fresh: bool = False) -> tuple[RunSpec, str, str]:
        """The run that these arguments are, and the configurations of queue and pool that completed it.

        With `fresh` those are read from Redis, else they are what was last seen. Raises InputError.
        """
        queue = given.get("queue") or "default"
        if fresh:
            check_queue_name(queue)
            settings = self.store.settings_of("queue", queue)
            pool = settings.get("pool", "")
            of_pool = self.store.settings_of("pool", pool) if pool else {}
            self._configs[queue] = settings.get("config", ""), of_pool.get("config", "")
        try:
            return self._resolve(queue, given)
        except InputError:
            if fresh:
                raise
            # It may be what the queue's configuration gives, as it is now, that is missing.
            with contextlib.suppress(BrokerUnavailableError):
                return self.resolve(given, fresh=True)
            raise

    def _resolve(self, queue: str, given: Mapping[str, Any]) -> tuple[RunSpec, str, str]:
        queue_config, pool_config = self._configs.get(queue, ("", ""))
        given = {"author": me()} | dict(given)
        if not given.get("project") and self.settings.project:
            given["project"] = self.settings.project
        spec = resolve(given, queue_config=queue_config, pool_config=pool_config)
        if spec.cwd is None and not (spec.uri or spec.upload):
            spec = replace(spec, cwd=current_folder())
        return spec, queue_config, pool_config

    def send_folder(self, folder: str) -> str:
        """Send a folder of this machine, unless this connection has sent it. Returns its sha256. Raises InputError."""
        from launch_worker.code.send import send_folder

        path = os.path.abspath(folder)
        if path not in self._sent:
            self._sent[path] = send_folder(Path(path), settings=self.settings, store=self.store)
        return self._sent[path]

    def run(self, run_id: str) -> Run:
        """The run with this id. Raises UnknownRunError."""
        catch_up(self.store, self.settings)
        record = self.store.get(run_id)
        return Run(self, run_id, record=record)

    def list(self, *, state: str = "", project: str = "", queue: str = "") -> Iterator[Run]:
        """Runs, the newest first, read page by page as they are taken."""
        wanted = RunState.parse(state) if state else None
        catch_up(self.store, self.settings)
        for record in self.store.select(state=wanted, project=project, queue=queue):
            yield Run(self, record.id, record=record)


class Run:
    """One run. `record` is as it was when last read; `state` and `refresh` read it anew."""

    def __init__(self, api: Api, run_id: str, *, record: Record | None = None, queue_consumers: int = -1) -> None:
        self.id = run_id
        self._api = api
        self._record = record
        #: Live workers that consumed the run's queue when it was submitted; -1 when that is not known.
        self.queue_consumers = queue_consumers

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    @property
    def record(self) -> Record:
        return self._record if self._record is not None else self.refresh()

    def refresh(self) -> Record:
        """Read the record from Redis."""
        self._record = self._api.store.get(self.id)
        return self._record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> RunState:
        """The state now."""
        return self.refresh().state

    @property
    def exit_code(self) -> int | None:
        return self.refresh().exit_code

    @property
    def history(self) -> list[Transition]:
        return self._api.store.history(self.id)

    def as_json(self, *, history: bool = False) -> dict[str, Any]:
        """The object of `runs --json`; with `history` that of `show --json`."""
        record = self.record
        shown = record.as_json()
        if record.state is RunState.PENDING and not record.reason and not self._api.store.consumers(record.queue):
            shown["reason"] = f"no worker consumes queue {record.queue}"
        if history:
            shown["history"] = [transition.as_json() for transition in self.history]
        return shown

    def cancel(self, *, reason: str = "", grace_s: float | None = None) -> str:
        """Ask for the run's end. Returns 'killed' (it was Pending) or 'requested'. Raises RefusedError when final.

        `grace_s` 0 is SIGKILL at once; None is the run's own grace.
        """
        reason = reason or f"cancelled by {me()}"
        word, state = self._api.store.cancel(self.id, reason=reason, grace_s=grace_s)
        if word == "final":
            raise RefusedError(f"run {self.id} is already {state}; nothing was changed")
        return word

    def preempt(self, *, reason: str = "") -> None:
        """Ask for the job's end, so that the run goes back to its queue. Raises RefusedError unless it is Running."""
        reason = reason or f"preempted by {me()}"
        word, state = self._api.store.preempt(self.id, reason=reason)
        if word != "requested":
            raise RefusedError(f"run {self.id} is {state}; only a Running run can be preempted")

    def retry(self) -> None:
        """Start a new attempt of an ended run. Raises RefusedError for one that has not ended."""
        state = self._api.store.requeue(self.id, reason=f"retry asked for by {me()}")
        if state:
            raise RefusedError(f"run {self.id} is {state}; only an ended run can be retried")

    def logs(self, *, attempt: int | None = None) -> bytes:
        """The newest output that is kept of an attempt (the latest by default)."""
        return self.logs_so_far(attempt=attempt)[0]

    def logs_so_far(self, *, attempt: int | None = None) -> tuple[bytes, str]:
        """The same, and where `follow(after=…)` has to go on."""
        number = attempt if attempt is not None else self.refresh().attempt
        chunks = self._api.store.log(self.id, number)
        return b"".join(chunk.data for chunk in chunks), chunks[-1].entry if chunks else "-"

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Block until the run has ended and will not be retried; returns its state.

        Raises TimeoutError. Woken by the transition itself, not by polling.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for state, _ in self.follow(logs=False, deadline=deadline):
            if state is not None and state.is_final:
                return state
        raise TimeoutError(f"run {self.id} is still {self.state} after {timeout_s:g} s")

    def follow(
        self, *, logs: bool = True, attempt: int | None = None, after: str = "-", deadline: float | None = None
    ) -> Iterator[tuple[RunState | None, bytes]]:
        """Yield (new state, b'') for each transition and (None, output) as the job prints, until the run has ended.

        Starts with the state as it is now, and the output from its kept beginning, or `after` an entry of the log. A
        run that ends and is Pending again in one step has not ended. `deadline` is monotonic seconds. Outlasts an
        outage of Redis of up to ten minutes, then raises BrokerUnavailableError.
        """
        record = self.refresh()
        view = _View(_Shown(attempt or record.attempt, after=after) if logs else None, attempt)
        yield record.state, b""
        away_since: float | None = None
        while not view.ended and (deadline is None or time.monotonic() < deadline):
            try:
                with self._api.store.watch(self.id) as wait_for_news:
                    for news in self._watched(view, wait_for_news, deadline):
                        away_since = None
                        yield news
            except BrokerUnavailableError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _PATIENCE_S:
                    raise
                time.sleep(_TURN_S / 2)

    def _watched(
        self, view: _View, wait_for_news: Callable[[float], bool], deadline: float | None
    ) -> Iterator[tuple[RunState | None, bytes]]:
        store = self._api.store
        while True:
            # In this order: what happens between the two is told twice rather than never.
            history = store.history(self.id)
            record = self.refresh()
            if view.told is None:
                view.told = len(history)
            fresh, view.told = history[view.told :], len(history)
            if view.shown is not None:
                until = record.attempt if view.attempt is None else view.attempt
                for data in view.shown.output_until(store, self.id, until):
                    yield None, data
            for at, transition in enumerate(fresh):
                view.last = transition.state
                # What followed at once tells whether it was an end.
                if not transition.state.is_final or at == len(fresh) - 1:
                    yield transition.state, b""
            if record.state.is_final or (view.attempt is not None and view.attempt < record.attempt):
                view.ended = True
                if record.state is not view.last:
                    yield record.state, b""
                return
            turn_s = min(_TURN_S, self._api.settings.pass_s)
            if deadline is not None:
                turn_s = min(turn_s, deadline - time.monotonic())
                if turn_s <= 0:
                    return
            if not wait_for_news(turn_s):
                catch_up(store, self._api.settings)

    def shell_exit_code(self) -> int:
        """What `launch-submit --wait` exits with once the run has ended."""
        record = self.refresh()
        return shell_exit_code(record.state, record.exit_code, record.signal)


class _Shown:
    """How far a run's output has been shown."""

    def __init__(self, attempt: int, *, after: str = "-") -> None:
        self.attempt = attempt
        self._after = after

    def output_until(self, store: Store, run_id: str, attempt: int) -> Iterator[bytes]:
        """What is new of the attempt at hand and of those after it, up to `attempt`."""
        while True:
            for chunk in store.log(run_id, self.attempt, after=self._after):
                self._after = chunk.entry
                yield chunk.data
            if self.attempt >= attempt:
                return
            self.attempt, self._after = self.attempt + 1, "-"


@dataclass
class _View:
    """What a follower has been told so far, across losses of its connection."""

    shown: _Shown | None
    #: The one attempt that is followed; None for the run to its end.
    attempt: int | None
    #: How many transitions were known; None at the beginning.
    told: int | None = None
    last: RunState | None = None
    ended: bool = False


def submit(
    command: Sequence[str] = (),
    *,
    queue: str | None = None,
    name: str | None = None,
    project: str | None = None,
    tags: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    env_from: Sequence[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    uri: str | None = None,
    upload: str | os.PathLike[str] | None = None,
    timeout: str | float | None = None,
    start_timeout: str | float | None = None,
    stall_timeout: str | float | None = None,
    grace: str | float | None = None,
    retries: int | None = None,
    retry_delay: str | float | None = None,
    retry_on: Sequence[str] | None = None,
    priority: str | None = None,
    image: str | None = None,
    container: Mapping[str, Any] | None = None,
    memory: str | int | None = None,
    cpus: float | None = None,
    gpus: int | None = None,
    values: Mapping[str, Any] | None = None,
    after: Sequence[str] | None = None,
    concurrency_key: str | None = None,
    limit_key: int | None = None,
    expires: str | float | None = None,
    max_preemptions: int | None = None,
    preempt_exit_code: int | None = None,
    delay: str | float | None = None,
    at: str | float | datetime | None = None,
    strict: bool = False,
    api: Api | None = None,
) -> Run:
    """Submit a command (a list of arguments) to a queue and return its run at once.

    What is None is the queue's default, then its pool's, then RunSpec's. Durations are seconds or text such as `5m`.
    `env_from` names variables whose values the worker supplies. Without `cwd` the job starts in this process's folder
    where the worker has it, else in a fresh one. With `uri` (a git repository, GIT_URL[@REF]) or `upload` (a folder of
    this machine) it starts in that code, in the folder `cwd` of it. With `image` it is a container, `command` the
    arguments of its entry point, and `container` what else it may have (docs/containers.md). `gpus` (whole devices),
    `cpus` (cores) and `memory` (bytes or `512M`) are what it needs of its worker. `after` are runs (`RUN`, `RUN:any`,
    `RUN:failed`) that must have ended so. It starts at `at` (a datetime, ISO text or seconds since 1970) or after
    `delay`, and within `expires`, or it is Killed. Raises InputError before anything is written, and
    BrokerUnavailableError within 5 s when Redis is away.
    """
    options = {name: value for name, value in locals().items() if name not in ("api", "strict")}
    (run,) = (api or Api()).submit_item(_item(options), strict=strict)
    return run


def submit_many(items: Iterable[Mapping[str, Any]], *, api: Api | None = None, strict: bool = False) -> list[Run]:
    """Submit many runs, each a map of `submit`'s arguments and `array` (`0-99%8`: numbered runs, at most 8 at once).

    All are checked before the first is sent. Raises as `submit`; what was sent before an outage stays.
    """
    api = api or Api()
    checked = [_item(dict(item)) for item in items]
    for item in checked:
        api.resolve(item.given, fresh=True)
    return [run for item in checked for run in api.submit_item(item, strict=strict)]


def _item(options: Mapping[str, Any]) -> Item:
    """The arguments as JSON has them."""
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    return read_options(plain, folder=current_folder() or "/")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _given(spec: RunSpec) -> dict[str, Any]:
    """A finished spec as arguments: what differs from the defaults."""
    return {name: getattr(spec, name) for name in json.loads(spec.to_json())}


def current_folder() -> str | None:
    """This process's folder; None when it was deleted under it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def me() -> str:
    """Who uses this process, for people."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
