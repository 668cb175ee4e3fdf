"""Keeps what ended attempts left on this machine until it is sent: outputs leave the attempt's folder in one step.

    work_dir/workers/OWNER/runs/RUN.ATTEMPT.TOKEN/outputs/{files/, about.json}   while the job lives
    work_dir/outgoing/RUN.ATTEMPT.TOKEN/{files/, about.json}                     from its end until they are sent

`files` is the job's LAUNCH_OUTPUT_DIR. `about.json` has the patterns of the files that are wanted, where there are any,
and is locked by the worker that sends them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

from launch_worker.errors import InputError
from launch_worker.model.outputs import check_outputs
from launch_worker.outputs.manifest import LeftOut, Manifest
from launch_worker.untrusted.plain_files import open_plain
from launch_worker.untrusted.removal import opened, remove_tree
from launch_worker.untrusted.text import read_map

#: Names within an attempt's folder, and within the folder of its outputs.
OUTPUTS, FILES = "outputs", "files"
_ABOUT = "about.json"
#: Name of the file that says what a container has left out of `files`; there only if there is such.
_LEFT_OUT = "files.left_out.json"
_NAME = re.compile(r"([0-9A-Za-z]{1,100})\.([0-9]{1,19})\.([0-9]{1,19})")
#: Beginning of the name of outputs that are sent and not deleted yet.
_SENT = ".sent."
#: Bytes of a file about outputs that are read.
_MAX_ABOUT = 1 << 20
#: Characters of the file about what was left out of a copy that are read, and files that are named in it, at most.
_MAX_LEFT_OUT, _NAMED = 8 << 20, 1000


def make_outputs(attempt_folder: str, patterns: tuple[str, ...]) -> str:
    """Make the folder of a job's outputs; returns its path. Raises OSError."""
    folder = f"{attempt_folder}/{OUTPUTS}"
    os.mkdir(folder, 0o700)
    os.mkdir(f"{folder}/{FILES}", 0o700)
    return choose_outputs(attempt_folder, patterns)


def choose_outputs(attempt_folder: str, patterns: tuple[str, ...]) -> str:
    """Note the patterns of the files that are wanted; returns the path of the job's folder. Raises OSError."""
    folder = f"{attempt_folder}/{OUTPUTS}"
    if patterns:
        with open(f"{folder}/{_ABOUT}", "w", encoding="utf-8") as about:
            json.dump({"patterns": patterns}, about)
    return f"{folder}/{FILES}"


def files_of(attempt_folder: str) -> Path:
    """The folder of a job's outputs in its attempt's folder."""
    return Path(attempt_folder) / OUTPUTS / FILES


def has_outputs(attempt_folder: str) -> bool:
    """Whether a job has left something by now."""
    try:
        with os.scandir(f"{attempt_folder}/{OUTPUTS}/{FILES}") as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def leave_outputs(work_dir: Path, attempt_folder: str, *, keeps_empty: bool = False) -> bool:
    """Move what an ended job left to where workers find it. Can be repeated.

    An empty folder is deleted, or stays with `keeps_empty`. Returns whether there is something, or was when it was
    called before. Raises OSError, and nothing is lost then.
    """
    folder = f"{attempt_folder}/{OUTPUTS}"
    if keeps_empty:
        with contextlib.suppress(OSError), os.scandir(f"{folder}/{FILES}") as entries:
            if next(entries, None) is None:
                return False
    kept = outgoing_folder(work_dir) / os.path.basename(attempt_folder)
    if os.path.islink(folder):
        os.unlink(folder)  # the job has put it there
    if os.path.lexists(f"{folder}/{_LEFT_OUT}"):
        _move(folder, kept)
        return True
    try:
        os.rmdir(f"{folder}/{FILES}")
    except FileNotFoundError:
        if not os.path.lexists(folder):
            return kept.exists()
    except NotADirectoryError:
        os.unlink(f"{folder}/{FILES}")  # the job has put it there
    except OSError:
        with opened(folder):
            _move(folder, kept)
        return True
    try:
        os.rmdir(folder)
    except OSError:
        problem = remove_tree(folder)
        if problem is not None:
            raise problem from None
    return False


def _move(folder: str, kept: Path) -> None:
    try:
        os.rename(folder, kept)
    except FileNotFoundError:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(folder, kept)


def outgoing_folder(work_dir: Path) -> Path:
    """The folder of ended attempts' outputs that are not sent yet."""
    return work_dir / "outgoing"


def outgoing_names(work_dir: Path) -> list[str]:
    """The names of the outputs that wait on this machine, the oldest runs first."""
    try:
        names = os.listdir(outgoing_folder(work_dir))
    except OSError:
        return []
    return sorted(name for name in names if _NAME.fullmatch(name))


def delete_sent(work_dir: Path) -> None:
    """Delete what a worker that died was deleting."""
    folder = outgoing_folder(work_dir)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_SENT):
                remove_tree(str(folder / name))


class Waiting(NamedTuple):
    """What waits on this machine."""

    attempts: int
    #: Seconds since the oldest of it waits.
    since_s: float


def waiting(work_dir: Path) -> Waiting:
    """What waits on this machine to be sent."""
    names, oldest = outgoing_names(work_dir), time.time()
    for name in names:
        with contextlib.suppress(OSError):
            # The folder has got its name there when it was moved.
            oldest = min(oldest, os.stat(outgoing_folder(work_dir) / name).st_ctime)
    return Waiting(len(names), max(0.0, time.time() - oldest))


class Outgoing:
    """One attempt's outputs, locked for this process."""

    def __init__(self, work_dir: Path, name: str) -> None:
        """Raises ValueError for a name that is no attempt's."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no attempt")
        self.name = name
        self.run_id, self.attempt, self.token = match[1], int(match[2]), int(match[3])
        self.folder = outgoing_folder(work_dir) / name
        self._lock = -1

    @property
    def files(self) -> Path:
        """The job's folder."""
        return self.folder / FILES

    def take(self) -> bool:
        """Lock them; False when another worker has them, or they are sent. Raises OSError."""
        path = self.folder / _ABOUT
        if self.folder.is_symlink():
            # What got away of a job has put it there.
            self.folder.unlink()
            return False
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                # The job has put it there.
                remove_tree(str(path))
                path.unlink(missing_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another worker may have sent and deleted them before the lock was ours.
            is_there = os.path.samestat(os.fstat(lock), os.stat(path, follow_symlinks=False))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        except BaseException:
            os.close(lock)
            raise
        if not is_there:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def patterns(self) -> tuple[str, ...]:
        """The patterns of the files that are wanted; none for all, and for what the job has made of them."""
        try:
            known = read_map(os.pread(self._lock, _MAX_ABOUT, 0).decode(errors="replace")).get("patterns")
            patterns = tuple(map(str, known)) if isinstance(known, list) else ()
            check_outputs(patterns)
        except (OSError, InputError):
            return ()
        return patterns

    def left_out(self) -> Manifest:
        """What was not copied out of the job's container, as a manifest of no files."""
        try:
            with open(open_plain(self.folder / _LEFT_OUT), encoding="utf-8", errors="replace") as file:
                known = read_map(file.read(_MAX_LEFT_OUT))
            named = tuple(LeftOut(str(path), str(why)) for path, why in known["paths"][:_NAMED])
            return Manifest(self.run_id, self.attempt, (), named, max(len(named), int(known["count"])))
        except (OSError, ValueError, TypeError, KeyError):
            return Manifest(self.run_id, self.attempt)

    def delete(self) -> None:
        """Delete them, once they are sent. Raises OSError."""
        sent = self.folder.with_name(f"{_SENT}{self.name}")
        remove_tree(str(sent))
        os.rename(self.folder, sent)
        problem = remove_tree(str(sent))
        if problem is not None:
            raise problem

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
