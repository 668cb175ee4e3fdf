"""Runs uv, which makes Python environments: with little of the worker's environment, ended when it takes too long."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launch_worker.code import git
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError
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
        lines = _Lines(self.on_line, self._secrets)
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

    @cached_property
    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in self.worker_env.items() if _is_inherited(name)}
        # Bytecode: an environment cannot be written to, so no job could keep any.
        defaults = {
            "UV_CACHE_DIR": str(self.cache),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_COMPILE_BYTECODE": "1",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        }
        fixed = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "GIT_TERMINAL_PROMPT": "0"}
        return {**defaults, **env, **fixed, **self.marks}

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        """Texts that must not be shown: passwords of indexes, and those in their URLs."""
        found = set()
        for name, value in self.worker_env.items():
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
