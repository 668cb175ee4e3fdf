"""Reads a sweep as W&B's YAML describes it, and checks it whole before anything starts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT, NAME, PROJECT
from launch_worker.sweeps.hyperband import Hyperband, parse_hyperband
from launch_worker.sweeps.space import Space, flat, nearest, parse_space
from launch_worker.untrusted.text import read_json

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
#: W&B's keys (https://docs.wandb.ai/guides/sweeps/sweep-config-keys), then ours: Optuna's samplers and pruners by name,
#: and what makes two sweeps draw alike.
KEYS = (
    *("method", "metric", "parameters", "run_cap", "program", "command", "name", "project", "entity", "description"),
    *("early_terminate", "sampler", "pruner", "seed"),
)
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
#: Command of a container without a program: its image's entry point gets the arguments.
IMAGE_COMMAND = ("${args}",)
#: Macros that become several arguments, and must stand alone.
_ARGS = ("args", "args_no_hyphens", "args_no_boolean_flags")
MACROS = ("env", "interpreter", "program", *_ARGS, "args_json", "args_json_file")
_MACRO = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.]{0,99})\}")
_ENVVAR = re.compile(r"\$\{envvar:")
MAX_CONFIG_BYTES = 1 << 20
#: Number of values in a configuration at most: no more fit into its bytes.
_MAX_PARTS = MAX_CONFIG_BYTES // 2


class SweepConfigError(InputError):
    """Every problem of a sweep's configuration, one a line."""

    def __init__(self, problems: list[str], where: str = "the sweep's configuration") -> None:
        self.problems = problems
        count = f"{len(problems)} errors" if len(problems) > 1 else "an error"
        super().__init__(f"{where} has {count}:" + "".join(f"\n  {problem}" for problem in problems))


@dataclass(frozen=True)
class Engine:
    """An Optuna sampler or pruner, and its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepConfig:
    """A sweep's parameters, its way to search, and its metric. `parse_config` reads one."""

    method: str
    space: Space
    #: Name of the metric; '' for none: then no run is better than another.
    metric: str = ""
    maximize: bool = False
    #: Value of the metric at which no new runs are made.
    target: float | None = None
    run_cap: int | None = None
    program: str = ""
    command: tuple[str, ...] = COMMAND
    name: str = ""
    project: str = ""
    description: str = ""
    hyperband: Hyperband | None = None
    sampler: Engine | None = None
    pruner: Engine | None = None
    seed: int | None = None
    #: The configuration as it was written.
    said: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def needs_optuna(self) -> bool:
        return self.method != "grid" or self.pruner is not None

    @property
    def watches_metric(self) -> bool:
        """Whether runs are judged by the metric before they end."""
        return self.hyperband is not None or self.pruner is not None

    @property
    def cap(self) -> int | None:
        """Most runs that it makes; None for no end."""
        size = self.space.grid_size if self.method == "grid" else None
        return min((cap for cap in (self.run_cap, size) if cap is not None), default=None)

    def to_json(self) -> str:
        return json.dumps(self.said)

    def command_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """A run's command, the macros of sweeps filled; the others are filled where the run is claimed.

        A parameter's value is taken as it is, even where it looks like a macro. Nested parameters have names with dots
        (`--optimizer.lr=0.1`), and true, false and null are Python's, as in W&B.
        """
        words: list[str] = []
        entries = list(flat(config))
        for word in self.command:
            match = _MACRO.fullmatch(word)
            if match is not None and match[1] in _ARGS:
                words += [_literal(text) for text in _arguments(match[1], entries)]
            elif match is not None and match[1] == "env":
                words.append("/usr/bin/env")
            else:
                words.append(_MACRO.sub(lambda found: self._text(found, config), word))
        return tuple(words)

    def _text(self, found: re.Match[str], config: Mapping[str, Any]) -> str:
        if found[1] == "interpreter":
            return "python"
        if found[1] == "program":
            return _literal(self.program)
        if found[1] == "args_json":
            return _literal(json.dumps(config))
        return found[0]


def parse_config(said: Any, *, where: str = "the sweep's configuration", has_image: bool = False) -> SweepConfig:
    """Check a sweep's configuration, W&B's YAML as a map. Raises SweepConfigError with all that is wrong.

    `has_image`: its runs are containers, and need no program.
    """
    problems: list[str] = []
    if not isinstance(said, Mapping):
        raise SweepConfigError(["it must be a map with at least method, parameters and program"], where)
    for key in said:
        if key not in KEYS:
            problems.append(f"{str(key)[:60]!r} is unknown{nearest(str(key), KEYS)}")
    sampler = _engine(said, "sampler", problems)
    method = _method(said, sampler, problems)
    if "parameters" not in said:
        problems.append("parameters: is missing; name at least one, such as lr: {min: 0.001, max: 0.1}")
        space = Space(())
    else:
        space = parse_space(said["parameters"], problems)
    if method == "grid":
        for dim in space.dimensions:
            if dim.grid_size is None:
                problems.append(
                    f"parameters.{dim.name}: a grid has no end with {dim.distribution}; "
                    "write values, whole numbers from min to max, or q_uniform"
                )
    metric = _metric(said, method, problems)
    program, command = _command(said, problems, has_image=has_image)
    hyperband = parse_hyperband(said["early_terminate"], problems) if "early_terminate" in said else None
    pruner = _engine(said, "pruner", problems)
    if hyperband is not None and pruner is not None:
        problems.append("pruner: early_terminate stops runs too; leave one of them out")
    if ("early_terminate" in said or "pruner" in said) and said.get("metric") is None and method != "bayes":
        problems.append("metric: is missing, by which runs are stopped early")
    config = SweepConfig(
        method=method,
        space=space,
        metric=metric.name,
        maximize=metric.maximize,
        target=metric.target,
        run_cap=_whole(said, "run_cap", 1, MAX_LIMIT, problems),
        program=program,
        command=command,
        name=_label(said, "name", problems),
        project=_project(said, problems),
        description=_label(said, "description", problems, most=10_000),
        hyperband=hyperband,
        sampler=sampler,
        pruner=pruner,
        seed=_whole(said, "seed", 0, 2**32 - 1, problems),
        said=dict(said),
    )
    try:
        if not problems and len(config.to_json()) > MAX_CONFIG_BYTES:
            problems.append(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
    except (TypeError, ValueError, RecursionError) as error:
        problems.append(f"it cannot be written as JSON: {error}")
    if problems:
        raise SweepConfigError(problems, where)
    return config


@lru_cache(maxsize=64)
def config_from_json(text: str) -> SweepConfig:
    """The configuration that `to_json` wrote. Raises InputError for what is damaged, or of a newer release."""
    try:
        said = read_json(text)
    except ValueError:
        raise InputError("the sweep's record is damaged: its configuration is no JSON") from None
    return parse_config(said, where="the sweep's record", has_image=True)


def read_yaml(text: str, *, where: str) -> Any:
    """A sweep file's content. Raises SweepConfigError for what is no YAML, or has a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        """A loader that refuses a key twice and reads 1e-3 as a number; YAML's own does neither."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        names = [loader.construct_object(key, deep=True) for key, _ in node.value]
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        if twice:
            mark = node.start_mark
            raise SweepConfigError([f"line {mark.line + 1}: {str(twice[0])[:60]!r} is there twice"], where)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )
    try:
        said = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise SweepConfigError([" ".join(f"it is not YAML: {error}".split())], where) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise SweepConfigError([f"it cannot be read as YAML: {error}"], where) from None
    _check_size(said, where)
    return said


def _check_size(said: Any, where: str) -> None:
    """Refuse a text whose anchors stand for more than any sweep has: a few lines may stand for billions of values."""
    waiting, count = [said], 0
    while waiting:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        count += len(inner)
        if count > _MAX_PARTS:
            raise SweepConfigError([f"it has more than {_MAX_PARTS:,} values, with its anchors filled in"], where)
        waiting.extend(inner)


@dataclass(frozen=True)
class _Metric:
    name: str = ""
    maximize: bool = False
    target: float | None = None


def _method(said: Mapping[str, Any], sampler: Engine | None, problems: list[str]) -> str:
    method = said.get("method")
    if method is None and sampler is not None:
        return "bayes"
    if method is None:
        problems.append(f"method: is missing; use one of: {', '.join(METHODS)}")
    elif method not in METHODS:
        problems.append(f"method: {str(method)[:60]!r} is unknown; use one of: {', '.join(METHODS)}")
    elif method == "grid" and sampler is not None:
        problems.append("sampler: a grid needs none; leave it out, or use method: bayes")
    else:
        return str(method)
    return "random"


def _metric(said: Mapping[str, Any], method: str, problems: list[str]) -> _Metric:
    metric = said.get("metric")
    if metric is None:
        if method == "bayes":
            problems.append("metric: is missing, which bayes needs; write metric: {name: loss, goal: minimize}")
        return _Metric()
    if not isinstance(metric, Mapping):
        problems.append("metric: must be a map, such as {name: loss, goal: minimize}")
        return _Metric()
    for key in metric:
        if key not in ("name", "goal", "target"):
            problems.append(f"metric: {str(key)[:60]!r} is unknown{nearest(str(key), ('name', 'goal', 'target'))}")
    name, goal, target = metric.get("name"), metric.get("goal", "minimize"), metric.get("target")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        problems.append("metric.name: is missing; name the number of the run's summary that says how good it is")
        name = ""
    if goal not in GOALS:
        problems.append(f"metric.goal: {str(goal)[:60]!r} is unknown; use one of: {', '.join(GOALS)}")
    is_number = isinstance(target, (int, float)) and not isinstance(target, bool) and math.isfinite(target)
    if target is not None and not is_number:
        problems.append(f"metric.target: must be a number, not {target!r:.60}")
        target = None
    return _Metric(name, goal == "maximize", None if target is None else float(target))


def _command(said: Mapping[str, Any], problems: list[str], *, has_image: bool) -> tuple[str, tuple[str, ...]]:
    program = said.get("program", "")
    if not isinstance(program, str):
        problems.append(f"program: must be the name of a script, not {program!r:.60}")
        program = ""
    words = said.get("command")
    if words is None:
        if not program and not has_image and "program" not in said:
            problems.append("program: is missing; name the script that is to be run, or write a command")
        return program, COMMAND if program or not has_image else IMAGE_COMMAND
    if isinstance(words, str):
        problems.append(f"command: must be a list of arguments, not one text; write {json.dumps(words.split())[:200]}")
        return program, COMMAND
    if not isinstance(words, (list, tuple)) or not words:
        problems.append("command: must be a list of arguments")
        return program, COMMAND
    for number, word in enumerate(words):
        if not isinstance(word, (str, int, float)) or isinstance(word, bool):
            problems.append(f"command[{number}]: must be a text, not {word!r:.60}")
            continue
        if _ENVVAR.search(str(word)):
            problems.append(f"command[{number}]: ${{envvar:…}} is not filled; name the variable with --env-from")
        for match in _MACRO.finditer(str(word)):
            if match[1] in (*_ARGS, "env") and match[0] != str(word):
                problems.append(f"command[{number}]: {match[0]} must stand alone")
            if match[1] == "program" and not program:
                problems.append(f"command[{number}]: has ${{program}}, and program is missing")
    return program, tuple(map(str, words))


def _engine(said: Mapping[str, Any], key: str, problems: list[str]) -> Engine | None:
    engine = said.get(key)
    if engine is None:
        return None
    if isinstance(engine, str):
        return Engine(engine)
    if not isinstance(engine, Mapping) or not isinstance(engine.get("name"), str):
        example = "TPESampler" if key == "sampler" else "MedianPruner"
        problems.append(f"{key}: must be a map with the name of Optuna's class, such as {{name: {example}}}")
        return None
    if not all(isinstance(name, str) for name in engine):
        problems.append(f"{key}: its arguments must have names")
        return None
    return Engine(engine["name"], {name: value for name, value in engine.items() if name != "name"})


def _project(said: Mapping[str, Any], problems: list[str]) -> str:
    """ENTITY/PROJECT, or the part of it that is known."""
    entity, project = said.get("entity"), said.get("project")
    whole = f"{entity}/{project}" if entity is not None and project is not None else project
    if whole is None:
        return ""
    if not isinstance(whole, str) or not PROJECT.fullmatch(whole):
        problems.append(f"project: {str(whole)[:60]!r} is not allowed: letters, digits and . _ -")
        return ""
    return whole


def _label(said: Mapping[str, Any], key: str, problems: list[str], *, most: int = 180) -> str:
    text = said.get(key)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > most or (key == "name" and not NAME.fullmatch(text)):
        problems.append(f"{key}: must be a text of at most {most} characters")
        return ""
    return text


def _whole(said: Mapping[str, Any], key: str, least: int, most: int, problems: list[str]) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        problems.append(f"{key}: must be a whole number from {least} to {most:,}, not {value!r:.60}")
        return None
    return value


def _arguments(kind: str, entries: list[tuple[str, Any]]) -> list[str]:
    if kind == "args_no_hyphens":
        return [f"{name}={_plain(value)}" for name, value in entries]
    if kind == "args_no_boolean_flags":
        return [
            f"--{name}" if value is True else f"--{name}={_plain(value)}"
            for name, value in entries
            if value is not False
        ]
    return [f"--{name}={_plain(value)}" for name, value in entries]


def _plain(value: Any) -> str:
    """A value as an argument: as Python prints it, as in W&B; lists and maps as JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else str(value)


def _literal(text: str) -> str:
    """The text, quoted so that no macro of the worker changes it."""
    return _MACRO.sub(lambda found: "$" + found[0], text)
