"""Defines and checks the spec of a run: all that a submitter says of it."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from itertools import compress
from typing import Any

from launch_worker.errors import InputError
from launch_worker.frozen import dataclass
from launch_worker.model.checks import ENV_NAME, NAME, RETRYABLE, encodes
from launch_worker.model.inputs import waits_of
from launch_worker.model.macros import has_macros
from launch_worker.model.needs import memory_range
from launch_worker.model.options import CHECKS
from launch_worker.model.signals import Ahead, parse_ahead
from launch_worker.model.units import format_duration
from launch_worker.untrusted.text import read_json

SHA256 = re.compile(r"[0-9a-f]{64}")

#: Bytes that the kernel allows for one argument or one NAME=VALUE (MAX_ARG_STRLEN, its final NUL included).
MAX_ARG_BYTES = 128 * 1024 - 1
MAX_COMMAND_BYTES = 1 << 20
MAX_ENV_BYTES = 512 * 1024
_INTERPRETER = re.compile(r"(python|bash|sh|perl|ruby|node|Rscript|julia)[\d.]*")
_SCRIPT = re.compile(r"[\w./-]+")


@dataclass(frozen=True)
class RunSpec:
    """A run to be: command, labels, environment, limits and retry policy. Constructing one validates it.

    Raises InputError with one sentence for the first thing that is wrong. Durations are seconds.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012 (read by the schema of `item_schema`)

    command: tuple[str, ...]
    queue: str = "default"
    name: str = ""
    project: str = ""
    #: Submitter, for people and the macro `${author}`.
    author: str = ""
    tags: tuple[str, ...] = ()
    priority: str = "medium"
    env: dict[str, str] = field(default_factory=dict)
    #: Names of variables; the worker supplies the values, so that secrets never enter Redis.
    env_from: tuple[str, ...] = ()
    cwd: str | None = None
    #: Whether the worker must have the folder `cwd`; else the job starts in a fresh one where it is missing.
    cwd_required: bool = False
    #: Code from git, GIT_URL[@REF], or an uploaded folder, by the sha256 of its archive; a relative `cwd` is inside.
    uri: str = ""
    upload: str = ""
    #: Requirements of its Python environment: a file of the code, or of `requirements_files`; or `auto`, or `none`.
    requirements: str = ""
    #: Content of the requirements of a run that brings no code, by path.
    requirements_files: dict[str, str] = field(default_factory=dict)
    #: Python of its environment, as uv is asked for it; '' leaves it to uv.
    python: str = ""
    timeout_s: float | None = None
    start_timeout_s: float = 1800.0
    stall_timeout_s: float | None = None
    grace_s: float = 10.0
    #: Signal that asks the job to end, and its receivers, main or all; '' for the usual ones (docs/reference/jobs.md).
    stop_signal: str = ""
    stop_scope: str = ""
    #: Signal that the job gets ahead of its end, SIGNAL@SECONDS; '' for none.
    signal: str = ""
    #: What follows the time limit: fail, requeue or requeue:N.
    on_timeout: str = "fail"
    #: New attempts at most, whatever asks for them; None for no such limit, and for none where no rule asks for one.
    retries: int | None = None
    retry_delay_s: float = 0.0
    retry_on: tuple[str, ...] = RETRYABLE
    #: Rules of what is tried again, CONDITION=COUNT[:DELAY[..DELAY]] each (`model/retry_rules.py`).
    retry: tuple[str, ...] = ()
    #: Whether an attempt after a failed one goes to another worker than that one's, while there is one.
    not_on_same_worker: bool = False
    #: Container image: the run is a container, and `command` are the arguments of its entry point.
    image: str = ""
    #: Further settings of the container, as `launch_worker.model.container_options` names them.
    container: dict[str, Any] = field(default_factory=dict)
    #: Needs of the run: bytes (or a range, `8G..64G`, of which each attempt that had too little takes twice as much),
    #: cores, whole devices.
    memory: int | str | None = None
    cpus: float | None = None
    gpus: int = 0
    #: Values of its queue's template variables and macros (`--set`).
    values: dict[str, Any] = field(default_factory=dict)
    #: Key of a limit: of the runs with the same key, at most `limit_key` run at once.
    concurrency_key: str = ""
    limit_key: int = 1
    #: Runs to wait for, and the ends to wait for: RUN:ok, RUN:any or RUN:failed.
    after: tuple[str, ...] = ()
    #: Array of numbered runs of one submission; at most `array_limit` of them run at once.
    array: str = ""
    array_index: int | None = None
    array_limit: int | None = None
    #: Failed runs of its array, bulk submission or sweep, after which the rest is not started; None for no end.
    max_fails: int | None = None
    #: Hyperparameters, for the job (`current_run().config`) and for people.
    config: dict[str, Any] = field(default_factory=dict)
    #: Sweep that made the run, and the run's number in it, from 0.
    sweep: str = ""
    sweep_index: int | None = None
    #: Whether it makes other runs, as W&B's sweep schedulers do: a worker counts such runs apart.
    scheduler: bool = False
    #: Time from its submission, or its scheduled time, within which it must start.
    expires_s: float | None = None
    #: Exit code by which the job says that it was preempted, and the number of times that it may be.
    preempt_exit_code: int = 85
    max_preemptions: int = 5
    #: Channels that are told of its end or of other states: CHANNEL or CHANNEL:STATES.
    notify: tuple[str, ...] = ()
    #: Patterns of the files in LAUNCH_OUTPUT_DIR that are kept; none for all.
    outputs: tuple[str, ...] = ()
    #: Outputs of other runs that the job finds below LAUNCH_INPUT_DIR: RUN:PATH or RUN:PATH:DEST.
    inputs: tuple[str, ...] = ()
    #: Time between two checkpoints that the worker takes of a job that does not ask for them; None: it takes none.
    checkpoint_every_s: float | None = None
    #: Variables of the job whose values are sealed for its queue's workers (`trust/secrets.py`): name to sealed text.
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check(_changed(self))

    def _check(self, given: Iterable[str]) -> None:
        """Set the default name, and raise InputError for a wrong field; only fields that are `given` can be wrong."""
        if self.command or not self.image:
            _check_command(self.command)
        if not self.name:
            object.__setattr__(self, "name", default_name(self.command or (self.image,)))
        for name in given:
            if name in CHECKS:
                CHECKS[name](getattr(self, name))
        if self.env or self.env_from:
            _check_env(self.env, self.env_from)
        if self.secrets:
            _check_secrets(self)
        if self.signal and self.timeout_s is not None:
            _check_ahead(parse_ahead(self.signal), self.timeout_s)
        if self.uri or self.upload:
            _check_code(self.uri, self.upload)
        if self.requirements or self.requirements_files or self.python:
            _check_environment(self)
        if self.cwd is not None:
            _check_cwd(self.cwd, in_code=bool(self.uri or self.upload))
        if self.retry and self.retry_on != RETRYABLE:
            raise InputError("retry names the ends that are tried again itself; leave out retry-on")
        if self.image or self.container or self.memory is not None or self.cpus is not None:
            _check_container(self)

    @property
    def asks_for_container(self) -> bool:
        """Whether it has settings that only a container keeps."""
        return bool(self.container)

    @property
    def waits(self) -> Mapping[str, str]:
        """The runs and groups that it waits for, and the wish for each one's end."""
        return waits_of(self.after, self.inputs)

    @property
    def needs(self) -> str:
        """The needs as the store compares them: GPUS:MILLICORES:BYTES; '' for nothing."""
        return needs_of(self.gpus, self.cpus, memory_range(self.memory)[0])

    def to_json(self) -> str:
        """The canonical text that the record keeps; `parse_spec` reads it back."""
        # By hand: `asdict` copies deeply, and takes ten times as long; and json makes an encoder for each call.
        parts = []
        for name in _changed(self):
            value = getattr(self, name)
            if value == _PLAIN[name] or (name == "name" and value == default_name(self.command or (self.image,))):
                continue
            if type(value) is str:
                parts.append(f'"{name}":{_QUOTE(value)}')
            elif type(value) is tuple:
                parts.append(f'"{name}":[{",".join(map(_QUOTE, value))}]')
            else:
                parts.append(f'"{name}":{_ENCODE(value)}')
        return f"{{{','.join(parts)}}}"


_QUOTE = json.encoder.encode_basestring_ascii
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
#: Defaults of all fields; the command has none.
_PLAIN: dict[str, Any] = {
    name: {} if spec_field.default_factory is dict else spec_field.default
    for name, spec_field in RunSpec.__dataclass_fields__.items()
}
_VALUES = operator.attrgetter(*_PLAIN)


def _changed(spec: RunSpec) -> Iterable[str]:
    """The fields that differ from their defaults, and maybe some that do not."""
    # By identity: 0 is not False, which would have to be refused.
    return compress(_PLAIN, map(operator.is_not, _VALUES(spec), _PLAIN.values()))


def make_spec(given: Mapping[str, Any]) -> RunSpec:
    """`RunSpec(**given)` in a third of the time; the names must be its fields, the command among them."""
    spec = object.__new__(RunSpec)
    # New maps for each run: a shared one could be changed.
    spec.__dict__.update(_PLAIN, env={}, container={}, values={}, config={}, requirements_files={}, secrets={})
    spec.__dict__.update(given)
    spec._check(given)
    return spec


def needs_of(gpus: int | None, cpus: float | None, memory: int | None) -> str:
    """The needs as the store compares them: GPUS:MILLICORES:BYTES; '' for nothing."""
    if not (gpus or cpus or memory):
        return ""
    return f"{gpus or 0}:{0 if cpus is None else math.ceil(1000 * cpus)}:{memory or 0}"


def parse_spec(text: str) -> RunSpec:
    """Read a record's spec as untrusted input. Raises InputError that names the field, never its value.

    A test compares it with pydantic, which makes the published schema: to import that takes 15 MiB and 0.1 s.
    """
    try:
        given = read_json(text, is_exact=True)
    except ValueError:
        given = None
    if not isinstance(given, dict) or not _is_utf8(text, given):
        raise _damaged("spec", "must be an object of JSON in UTF-8")
    for name, value in given.items():
        if name not in _READERS:
            raise _damaged(name, "is no field of an item")
        read, may_be_null = _READERS[name]
        if value is not None or not may_be_null:
            given[name] = read(name, value)
    if "command" not in given:
        raise _damaged("command", "is missing")
    return RunSpec(**given)


def _damaged(where: str, what: str) -> InputError:
    return InputError(f"the run's record is damaged: {where[:100]!a} {what}")


def _is_utf8(text: str, read: Any) -> bool:
    """Whether a text and what was read of it are valid UTF-8: `json` lets halves of surrogate pairs pass."""
    has_escapes = "\\ud" in text or "\\uD" in text
    return encodes(text) and (not has_escapes or encodes(json.dumps(read, ensure_ascii=False)))


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _damaged(where, "must be a text")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _damaged(where, "must be a list")
    return tuple([_text(f"{where}.{at}", entry) for at, entry in enumerate(value)])


def _map(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(where, "must be a map")
    return value


def _text_map(where: str, value: Any) -> dict[str, str]:
    return {name: _text(f"{where}.{name}", entry) for name, entry in _map(where, value).items()}


def _whether(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _damaged(where, "must be true or false")
    return value


def _whole(where: str, value: Any) -> int:
    if type(value) is not int:
        raise _damaged(where, "must be a whole number")
    return value


def _whole_or_text(where: str, value: Any) -> int | str:
    if not isinstance(value, str) and type(value) is not int:
        raise _damaged(where, "must be a whole number or a text")
    return value


def _number(where: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise _damaged(where, "must be a number")
    try:
        return float(value)
    except OverflowError:
        raise _damaged(where, "is too large a number") from None


_TYPES: dict[str, Callable[[str, Any], Any]] = {
    "str": _text,
    "bool": _whether,
    "int": _whole,
    "int | str": _whole_or_text,
    "float": _number,
    "tuple[str, ...]": _texts,
    "dict[str, str]": _text_map,
    "dict[str, Any]": _map,
}
#: For each field: reader of its type from JSON, and whether null is a value too.
_READERS = {
    name: (_TYPES[spec_field.type.removesuffix(" | None")], spec_field.type.endswith(" | None"))
    for name, spec_field in RunSpec.__dataclass_fields__.items()
}


def default_name(command: tuple[str, ...]) -> str:
    """A readable name that shows no argument values: the program, or the script that an interpreter runs."""
    word = command[0].rsplit("/", 1)[-1]
    if len(command) > 1 and _INTERPRETER.fullmatch(word):
        script = command[2] if command[1] == "-m" and len(command) > 2 else command[1]
        if _SCRIPT.fullmatch(script) and not script.startswith("-"):
            word = script.rsplit("/", 1)[-1]
    if NAME.fullmatch(word):
        return word
    return "".join(char if NAME.fullmatch(char) else "?" for char in word)[:200] or "job"


def _check_command(command: tuple[str, ...] | str) -> None:
    if isinstance(command, str):
        raise InputError(f"the command must be a list of arguments, not one string; write {command.split()!r}")
    if not command or not command[0]:
        raise InputError("the command is empty; write it after --, for instance: launch-submit -- python train.py")
    total = 0
    for argument in command:
        if not isinstance(argument, str):
            raise InputError(f"every argument of the command must be a string, not {type(argument).__name__}")
        total += _check_argument("an argument of the command", argument)
    if total > MAX_COMMAND_BYTES:
        raise InputError(f"the command has {total:,} bytes; at most {MAX_COMMAND_BYTES:,} can be submitted")


def _check_container(spec: RunSpec) -> None:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.model.container_options import IMAGE, check_cpus, check_memory, check_submitted

    # With macros the worker checks again, once they are filled.
    if spec.image and not has_macros(spec.image) and not IMAGE.fullmatch(spec.image):
        raise InputError(
            f"image {spec.image[:60]!r} is not the name of an image; write it as NAME, NAME:TAG or NAME@sha256:DIGEST"
        )
    check_submitted(spec.container)
    if spec.memory is not None:
        for size in memory_range(spec.memory):
            check_memory("memory", size)
    if spec.cpus is not None:
        check_cpus("cpus", spec.cpus)


def _check_code(uri: str, upload: str) -> None:
    if uri and upload:
        raise InputError("the code comes from git or from an upload, not both; leave out --uri or --upload")
    if uri and not has_macros(uri):
        # Imported on demand: start-up time of `launch-submit`.
        from launch_worker.model.git_url import parse_git_url

        parse_git_url(uri)
    if upload and not SHA256.fullmatch(upload):
        raise InputError("upload must be the sha256 of an archive that was sent before, 64 hexadecimal digits")


def _check_environment(spec: RunSpec) -> None:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.model.requirements import AUTO, NONE, check_files, is_file

    if spec.image and spec.requirements != NONE:
        raise environment_of_container(spec)
    check_files(spec.requirements, spec.requirements_files)
    has_code = bool(spec.uri or spec.upload)
    if spec.requirements_files and has_code:
        raise InputError("the requirements are a file of the code, which comes by itself; leave out requirements_files")
    if spec.requirements == AUTO and not has_code:
        raise InputError(
            "requirements are found by themselves in the code of a run, and this one brings none; name a file, or send "
            "the code"
        )
    if is_file(spec.requirements) and not (has_code or spec.requirements_files):
        raise InputError(
            f"the content of {spec.requirements!r} must come along, for the run brings no code: give it as "
            "requirements_files, or send the code"
        )


def environment_of_container(spec: RunSpec) -> InputError:
    """The error for a container that asks for a Python environment."""
    what = "--requirements" if spec.requirements else "--python"
    return InputError(f"a container has the packages of its image, and gets no environment; leave out {what}")


def _check_ahead(ahead: Ahead, timeout_s: float) -> None:
    if ahead.seconds >= timeout_s:
        raise InputError(
            f"a signal {format_duration(ahead.seconds)} before the time limit of {format_duration(timeout_s)} would "
            "come before the job begins; choose a shorter time for --signal, or a longer --timeout"
        )


def _check_cwd(cwd: str, *, in_code: bool) -> None:
    if "\x00" in cwd or not (cwd.startswith("/") or in_code):
        raise InputError(f"working directory {cwd!r} must be an absolute path")
    if not cwd.startswith("/") and (not cwd or ".." in cwd.split("/") or not encodes(cwd)):
        raise InputError(f"working directory {cwd!r} must be a folder inside the code, without .., or an absolute path")


def _check_argument(what: str, text: str) -> int:
    if "\x00" in text:
        raise InputError(f"{what} has a NUL byte, which no program can be given; remove it")
    if not encodes(text):
        raise InputError(f"{what} is not valid UTF-8; re-encode it")
    size = len(text.encode())
    if size > MAX_ARG_BYTES:
        raise InputError(f"{what} has {size:,} bytes; the kernel allows {MAX_ARG_BYTES:,}: pass a file instead")
    return size


#: Variables by which a job that submits reaches the launch system.
_OF_CLIENTS = frozenset(("LAUNCH_REDIS_URL", "LAUNCH_API_URL", "LAUNCH_API_TOKEN"))


def _check_secrets(spec: RunSpec) -> None:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.model.secrets import check_sealed

    check_sealed(spec.secrets)
    check_secret_names(spec.secrets, spec)


def check_secret_names(names: Iterable[str], spec: RunSpec) -> None:
    """Raises InputError for a secret that another variable of the job would hide, or that the worker sets."""
    _check_env({}, tuple(names))
    for name in names:
        if name in spec.env or name in spec.env_from:
            raise InputError(f"{name} is a secret and another variable of the job too; leave out one of them")


def _check_env(env: Mapping[str, str], env_from: tuple[str, ...]) -> None:
    total = 0
    for name in (*env, *env_from):
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            shown = name if len(str(name)) <= 60 else str(name)[:60] + "…"
            raise InputError(f"{shown!r} is not a name for an environment variable")
        if name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES") or (
            name.startswith("LAUNCH_") and name not in _OF_CLIENTS
        ):
            raise InputError(f"environment variable {name} is set by the worker; choose another name")
    for name, value in env.items():
        if not isinstance(value, str):
            raise InputError(f"the value of environment variable {name} must be a string")
        total += len(name) + 1 + _check_argument(f"the value of environment variable {name}", value)
    if total > MAX_ENV_BYTES:
        raise InputError(f"the environment has {total:,} bytes; at most {MAX_ENV_BYTES:,} can be submitted")
