"""Says which files the Python packages of a run are read from: their kinds, what they include, what is found by itself.

Pure functions over texts: the submitter's machine and the worker both use them, each with its own way to read a file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping

from launch_worker.errors import InputError

#: Words in place of a file: the first of FOUND in the root of the code, and no environment at all.
AUTO, NONE = "auto", "none"
FOUND = ("uv.lock", "pylock.toml", "pyproject.toml", "requirements.txt")
#: Kinds of a file, by what uv does with it.
LOCK, PYLOCK, PROJECT, LIST = "lock", "pylock", "project", "list"
#: Files that uv heeds beside one of each kind.
_BESIDE = {LOCK: (".python-version", "uv.toml"), PROJECT: (".python-version", "uv.toml")}
_BESIDE_OTHERS = ("uv.toml",)
#: Bytes of all files that go with a run, and that a worker reads from the code; and their number.
MAX_BYTES = 256 * 1024
MAX_CODE_BYTES = 16 << 20
MAX_FILES = 50
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")
_INCLUDE = re.compile(r"(?:-[rc]\s*|--(?:requirement|constraint)[\s=]\s*)(\S.*)")
_LOCAL = re.compile(r"(-e\b|--editable\b|\.{1,2}(/|\[|$)|/|file:|[\w.-]+(\[[^]]*\])?\s*@\s*(file:|\.|/))")
_LOCAL_SOURCE = re.compile(r'^source = \{ (?:editable|directory|virtual) = "([^"]+)"', re.MULTILINE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A variable in a list of requirements: uv would fill in one of the worker, as the password of an index.
_VARIABLE = re.compile(r"\$\{\w+\}")


def is_file(requirements: str) -> bool:
    """Whether the option names a file, and is neither empty nor one of the words."""
    return requirements not in ("", AUTO, NONE)


def kind_of(path: str) -> str:
    """The kind of a file, by its name. Raises InputError."""
    name = posixpath.basename(path)
    if name == "uv.lock":
        return LOCK
    if _PYLOCK.fullmatch(name):
        return PYLOCK
    if name == "pyproject.toml":
        return PROJECT
    if name.endswith((".txt", ".in")):
        return LIST
    raise InputError(
        f"requirements {path[:100]!r} are none that uv reads: name a requirements file (.txt), pyproject.toml, uv.lock "
        "or pylock.toml"
    )


def check_path(path: str) -> None:
    """Raises InputError for a file that is not named as one inside the code."""
    if path.startswith(("/", "../")) or posixpath.normpath(path) != path or "\0" in path:
        raise InputError(f"requirements {path[:100]!r} must be a file inside the code, without .., or {AUTO} or {NONE}")
    kind_of(path)


def check_files(main: str, files: Mapping[str, str]) -> None:
    """Raises InputError for contents that no run may bring."""
    for path, text in files.items():
        if not isinstance(path, str) or not isinstance(text, str):
            raise InputError("the files of the requirements must be a map of paths to texts")
        if not path or path.startswith(("/", "../")) or posixpath.normpath(path) != path or path == "..":
            raise InputError(f"the path {path[:100]!r} of a file of the requirements could lead out of their folder")
    if files and main not in files:
        raise InputError(f"requirements {main[:100]!r} are not among the files that came with them")
    _check_bounds(files, MAX_BYTES)


def gather(main: str, read: Callable[[str], str | None], *, limit_bytes: int = MAX_BYTES) -> dict[str, str]:
    """The file, all that it includes, and what uv heeds beside it, by path. Raises InputError.

    `read` gives the text of a path, None for a file that is not there; it may raise InputError.
    """
    found: dict[str, str] = {}
    kind = kind_of(main)
    waiting = [(main, "")]
    if kind == LOCK:
        waiting.append((posixpath.join(posixpath.dirname(main), "pyproject.toml"), main))
    while waiting:
        path, by = waiting.pop(0)
        if path in found:
            continue
        text = read(path)
        if text is None:
            raise InputError(
                f"{by} needs {path!r}, which is not there" if by else f"there is no requirements file {path!r}"
            )
        found[path] = text
        _check_bounds(found, limit_bytes)
        if kind == LIST:
            waiting += [(other, path) for other in _included(path, text)]
    if kind == LOCK:
        for local in _LOCAL_SOURCE.findall(found[main]):
            if local != ".":
                raise _local(main, local)
    for name in _BESIDE.get(kind, _BESIDE_OTHERS):
        path = posixpath.join(posixpath.dirname(main), name)
        if path not in found and (beside := read(path)) is not None:
            found[path] = beside
    _check_bounds(found, limit_bytes)
    return found


def _included(path: str, text: str) -> Iterator[str]:
    """The files that a list of requirements includes. Raises InputError for packages that are folders of the code."""
    for said in _lines(text):
        if variable := _VARIABLE.search(said):
            raise InputError(
                f"{path} names the variable {variable[0][:100]}, and none is filled in: an environment is shared by "
                "runs with the same files; write the value, or have the index set where the workers are started"
            )
        if include := _INCLUDE.fullmatch(said):
            other = include[1].strip("'\" ")
            if _URL.match(other):
                continue
            if other.startswith("/"):
                raise InputError(f"{path} includes {other[:100]!r}; name it relative to {path}")
            yield posixpath.normpath(posixpath.join(posixpath.dirname(path), other))
        elif _LOCAL.match(said):
            raise _local(path, said)


def _lines(text: str) -> Iterator[str]:
    """The lines of a list of requirements, without comments."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        yield re.sub(r"(^|\s)#.*", "", line).strip()


def urls_included(text: str) -> list[str]:
    """The URLs of what a list of requirements includes: nobody knows what those files have."""
    found = (include[1].strip("'\" ") for said in _lines(text) if (include := _INCLUDE.fullmatch(said)))
    return [other for other in found if _URL.match(other)]


def _local(path: str, what: str) -> InputError:
    return InputError(
        f"{path} names the local package {what[:100]!r}, and an environment is shared by runs with other code: leave "
        "it out, for the job starts in its code (for a src folder: -e PYTHONPATH=src)"
    )


def _check_bounds(files: Mapping[str, str], limit_bytes: int) -> None:
    size = sum(len(text.encode(errors="replace")) for text in files.values())
    if size > limit_bytes or len(files) > MAX_FILES:
        told = (
            f"the requirements have {size:,} bytes in {len(files)} files; there may be {limit_bytes:,} in {MAX_FILES}"
        )
        raise InputError(told + ("; send the folder with --upload" if limit_bytes == MAX_BYTES else ""))
