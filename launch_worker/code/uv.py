"""Runs uv, which makes Python environments: with little of the worker's environment, ended when it takes too long."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from launch_worker.code import git, wheels_only
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError
from launch_worker.model.requirements import urls_included
from launch_worker.runners.process import child, tree
from launch_worker.runners.process.child import Bounds
from launch_worker.settings import Settings

#: Variables of the worker's environment that uv, and the builds of packages that it starts, get beside those of git and
#: uv's own. They get no others.
_INHERITED = frozenset(
    (
        *git.INHERITED,
        *("LANG", "NETRC", "http_proxy", "HTTP_PROXY", "REQUESTS_CA_BUNDLE"),
        *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "MAX_JOBS"),
    )
)
_OWN = "UV_"
_COMPILES = "UV_COMPILE_BYTECODE"
#: Variables of uv that would make it work in another place than it is told to.
_NOT_INHERITED = frozenset(
    (
        *("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR"),
        *("UV_WORKING_DIRECTORY", "UV_NO_CACHE", "UV_TARGET", "UV_PREFIX"),
    )
)
#: Variables of uv by which no other packages are installed: how it fetches, and who it is to an index.
_MECHANICS = re.compile(
    r"UV_(CACHE_DIR|LINK_MODE|OFFLINE|CONCURRENT_\w+|HTTP_\w+|REQUEST_TIMEOUT|LOCK_TIMEOUT|KEYRING_PROVIDER|"
    r"INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|SSL_CERT\w*|\w*(USERNAME|PASSWORD|TOKEN))"
)
_INDEX_LOGIN = re.compile(r"UV_INDEX_(\w+)_(?:USERNAME|PASSWORD)")
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_SECRET = re.compile(r"UV_\w*(PASSWORD|TOKEN)")
#: Lines of uv's output that an attempt's message keeps.
_LAST_LINES = 20


class UvError(Exception):
    """A command of uv failed; the text is its error, in one line."""


@dataclass(frozen=True)
class Uv:
    """uv for one attempt. `marks` are put into the environment of its processes: they identify leftovers.

    `on_line` gets each line that it says, without logins.
    """

    program: str
    cache: Path
    patience: Patience
    worker_env: Mapping[str, str]
    marks: Mapping[str, str]
    on_line: Callable[[str], None]

    def run(self, *arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        """Run a command in a folder. Raises UvError, CodeError, StartGivenUpError, and OSError of `on_line`.

        What it and the builds of packages have left running is ended after it, whatever its end is.
        """
        lines = _Lines(self.on_line, secrets_of(self.worker_env))
        try:
            ended = child.run(
                [self.program, *arguments],
                cwd=folder,
                env={**self._environment, **(env or {})},
                check=self.patience.check,
                on_output=lines.add,
                on_said=lines.add,
                bounds=Bounds(),
            )
        except FileNotFoundError:
            raise no_uv() from None
        finally:
            tree.end(lambda: tree.members(None, marked=tree.marks(self.marks)), wait=time.sleep)
        lines.end()
        if ended.status:
            how = f"it was ended by signal {-ended.status}" if ended.status < 0 else f"exit code {ended.status}"
            raise UvError(sentence(lines.last) or how, "\n".join(lines.last))

    @property
    def takes_wheels_only(self) -> bool:
        """Whether nothing of a run's files may be executed."""
        return wheels_only.takes_wheels_only(self.worker_env)

    def install(self, *arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        """Run a command that installs packages. Raises as `run` does.

        Of UV_NO_BUILD its `pip` knows nothing. To compile packages it starts their environment's Python, which executes
        what they bring for its start (.pth).
        """
        if self.takes_wheels_only:
            arguments, env = (*arguments, "--no-build"), {**(env or {}), _COMPILES: "0"}
        self.run(*arguments, folder=folder, env=env)

    def compile(self, interpreter: str, folder: Path) -> None:
        """Compile all modules of a folder, without executing any; one that cannot be compiled is left as it is.

        `interpreter` is no environment's own. Raises OSError, CodeError, StartGivenUpError.
        """
        if self._environment[_COMPILES].lower() in ("1", "true"):
            child.run(
                [interpreter, "-I", "-S", "-m", "compileall", "-q", "-j", "0", str(folder)],
                cwd=Path("/"),
                env={"PATH": self.worker_env.get("PATH", os.defpath), **self.marks},
                check=self.patience.check,
                on_output=lambda _: None,
                bounds=Bounds(),
            )

    @cached_property
    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in self.worker_env.items() if _is_inherited(name)}
        # Bytecode: an environment cannot be written to, so no job could keep any.
        defaults = {
            "UV_CACHE_DIR": str(self.cache),
            "UV_PYTHON_DOWNLOADS": "never",
            _COMPILES: "1",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        }
        fixed = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "GIT_TERMINAL_PROMPT": "0"}
        return {**defaults, **env, **fixed, **self.marks}


def secrets_of(worker_env: Mapping[str, str]) -> tuple[str, ...]:
    """Texts that must not be shown: passwords of indexes, and those in their URLs, the longest first."""
    found = set()
    for name, value in worker_env.items():
        if _SECRET.fullmatch(name):
            found.add(value)
        elif name.startswith(_OWN):
            found |= {login[:-1].rpartition(":")[2] for login in _LOGIN.findall(value)}
    return tuple(sorted((secret for secret in found if len(secret) > 3), key=len, reverse=True))


def _is_inherited(name: str) -> bool:
    if name.startswith(_OWN):
        return name not in _NOT_INHERITED
    return name in _INHERITED or name.rstrip("0123456789") in _INHERITED


def settings_of_uv(worker_env: Mapping[str, str]) -> dict[str, str]:
    """The admin's settings of uv that decide what is installed, without logins: a new password changes nothing."""
    return {
        name: _LOGIN.sub("", value)
        for name, value in sorted(worker_env.items())
        if name.startswith(_OWN) and name not in _NOT_INHERITED and not _MECHANICS.fullmatch(name)
    }


def check_logins(files: Mapping[str, str], worker_env: Mapping[str, str]) -> None:
    """Raises CodeError for files that may have this worker's logins sent to others.

    uv sends the login in UV_INDEX_NAME_… to whatever a project calls NAME, and fills variables in that a list names; so
    may one that is included by its URL.
    """
    named = {match[1] for name in worker_env if (match := _INDEX_LOGIN.fullmatch(name))}
    if not named and not secrets_of(worker_env):
        return
    for path, text in files.items():
        if path.endswith((".txt", ".in")) and (urls := urls_included(text)):
            raise CodeError(
                f"{path} includes {_LOGIN.sub('***@', urls[0])[:200]}, and a worker that has a login for an index "
                "reads no list from elsewhere; put the file beside it"
            )
    known = {
        (_key(name), _origin(url))
        for setting in ("UV_INDEX", "UV_DEFAULT_INDEX")
        for name, _, url in (entry.partition("=") for entry in worker_env.get(setting, "").split())
    }
    for path, text in files.items():
        for name, url in _indexes(posixpath.basename(path), text):
            if _key(name) in named and (_key(name), _origin(url)) not in known:
                raise CodeError(
                    f"{path} has an index {name[:60]!r} at {_LOGIN.sub('***@', url)[:200]}, and this worker has a "
                    f"login for an index of that name and does not know it to be there: take another name, or have the "
                    f"worker started with UV_INDEX={name[:60]}=URL"
                )


def _indexes(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The names and URLs of the indexes that a file defines for uv; nothing for a file that uv will refuse."""
    try:
        known: Any = tomllib.loads(text) if name in ("pyproject.toml", "uv.toml") else {}
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    for part in ("tool", "uv") if name == "pyproject.toml" else ():
        known = known.get(part) if isinstance(known, dict) else None
    found = known.get("index") if isinstance(known, dict) else None
    for index in found if isinstance(found, list) else ():
        if isinstance(index, dict) and isinstance(index.get("name"), str):
            yield index["name"], str(index.get("url"))


def _key(name: str) -> str:
    """The name of an index as it is in the names of variables."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return "", url, None


def find_uv(settings: Settings, worker_env: Mapping[str, str]) -> str:
    """The path of uv: LAUNCH_UV, the one that is installed with this package, or one on PATH; '' for none."""
    if settings.uv:
        return shutil.which(settings.uv, path=worker_env.get("PATH")) or ""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    return beside if os.access(beside, os.X_OK) else shutil.which("uv", path=worker_env.get("PATH")) or ""


def no_uv(named: str = "") -> CodeError:
    """The error of a worker without uv; `named` is what LAUNCH_UV says."""
    found = f"LAUNCH_UV of this worker names {named!r}, which is no program" if named else "this worker has no uv"
    advice = "install it there (pip install 'launch_worker[uv]'), or name it with LAUNCH_UV"
    return CodeError(f"{found}, and no Python environment can be made: {advice}", worker_fault=True)


class _Lines:
    """Splits what uv says into lines, and takes logins and secrets out of each."""

    def __init__(self, on_line: Callable[[str], None], secrets: tuple[str, ...]) -> None:
        self._on_line = on_line
        self._secrets = secrets
        self._rest = b""
        self.last: list[str] = []

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)

    def end(self) -> None:
        if self._rest:
            self._say(self._rest)
        self._rest = b""

    def _say(self, line: bytes) -> None:
        text = _LOGIN.sub("***@", line.decode("utf-8", "replace").rstrip())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        self.last = [*self.last, text][-_LAST_LINES:]
        self._on_line(text)


def sentence(lines: list[str]) -> str:
    """uv's error and its causes as one line, without hints; '' where it named none."""
    begin = next((at for at in reversed(range(len(lines))) if re.match(r"(error:|\s*×)", lines[at])), None)
    if begin is None:
        return ""
    found = []
    for line in lines[begin:]:
        if re.match(r"\s*hint:", line):
            break
        text = re.sub(r"^\s*(error:|cause:|Caused by:|[×│╰─▶├]+)*\s*", "", line).strip()
        if text:
            found.append(text)
    return ": ".join(found)[:600].rstrip(".")


_MEANINGS = (
    (r"no space left|disk quota", "the worker's disk is full: the environment of {what} could not be made"),
    (
        r"no interpreter found|no python installation|could not find .*python|interpreter not found",
        "this worker has no such Python ({said}): install it there, or let uv fetch it with "
        "UV_PYTHON_DOWNLOADS=automatic in the worker's environment",
    ),
    (
        r"error sending request|client error \(connect\)|dns error|failed to lookup|connection (refused|reset)|"
        r"timed out|network is unreachable|certificate|http status server error",
        "the packages of {what} could not be fetched by this worker ({said}): check its network and UV_INDEX_URL",
    ),
    (
        r"\b40[13] (unauthorized|forbidden)|missing credentials|authentication",
        "the index refused this worker the packages of {what} ({said}): check the login that it has for that index",
    ),
)


def explain(error: UvError, what: str) -> CodeError:
    """The failure as one sentence, with uv's last lines as the detail."""
    said, detail = error.args
    for pattern, text in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return CodeError(text.format(what=what, said=said), detail=detail, worker_fault=True)
    return CodeError(f"the environment of {what} could not be made: {said}", detail=detail)
