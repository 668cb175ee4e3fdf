"""Reads an agent's configuration: W&B's keys and ours, from command line, environment, file and defaults.

A command line wins over the environment (`LAUNCH_AGENT_MAX_JOBS`), that over a YAML file, that over the defaults. W&B's
keys and what they mean are those of its `AgentConfig`; where a default differs, the field says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from launch_worker.agent.selection import UNLIMITED
from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT, NAME, QUEUE, check_queue_name
from launch_worker.model.units import parse_duration

PREFIX = "LAUNCH_AGENT_"
#: The variable that names the YAML file.
FILE_VARIABLE = f"{PREFIX}CONFIG"
#: Keys that say which queues: where one place has some of them, no other place completes it.
SELECTION = ("queues", "match", "pool", "tags")
VERBOSITIES = (0, 1, 2)
#: The rest of the variables that Kubernetes sets for a service that is called launch-agent.
_OF_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT).*|PORT(_[0-9]+_.*)?")
#: What a worker's own words are called among the places of its configuration.
_COMMAND_LINE = "command line: "
#: Keys of W&B's file for what has no counterpart here, and what to do about each.
_WITHOUT_MEANING = {
    **dict.fromkeys(("builder", "registry"), "no images are built here; remove it"),
    "environment": "a queue's configuration says what its jobs reach; remove it",
    "project": "an agent takes the runs of every project; remove it",
    "base_url": "Redis is named by LAUNCH_REDIS_URL; remove it",
}


@dataclass(frozen=True)
class AgentConfig:
    """Checked already: make one with `parse` or `load`. Durations are seconds, None is "not said"."""

    #: Queues to take runs from.
    queues: tuple[str, ...] | None = None
    #: The owner of the agent, shown in the list of workers. As in W&B it does not narrow down whose runs are taken: all
    #: runs of the queues are, and queues have no owner here.
    entity: str = ""
    #: Runs at once: 0 takes nothing. (W&B's default is 1; here it is that of whoever starts the agent.)
    max_jobs: int | None = None
    #: Runs at once that make other runs, beside `max_jobs`.
    max_schedulers: int = 1
    #: Whether runs are refused for what `launch_worker.queues.secure` names.
    secure_mode: bool = False
    #: What is printed: 1 the status when it changes, 2 internal messages too.
    verbosity: int = 0
    #: The longest grace of a run that shall stop, seconds. (W&B's default is 60; here each run's own grace.)
    stopped_run_timeout: float | None = None

    # Our own: options of `launch-worker start`.
    match: tuple[str, ...] = ()
    pool: str = ""
    tags: tuple[str, ...] = ()
    prefetch_seconds: float = 0.0
    gpus: str | None = None
    cpus: str | None = None
    memory: str | None = None
    drain_timeout: float | None = None
    detach_on_exit: bool = False
    quarantine_after: int = 1

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> AgentConfig:
        """From one map; None is "not said". Raises InputError that names all that is wrong with it."""
        return _checked([("", given)])

    @classmethod
    def load(cls, said: Mapping[str, Any], *, env: Mapping[str, str], file: str | None = None) -> AgentConfig:
        """From all places: `said` is the command line's word; without `file` the environment may name one.

        Raises InputError that names all that is wrong with any of them.
        """
        problems: list[str] = []
        file = file or env.get(FILE_VARIABLE) or None
        layers = [(_COMMAND_LINE, said), ("", _from_env(env, problems))]
        if file:
            layers.append((f"{file}: ", _from_file(file, problems)))
        return _checked(layers, problems)

    def as_dict(self) -> dict[str, Any]:
        """What `parse` makes the same of."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self)}


def _checked(layers: list[tuple[str, Mapping[str, Any]]], problems: list[str] | None = None) -> AgentConfig:
    problems = [] if problems is None else problems
    merged: dict[str, Any] = {}
    for where, given in layers:
        said = {name: value for name, value in given.items() if value is not None}
        is_chosen = any(name in merged for name in SELECTION)
        for name, value in said.items():
            try:
                checked = _check(name, value, is_typed=where == _COMMAND_LINE)
            except InputError as error:
                problems.append(f"{where}{error}")
                continue
            if not (is_chosen and name in SELECTION):
                merged.setdefault(name, checked)
    if problems:
        what = "is wrong" if len(problems) == 1 else f"has {len(problems)} mistakes"
        raise InputError(f"the agent's configuration {what}: {'; '.join(problems)}")
    return AgentConfig(**merged)


def _check(name: Any, value: Any, *, is_typed: bool = False) -> Any:
    option = _KEYS.get(name) if isinstance(name, str) else None
    if option is None or option.check is None:
        shown = repr(str(name)[:60])
        if name in _WITHOUT_MEANING:
            raise InputError(f"{shown} has no meaning: {_WITHOUT_MEANING[name]}")
        close = difflib.get_close_matches(str(name), _KEYS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(_KEYS))}"
        raise InputError(f"{shown} is not a key; {hint}")
    return option.check(option.word if is_typed else name, value)


def _from_env(env: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for variable in sorted(env):
        key = variable.removeprefix(PREFIX)
        if key == variable or variable == FILE_VARIABLE or not env[variable] or _OF_KUBERNETES.fullmatch(key):
            continue
        try:
            given[key.lower()] = _check(key.lower(), env[variable])
        except InputError as error:
            problems.append(f"{variable}: {error}")
    return given


def _from_file(file: str, problems: list[str]) -> Mapping[str, Any]:
    # Imported by those who have a file.
    import yaml

    try:
        with open(file, "rb") as opened:
            content = yaml.safe_load(opened)
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror or error}")
        return {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problems.append(f"{file} is not YAML: {getattr(error, 'problem', None) or error}{where}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        problems.append(f"{file} must be a map of keys to values, not a {type(content).__name__}")
        return {}
    return content


# -- one check a key ---------------------------------------------------------------------------------------------------


def _refused(name: str, value: Any, rule: str) -> InputError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
    return InputError(f"{name} cannot be {shown}: {rule}")


def _whole(name: str, value: Any, rule: str) -> int:
    text = str(value).strip()
    if isinstance(value, (bool, float)) or not re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII):
        raise _refused(name, value, rule)
    return int(text)


def _limit(name: str, value: Any) -> int:
    """W&B's reading: a number or its text, -1 for no limit."""
    rule = f"it is a whole number from 0 (nothing) to {MAX_LIMIT}, or -1 for no limit"
    number = _whole(name, value, rule)
    if not -1 <= number <= MAX_LIMIT:
        raise _refused(name, value, rule)
    return UNLIMITED if number == -1 else number


def _count(name: str, value: Any) -> int:
    number = _whole(name, value, "it is a whole number from 0")
    if number < 0:
        raise _refused(name, value, "it is a whole number from 0")
    return number


def _verbosity(name: str, value: Any) -> int:
    rule = "it is 0 (silent), 1 (the status) or 2 (internal messages too)"
    number = _whole(name, value, rule)
    if number not in VERBOSITIES:
        raise _refused(name, value, rule)
    return number


def _flag(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise _refused(name, value, "it is true or false")


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _refused(name, value, "it is a duration such as 60, 90s or 5m")
    return parse_duration(value, what=name)


def _words(name: str, value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise _refused(name, value, "it is a list of names, or names with commas between them")
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _queues(name: str, value: Any) -> tuple[str, ...]:
    names = _words(name, value)
    for queue in names:
        check_queue_name(queue)
    return names


def _pool(name: str, value: Any) -> str:
    if value and not (isinstance(value, str) and QUEUE.fullmatch(value)):
        raise _refused(name, value, "letters, digits, and . _ - after the first, at most 100")
    return value or ""


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _refused(name, value, "it is a text")
    text = str(value)
    if text and not NAME.fullmatch(text):
        raise _refused(name, value, "at most 200 characters without control characters")
    return text


class Option(NamedTuple):
    """One option of a worker: a key of its configuration, or what only a command line says."""

    #: The key, also in LAUNCH_AGENT_<NAME>.
    name: str
    help: str
    #: What its value is, in a word for people; '' for an option without a value.
    unit: str = ""
    #: What reads and checks a value of the key; None for what is no key.
    check: Callable[[str, Any], Any] | None = None
    #: Words of the command line in place of `--name`.
    words: tuple[str, ...] = ()
    is_repeated: bool = False
    #: Whether `--no-name` takes it back.
    is_revocable: bool = False

    @property
    def word(self) -> str:
        """The word by which it is passed on, and named in what is wrong with it."""
        return next((word for word in self.words if word.startswith("--")), f"--{self.name.replace('_', '-')}")

    @property
    def opposite(self) -> str:
        return f"--no-{self.word.removeprefix('--')}"

    @property
    def declaration(self) -> tuple[str, ...]:
        """Its words as click takes them."""
        return (f"{self.word}/{self.opposite}",) if self.is_revocable else self.words or (self.word,)

    @property
    def attributes(self) -> dict[str, Any]:
        """What else click is given for it. What was not said is None."""
        is_flag = not self.unit or None
        return {
            "is_flag": is_flag,
            "default": None,
            "multiple": self.is_repeated,
            "metavar": self.unit or None,
            "help": self.help,
        }


#: Options of a worker, in the order of `launch-worker start --help`; Celery's worker has the same.
OPTIONS = (
    Option(
        "queues",
        "A queue to take runs from; may be repeated.",
        "NAME",
        _queues,
        words=("-q", "--queue", "--work-queue"),
        is_repeated=True,
    ),
    Option(
        "match",
        "All queues whose names begin with this (dev-), those made later too; may be repeated.",
        "PREFIX",
        _words,
        words=("-m", "--match"),
        is_repeated=True,
    ),
    Option(
        "pool",
        "All queues of this pool, by their rank in it; where queues are named too, only those of them.",
        "NAME",
        _pool,
        words=("-p", "--pool"),
    ),
    Option(
        "tags",
        "The queue that is named for these tags; it is made.",
        "TAG",
        _words,
        words=("-t", "--tag"),
        is_repeated=True,
    ),
    Option(
        "max_jobs",
        "Runs at once; 0 takes nothing, -1 has no limit (default: worker_concurrency, else one for each core).",
        "N",
        _limit,
        words=("-l", "--limit"),
    ),
    Option("run_once", "Take what is due now, wait for its end, and exit."),
    Option(
        "prefetch_seconds",
        "Seconds from a scheduled run's claim and preparation to its start (default: 0).",
        "N",
        _seconds,
    ),
    Option("hide_welcome", "Say nothing at the start."),
    Option("gpus", "The GPUs that runs may have (default: auto).", "auto|N|0,1,3|none", _text),
    Option("cpus", "The cores that runs may have (default: all).", "X", _text),
    Option("memory", "The memory that runs may have (default: all).", "SIZE", _text),
    Option("strict", "Refuse to start for queues or pools that are not there."),
    Option(
        "drain_timeout",
        "Time that jobs may go on after SIGTERM (default: no limit); then they are handed back or Killed.",
        "DUR",
        _seconds,
    ),
    Option(
        "detach_on_exit",
        "On SIGTERM leave running jobs to the next worker with this node name, which must start within the lease.",
        check=_flag,
    ),
    Option(
        "quarantine_after",
        "Starts in a row that fail through the machine until it takes no runs for a while (default: 1; 0: never).",
        "N",
        _count,
    ),
    Option("agent_config", "A YAML file with what is not said here (default: LAUNCH_AGENT_CONFIG).", "FILE"),
    Option("max_schedulers", "Runs at once that make other runs, beside the limit (default: 1; -1: any).", "N", _limit),
    Option(
        "secure_mode",
        "Refuse runs that choose an entry point or reach this machine (default: no).",
        check=_flag,
        is_revocable=True,
    ),
    Option("stopped_run_timeout", "The longest grace of a stopped run (default: the run's own).", "DUR", _seconds),
    Option("entity", "Whose worker this is, for people.", "NAME", _text),
    Option("verbosity", "Print the status when it changes (1), internal messages too (2).", "0|1|2", _verbosity),
)
_KEYS = {option.name: option for option in OPTIONS if option.check is not None}
#: Names of what LAUNCH_AGENT_<NAME> sets, the file of the others included.
NAMES = frozenset({*_KEYS, FILE_VARIABLE.removeprefix(PREFIX).lower()})


def keys_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keys among options: without what only a command line says."""
    return {name: value for name, value in options.items() if name in _KEYS}
