"""The Python side: submit runs, look at them, wait for them, stop them."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch_worker.errors import BrokerUnavailableError, RefusedError
from launch_worker.ids import new_run_id
from launch_worker.passes import catch_up
from launch_worker.retry import shell_exit_code
from launch_worker.run import Record, Transition
from launch_worker.settings import Settings
from launch_worker.spec import RunSpec, check_queue_name
from launch_worker.states import RunState
from launch_worker.store.store import Store
from launch_worker.units import parse_duration, parse_size

if TYPE_CHECKING:
    from launch_worker.queue_config import QueueConfig

# Who looks at runs asked for no log lines; a worker configures its own.
logging.getLogger("launch_worker").addHandler(logging.NullHandler())

#: Longest block on Redis in one call; a wait is a loop of these.
_TURN_S = 2.0
#: How long an outage a follower outlasts.
_PATIENCE_S = 600.0


class Api:
    """A connection to one launch system. `url` wins over LAUNCH_REDIS_URL."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env(redis_url=url)

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.redis_url, settle_s=2 * self.settings.heartbeat_s)

    def submit(self, spec: RunSpec) -> Run:
        """Write the run and its queue item in one step. Raises BrokerUnavailableError."""
        if not spec.project and self.settings.project:
            spec = replace(spec, project=self.settings.project)
        run_id = new_run_id()
        _, consumers = self.store.create(run_id, spec)
        return Run(self, run_id, queue_consumers=consumers)

    def configure_queue(self, name: str, config: QueueConfig | None) -> None:
        """Set what runs the queue's jobs and what its containers may have; None takes the configuration away.

        Trusted by workers: it may reach their machines. Raises InputError for a name that no queue may have.
        """
        check_queue_name(name)
        self.store.configure_queue(name, config)

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
        reason = reason or f"cancelled by {_me()}"
        word, state = self._api.store.cancel(self.id, reason=reason, grace_s=grace_s)
        if word == "final":
            raise RefusedError(f"run {self.id} is already {state}; nothing was changed")
        return word

    def retry(self) -> None:
        """Start a new attempt of an ended run. Raises RefusedError for one that has not ended."""
        state = self._api.store.requeue(self.id, reason=f"retry asked for by {_me()}")
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
    queue: str = "default",
    name: str = "",
    project: str = "",
    tags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    env_from: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
    uri: str = "",
    upload: str | os.PathLike[str] | None = None,
    timeout: str | float | None = None,
    start_timeout: str | float = "30m",
    stall_timeout: str | float | None = None,
    grace: str | float = "10s",
    retries: int = 0,
    retry_delay: str | float = 0,
    retry_on: Sequence[str] = ("failed", "crashed"),
    priority: str = "medium",
    image: str = "",
    container: Mapping[str, Any] | None = None,
    memory: str | int | None = None,
    cpus: float | None = None,
    api: Api | None = None,
) -> Run:
    """Submit a command (a list of arguments) to a queue and return its run at once.

    Durations are seconds or text such as `5m`. `env_from` names variables whose values the worker supplies. Without
    `cwd` the job starts in this process's folder where the worker has it, else in a fresh one. With `uri` (a git
    repository, GIT_URL[@REF]) or `upload` (a folder of this machine) it starts in that code, in the folder `cwd` of it.
    With `image` it is a container, `command` the arguments of its entry point, and `container` what else it may have
    (docs/containers.md); `memory` (bytes or `512M`) and `cpus` (cores) limit it. Raises InputError before anything is
    written, and BrokerUnavailableError within 5 s when Redis is away.
    """
    has_code = bool(uri) or upload is not None
    spec = RunSpec(
        command=command if isinstance(command, str) else tuple(command),  # type: ignore[arg-type]  # RunSpec explains
        queue=queue,
        name=name,
        project=project,
        tags=tuple(tags),
        env=dict(env or {}),
        env_from=tuple(env_from),
        cwd=_working_directory(cwd, in_code=has_code),
        cwd_required=cwd is not None,
        uri=uri,
        # Checked before the folder is read; its own hash follows.
        upload="0" * 64 if upload is not None else "",
        timeout_s=parse_duration(timeout, what="timeout") if timeout is not None else None,
        start_timeout_s=parse_duration(start_timeout, what="start timeout"),
        stall_timeout_s=parse_duration(stall_timeout, what="stall timeout") if stall_timeout is not None else None,
        grace_s=parse_duration(grace, what="grace"),
        retries=retries,
        retry_delay_s=parse_duration(retry_delay, what="retry delay"),
        retry_on=tuple(retry_on),
        priority=priority,
        image=image,
        container=dict(container or {}),
        memory=None if memory is None else parse_size(memory, what="memory"),
        cpus=cpus,
    )
    api = api or Api()
    if upload is not None:
        from launch_worker.code.send import send_folder

        spec = replace(spec, upload=send_folder(Path(upload), settings=api.settings, store=api.store))
    return api.submit(spec)


def _working_directory(cwd: str | os.PathLike[str] | None, *, in_code: bool) -> str | None:
    if in_code:
        return None if cwd is None else os.fspath(cwd)
    return os.path.abspath(cwd) if cwd is not None else current_folder()


def current_folder() -> str | None:
    """This process's folder; None when it was deleted under it."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _me() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
