"""Refuses files of a run by which uv would execute a program, or write to a folder, where it takes wheels only.

What uv starts is a process of the worker, and not of the job that is confined. `--no-build` of uv leaves the ways that
are refused here: settings that name a program or a folder, and packages in folders, which uv builds all the same.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from launch_worker.errors import CodeError
from launch_worker.model.requirements import urls_included

_YES = frozenset(("1", "true", "t", "yes", "y", "on"))
#: Characters of a file that is read: the reader takes a second for each million.
_MOST_CHARS = 2 << 20
_OF_INDEXES = ("index", "index-url", "extra-index-url", "default-index", "find-links", "no-index", "index-strategy")
_OF_VERSIONS = ("resolution", "prerelease", "fork-strategy", "exclude-newer", "exclude-newer-package", "torch-backend")
_OF_BUILDS = ("no-build", "no-build-package", "no-binary", "no-binary-package", "only-binary", "no-sources")
#: Settings of uv that choose packages, and name neither a program nor a folder to write to.
_SETTINGS = frozenset(
    (
        *(*_OF_INDEXES, *_OF_VERSIONS, *_OF_BUILDS, "sources", "pip", "environments", "required-environments"),
        *("conflicts", "constraint-dependencies", "override-dependencies", "exclude-dependencies"),
        *("build-constraint-dependencies", "dependency-metadata", "dependency-groups", "default-groups"),
        *("dev-dependencies", "package", "managed", "required-version", "python-preference", "python-downloads"),
        *("add-bounds", "build-backend", "cache-keys", "publish-url", "upgrade", "upgrade-package"),
    )
)
_SETTINGS_OF_PIP = frozenset(
    (*_OF_INDEXES, *_OF_VERSIONS, *_OF_BUILDS, "no-deps", "require-hashes", "verify-hashes", "strict")
)
_OF_SOURCES = frozenset(("git", "url", "index", "rev", "tag", "branch", "subdirectory", "marker", "extra", "group"))
#: Places of a locked package that are no folder of this machine.
_LOCKED_SOURCES = frozenset(("registry", "url", "git"))
_TOML = re.compile(r"(pyproject|uv|pylock(\.[^.]+)?)\.toml|uv\.lock")
_PYTHON = re.compile(r"[\w.,<>=~!@+* -]*")


def takes_wheels_only(worker_env: Mapping[str, str]) -> bool:
    """Whether the worker has told uv to build no package."""
    return worker_env.get("UV_NO_BUILD", "").lower() in _YES


def check(files: Mapping[str, str]) -> None:
    """Raises CodeError for files, by their paths, that no worker takes which takes wheels only."""
    for path, text in files.items():
        why = next(_whys(path, text), "")
        if why:
            raise CodeError(
                f"{path} {why}, and this worker takes wheels only (UV_NO_BUILD, as for each queue that confines its "
                "jobs): leave that out"
            )


def _whys(path: str, text: str) -> Iterator[str]:
    name = posixpath.basename(path)
    if name in (".python-version", ".python-versions"):
        lines = [line.partition("#")[0] for line in text.splitlines()]
        yield from (f"names the program {line[:100]!r} as a Python" for line in lines if not _PYTHON.fullmatch(line))
        return
    if not _TOML.fullmatch(name):
        yield from (f"includes {url[:200]}" for url in urls_included(text))
        return
    try:
        if len(text) > _MOST_CHARS:
            raise ValueError(f"it has more than {_MOST_CHARS:,} characters")
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        yield f"cannot be read ({str(error)[:200]})"
        return
    if name == "pyproject.toml":
        yield from _of_settings(_map(_map(content.get("tool")).get("uv")))
    elif name == "uv.toml":
        yield from _of_settings(content)
    else:
        yield from _of_lock(content)


def _of_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    of_pip = _map(settings.get("pip")).keys() - _SETTINGS_OF_PIP
    for name in (*sorted(settings.keys() - _SETTINGS), *(f"pip.{name}" for name in sorted(of_pip))):
        yield f"has the setting {name[:60]!r} of uv"
    for package, source in _map(settings.get("sources")).items():
        for one in source if isinstance(source, list) else [source]:
            if not isinstance(one, dict) or not one.keys() <= _OF_SOURCES:
                yield f"takes {package[:60]!r} from a folder"


def _of_lock(content: Mapping[str, Any]) -> Iterator[str]:
    """What a `uv.lock` has (`package`), or a `pylock.toml` (`packages`)."""
    for package in map(_map, _list(content.get("package"))):
        source = _map(package.get("source"))
        is_project = source in ({"editable": "."}, {"virtual": "."})
        if not is_project and not (source and source.keys() & _LOCKED_SOURCES and len(source) == 1):
            yield f"takes {str(package.get('name'))[:60]!r} from a folder"
    for package in map(_map, _list(content.get("packages"))):
        if "directory" in package:
            yield f"takes {str(package.get('name'))[:60]!r} from a folder"


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
