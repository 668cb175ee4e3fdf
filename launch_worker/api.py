"""The Python side: submit runs, look at them, wait for them, stop them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from launch_worker.bulk import Item, Ready, read_options
from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError, UnknownRunError
from launch_worker.filters import parse_filter, parse_order
from launch_worker.ids import new_run_id
from launch_worker.passes import catch_up
from launch_worker.queue_api import QueueApi
from launch_worker.runs import MAX_PER_PAGE, Run, Runs, me
from launch_worker.settings import Settings
from launch_worker.spec import PROJECT, RunSpec, check_queue_name
from launch_worker.states import RunState
from launch_worker.store.creating import ConfigChanged, Created, New
from launch_worker.store.store import Store
from launch_worker.submission import resolve
from launch_worker.sweep_api import SweepApi
from launch_worker.workers import Worker

__all__ = ["Api", "Run", "Runs", "current_folder", "me", "submit", "submit_many"]

#: Runs that are submitted in one round trip: Redis does nothing else for a few milliseconds.
_BATCH = 100

# Who looks at runs asked for no log lines; a worker configures its own.
logging.getLogger("launch_worker").addHandler(logging.NullHandler())


class Api(QueueApi, SweepApi):
    """A connection to one launch system. `url` wins over LAUNCH_REDIS_URL."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env(redis_url=url)
        self._store: Store | None = None
        #: By queue: its configuration and its pool's, as last seen.
        self._configs: dict[str, tuple[str, str]] = {}
        #: Who uses this process: the look-up takes longer than all else of a submission.
        self._me = ""
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

    def check(self, item: Item, *, fresh: bool = False) -> None:
        """Raises InputError for what could not be submitted now."""
        ready = self.resolve(item.given, fresh=fresh)
        item.ready = ready if item.upload is None else None

    def submit_items(self, items: Iterable[Item], *, strict: bool = False) -> Iterator[tuple[Run, Item]]:
        """Submit what `bulk` read, runs and arrays of runs, in order, many in a round trip. Raises as `submit`.

        All that was submitted before an error is yielded before it is raised; when Redis went away, some of the last
        runs may have been submitted and not be told.
        """
        made = ((new, item) for item in items for new in self._runs_of(item))
        sent: deque[list[tuple[New, Item]]] = deque()
        problem: LaunchError | None = None

        def batches() -> Iterator[list[New]]:
            nonlocal problem
            while problem is None:
                batch: list[tuple[New, Item]] = []
                try:
                    for one in islice(made, _BATCH):
                        batch.append(one)
                except LaunchError as error:
                    problem = error
                if batch:
                    sent.append(batch)
                    yield [new for new, _ in batch]
                if len(batch) < _BATCH:
                    return

        for answers in self.store.create_batches(batches(), if_queue_known=strict):
            for (new, item), answer in zip(sent.popleft(), answers, strict=True):
                if isinstance(answer, Created):
                    yield Run(self, new.run_id, queue_consumers=answer.consumers), item
                    continue
                try:
                    if isinstance(answer, LaunchError):
                        raise answer
                    # The queue has a configuration that was not known here: once more, with what it says now.
                    if problem is None:
                        self._configs[new.spec.queue] = answer.queue_config, answer.pool_config
                        yield self._submit_again(new, item, strict=strict), item
                except LaunchError as error:
                    problem = problem or (item.error(error) if isinstance(error, InputError) else error)
        if problem is not None:
            raise problem

    def _runs_of(self, item: Item) -> Iterator[New]:
        try:
            ready = item.ready or self.resolve(item.given)
            if item.upload is not None:
                # What is wrong otherwise was seen before the folder is read.
                ready = self.resolve(item.given | {"upload": self.send_folder(item.upload)})
        except InputError as error:
            raise item.error(error) from None
        when = (*ready[1:], item.delay_s or 0.0, item.at_us)
        if item.array is None:
            yield New(new_run_id(), ready.spec, *when)
            return
        first_id = new_run_id()
        for index in item.array.indexes:
            spec = replace(ready.spec, array=first_id, array_index=index, array_limit=item.array.limit)
            yield New(first_id if index == item.array.indexes[0] else new_run_id(), spec, *when)

    def _submit_again(self, new: New, item: Item, *, strict: bool) -> Run:
        given = dict(item.given)
        if item.upload is not None:
            given["upload"] = new.spec.upload
        if item.array is not None:
            spec = new.spec
            given |= {"array": spec.array, "array_index": spec.array_index, "array_limit": spec.array_limit}
        return self.submit(given, delay_s=new.delay_s, at_us=new.at_us, strict=strict, run_id=new.run_id)

    def resolve(self, given: Mapping[str, Any], *, fresh: bool = False) -> Ready:
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

    def _resolve(self, queue: str, given: Mapping[str, Any]) -> Ready:
        queue_config, pool_config = self._configs.get(queue, ("", ""))
        self._me = self._me or me()
        given = {"author": self._me} | dict(given)
        if not given.get("project") and self.settings.project:
            given["project"] = self.settings.project
        has_folder = given.get("cwd") is not None or given.get("uri") or given.get("upload")
        if not (has_folder or queue_config or pool_config):
            # Nobody else may give it one.
            given["cwd"] = current_folder()
        spec = resolve(given, queue_config=queue_config, pool_config=pool_config)
        if spec.cwd is None and not (spec.uri or spec.upload):
            spec = replace(spec, cwd=current_folder())
        return Ready(spec, queue_config, pool_config)

    def send_folder(self, folder: str) -> str:
        """Send a folder of this machine, unless this connection has sent it. Returns its sha256. Raises InputError."""
        from launch_worker.code.send import send_folder

        path = os.path.abspath(folder)
        if path not in self._sent:
            self._sent[path] = send_folder(Path(path), settings=self.settings, store=self.store)
        return self._sent[path]

    def run(self, path: str) -> Run:
        """The run with this id, or W&B's `entity/project/id` (`project/id` for the project's last part alone).

        Raises UnknownRunError, which says so where the run was deleted, or is of another project.
        """
        project, _, run_id = path.rpartition("/")
        catch_up(self.store, self.settings)
        record = self.store.get(run_id)
        if project and record.project not in (project, f"{record.project.partition('/')[0]}/{project}"):
            where = f"project {record.project!r}" if record.project else "no project"
            raise UnknownRunError(f"there is no run {run_id} in project {project[:60]!r}; it is in {where}")
        return Run(self, run_id, record=record)

    def runs(
        self,
        path: str | None = None,
        filters: Mapping[str, Any] | None = None,
        order: str = "-created_at",
        per_page: int = 50,
    ) -> Runs:
        """W&B's `Api.runs`: the runs of a project (`entity/project`; None: of all) that fit a filter, in an order.

        Filters are Mongo's: `$and $or $nor`, and `$eq $ne $in $nin $gt $gte $lt $lte $regex $exists $not` of a field.
        Fields and orders: docs/python.md. Nothing is read before the first look at the result, and then `per_page` at a
        time. Without `order` the newest is first (W&B: the oldest). Raises InputError for what is no filter,
        order or path.
        """
        if path is not None and not PROJECT.fullmatch(path):
            raise InputError(f"path {path[:60]!r} is not a project; write it as ENTITY/PROJECT")
        if not isinstance(per_page, int) or isinstance(per_page, bool) or not 1 <= per_page <= MAX_PER_PAGE:
            raise InputError(f"per_page must be a whole number from 1 to {MAX_PER_PAGE}, not {per_page!r}")
        given = {} if path is None else {"project": path}
        wanted, by = parse_filter(filters, **given), parse_order(order)
        catch_up(self.store, self.settings)
        return Runs(self, wanted, by, per_page=per_page)

    def workers(self) -> list[Worker]:
        """The live workers, as they last spoke."""
        return [Worker.from_description(description) for description in self.store.workers()]

    def list(self, *, state: str = "", project: str = "", queue: str = "") -> Iterator[Run]:
        """Runs, the newest first, read page by page as they are taken."""
        wanted = RunState.parse(state) if state else None
        catch_up(self.store, self.settings)
        for record in self.store.select(state=wanted, project=project, queue=queue):
            yield Run(self, record.id, record=record)


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
    config: Mapping[str, Any] | None = None,
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
    `cpus` (cores) and `memory` (bytes or `512M`) are what it needs of its worker. `config` are its hyperparameters,
    for the job and for filters of runs. `after` are runs (`RUN`, `RUN:any`,
    `RUN:failed`) that must have ended so. It starts at `at` (a datetime, ISO text or seconds since 1970) or after
    `delay`, and within `expires`, or it is Killed. Raises InputError before anything is written, and
    BrokerUnavailableError within 5 s when Redis is away.
    """
    options = {name: value for name, value in locals().items() if name not in ("api", "strict")}
    api = api or Api()
    item = _item(options)
    ((run, _),) = api.submit_items([item], strict=strict)
    return run


def submit_many(items: Iterable[Mapping[str, Any]], *, api: Api | None = None, strict: bool = False) -> list[Run]:
    """Submit many runs, each a map of `submit`'s arguments and `array` (`0-99%8`: numbered runs, at most 8 at once).

    All are checked before the first is sent, and sent many in a round trip. Raises as `submit`; what was sent before
    an outage stays.
    """
    api = api or Api()
    folder = current_folder() or "/"
    checked = [_item(item, folder) for item in items]
    queues: set[str] = set()
    for item in checked:
        queue = item.given.get("queue") or "default"
        api.check(item, fresh=queue not in queues)
        queues.add(queue)
    return [run for run, _ in api.submit_items(checked, strict=strict)]


def _item(options: Mapping[str, Any], folder: str = "") -> Item:
    """The arguments as JSON has them."""
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    return read_options(plain, folder=folder or current_folder() or "/")


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
    return {name: getattr(spec, name) for name in (*json.loads(spec.to_json()), "name")}


def current_folder() -> str | None:
    """This process's folder; None when it was deleted under it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
