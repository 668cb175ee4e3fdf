"""A run's record as a value, read from the store's hash."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from launch_worker.errors import InputError
from launch_worker.ids import RUN_ID
from launch_worker.model.checks import KEY, MAX_GPUS, NAME, PROJECT, QUEUE
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_json, read_map

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MASK = "********"
#: Of one run, over all its life.
MAX_ATTEMPTS = 1_000_000


@dataclass(frozen=True)
class Transition:
    """One arrow of a run's history. `at` is server time in microseconds."""

    state: RunState
    at: int
    attempt: int
    worker: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "at": isoformat(self.at),
            "attempt": self.attempt,
            "worker": self.worker or None,
            "reason": self.reason or None,
        }


@dataclass(frozen=True)
class Phase:
    """A part of an attempt's start, or the instant at which another worker took it over."""

    name: str
    #: Server time in microseconds.
    at: int
    #: None while it lasts.
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "at": isoformat(self.at), "seconds": self.seconds}


@dataclass(frozen=True)
class Record:
    """What the store knows of a run at one instant. Times are server microseconds; None is "not known"."""

    id: str
    name: str
    project: str
    queue: str
    priority: int
    tags: tuple[str, ...]
    state: RunState
    reason: str
    phase: str
    message: str
    attempt: int
    first_attempt: int
    token: int
    exit_code: int | None
    signal: str
    worker: str
    #: Holds the lease: one life of a worker.
    owner: str
    host: str
    pid: int | None
    gpus: tuple[str, ...]
    created_at: int
    started_at: int | None
    ended_at: int | None
    due_at: int | None
    cancel_at: int | None
    #: The git commit that the first attempt fetched, and that every later one gets.
    commit: str
    #: The spec's JSON text; `launch_worker.model.spec.parse_spec` reads it.
    spec: str
    #: GPUS:MILLICORES:BYTES, as `RunSpec.needs`.
    needs: str = ""
    concurrency_key: str = ""
    limit_key: str = ""
    array: str = ""
    array_limit: str = ""
    #: The sweep that made it.
    sweep: str = ""
    #: It makes other runs itself; a worker counts it apart.
    is_scheduler: bool = False
    #: Of the format of its spec (`launch_worker.model.item_schema`).
    version: int = 1
    #: Files that were kept with it, as JSON: name to size and time.
    files: str = ""
    #: What the job told of itself, as JSON: the last value of each name.
    summary: str = ""
    #: What became of the process of a run that had called itself finished before: its exit code, or signal's name.
    late_exit: str = ""
    #: How many bytes of its latest attempt's output are not kept: older ones, for newer.
    log_missing: int = 0
    #: How often it was preempted so far.
    preemptions: int = 0
    #: How often its start failed through a worker so far.
    misstarts: int = 0
    #: Someone asked for its preemption, and not for its end.
    preempting: bool = False
    #: The latest attempt's job said that its machine is being taken away.
    yields: bool = False
    #: It was claimed ahead of its time, and starts at this one.
    start_at: int | None = None
    #: Nobody knows whether the latest attempt's job has ended, and its worker is gone: it is given to nobody else.
    is_held: bool = False
    #: The time for which it was planned (a schedule's, `--at`, `--delay`), however late it started.
    scheduled_at: int | None = None
    #: Runs that it waits for: id to ok, any or failed.
    waits_for: dict[str, str] = field(default_factory=dict)
    #: How the latest attempt came to run: `fetch`, `pull`, `start`, `adopted`; empty for a plain process.
    phases: tuple[Phase, ...] = ()
    #: The JSON of its queue's configuration, as it was at the claim; known to the claimer only.
    queue_config: str = ""
    #: More items were in its list then; known to the claimer only.
    is_followed: bool = field(default=False, compare=False)

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Record:
        """Tolerates missing and damaged fields, so that one bad record never hides the others."""

        get = fields.get

        def number(name: str) -> int | None:
            text = get(name)
            return _number(text) if text else None

        try:
            state = RunState(get("state", ""))
        except ValueError:
            state = RunState.FAILED
        record = cls.__new__(cls)
        # All at once: the constructor of a frozen class sets field by field, which takes as long as all the reading.
        vars(record).update(
            id=get("id", ""),
            name=get("name", ""),
            project=get("project", ""),
            queue=get("queue", ""),
            priority=number("priority") or 0,
            tags=tuple(_strings(get("tags", ""))),
            state=state,
            reason=get("reason", ""),
            phase=get("phase", ""),
            message=get("message", ""),
            attempt=number("attempt") or 0,
            first_attempt=number("first_attempt") or 1,
            token=number("token") or 0,
            exit_code=number("exit_code"),
            signal=get("signal", ""),
            worker=get("worker", ""),
            owner=get("owner", ""),
            host=get("host", ""),
            pid=number("pid"),
            gpus=tuple(_strings(get("gpus", ""))),
            created_at=number("created_at") or 0,
            started_at=number("started_at"),
            ended_at=number("ended_at"),
            due_at=number("due_at"),
            cancel_at=number("cancel_at"),
            commit=_commit(get("commit", "")),
            spec=get("spec", ""),
            needs=get("needs", ""),
            concurrency_key=get("concurrency_key", ""),
            limit_key=get("limit_key", ""),
            array=get("array", ""),
            array_limit=get("array_limit", ""),
            sweep=get("sweep", ""),
            is_scheduler=get("scheduler", "") == "1",
            version=number("version") or 1,
            files=get("files", ""),
            summary=get("summary", ""),
            late_exit=get("late_exit", ""),
            log_missing=number("log_missing") or 0,
            preemptions=number("preemptions") or 0,
            misstarts=number("misstarts") or 0,
            preempting=get("preempting", "") == "1",
            yields=bool(get("yields")) and get("yields") == get("token"),
            start_at=number("start_at"),
            is_held=bool(get("held")) and get("held") == get("token") and state is RunState.RUNNING,
            scheduled_at=number("scheduled_at") or number("not_before"),
            waits_for=_wishes(get("waits_for", "")),
            phases=_phases(get("phases", "")),
            queue_config=get("queue_config", ""),
            is_followed=get("waiting", "0") != "0",
        )
        return record

    def check(self) -> None:
        """Raises InputError, which names the field, for a record by which its worker must not execute it.

        Whoever can write records may write anything: what is used for names of files, for processes or for messages is
        looked at here, once, after the claim (which has looked at what it counts with).
        """
        sound = {
            "id": RUN_ID.fullmatch(self.id),
            "attempt": 1 <= self.attempt <= MAX_ATTEMPTS,
            "token": self.token > 0,
            "queue": QUEUE.fullmatch(self.queue),
            "name": NAME.fullmatch(self.name),
            "project": not self.project or PROJECT.fullmatch(self.project),
            "array": not self.array or KEY.fullmatch(self.array),
            "sweep": not self.sweep or KEY.fullmatch(self.sweep),
            "concurrency_key": not self.concurrency_key or KEY.fullmatch(self.concurrency_key),
            "gpus": len(self.gpus) == _gpus_of(self.needs),
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise InputError(f"the record of this run is damaged: its {name} is not valid")

    def is_over(self, token: int) -> bool:
        """Whether the attempt with this token has ended, or a later one has the run.

        A record with an older token was rolled back: it says nothing of this attempt.
        """
        ended = self.token == token and self.state not in (RunState.RUNNING, RunState.CRASHED)
        return self.token > token or ended

    @property
    def running_since(self) -> int | None:
        """When the latest attempt's job began, its code fetched and its image pulled; server microseconds."""
        starts = [phase for phase in self.phases if phase.name == "start" and phase.seconds is not None]
        return starts[-1].at + int(1e6 * (starts[-1].seconds or 0)) if starts else self.started_at

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its hyperparameters, as the job finds them: what was given for its queue's variables, then its config.

        Without the defaults that the queue gives its variables.
        """
        spec = self._given
        return {**_map(spec.get("values")), **_map(spec.get("config"))}

    @cached_property
    def summary_values(self) -> dict[str, Any]:
        """What the job told of itself: the last value of each name."""
        return read_map(self.summary)

    @cached_property
    def author(self) -> str:
        return str(self._given.get("author", ""))

    @cached_property
    def _given(self) -> dict[str, Any]:
        return read_map(self.spec)

    def why_held(self) -> str:
        """A sentence for people: where its job may live, and what ends the waiting."""
        what = "container" if self.is_container else "job"
        asked = "; it was asked to stop" if self.cancel_at is not None else ""
        return (
            f"its {what} may live on {self.host}, which worker {self.worker} left while it could not be ended{asked}; "
            f"start a worker there, or when nothing of it is left: launch-worker confirm {self.id} ended"
        )

    @property
    def is_container(self) -> bool:
        """Whether its latest attempt came as far as making a container."""
        return any(phase.name in ("pull", "start") for phase in self.phases)

    def _why_it_waits(self) -> str:
        if self.state is RunState.PENDING and self.due_at is not None:
            return f"scheduled for {isoformat(self.due_at)}"
        return ""

    def to_hash(self) -> dict[str, str]:
        """The fields that make this record again, should Redis have lost it."""
        fields = {
            "id": self.id,
            "name": self.name,
            "project": self.project,
            "queue": self.queue,
            "priority": str(self.priority),
            "tags": json.dumps(self.tags),
            "state": self.state.value,
            "attempt": str(self.attempt),
            "first_attempt": str(self.first_attempt),
            "token": str(self.token),
            "worker": self.worker,
            "host": self.host,
            "created_at": str(self.created_at),
            "spec": self.spec,
            "commit": self.commit,
            "needs": self.needs,
            "concurrency_key": self.concurrency_key,
            "limit_key": self.limit_key,
            "array": self.array,
            "array_limit": self.array_limit,
            "sweep": self.sweep,
            "scheduler": "1" if self.is_scheduler else "",
            "version": str(self.version),
            "preemptions": str(self.preemptions),
            "misstarts": str(self.misstarts),
            "gpus": json.dumps(self.gpus),
        }
        for name in ("started_at", "start_at", "scheduled_at"):
            if getattr(self, name) is not None:
                fields[name] = str(getattr(self, name))
        return fields

    def as_json(self) -> dict[str, Any]:
        """The object of `show --json` without `history`: unknown is null, times are ISO 8601 in UTC."""
        return {
            "id": self.id,
            "name": self.name,
            "project": self.project or None,
            "queue": self.queue,
            "tags": list(self.tags),
            "state": self.state.value,
            "reason": (self.why_held() if self.is_held else self.reason) or self._why_it_waits() or None,
            "phase": self.phase or None,
            "message": self.message or None,
            "attempt": self.attempt,
            "exit_code": self.exit_code,
            "signal": self.signal or None,
            "worker": self.worker or None,
            "host": self.host or None,
            "held": self.is_held,
            "pid": self.pid,
            "gpus": list(self.gpus),
            "sweep": self.sweep or None,
            "preemptions": self.preemptions,
            "after": [f"{run_id}:{wish}" for run_id, wish in self.waits_for.items()],
            "phases": [phase.as_json() for phase in self.phases],
            "commit": self.commit or None,
            "created_at": isoformat(self.created_at),
            "started_at": isoformat(self.started_at),
            "ended_at": isoformat(self.ended_at),
            "due_at": isoformat(self.due_at),
            "scheduled_at": isoformat(self.scheduled_at),
            "cancel_requested_at": isoformat(self.cancel_at),
            "config": self.config,
            "summary": self.summary_values,
            "late_exit": self.late_exit or None,
            "log_missing_bytes": self.log_missing,
            "item_version": self.version,
            "spec": masked_spec(self.spec),
        }


def masked_spec(text: str) -> dict[str, Any]:
    """The spec for showing: environment values under secret-looking names are masked."""
    spec = read_map(text)
    env = spec.get("env")
    if isinstance(env, dict):
        spec["env"] = mask_env(env)
    return spec


def mask_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """An environment for showing."""
    return {name: MASK if _SECRET_NAME.search(name) else value for name, value in env.items()}


def _gpus_of(needs: str) -> int:
    """How many devices are asked for; more than there can be for what nobody can read."""
    if not needs:
        return 0
    count = needs.partition(":")[0]
    return int(count) if count.isdecimal() and len(count) <= 6 else MAX_GPUS + 1


def _json(text: str) -> Any:
    """None for what is no JSON."""
    try:
        return read_json(text) if text else None
    except ValueError:
        return None


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _phases(text: str) -> tuple[Phase, ...]:
    try:
        return tuple(
            Phase(str(entry["name"]), int(entry["at"]), None if entry.get("us") is None else int(entry["us"]) / 1e6)
            for entry in (_json(text) or [])
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return ()


def _wishes(text: str) -> dict[str, str]:
    wishes = _json(text)
    return {str(run_id): str(wish) for run_id, wish in wishes.items()} if isinstance(wishes, dict) else {}


def _number(text: str) -> int | None:
    digits = text[1:] if text[0] == "-" else text
    return int(text) if digits.isdecimal() and len(digits) <= 18 else None


def _commit(text: str) -> str:
    """A damaged one is none: it goes to git."""
    return text if text and _COMMIT.fullmatch(text) else ""


def _strings(text: str) -> list[str]:
    if not text or text == "[]":
        return []
    values = _json(text)
    return [str(value) for value in values] if isinstance(values, list) else []
