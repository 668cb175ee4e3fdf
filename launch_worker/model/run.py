"""Defines a run's record as a value, read from the store's hash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from dataclasses import fields as fields_of
from functools import cached_property
from typing import Any

from launch_worker.errors import InputError, UnknownRunError
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.model.checks import KEY, MAX_GPUS, NAME, PRIORITIES, PROJECT, QUEUE, group_key, shown_group
from launch_worker.model.history import Phase, phases_of
from launch_worker.model.kept_outputs import outputs_as_json, outputs_from_json
from launch_worker.model.lenient import int_of, json_of, list_of, map_of, number_of, state_of, strings_of, whole_number
from launch_worker.model.masking import masked_spec
from launch_worker.model.needs import parse_needs
from launch_worker.model.states import RunState
from launch_worker.model.units import is_number, isoformat, micros_of
from launch_worker.model.usage import Usage
from launch_worker.untrusted.text import read_map

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
#: Largest number of attempts of one run.
MAX_ATTEMPTS = 1_000_000


@dataclass(frozen=True)
class Record:
    """What the store knows of a run at one instant. Times are server microseconds; None is "not known".

    A field of the hash has the name of the record's, and its type says how its text is read (`_READERS`); the other
    ones are in `from_hash`. A missing or damaged field has its default.
    """

    id: str = ""
    name: str = ""
    project: str = ""
    queue: str = ""
    priority: int = 0
    tags: tuple[str, ...] = ()
    state: RunState = RunState.FAILED
    reason: str = ""
    phase: str = ""
    message: str = ""
    attempt: int = 0
    #: Number of the attempt from which the retry policy counts; `launch-worker retry` begins a new count.
    first_attempt: int = 1
    token: int = 0
    exit_code: int | None = None
    signal: str = ""
    worker: str = ""
    #: Holder of the lease: one life of a worker.
    owner: str = ""
    host: str = ""
    pid: int | None = None
    gpus: tuple[str, ...] = ()
    created_at: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    due_at: int | None = None
    cancel_at: int | None = None
    #: Git commit that the first attempt fetched, and that every later one gets.
    commit: str = ""
    #: JSON text of the spec; `launch_worker.model.spec.parse_spec` reads it.
    spec: str = ""
    #: GPUS:MILLICORES:BYTES, as `RunSpec.needs` writes them.
    needs: str = ""
    concurrency_key: str = ""
    limit_key: str = ""
    #: Array of which it is a run: the id of the first one.
    array: str = ""
    #: Bulk submission of which it is a run; the hash has it in the field `array`, for a run is in one of the two.
    bulk: str = ""
    array_limit: str = ""
    #: Failed runs of its group after which the rest is not started; '' for no end.
    max_fails: str = ""
    #: Id of the sweep that made the run.
    sweep: str = ""
    #: Name of the user who submitted it through a server, which has proven that; '' for a run that came through Redis.
    user: str = ""
    #: Signature of the submitter (`trust/signatures.py`); '' for an unsigned run.
    signature: str = ""
    #: Names of the allowances for which the run counts, with blanks between (`model/allowance.py`).
    allowances: str = ""
    #: Whether the run makes other runs; a worker has separate places for such runs.
    is_scheduler: bool = False
    #: Version of the spec's format (`launch_worker.model.item_schema`).
    version: int = 1
    #: JSON of the files that are kept with the run: name to size and time.
    files: str = ""
    #: JSON of the newest checkpoint (`launch_worker.model.checkpoint`); '' for none.
    checkpoint: str = ""
    #: First attempt of which checkpoints count: `launch-worker retry --from-scratch` passes the earlier ones over.
    fresh_from: int = 0
    #: JSON of the outputs that are kept, or on their way, by attempt (`launch_worker.model.kept_outputs`).
    outputs: str = ""
    #: JSON of the values that the job reported: the last value of each name.
    summary: str = ""
    #: JSON of what the latest attempt used (`launch_worker.model.usage`); '' until it has ended, or where not known.
    usage: str = ""
    #: Exit code, or name of the signal, of a process that had called its run finished before it ended.
    late_exit: str = ""
    #: Bytes of the latest attempt's output that were dropped for newer output.
    log_missing: int = 0
    #: Number of line breaks in them; None where that is not known.
    log_missing_lines: int | None = None
    #: URL, without secrets, where its worker stores the whole output of large attempts; '' for nowhere.
    log_url: str = ""
    #: Number of preemptions so far.
    preemptions: int = 0
    #: Number of starts that failed through a worker so far.
    misstarts: int = 0
    #: How often each rule of `--retry` was used so far (`model/retry_rules.py`).
    retried: str = ""
    #: Name of the worker that does not get the next attempt while another one may; '' for none.
    avoid: str = ""
    #: Whether the requested stop is a preemption: the run goes on in another attempt.
    preempting: bool = False
    #: Whether the latest attempt's job said that its machine is being taken away.
    yields: bool = False
    #: Time at which a run that was claimed ahead of its time starts.
    start_at: int | None = None
    #: Whether the latest attempt's job may still live while its worker is gone; no worker gets the run until then.
    is_held: bool = False
    #: Time for which the run was planned (a schedule's, `--at`, `--delay`), however late it started.
    scheduled_at: int | None = None
    #: Runs that this run waits for: id to ok, any or failed.
    waits_for: Mapping[str, str] = field(default_factory=dict)
    #: Steps by which the latest attempt came to run: `fetch`, `pull`, `start`, `adopted`; none for a plain process.
    phases: tuple[Phase, ...] = ()
    #: JSON of the queue's configuration at the claim; only the claimer's record has it.
    queue_config: str = ""
    #: Whether more items waited in the list at the claim; only the claimer's record has it.
    is_followed: bool = field(default=False, compare=False)

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Record:
        """Read a record from the store's hash; a damaged field never hides the rest of the record."""
        values = _DEFAULTS.copy()
        for name, text in fields.items():
            read = _READERS.get(name)
            if read is not None and text:
                values[name] = read(text)
        get = fields.get
        token = get("token")
        if values["array"] and GROUP_ID.fullmatch(values["array"]):
            values["bulk"], values["array"] = values["array"], ""
        values["is_scheduler"] = get("scheduler") == "1"
        values["is_followed"] = get("waiting", "0") != "0"
        # A mark that names another attempt's token is over.
        values["yields"] = bool(token) and get("yields") == token
        values["is_held"] = bool(token) and get("held") == token and values["state"] is RunState.RUNNING
        if not values["scheduled_at"]:
            values["scheduled_at"] = number_of(get("not_before") or "-")
        record = cls.__new__(cls)
        # The constructor of a frozen class sets each field by itself, which takes as long as all the reading.
        vars(record).update(values)
        return record

    @property
    def group(self) -> str:
        """Id of the group of which it is a run, as people write it; '' for a run of none."""
        return shown_group(self.array) or self.bulk or self.sweep

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Record:
        """Read the object of `runs --json` or `show --json`: `as_json` of the record is that object again.

        What the object does not have is not known, as the lease; its times have milliseconds. What of it is of
        another type than written by `as_json` has its default.
        """
        # Imported by those who read records from JSON only.
        from launch_worker.model.spec import needs_of

        spec = map_of(shown.get("spec"))
        values: dict[str, Any] = {name: shown[name] for name in _AS_SHOWN if isinstance(shown.get(name), str)}
        values |= {name: number for name in _NUMBERS_SHOWN if (number := whole_number(shown.get(name))) is not None}
        values |= {name: at for name in _TIMES_SHOWN if (at := micros_of(shown.get(name))) is not None}
        values |= {name: tuple(map(str, list_of(shown.get(name)))) for name in ("tags", "gpus")}
        group = str(shown.get("group") or "")
        files = {one["name"]: {"size": one.get("size"), "at": micros_of(one.get("saved_at"))} for one in _named(shown)}
        return cls(
            state=state_of(str(shown.get("state"))),
            is_held=shown.get("held") is True,
            avoid=str(shown.get("not_on_worker") or ""),
            cancel_at=micros_of(shown.get("cancel_requested_at")),
            version=int_of(shown.get("item_version"), 1),
            log_missing=int_of(shown.get("log_missing_bytes")),
            phases=tuple(map(Phase.from_json, filter(map_of, list_of(shown.get("phases"))))),
            waits_for=dict(str(wish).rpartition(":")[::2] for wish in list_of(shown.get("after"))),
            spec=_text(spec),
            summary=_text(map_of(shown.get("summary"))),
            usage=_text(map_of(shown.get("usage"))),
            files=_text(files),
            outputs=outputs_from_json(shown.get("outputs")),
            checkpoint=_text(_checkpoint(map_of(shown.get("checkpoint")))),
            needs=needs_of(
                *(
                    _amount(amount)
                    for amount in (spec.get("gpus"), spec.get("cpus"), shown.get("memory", spec.get("memory")))
                )
            ),
            priority=PRIORITIES.get(str(spec.get("priority")), PRIORITIES["medium"]),
            array=group_key(group) if group.startswith("a") else "",
            bulk="" if group.startswith("a") or group == shown.get("sweep") else group,
            concurrency_key=str(spec.get("concurrency_key") or ""),
            **values,
        )

    def check(self) -> None:
        """Raise InputError, which names the field, for a record that a worker must not execute.

        Whoever can write records may write anything. The fields that become names of files, processes or messages are
        checked here, once, after the claim, which has checked those that it counts with.
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

    @property
    def executed(self) -> str:
        """A hash of what an attempt of this record executes: its run, user and spec."""
        import hashlib  # start-up time of `launch-submit`

        return hashlib.sha256(f"{self.id}\n{self.user}\n{self.spec}".encode()).hexdigest()

    def is_over(self, token: int) -> bool:
        """Whether the attempt with this token has ended, or a later attempt has the run.

        A record with an older token was rolled back, and says nothing of this attempt.
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
        """The hyperparameters, as the job finds them: the values for the queue's variables, then the config.

        Defaults that the queue gives its variables are not among them.
        """
        spec = self._given
        return {**map_of(spec.get("values")), **map_of(spec.get("config"))}

    @cached_property
    def summary_values(self) -> dict[str, Any]:
        """The values that the job reported: the last value of each name."""
        return read_map(self.summary)

    @cached_property
    def author(self) -> str:
        return str(self._given.get("author", ""))

    @cached_property
    def _given(self) -> dict[str, Any]:
        return read_map(self.spec)

    def why_held(self) -> str:
        """A sentence for people: where the job of a held run may live, and what ends the waiting."""
        what = "container" if self.is_container else "job"
        asked = "; it was asked to stop" if self.cancel_at is not None else ""
        return (
            f"its {what} may live on {self.host}, which worker {self.worker} left while it could not be ended{asked}; "
            f"start a worker there, or when nothing of it is left: launch-worker confirm {self.id} ended"
        )

    @property
    def is_container(self) -> bool:
        """Whether the latest attempt came as far as making a container."""
        return any(phase.name in ("pull", "start") for phase in self.phases)

    def _why_it_waits(self) -> str:
        if self.state is RunState.PENDING and self.due_at is not None:
            return f"scheduled for {isoformat(self.due_at)}"
        return ""

    def to_hash(self) -> dict[str, str]:
        """The fields from which the record is made again, should Redis have lost it."""
        known = vars(self)
        fields = {name: known[name] for name in _RESTORED}
        fields["array"] = self.array or self.bulk
        fields["scheduler"] = "1" if self.is_scheduler else ""
        return {
            name: value if type(value) is str else _as_text(value)
            for name, value in fields.items()
            if value is not None
        }

    def as_json(self) -> dict[str, Any]:
        """The object of `show --json` without `history`: unknown is null, times are ISO 8601 in UTC."""
        return {
            "id": self.id,
            "name": self.name,
            "project": self.project or None,
            "user": self.user or None,
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
            "memory": parse_needs(self.needs).memory or None,
            "not_on_worker": self.avoid or None,
            "sweep": self.sweep or None,
            "group": self.group or None,
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
            "checkpoint": None if (checkpoint := Checkpoint.of(self.checkpoint)) is None else checkpoint.as_json(),
            "usage": Usage.of(self.usage).as_json() or None,
            "late_exit": self.late_exit or None,
            "log_missing_bytes": self.log_missing,
            "log_missing_lines": self.log_missing_lines if self.log_missing else 0,
            "log_url": self.log_url or None,
            "outputs": outputs_as_json(self.outputs),
            "item_version": self.version,
            "spec": masked_spec(self.spec),
        }


def unknown_run(run_id: str) -> UnknownRunError:
    shown = run_id if len(run_id) <= 40 and run_id.isprintable() else repr(run_id[:40])
    return UnknownRunError(f"there is no run {shown}; list the known ones with: launch-worker runs")


def no_such_attempt(run_id: str, had: int, attempt: int) -> InputError:
    """The error for an attempt that a run has not had."""
    if not had:
        return InputError(f"run {run_id} has not started: there is no attempt {attempt} yet")
    attempts = "1 attempt" if had == 1 else f"{had} attempts"
    return InputError(f"run {run_id} has had {attempts}; there is no attempt {attempt}")


def _gpus_of(needs: str) -> int:
    """How many devices are asked for; more than there can be for what nobody can read."""
    if not needs:
        return 0
    count = needs.partition(":")[0]
    return int(count) if count.isdecimal() and len(count) <= 6 else MAX_GPUS + 1


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _checkpoint(shown: dict[str, Any]) -> dict[str, Any]:
    """The field of the hash for the checkpoint of `show --json`."""
    return shown and {**shown, "at": micros_of(shown.get("at")) or 0}


def _named(shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files of `show --json`."""
    return [one for one in list_of(shown.get("files")) if isinstance(map_of(one).get("name"), str)]


def _amount(value: Any) -> Any:
    return value if is_number(value) else None


def _wishes(text: str) -> dict[str, str]:
    wishes = json_of(text)
    return {str(run_id): str(wish) for run_id, wish in wishes.items()} if isinstance(wishes, dict) else {}


def _commit(text: str) -> str:
    """A damaged one is none: it goes to git."""
    return text if text and _COMMIT.fullmatch(text) else ""


def _reader(of: Field[Any]) -> Callable[[str], Any]:
    """What makes a field's value of its text in the hash."""
    if of.name == "commit":
        return _commit
    if of.type == "int":
        return lambda text: number_of(text) or of.default
    return _READ_AS[str(of.type)]


def _as_text(value: Any) -> str:
    """A field's value as `from_hash` reads it."""
    if isinstance(value, tuple):
        return json.dumps(value) if value else "[]"
    return str(value)


_READ_AS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int | None": number_of,
    "bool": "1".__eq__,
    "tuple[str, ...]": strings_of,
    "tuple[Phase, ...]": phases_of,
    "Mapping[str, str]": _wishes,
    "RunState": state_of,
}
#: Fields that mean something else, or have another name, in the hash.
_APART = {"bulk", "is_scheduler", "is_followed", "yields", "is_held"}
_READERS = {of.name: _reader(of) for of in fields_of(Record) if of.name not in _APART}
_DEFAULTS = dict(vars(Record()))
#: Fields that `as_json` writes under their own names: texts, numbers and times.
_AS_SHOWN = (
    *("id", "name", "project", "user", "queue", "reason", "phase", "message", "signal", "worker", "host", "sweep"),
    *("commit", "late_exit", "log_url"),
)
_NUMBERS_SHOWN = ("attempt", "exit_code", "pid", "preemptions", "log_missing_lines")
_TIMES_SHOWN = ("created_at", "started_at", "ended_at", "due_at", "scheduled_at")
#: Fields that `to_hash` writes.
_RESTORED = (
    *("id", "name", "project", "queue", "priority", "tags", "state", "attempt", "first_attempt", "token", "worker"),
    *("host", "created_at", "spec", "commit", "needs", "concurrency_key", "limit_key", "array", "array_limit"),
    "max_fails",
    *(
        "sweep",
        "user",
        "signature",
        "allowances",
        "version",
        "preemptions",
        "misstarts",
        "retried",
        "gpus",
        "started_at",
        "start_at",
    ),
    *("scheduled_at", "checkpoint", "fresh_from"),
)
