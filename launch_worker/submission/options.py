"""Reads submissions as data: the options of `launch-submit` as a map, and files of them, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from launch_worker.errors import InputError
from launch_worker.model import readers
from launch_worker.model.options import CONTAINER, ITEM, LINE, OPTIONS, SPEC
from launch_worker.model.spec import RunSpec
from launch_worker.model.unique import parse_unique
from launch_worker.submission.array import Array, _no_constant, parse_array

if TYPE_CHECKING:
    from launch_worker.store.submit import Configs

#: Bytes of one line at most: more than any run that RunSpec takes.
MAX_LINE_BYTES = 8 << 20

#: Queue of a run that names none.
DEFAULT_QUEUE = "default"
#: The sha256 of a folder whose archive is not made yet, so that everything else can be checked before.
UNSENT = "0" * 64


class Ready(NamedTuple):
    """A run as it would be kept, and the configurations of queue and pool that completed it."""

    spec: RunSpec
    configs: Configs


@dataclass
class Item:
    """One thing to submit, as it was asked for: a run, or an array of runs."""

    #: Arguments of RunSpec, only those that were given.
    given: dict[str, Any]
    delay_s: float | None = None
    #: Time of its start, microseconds since 1970.
    at_us: int | None = None
    array: Array | None = None
    #: A folder of this machine; `given` has UNSENT in its place.
    upload: str | None = None
    #: Id of its run (of an array, the first one's), or the key of which there is one run. A run that is there already
    #: is left as it is. With a key that holds for a time, the id is that of the run that is made if there is none.
    run_id: str = ""
    unique: str = ""
    #: Values of secrets by the names of their variables; they are sealed when the run has its id.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    #: Place in a file, FILE:LINE; '' for a command line.
    where: str = ""
    #: The checked run and the configurations that completed it; None before the check, and with an upload.
    ready: Ready | None = field(default=None, compare=False, repr=False)

    @property
    def queue(self) -> str:
        queue: str = self.given.get("queue") or DEFAULT_QUEUE
        return queue

    def error(self, problem: Exception | str) -> InputError:
        """The problem, with the place in the file that has it."""
        return InputError(f"{self.where}: {problem}" if self.where else str(problem))


def read_options(options: Mapping[str, Any], *, folder: str = "", where: str = "") -> Item:
    """Options under their long names (`retry_delay` or `retry-delay`), with JSON's types. None is "not given".

    `folder` is where relative `cwd` and `upload` start. Raises InputError for what is no option, or of a wrong type;
    what the values mean together is RunSpec's to check.
    """
    return _item(_named(options), folder=folder, where=where)


def read_line(line: bytes, *, defaults: Mapping[str, Any] | None = None, folder: str = "", where: str = "") -> Item:
    """The item of a line: one JSON object. Its own options win over `defaults`. Raises InputError without the place."""
    return _item(_merged(defaults or {}, object_of(line)), folder=folder, where=where)


def _item(found: Mapping[str, Any], *, folder: str, where: str) -> Item:
    """The item of options that have their own names."""
    if "delay" in found and "at" in found:
        raise InputError("a run starts at a time or after a delay, not both; leave out one of at and delay")
    if "retry" in found and found.get("retries") == 0:
        raise InputError("retries is 0, and retry says what is tried again; leave out one of them")
    read: dict[str, dict[str, Any]] = {SPEC: {}, CONTAINER: {}, ITEM: {}}
    for name, value in found.items():
        option = _OPTIONS[name]
        read[option.owner][option.field] = option.reader(name, value)
    given, container, item = read[SPEC], read[CONTAINER], read[ITEM]
    if "run_id" in item and "unique" in item and not parse_unique(item["unique"]).is_timed:
        raise InputError("id and unique both say once only; leave out one of them")
    if "array" in item:
        item["array"] = parse_array(item["array"])
    if "upload" in item:
        item["upload"] = _joined(folder, item["upload"])
        given["upload"] = UNSENT
    if container:
        given["container"] = given.get("container", {}) | container
    if "cwd" in given:
        has_code = "uri" in given or "upload" in given
        given["cwd"] = given["cwd"] if has_code else _joined(folder, given["cwd"])
        given["cwd_required"] = True
    return Item(given=given, where=where, **item)


def as_options(item: Item) -> dict[str, Any]:
    """The options that `read_options` reads as the item, with JSON's types; an upload is named by its hash.

    A folder that the worker need not have is left out. Raises InputError for what no option says.
    """
    said: dict[str, Any] = {"upload": item.given["upload"]} if "upload" in item.given else {}
    unknown = []
    for name, value in item.given.items():
        if value is None or name in _SAID_APART or (name == "cwd" and not item.given.get("cwd_required")):
            continue
        if name in _SAID_AS:
            said[_SAID_AS[name]] = list(value) if isinstance(value, tuple) else value
        else:
            unknown.append(name)
    if unknown:
        raise InputError(f"{min(unknown)!r} is not an option of a run")
    if item.array is not None:
        said["array"] = ",".join(map(str, item.array.indexes)) + (f"%{item.array.limit}" if item.array.limit else "")
    times = {"at": None if item.at_us is None else item.at_us / 1e6, "delay": item.delay_s or None}
    said |= {name: value for name, value in times.items() if value is not None}
    if item.secrets:
        said["secrets"] = dict(item.secrets)
    return said | {name: value for name, value in (("id", item.run_id), ("unique", item.unique)) if value}


#: Arguments of RunSpec that are no options of a line, or not as they are.
_SAID_APART = frozenset({"upload", "author", "cwd_required"})
#: For each other argument of RunSpec that a line can say: the option that says it.
_SAID_AS = {option.field: option.name for option in OPTIONS if option.owner == SPEC and LINE in option.places}


def read_jobs(
    file: BinaryIO,
    *,
    name: str,
    defaults: Mapping[str, Any] | None = None,
    folder: str = "",
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
            yield read_line(line, defaults=known, folder=folder, where=where)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def object_of(line: bytes) -> dict[str, Any]:
    """The options of a line of JSON. Raises InputError."""
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
            f'the line is {readers.kind(value)}, not an object; write it as {{"command": ["python", "train.py"]}}'
        )
    return _named(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice[:60]!r} is written twice; leave one of them out")
    return found


#: Every option of a line, by its name and its other names.
_OPTIONS = {
    name: option for option in OPTIONS if LINE in option.places for name in (option.name, *option.aliases)
}  # fmt: skip
_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, each under its own name."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        if value is None:
            continue
        option = _OPTIONS.get(word := str(key).replace("-", "_"))
        if option is None:
            raise InputError(f"{str(key)[:60]!r} is not an option of a run{_nearest(word)}")
        if option.name in found:
            raise InputError(f"{str(key)[:60]!r} is given twice, in two spellings; leave one of them out")
        found[option.name] = value
    return found


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, _OPTIONS, n=1)
    return f"; do you mean {close[0]!r}?" if close else ""


#: Pairs of which only one may be said: a line's choice replaces the command line's.
_EITHER = (("at", "delay"), ("uri", "upload"))
#: Options whose entries a line adds to those of the command line.
_MAPS = tuple(option.name for option in OPTIONS if option.reader in (readers.mapping, readers.env, readers.secrets))


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


def _joined(folder: str, path: str) -> str:
    return path if path.startswith("/") or not folder else f"{folder.rstrip('/')}/{path}"
