"""Submissions as data: the options of `launch-submit` as a map, the lines of a file of them, arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from launch_worker.errors import InputError
from launch_worker.ids import check_run_id, check_unique
from launch_worker.model.spec import RunSpec
from launch_worker.model.units import parse_duration, parse_size, parse_time
from launch_worker.submission.array import Array, _no_constant, parse_array

#: Longer than any line that RunSpec would take.
MAX_LINE_BYTES = 8 << 20

#: What stands for a folder whose archive was not made yet, so that everything else can be checked before.
UNSENT = "0" * 64


class Ready(NamedTuple):
    """A run as it would be kept, and the configurations of queue and pool that completed it."""

    spec: RunSpec
    queue_config: str
    pool_config: str


@dataclass
class Item:
    """One thing to submit, as it was asked for: a run, or an array of runs."""

    #: RunSpec's arguments, of those that were really given.
    given: dict[str, Any]
    delay_s: float | None = None
    #: Microseconds since 1970.
    at_us: int | None = None
    array: Array | None = None
    #: A folder of this machine; `given` has UNSENT in its place.
    upload: str | None = None
    #: The id that its run shall have, or what it shall be the only one by. One that is there already is left as it is.
    run_id: str = ""
    unique: str = ""
    #: FILE:LINE; '' for a command line.
    where: str = ""
    #: The run that it is and the configurations that completed it, when last checked; not of one with an upload.
    ready: Ready | None = field(default=None, compare=False, repr=False)

    def error(self, problem: Exception | str) -> InputError:
        """The problem, with the place in the file that has it."""
        return InputError(f"{self.where}: {problem}" if self.where else str(problem))


def read_options(options: Mapping[str, Any], *, folder: str = "", where: str = "", now_s: float | None = None) -> Item:
    """Options under their long names (`retry_delay` or `retry-delay`), with JSON's types. None is "not given".

    `folder` is where relative `cwd` and `upload` start. Raises InputError for what is no option, or of a wrong type;
    what the values mean together is RunSpec's to check.
    """
    found = _named(options)
    item: dict[str, Any] = {"delay_s": None, "at_us": None, "array": None, "upload": None}
    if "id" in found and ("unique" in found or "array" in found):
        raise InputError("an id is of one run, and says all; leave out unique, and use unique for an array")
    if "id" in found:
        item["run_id"] = check_run_id(found.pop("id"))
    if "unique" in found:
        item["unique"] = check_unique(found.pop("unique"))
    if "delay" in found and "at" in found:
        raise InputError("a run starts at a time or after a delay, not both; leave out one of at and delay")
    if "at" in found:
        item["at_us"] = _time(found.pop("at"), now_s)
    if "delay" in found:
        item["delay_s"] = _duration("delay", found.pop("delay"))
    if "array" in found:
        item["array"] = parse_array(_text("array", found.pop("array")))
    has_code = "uri" in found or "upload" in found
    if "upload" in found:
        item["upload"] = _joined(folder, _text("upload", found.pop("upload")))
    given: dict[str, Any] = {}
    container: dict[str, Any] = {}
    for name, value in found.items():
        if name in _CONTAINER:
            setting, read = _CONTAINER[name]
            container[setting] = read(name, value)
        else:
            argument, read = _ARGUMENTS[name]
            given[argument] = read(name, value)
    if item["upload"] is not None:
        given["upload"] = UNSENT
    if container:
        given["container"] = given.get("container", {}) | container
    if "cwd" in given:
        given["cwd"] = given["cwd"] if has_code else _joined(folder, given["cwd"])
        given["cwd_required"] = True
    return Item(given=given, where=where, **item)


def read_jobs(
    file: BinaryIO,
    *,
    name: str,
    defaults: Mapping[str, Any] | None = None,
    folder: str = "",
    now_s: float | None = None,
) -> Iterator[Item]:
    """The items of a file with one JSON object a line; blank lines are none. A line's own options win over `defaults`.

    Raises InputError that begins with FILE:LINE.
    """
    known = _named(defaults or {})
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{name}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{where}: the line has more than {MAX_LINE_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            yield read_options(_merged(known, _object(line)), folder=folder, where=where, now_s=now_s)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = _JSON.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at column {error.colno}; each line is one JSON object") from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}; each line is one JSON object") from None
    except RecursionError:
        raise InputError("the line is nested too deeply") from None
    if not isinstance(value, dict):
        raise InputError(
            f'the line is {_kind(value)}, not an object; write it as {{"command": ["python", "train.py"]}}'
        )
    return _named(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice[:60]!r} is written twice; leave one of them out")
    return found


_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, under the names that RunSpec's readers have."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        if value is None:
            continue
        name = _ALIASES.get(word := str(key).replace("-", "_"), word)
        if name not in _ARGUMENTS and name not in _CONTAINER and name not in _APART:
            raise InputError(f"{str(key)[:60]!r} is not an option of a run{_nearest(word)}")
        if name in found:
            raise InputError(f"{str(key)[:60]!r} is given twice, in two spellings; leave one of them out")
        found[name] = value
    return found


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, [*_ARGUMENTS, *_CONTAINER, *_ALIASES, *_APART], n=1)
    return f"; do you mean {close[0]!r}?" if close else ""


#: Of these, a line that has one does not get the others from the command line.
_EITHER = (("at", "delay"), ("uri", "upload"))
_MAPS = ("env", "values", "config", "container")


def _merged(defaults: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    if not defaults:
        return dict(line)
    merged = {**defaults, **line}
    for names in _EITHER:
        if any(name in line for name in names):
            for name in names:
                if name not in line:
                    merged.pop(name, None)
    for name in _MAPS:
        if isinstance(defaults.get(name), Mapping) and isinstance(line.get(name), Mapping):
            merged[name] = {**defaults[name], **line[name]}
    return merged


# -- readers: each takes the option's name and its value ------------------------------------------------------------


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a map", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _wrong(name: str, value: Any, wanted: str) -> InputError:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    shown = f"{value!r:.40}" if is_number else _kind(value)
    return InputError(f"{name.replace('_', ' ')} must be {wanted}, not {shown}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def _path(name: str, value: Any) -> str:
    text = _text(name, value)
    if not text or "\x00" in text:
        raise InputError(f"{name} must name a folder")
    return text


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "a whole number")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _wrong(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is too large a number") from None


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _not(name: str, value: Any) -> bool:
    return not _truth(name, value)


def _duration(name: str, value: Any) -> float:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise _wrong(name, value, "a duration: seconds, or a text such as 5m")
    try:
        return parse_duration(value, what=name.replace("_", " "))
    except OverflowError:
        raise InputError(f"{name.replace('_', ' ')} is too large a number") from None


def _size(name: str, value: Any) -> int:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise _wrong(name, value, "a size: bytes, or a text such as 512M")
    return parse_size(value, what=name.replace("_", " "))


def _time(value: Any, now_s: float | None) -> int:
    if isinstance(value, (bool, list, tuple, Mapping)):
        raise _wrong("at", value, "a time")
    return parse_time(value, now_s=now_s, what="at")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, "a list of texts")
    for entry in value:
        if not isinstance(entry, str):
            raise InputError(f"{name.replace('_', ' ')} must be a list of texts; one of them is {_kind(entry)}")
    return tuple(value)


def _text_or_texts(name: str, value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _texts(name, value)


def _text_list(name: str, value: Any) -> list[str]:
    return list(_text_or_texts(name, value))


def _command(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InputError(
            f"the command must be a list of arguments, not one text; write {json.dumps(value.split())[:200]}"
        )
    return _texts("command", value)


def _words(name: str, value: Any) -> tuple[str, ...]:
    """`failed,crashed` or a list."""
    words = value.split(",") if isinstance(value, str) else _texts(name, value)
    return tuple(word.strip().lower() for word in words if word.strip())


def _map(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a map of names to values")
    return dict(value)


def _env(name: str, value: Any) -> dict[str, str]:
    found = _map("env", value)
    for key, text in found.items():
        if not isinstance(text, str):
            raise InputError(f"the value of environment variable {str(key)[:60]} must be a text, not {_kind(text)}")
    return found


_Read = Callable[[str, Any], Any]

#: Each option, the argument of RunSpec that it is, and what reads it.
_ARGUMENTS: dict[str, tuple[str, _Read]] = {
    "command": ("command", _command),
    "queue": ("queue", _text),
    "name": ("name", _text),
    "project": ("project", _text),
    "tags": ("tags", _text_or_texts),
    "env": ("env", _env),
    "env_from": ("env_from", _text_or_texts),
    "cwd": ("cwd", _path),
    "uri": ("uri", _text),
    "image": ("image", _text),
    "container": ("container", _map),
    "memory": ("memory", _size),
    "cpus": ("cpus", _number),
    "gpus": ("gpus", _whole),
    "timeout": ("timeout_s", _duration),
    "start_timeout": ("start_timeout_s", _duration),
    "stall_timeout": ("stall_timeout_s", _duration),
    "grace": ("grace_s", _duration),
    "retries": ("retries", _whole),
    "retry_delay": ("retry_delay_s", _duration),
    "retry_on": ("retry_on", _words),
    "priority": ("priority", _text),
    "values": ("values", _map),
    "config": ("config", _map),
    "after": ("after", _text_or_texts),
    "concurrency_key": ("concurrency_key", _text),
    "limit_key": ("limit_key", _whole),
    "expires": ("expires_s", _duration),
    "max_preemptions": ("max_preemptions", _whole),
    "preempt_exit_code": ("preempt_exit_code", _whole),
}

#: Options that are settings of the run's container.
_CONTAINER: dict[str, tuple[str, _Read]] = {
    "entrypoint": ("entrypoint", _text),
    "pull": ("pull", _text),
    "mount": ("mounts", _text_list),
    "tmpfs": ("tmpfs", _text_list),
    "network": ("network", _text),
    "user": ("user", _text),
    "read_only": ("read_only", _truth),
    "pids_limit": ("pids_limit", _whole),
    "shm_size": ("shm_size", _text),
    "no_init": ("init", _not),
}

#: Options that are no arguments of RunSpec.
_APART = ("at", "delay", "array", "upload", "id", "unique")

#: Other names of options, as the command line and Python have them.
_ALIASES = {"tag": "tags", "set": "values", "mounts": "mount", "run_id": "id"}


def _joined(folder: str, path: str) -> str:
    return path if path.startswith("/") or not folder else f"{folder.rstrip('/')}/{path}"
