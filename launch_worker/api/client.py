"""Connects Python users to a launch system: they submit runs, look at them, wait for them, stop them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from launch_worker.api.filters import NEWEST_FIRST, parse_filter, parse_order
from launch_worker.api.groups import Group, GroupApi
from launch_worker.api.naming import chosen, is_exact
from launch_worker.api.queues import QueueApi
from launch_worker.api.run import Run
from launch_worker.api.runs import MAX_PER_PAGE, Runs
from launch_worker.api.sweeps import SweepApi
from launch_worker.errors import InputError, UnknownRunError
from launch_worker.model.checks import PROJECT
from launch_worker.model.finding import Finding
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.usage import Measured
from launch_worker.model.worker import Worker
from launch_worker.submission.options import Item, read_options
from launch_worker.submission.requirements import attach
from launch_worker.submission.resolve import current_folder
from launch_worker.untrusted.text import read_json

__all__ = ["Api", "Run", "Runs", "current_folder", "submit", "submit_many"]

# A program that looks at runs asked for no log lines. A worker configures its own.
logging.getLogger("launch_worker").addHandler(logging.NullHandler())


class Api(GroupApi, QueueApi, SweepApi):
    """A connection to one launch system. `url` wins over LAUNCH_REDIS_URL."""

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

        `run` are arguments of RunSpec, only those that were given. The run waits for `at_us` (server microseconds), or
        for `delay_s`. With `run_id` (as `new_run_id` makes them) a repeated call changes nothing and returns the
        existing run, with `is_new` False. `strict` refuses an unknown queue. Raises InputError, BrokerUnavailableError.
        """
        given = _given(run) if isinstance(run, RunSpec) else run
        sent = self.transport.send(given, delay_s=delay_s, at_us=at_us, strict=strict, run_id=run_id)
        return Run(self, sent.id, queue_consumers=sent.queue_consumers, is_new=sent.is_new)

    def submit_items(self, items: Iterable[Item], *, strict: bool = False) -> Iterator[tuple[Run, Item]]:
        """Submit runs and arrays of runs in order, many in a round trip; raises after what was submitted before."""
        for sent, item in self.transport.send_items(items, strict=strict):
            yield Run(self, sent.id, queue_consumers=sent.queue_consumers, is_new=sent.is_new), item

    def run(self, path: str) -> Run:
        """The run with this id, or W&B's `entity/project/id` (`project/id` for the project's last part alone).

        Raises UnknownRunError, which says so where the run was deleted, or is of another project.
        """
        project, _, run_id = path.rpartition("/")
        record = self.transport.find(run_id)
        _check_project(project, run_id, record.project)
        return Run(self, run_id, record=record)

    def find(self, word: str, *, newest: bool = False) -> Run | Group:
        """The run or group that a person means by a word, as the commands find it.

        The word is an id, the beginning of one (4 characters or more), a name, or `@` for the last that this user
        submitted. All runs of an array, a bulk submission or a sweep together are the group. Names are looked for in
        the archive, where there is one, and among the newest 10,000 runs of Redis. Raises AmbiguousNameError where
        several have the name, unless `newest` says which one is meant, and UnknownRunError for none.
        """
        if is_exact(word):
            return self.find_group(word) or self.run(word)
        found, _ = chosen(self.transport, word, takes_newest=newest)
        return self.run(found.id) if found.kind == "run" else self.group(found.id)

    def shown(self, path: str) -> dict[str, Any]:
        """The object of `show --json`, also of a run that only the archive has; `path` and errors as for `run`."""
        project, _, run_id = path.rpartition("/")
        shown = self.transport.shown(run_id)
        _check_project(project, run_id, shown["project"] or "")
        return shown

    def measured(self, path: str, *, attempt: int | None = None, timeout_s: float = 3.0) -> tuple[Record, Measured]:
        """The run, and what an attempt of it (the latest by default) used; as `shown`, and as `Run.measured`."""
        project, _, run_id = path.rpartition("/")
        record, measured = self.transport.measured(run_id, attempt, timeout_s=timeout_s)
        _check_project(project, run_id, record.project)
        return record, measured

    def runs(
        self,
        path: str | None = None,
        filters: Mapping[str, Any] | None = None,
        order: str = NEWEST_FIRST,
        per_page: int = 50,
    ) -> Runs:
        """W&B's `Api.runs`: the runs of a project that fit a filter, in an order.

        `path` is `entity/project`, or `project` for that one of each entity; None is for all runs.

        Filters are Mongo's: `$and $or $nor`, and `$eq $ne $in $nin $gt $gte $lt $lte $regex $exists $not` of a field.
        Fields and orders: docs/reference/python.md. Nothing is read before the first look at the result, and then
        `per_page` at a time. Without `order` the newest is first (W&B: the oldest). Raises InputError for what is no
        filter, order or path.
        """
        if path is not None and not PROJECT.fullmatch(path):
            raise InputError(f"path {path[:60]!r} is not a project; write it as ENTITY/PROJECT")
        if not isinstance(per_page, int) or isinstance(per_page, bool) or not 1 <= per_page <= MAX_PER_PAGE:
            raise InputError(f"per_page must be a whole number from 1 to {MAX_PER_PAGE}, not {per_page!r}")
        # As `run` takes it: the last part of a project alone, whatever the entity.
        wanted, by = parse_filter(filters, path=path), parse_order(order)
        return Runs(self, wanted, by, per_page=per_page)

    def status(self) -> dict[str, Any]:
        """The object of `status --json`: runs by state, queues, pools, workers, passes, problems."""
        return self.transport.status()

    def findings(self) -> Iterator[Finding]:
        """Every check of the installation, the most basic first. Raises BrokerUnavailableError."""
        return self.transport.findings()

    def workers(self) -> list[Worker]:
        """The live workers, as their last heartbeats described them."""
        return [Worker.from_description(description) for description in self.transport.workers()]


def submit(
    command: Sequence[str] = (),
    *,
    queue: str | None = None,
    name: str | None = None,
    project: str | None = None,
    tags: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    env_from: Sequence[str] | None = None,
    secrets: Mapping[str, str] | Sequence[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    uri: str | None = None,
    upload: str | os.PathLike[str] | None = None,
    requirements: str | os.PathLike[str] | None = None,
    python: str | None = None,
    timeout: str | float | None = None,
    start_timeout: str | float | None = None,
    stall_timeout: str | float | None = None,
    grace: str | float | None = None,
    stop_signal: str | int | None = None,
    stop_scope: str | None = None,
    signal: str | None = None,
    on_timeout: str | None = None,
    max_fails: int | None = None,
    retries: int | None = None,
    retry_delay: str | float | None = None,
    retry_on: Sequence[str] | None = None,
    retry: str | Sequence[str] | None = None,
    not_on_same_worker: bool | None = None,
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
    notify: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    checkpoint_every: str | float | None = None,
    delay: str | float | None = None,
    at: str | float | datetime | None = None,
    run_id: str | None = None,
    unique: str | None = None,
    strict: bool = False,
    api: Api | None = None,
) -> Run:
    """Submit a command (a list of arguments) to a queue and return its run at once.

    For None the queue's default holds, then its pool's, then RunSpec's. Durations are seconds or text such as `5m`.
    `env_from` names variables whose values the worker supplies. `secrets` are variables whose values only the run's
    worker can read (docs/security.md): a map, or names of variables of this process. Without `cwd` the job starts in
    this process's folder where the worker has it, else in a fresh one. With `uri` (a git repository, GIT_URL[@REF]) or
    `upload` (a folder of this machine) it starts in that code, in the folder `cwd` of it. `requirements` are the
    packages of a Python environment that the worker makes by uv, with the interpreter `python`
    (docs/reference/environments.md): a file of the code, or of this machine where there is no code, `auto`, or `none`.
    With `image` it is a container, `command` the arguments of its entry point, and `container` what else it may have
    (docs/reference/containers.md). `gpus` (whole devices), `cpus` (cores) and `memory` (bytes or `512M`) are what it
    needs of its worker. `config` are its hyperparameters, for the job and for filters of runs. `notify` are channels
    that are told of its end (`ops`, `ops:failed+crashed`; docs/reference/notifications.md). `after` are runs or groups
    (`RUN`, `RUN:any`, `RUN:failed`) that must have ended so. `outputs` are patterns of the files in LAUNCH_OUTPUT_DIR
    that are kept (none: all); `inputs` are outputs of other runs (`RUN:PATH[:DEST]`), for which it waits too.
    `checkpoint_every` is how often its worker keeps what is in its folder of checkpoints. It starts at `at` (a
    datetime, ISO text or seconds since 1970) or after `delay`, and within `expires`, or it is Killed.

    `timeout` may be followed by another attempt (`on_timeout="requeue:3"`), and a `signal` may come ahead of the end
    (`USR1@120`; docs/reference/jobs.md).

    With `run_id` (as `launch_worker.ids.new_run_id` makes them) or `unique` (any text, for this user on whatever
    machine) the call can be repeated: the run that the first one made is returned, unchanged, with `is_new` False, for
    as long as it is kept. A key may hold for a time, `KEY:for 1h`, or until its run has ended, `KEY:until-end`. Raises
    InputError before anything is written, and BrokerUnavailableError within 5 s when Redis is away.
    """
    options = {name: value for name, value in locals().items() if name not in ("api", "strict")}
    api = api or Api()
    item = _item(options)
    ((run, _),) = api.submit_items([item], strict=strict)
    return run


def submit_many(items: Iterable[Mapping[str, Any]], *, api: Api | None = None, strict: bool = False) -> list[Run]:
    """Submit many runs, each a map of `submit`'s arguments and `array` (`0-99%8`: numbered runs, at most 8 at once).

    All are checked before the first is sent, and sent many in a round trip. Several runs are a group, and each array is
    one: `api.group(run.group)`. Raises as `submit`; runs that were sent before an outage stay.
    """
    api = api or Api()
    folder = current_folder() or "/"
    checked = [_item(item, folder) for item in items]
    api.transport.check_items(checked, strict=strict)
    return [run for run, _ in api.submit_items(checked, strict=strict)]


def _check_project(named: str, run_id: str, project: str) -> None:
    """Raises UnknownRunError for a run of another project; `named` may be the last part of a project alone."""
    if named and project not in (named, f"{project.partition('/')[0]}/{named}"):
        where = f"project {project!r}" if project else "no project"
        raise UnknownRunError(f"there is no run {run_id} in project {named[:60]!r}; it is in {where}")


def _item(options: Mapping[str, Any], folder: str = "") -> Item:
    """The arguments as an item: first as JSON has them."""
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    if isinstance(plain.get("secrets"), (list, str)):
        # Imported on demand: start-up time of `launch-submit`, which imports this module.
        from launch_worker.trust.secrets import read_secrets

        names = plain["secrets"]
        plain["secrets"] = read_secrets((names,) if isinstance(names, str) else tuple(names))
    folder = folder or current_folder() or "/"
    return attach(read_options(plain, folder=folder), folder=folder)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _given(spec: RunSpec) -> dict[str, Any]:
    """The arguments of a finished spec: those that differ from the defaults."""
    return {name: getattr(spec, name) for name in (*read_json(spec.to_json()), "name")}
