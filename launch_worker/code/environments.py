"""Makes Python environments by uv, once a machine, and keeps them for all its workers.

    work_dir/environments/KEY.lock                 locked while it is made or deleted; its time is that of the last use
    work_dir/environments/KEY/made                 the name of the folder below that is whole
    work_dir/environments/KEY/NAME/{project,venv}  the files that it was made of, and the environment
    work_dir/environments/cache                    uv's own cache, unless UV_CACHE_DIR names another

An environment holds absolute paths, so it is made in its place, and is used once `made` names it: what a killed worker
leaves is never used. Attempts note in their folders which one they have (`launch_worker.attempt.folder`).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import secrets
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launch_worker.code import wheels_only
from launch_worker.code.cache import HELD, locked, remove, throw_away_old
from launch_worker.code.patience import Patience
from launch_worker.code.uv import Uv, UvError, check_logins, explain, settings_of_uv
from launch_worker.errors import CodeError, InputError, LaunchError
from launch_worker.model.requirements import AUTO, FOUND, LOCK, MAX_CODE_BYTES, NONE, PROJECT, gather, is_file, kind_of
from launch_worker.model.spec import RunSpec
from launch_worker.runners.disk import shortage_of
from launch_worker.settings import Settings
from launch_worker.untrusted.plain_files import open_plain, read_plain

log = logging.getLogger("launch_worker.code")

#: Number of the way in which environments are made: another one makes new environments.
_WAY = 1
_MADE = "made"
#: Bytes of a file that has the name of an environment, at most.
_MOST_NAME_BYTES = 1000
_CACHE = "cache"
#: Seconds for which the emptying of uv's cache may wait for other uvs.
_EMPTY_CACHE_S = 30.0
#: Characters of a pyproject.toml that is looked into: the reader takes a second for each million.
_MAX_PYPROJECT = 256 << 10
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Wanted:
    """An environment that a run asks for: the file of its requirements ('' for none), all files, and its Python."""

    main: str
    files: Mapping[str, str]
    python: str

    @property
    def shown(self) -> str:
        """What it is made of, in words."""
        return " and ".join(part for part in (self.main, self.python and f"Python {self.python}") if part)


def wanted_by(spec: RunSpec, code: Path | None) -> Wanted | None:
    """The environment that a run asks for, with `code` for its folder; None for none. Raises InputError, OSError."""
    main, files = spec.requirements, spec.requirements_files
    if main == NONE:
        return None
    if code is not None and main == AUTO:
        read = _reader(code)
        main = next((name for name in FOUND if _is_there(name, read)), "")
    if is_file(main):
        # Files that came with the run too: its client may not have looked at them.
        files = gather(main, files.get if code is None else _reader(code), limit_bytes=MAX_CODE_BYTES)
    main = main if is_file(main) else ""
    return Wanted(main, files, spec.python) if main or spec.python else None


def _is_there(name: str, read: Callable[[str], str | None]) -> bool:
    """Whether a file is there; a pyproject.toml that only configures tools is none."""
    text = read(name)
    if text is None or name != "pyproject.toml":
        return text is not None
    if len(text) > _MAX_PYPROJECT:
        return True
    try:
        return "project" in tomllib.loads(text)
    except (ValueError, RecursionError):
        # uv says what is wrong with it.
        return True


def _reader(code: Path) -> Callable[[str], str | None]:
    root = os.path.realpath(code)

    def read(path: str) -> str | None:
        inside = os.path.realpath(os.path.join(root, path))
        if not inside.startswith(root + os.sep):
            raise InputError(f"the requirements {path[:100]!r} lead out of the code")
        if not os.path.isfile(inside):
            return None
        with open(open_plain(inside), "rb") as file:
            data = file.read(MAX_CODE_BYTES + 1)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None

    return read


class Environments:
    """The environments of this machine."""

    def __init__(self, settings: Settings, worker_env: Mapping[str, str]) -> None:
        self._settings = settings
        self._worker_env = worker_env
        self.folder = folder_of(settings)

    @property
    def cache(self) -> Path:
        """uv's cache, beside the environments, so that their files are links to those in it."""
        return self.folder / _CACHE

    def find(self, wanted: Wanted, *, hold: Callable[[str], object], patience: Patience) -> str:
        """The path of the environment, noted as held; '' where it must be made. Raises CodeError, OSError."""
        entry = self._entry(wanted)
        if not self._made(entry):
            return ""
        with locked(entry, patience=patience, shared=True):
            made = self._made(entry)
            if made:
                hold(entry.name)
        return made

    def make(self, wanted: Wanted, uv: Uv, *, hold: Callable[[str], object]) -> str:
        """Make the environment, unless another worker has meanwhile; returns its path, noted as held.

        Raises CodeError, StartGivenUpError, OSError.
        """
        entry = self._entry(wanted)
        with locked(entry, patience=uv.patience):
            made = self._made(entry)
            if not made:
                remove(entry)
                made = self._make(entry, wanted, uv)
            hold(entry.name)
        try:
            self.throw_away_unused(uv)
        except (OSError, LaunchError) as error:
            log.warning("environments.not_deleted folder=%s: %s", self.folder, error)
        return made

    def _entry(self, wanted: Wanted) -> Path:
        machine, libc = os.uname(), None
        with contextlib.suppress(ValueError):
            libc = os.confstr("CS_GNU_LIBC_VERSION")
        facts = [
            *(_WAY, wanted.main, sorted(wanted.files.items()), wanted.python),
            *(machine.sysname, machine.machine, libc, settings_of_uv(self._worker_env)),
        ]
        return self.folder / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _made(self, entry: Path) -> str:
        """The path of a whole environment, whose interpreter is still there; '' for none."""
        try:
            venv = f"{entry}/{read_plain(entry / _MADE, most_bytes=_MOST_NAME_BYTES).decode()}/venv"
        except (OSError, ValueError):
            return ""
        return venv if os.access(f"{venv}/bin/python", os.X_OK) else ""

    def _make(self, entry: Path, wanted: Wanted, uv: Uv) -> str:
        # A name of its own: a uv that outlived its killed worker may still write to the folder that it was given.
        name = secrets.token_hex(4)
        folder = entry / name
        project, venv = folder / "project", folder / "venv"
        for path, text in wanted.files.items():
            file = project / path
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(text)
        project.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._install(wanted, project, venv, uv)
            _make_read_only(venv)
            uv.patience.await_thread(lambda: _sync(folder))
        except BaseException as problem:
            remove(entry)
            if not isinstance(problem, UvError):
                raise
            told = explain(problem, wanted.shown)
            shortage = "" if told.worker_fault else shortage_of(self._settings)
            if shortage:
                told = CodeError(f"{told}; {shortage}", detail=told.detail, worker_fault=True)
            raise told from None
        partial = folder / _MADE
        partial.write_text(name)
        partial.rename(entry / _MADE)
        log.info("environment.made key=%s of=%s", entry.name, wanted.shown)
        return str(venv)

    def _install(self, wanted: Wanted, project: Path, venv: Path, uv: Uv) -> None:
        check_logins(wanted.files, uv.worker_env)
        if uv.takes_wheels_only:
            wheels_only.check(wanted.files)
        python = ("--python", wanted.python) if wanted.python else ()
        kind = kind_of(wanted.main) if wanted.main else ""
        inside = project / os.path.dirname(wanted.main)
        # Without a project of its own it would look for one in the folders above.
        alone = () if kind in (PROJECT, LOCK) else ("--no-project",)
        uv.run("venv", "--quiet", *alone, *python, "--", str(venv), folder=inside)
        # Before packages may put another program in its place.
        interpreter = os.path.realpath(venv / "bin" / "python")
        if kind == LOCK:
            env = {"UV_PROJECT_ENVIRONMENT": str(venv)}
            uv.install("sync", "--locked", "--no-install-project", *python, folder=inside, env=env)
        elif kind:
            uv.install("pip", "install", "--python", str(venv), "-r", os.path.basename(wanted.main), folder=inside)
        if kind and uv.takes_wheels_only:
            uv.compile(interpreter, venv / "lib")

    # -- the clean-up ------------------------------------------------------------------------------------------------

    def throw_away_unused(self, uv: Uv) -> None:
        """Delete environments that are too old, and the longest unused while all take too much. None that is held."""
        for entry in throw_away_old(
            self.folder,
            age_s=self._settings.environment_age_s,
            is_full=self._is_full,
            is_held=lambda entry: entry.name in self._held(),
        ):
            log.info("environment.deleted key=%s", entry.name)
        if self.cache.is_dir() and self._is_full():
            # What only the cache has is the rest.
            try:
                quick = replace(uv, patience=Patience.of(_EMPTY_CACHE_S), on_line=lambda _: None)
                quick.run("cache", "clean", folder=self.folder, env={"UV_CACHE_DIR": str(self.cache)})
            except UvError as error:
                log.warning("environments.cache_not_emptied folder=%s: %s", self.cache, error)

    def _is_full(self) -> bool:
        return disk_bytes(self.folder) > self._settings.environment_bytes

    def _held(self) -> set[str]:
        """The keys of the environments that attempts of this machine have."""
        held = set()
        for note in (self._settings.work_dir / "workers").glob(f"*/runs/*/{HELD}"):
            with contextlib.suppress(OSError, ValueError):
                held.add(read_plain(note, most_bytes=_MOST_NAME_BYTES).decode())
        return held


def folder_of(settings: Settings) -> Path:
    """The folder of a machine's environments."""
    return settings.work_dir / "environments"


def kept(folder: Path) -> tuple[int, int]:
    """The number of environments in that folder, and the bytes of disk that they and uv's cache take."""
    return len(kept_in(folder)), disk_bytes(folder)


def kept_in(folder: Path) -> list[str]:
    """The keys of the environments in that folder."""
    return [mark.parent.name for mark in folder.glob(f"*/{_MADE}")]


def disk_bytes(folder: Path) -> int:
    """Bytes on the disk of all files below a folder; one that has several names counts once."""
    return sum(dict(_files(str(folder))).values())


def _files(folder: str) -> Iterator[tuple[int, int]]:
    """The number and the bytes of each file; those that go meanwhile do not count."""
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            found = entry.stat(follow_symlinks=False)
                            yield found.st_ino, found.st_blocks * 512
        except OSError:
            continue


def _make_read_only(venv: Path) -> None:
    """Take the right to write from all files and folders, so that no job changes what others have. Raises OSError."""
    for root, folders, names in os.walk(venv):
        for name in names:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & 0o555)
        os.chmod(root, os.stat(root).st_mode & 0o555)
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(root, name))]


def _sync(folder: Path) -> None:
    """Have the disk keep all that was written, before anything says that it is whole. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(folder))
    finally:
        os.close(fd)
