"""Defines and checks what an admin configures of a queue: what runs its jobs, what they may have and get."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import ENV_NAME
from launch_worker.model.container_options import ContainerPlan, check_queue, plan
from launch_worker.model.git_url import parse_git_url
from launch_worker.model.macros import SYSTEM_MACROS, as_text, check_value_names, fill, has_macros
from launch_worker.model.needs import memory_range
from launch_worker.model.requirements import NONE
from launch_worker.model.spec import RunSpec, environment_of_container
from launch_worker.queues.confinement import (
    Demands,
    checked_limits,
    checked_run_as,
    checked_sandbox,
    checked_writable,
    demands_of,
    left_without_use,
)
from launch_worker.queues.defaults import changed, check_defaults, merge
from launch_worker.queues.pool import check_description
from launch_worker.queues.variables import check_schema, complete_values
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import ANY, check_key_name
from launch_worker.untrusted.text import read_json

RESOURCES = ("process", "container")
#: Priority of a run that asks for none.
_USUAL = "medium"
#: Container settings that may have macros. Settings that bound a submitter or reach the host may not.
_WITH_MACROS = frozenset(
    (
        *("image", "pull", "entrypoint", "mounts", "tmpfs", "user", "read_only", "init", "pids_limit", "shm_size"),
        *("memory", "cpus", "env", "extra_hosts", "dns"),
    )
)
#: Settings with macros that are no texts.
_TYPED = frozenset(("read_only", "init", "pids_limit", "shm_size", "memory", "cpus"))
#: Settings in which a filled-in text must stay one word: it must not make another folder or option.
_PATHS = frozenset(("mounts", "tmpfs"))
#: Options of a run's Python environment.
_OF_ENVIRONMENT = ("requirements", "python")
_SETTINGS = frozenset(setting.name for setting in fields(ContainerPlan))
_SOME_IMAGE = "image"
_PATTERN = re.compile(r"[!-~]{1,300}")
_WORD = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,200}")


@dataclass(frozen=True)
class QueueConfig:
    """The configuration of a queue. Constructing one validates it.

    Workers trust it: who may write it may reach their machines.
    """

    #: Kind of the queue's jobs; '' leaves it to each run: a container when it names an image, else a process.
    resource: str = ""
    #: Settings of the queue's containers, as `launch_worker.model.container_options` names them.
    container: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    #: Defaults of its runs: fields of a RunSpec.
    defaults: dict[str, Any] = field(default_factory=dict)
    #: The JSON Schema of the values that a run may bring.
    variables: dict[str, Any] = field(default_factory=dict)
    #: Variables of the worker's environment that macros may use.
    macro_env: tuple[str, ...] = ()
    #: Patterns of the worker's variables that a run may ask for (`env_from`), and of git URLs from which code may come;
    #: () for no rule of the queue.
    allow_env: tuple[str, ...] = ()
    allow_uris: tuple[str, ...] = ()
    #: Whether its runs may have a priority other than medium.
    priorities: bool = True
    #: Sandbox of its processes: private, strict, or '' for none.
    sandbox: str = ""
    #: Folders in which a process in a sandbox may write beside its own.
    writable: tuple[str, ...] = ()
    #: Account of its processes; `submitter` for that of each run's submitter by `accounts`, '' for the worker's.
    run_as: str = ""
    accounts: dict[str, str] = field(default_factory=dict)
    #: Memory (bytes), pids and cpus that all processes of one job may take together.
    limits: dict[str, Any] = field(default_factory=dict)
    #: Public key by which secrets of its runs are sealed for its workers; '' for none.
    sealing_key: str = ""
    #: Names or ids of the trusted keys that may sign its runs, `*` for each; none: its runs need no signature.
    signers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.resource and self.resource not in RESOURCES:
            raise InputError(f"resource {self.resource!r} is unknown; use one of: {', '.join(RESOURCES)}")
        if not isinstance(self.priorities, bool):
            raise InputError(f"priorities must be true or false, not {self.priorities!r}")
        check_description(self.description)
        if self.sealing_key:
            read_public(self.sealing_key, "seal")
        object.__setattr__(self, "signers", _checked_signers(self.signers))
        _check_container(self.container)
        object.__setattr__(self, "macro_env", _checked_macro_env(self.macro_env))
        for name in ("allow_env", "allow_uris"):
            object.__setattr__(self, name, _checked_patterns(name, getattr(self, name)))
        check_schema(self.variables)
        check_value_names(self.variables.get("properties", {}), macro_env=self.macro_env)
        object.__setattr__(self, "defaults", check_defaults(self.defaults))
        self._check_confinement()
        self.check_defaults()

    @classmethod
    def from_json(cls, text: str) -> QueueConfig:
        """The configuration from its JSON; '' is none. Raises InputError for what is damaged, or of a newer release."""
        if not text:
            return cls()
        try:
            return cls(**read_json(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"the queue's configuration is damaged: {error}") from None

    def to_json(self) -> str:
        kept: dict[str, Any] = {
            "resource": self.resource,
            "container": self.container,
            "description": self.description,
            "defaults": self.defaults,
            "variables": self.variables,
            "macro_env": self.macro_env,
            "allow_env": self.allow_env,
            "allow_uris": self.allow_uris,
            "sandbox": self.sandbox,
            "writable": self.writable,
            "run_as": self.run_as,
            "accounts": self.accounts,
            "limits": self.limits,
            "sealing_key": self.sealing_key,
            "signers": self.signers,
        }
        kept = {name: value for name, value in kept.items() if value}
        if not self.priorities:
            kept["priorities"] = False
        return json.dumps(kept, sort_keys=True, allow_nan=False)

    @cached_property
    def demands(self) -> Demands:
        """How its processes are confined."""
        return demands_of(
            sandbox=self.sandbox,
            run_as=self.run_as,
            accounts=self.accounts,
            limits=self.limits,
            writable=self.writable,
        )

    def container_plan(self, spec: RunSpec, macros: Mapping[str, Any] | None = None) -> ContainerPlan | None:
        """The plan of the run's container; None when the run is a process.

        Without `macros` settings that have some are left for the claim. Raises InputError when the run does not fit the
        queue.
        """
        asked = bool(spec.image) or spec.asks_for_container
        if self.resource == "process" and asked:
            raise InputError(f"queue {spec.queue!r} runs processes; {_names(spec)} would need a container queue")
        if self.resource != "container" and not spec.image:
            if asked:
                raise InputError(f"{_names(spec)} can be kept for containers only; name an image with --image IMAGE")
            return None
        if self.demands:
            raise InputError(
                f"this queue confines processes ({self.demands}), and --image would make the run a container, which "
                "that does not confine; leave out the image, or use a queue of containers"
            )
        image = spec.image
        if macros is not None:
            settings = _filled(self.container, macros, trusted=self.macro_env)
            if not image and has_macros(self.container.get("image")):
                # An image to which a submitter's value contributed is checked as a submitter's.
                image = settings["image"]
        else:
            settings = _without_macros(self.container)
            if has_macros(image):
                image, settings = _SOME_IMAGE, settings | {"allow_images": None}
        memory = memory_range(spec.memory)[0]
        return plan(image=image, submitted=spec.container, queue=settings, memory=memory, cpus=spec.cpus)

    def spec_of(self, given: Mapping[str, Any], *layers: Mapping[str, Any]) -> RunSpec:
        """A run from what its submitter says, this queue's defaults, then those of `layers`. Raises InputError.

        Container options among the defaults are for runs that are containers only, a Python environment for others.
        """
        keywords = merge(given, self.defaults, *layers)
        if self.resource != "container" and (self.resource == "process" or not keywords.get("image")):
            keywords["container"] = given.get("container") or {}
        else:
            keywords |= {name: given.get(name) or "" for name in _OF_ENVIRONMENT}
        return RunSpec(**keywords)

    def checked(self, spec: RunSpec) -> RunSpec:
        """The run as it is submitted: with the template variables' defaults. Raises InputError for what may not be."""
        self._check_priority(spec)
        self.check_reach(spec)
        if self.container_plan(spec) is not None and (spec.python or spec.requirements not in ("", NONE)):
            raise environment_of_container(spec)
        values = self.values_of(spec)
        return spec if values == spec.values else replace(spec, values=values)

    def check_reach(self, spec: RunSpec) -> None:
        """Raises InputError for a run that asks for a variable, or for code, that the queue does not allow."""
        for name in spec.env_from if self.allow_env else ():
            if not _is_one_of(name, self.allow_env):
                raise InputError(
                    f"--env-from {name} is not allowed in this queue; it allows: {', '.join(self.allow_env)}"
                )
        if spec.uri and self.allow_uris and not has_macros(spec.uri):
            self.check_git_url(parse_git_url(spec.uri).url)

    def check_git_url(self, url: str) -> None:
        """Raises InputError for a repository, or a submodule, from which no code may come."""
        if self.allow_uris and not _is_one_of(url, self.allow_uris):
            raise InputError(f"code from {url} is not allowed in this queue; it allows: {', '.join(self.allow_uris)}")

    def values_of(self, spec: RunSpec) -> dict[str, Any]:
        """The run's values with defaults. Raises InputError with the reason why the queue does not allow them."""
        check_value_names(spec.values, macro_env=self.macro_env)
        return complete_values(self.variables, spec.values)

    def check_defaults(self, *layers: Mapping[str, Any]) -> None:
        """Raises InputError when the defaults, those of `layers` behind them, make runs that this queue refuses."""
        if not (self.defaults or any(layers)):
            return
        plainest = {"command": ("true",)}
        try:
            spec = self.spec_of(plainest, *layers)
            self._check_priority(spec)
            self.check_reach(spec)
            check_value_names(spec.values, macro_env=self.macro_env)
            complete_values(_of_single_values(self.variables), spec.values)
            if self.resource == "process" and spec.image:
                raise InputError(f"image {spec.image!r} in a queue that runs processes")
            if spec.image:
                self.container_plan(spec)
            elif self.resource != "process":
                spec = self.spec_of({**plainest, "image": _SOME_IMAGE}, *layers)
                settings = _without_macros(self.container) | {"allow_images": None}
                memory = memory_range(spec.memory)[0]
                plan(image=spec.image, submitted=spec.container, queue=settings, memory=memory, cpus=spec.cpus)
        except InputError as error:
            raise InputError(f"the queue's own rules refuse its defaults: {error}") from None

    def changed(self, **settings: Any) -> QueueConfig:
        """The configuration with these settings; None leaves one as it is, an empty value takes it away.

        In `container`, `accounts`, `limits` and `defaults` entries change one by one, and None takes an entry away.
        """
        maps: dict[str, Any] = {}
        gone = left_without_use(settings, sandbox=self.sandbox)
        if "writable" in gone:
            settings.setdefault("writable", ())
        for name in ("container", "accounts", "limits"):
            given = _map(name, settings.pop(name, None) or {})
            merged = {**({} if name in gone else getattr(self, name)), **given}
            maps[name] = {key: value for key, value in merged.items() if value is not None}
        defaults = changed(self.defaults, settings.pop("defaults", None))
        given = {name: value for name, value in settings.items() if value is not None}
        return replace(self, **given, **maps, defaults=defaults)

    def _check_confinement(self) -> None:
        object.__setattr__(self, "sandbox", checked_sandbox(self.sandbox))
        run_as, accounts = checked_run_as(self.run_as, self.accounts)
        object.__setattr__(self, "run_as", run_as)
        object.__setattr__(self, "accounts", accounts)
        object.__setattr__(self, "limits", checked_limits(self.limits))
        object.__setattr__(self, "writable", checked_writable(self.writable))
        if self.writable and not self.sandbox:
            raise InputError("writable folders are for a sandbox; set sandbox private or strict, or take them away")
        if self.resource == "container" and self.demands:
            raise InputError(
                f"{self.demands} confines processes, and this queue runs containers; those have settings of their own "
                "(user, memory, pids_limit, cpus, network)"
            )

    def _check_priority(self, spec: RunSpec) -> None:
        if spec.priority != _USUAL and not self.priorities:
            raise InputError(
                f"this queue has no priorities, so none of its runs can be {spec.priority}; leave out the priority, or "
                "use another queue"
            )


def parse_settings(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Container settings as typed on a command line: JSON where it is JSON, else text; empty takes one away."""
    parsed: dict[str, Any] = {}
    for name, text in pairs.items():
        try:
            parsed[name] = read_json(text) if text else None
        except ValueError:
            parsed[name] = text
    return parsed


def _map(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a map of settings to values, not {type(value).__name__}")
    return value


def _check_container(settings: Any) -> None:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if name in _SETTINGS and name not in _WITH_MACROS and has_macros(value):
                raise InputError(f"container setting {name} cannot have macros: it decides what a submitter may reach")
        unknown = [name for name in settings if name not in _SETTINGS]
        check_queue(_without_macros(settings) | dict.fromkeys(unknown))
    else:
        check_queue(settings)


def _without_macros(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that can be checked before the claim. An image with macros is replaced by some image."""
    plain = {name: value for name, value in settings.items() if not has_macros(value)}
    if "image" in settings and "image" not in plain:
        plain["image"] = _SOME_IMAGE
    return plain


def _filled(settings: Mapping[str, Any], macros: Mapping[str, Any], *, trusted: tuple[str, ...]) -> dict[str, Any]:
    filled = {}
    for name, value in settings.items():
        if name not in _WITH_MACROS or not has_macros(value):
            filled[name] = value
        elif name in _TYPED:
            filled[name] = fill(value, macros)
        else:
            filled[name] = _texts(fill(value, _Words(name, macros, trusted) if name in _PATHS else macros))
    return filled


def _texts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: as_text(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(entry) for entry in value]
    return as_text(value)


class _Words(Mapping[str, Any]):
    """Macros that give single words only, so that a submitter's value cannot lead a queue's mount elsewhere.

    `trusted` names the macros whose values are not the submitter's.
    """

    def __init__(self, setting: str, macros: Mapping[str, Any], trusted: tuple[str, ...]) -> None:
        self._setting = setting
        self._macros = macros
        self._trusted = trusted

    def __getitem__(self, name: str) -> Any:
        value = self._macros[name]
        if (
            name not in self._trusted
            and value is not None
            and (not _WORD.fullmatch(as_text(value)) or ".." in as_text(value))
        ):
            raise InputError(
                f"{as_text(value)[:60]!r} cannot be filled into the queue's {self._setting} for ${{{name}}}: use "
                "letters, digits and _ . @ + - only"
            )
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._macros)

    def __len__(self) -> int:
        return len(self._macros)


def _checked_macro_env(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)):
        raise InputError("macro_env must be a list of names of the worker's environment variables")
    for name in names:
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            raise InputError(f"{str(name)[:60]!r} in macro_env is not a name of an environment variable")
        if name in SYSTEM_MACROS:
            raise InputError(f"{name} in macro_env is the system's own macro; use another variable")
    return tuple(dict.fromkeys(names))


def _checked_patterns(setting: str, patterns: Any) -> tuple[str, ...]:
    if not isinstance(patterns, (list, tuple)):
        raise InputError(f"{setting} must be a list of patterns, as in DATA_*")
    for pattern in patterns:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise InputError(f"{str(pattern)[:60]!r} in {setting} is no pattern: at most 300 characters without blanks")
    return tuple(dict.fromkeys(patterns))


def _is_one_of(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _checked_signers(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError("signers must be a list of names or ids of trusted keys; list them with: launch-worker keys")
    return tuple(dict.fromkeys(name if name == ANY else check_key_name(name) for name in names))


def _of_single_values(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of a schema for each value by itself: a run may bring more values than the defaults."""
    return {name: rule for name, rule in schema.items() if name in ("type", "properties", "additionalProperties")}


def _names(spec: RunSpec) -> str:
    return "--image" if spec.image else f"container option {next(iter(spec.container))!r}"
