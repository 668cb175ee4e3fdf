"""Starts a process that Landlock confines: what it may read and write, and that it signals nobody else.

The kernel confines a thread, and what that thread starts from then on. So the guard starts the process in a thread that
confines itself and ends; the guard's other thread stays as it is. Standard library only, for the guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TypedDict

# Numbers of the system calls, the same on all machines.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# Rights of the kernel's `linux/landlock.h`.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
_READ = _EXECUTE | _READ_FILE | _READ_DIR
#: Rights that a file which is no folder can have.
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
#: Scopes: sockets in the abstract namespace, and signals, reach no process outside.
_SCOPES = 1 << 0 | 1 << 1
#: Version of the kernel's interface from which on signals can be scoped.
LEAST_ABI = 6
#: Device files that every program may use.
_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"))
#: Folders for files that come and go.
_TEMPORARY = ("/tmp", "/var/tmp")

_RULESET = struct.Struct("=QQQ")
#: A packed struct: rights, and a descriptor.
_BENEATH = struct.Struct("=Qi")


class Rules(TypedDict):
    """What a process may reach, in words of JSON."""

    #: Folders of which it sees nothing but what is named below.
    hidden: list[str]
    #: Folders that it can read though they are hidden.
    readable: list[str]
    #: Folders in which it can write.
    writable: list[str]
    #: Device files that it can use.
    devices: list[str]


def abi() -> int:
    """The version of the kernel's interface; 0 where there is none."""
    return max(0, int(_syscall()(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)))


def confined(rules: Rules, start: Callable[[], int]) -> int:
    """Call `start` in a thread that these rules confine; returns what it has. Raises OSError, and what `start` does."""
    ended: list[int | BaseException] = []

    def run() -> None:
        try:
            restrict(rules)
            ended.append(start())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            ended.append(error)

    thread = threading.Thread(target=run, name="confined")
    thread.start()
    thread.join()
    [answer] = ended
    if isinstance(answer, BaseException):
        raise answer
    return answer


def restrict(rules: Rules) -> None:
    """Confine this thread, for good. Raises OSError."""
    attributes = _RULESET.pack(_ALL, 0, _SCOPES)
    hidden = tuple(rules["hidden"])
    ruleset = _check(_syscall()(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, is_folder in around(hidden):
            _allow(ruleset, path, _READ if is_folder else _READ & _OF_FILES)
        for path in rules["readable"]:
            _allow(ruleset, path, _READ)
        for device in (*_DEVICES, *rules["devices"]):
            _allow(ruleset, device, _ALL if os.path.isdir(device) else _OF_FILES)
        for path in (*_TEMPORARY, *rules["writable"]):
            for part, is_folder in around(hidden, path):
                _allow(ruleset, part, _ALL if is_folder else _OF_FILES)
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
        _check(_syscall()(_RESTRICT_SELF, ruleset, 0, 0))
    finally:
        os.close(ruleset)


def around(hidden: tuple[str, ...], top: str = "/") -> Sequence[tuple[str, bool]]:
    """The paths, and whether each is a folder, that together are all below `top` but for hidden folders.

    The folders on the way to those are not among them, only what else lies in these.
    """
    below = tuple(path for path in hidden if path.startswith(f"{top.rstrip('/')}/"))
    if not below or any(f"{top}/".startswith(f"{path}/") for path in hidden):
        # What lies in a hidden folder is the job's own, or it would not be asked for.
        return ((top, os.path.isdir(top)),)
    way = {top}
    for path in below:
        while (path := os.path.dirname(path)) != top:
            way.add(path)
    return _beside(below, tuple(sorted(way)), tuple(_changed_at(folder) for folder in sorted(way)))


@functools.lru_cache(maxsize=64)
def _beside(hidden: tuple[str, ...], way: tuple[str, ...], changed_at: tuple[int, ...]) -> Sequence[tuple[str, bool]]:
    """What lies in the folders of the way, but for that and what is hidden; read again after a change of one."""
    found = []
    for folder in way:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += [
                (entry.path, entry.is_dir())
                for entry in entries
                # The target of a link is allowed where it lies.
                if not entry.is_symlink() and entry.path not in hidden and entry.path not in way
            ]
    return found


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Allow this for a file, or for all below a folder; nothing where it is not there. Raises OSError."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _check(_syscall()(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, _BENEATH.pack(rights, fd), 0))
    finally:
        os.close(fd)


def _check(answer: int) -> int:
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock refuses: {os.strerror(error)}")
    return answer


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _syscall() -> Callable[..., int]:
    """`syscall`, of which all arguments are passed as words of the machine."""
    function = _libc().syscall
    function.restype = ctypes.c_long
    return function
