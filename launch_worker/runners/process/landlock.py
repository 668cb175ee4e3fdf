"""Starts a process that Landlock confines: what it may read and write, and that it signals nobody else.

The kernel confines a thread, and what that thread starts from then on. So the guard starts the process in a thread that
confines itself and ends; the guard's other thread stays as it is. Standard library only, for the guard.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import os
import select
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

from launch_worker.runners.process.own_process import drop_capabilities, leave_keyring

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


def confined(rules: Rules | None, start: Callable[[], int]) -> int:
    """Call `start` in a thread that these rules confine, with a keyring of its own; returns what it has.

    Raises OSError, and what `start` does.
    """
    ended: list[int | BaseException] = []

    def run() -> None:
        try:
            leave_keyring()
            if rules is not None:
                _restrict(_taken(rules), rules)
                drop_capabilities()
            ended.append(start())
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            ended.append(error)

        finally:
            has_ended.release()

    # `threading.Thread` waits for the thread's beginning too: a tenth of a millisecond.
    has_ended = _thread.allocate_lock()
    has_ended.acquire()
    _thread.start_new_thread(run, ())
    has_ended.acquire()
    [answer] = ended
    if isinstance(answer, BaseException):
        raise answer
    return answer


def restrict(rules: Rules) -> None:
    """Confine this thread, for good. Raises OSError."""
    _restrict(_make(_Common.of(rules)), rules)


def prepare(rules: Rules) -> None:
    """Make most of a ruleset ahead: that which the next job of the same queue has of it too. Never raises."""
    global _prepared
    common = _Common.of(rules)
    if _prepared is None or _prepared[0] != common:
        _forget()
        with contextlib.suppress(OSError):
            _are_mounts_as_before()
            _prepared = (common, _make(common))


class _Common(NamedTuple):
    """What the rules of a queue's jobs have in common."""

    hidden: tuple[str, ...]
    writable: tuple[str, ...]
    devices: tuple[str, ...]
    #: Paths that are allowed, beside the ways to hidden folders.
    beside: tuple[str, ...]

    @classmethod
    def of(cls, rules: Rules) -> _Common:
        hidden = tuple(rules["hidden"])
        writable = (*_TEMPORARY, *(path for path in rules["writable"] if not _is_below(path, hidden)))
        beside = [*around(hidden), *(one for path in writable for one in around(hidden, path))]
        return cls(hidden, writable, tuple(rules["devices"]), tuple(beside))


#: A ruleset that no job has had, and what it allows.
_prepared: tuple[_Common, int] | None = None


def _forget() -> None:
    global _prepared
    if _prepared is not None:
        os.close(_prepared[1])
        _prepared = None


def _taken(rules: Rules) -> int:
    """A ruleset with what is common; the prepared one only once, for each job adds its own folders. Raises OSError."""
    global _prepared
    common = _Common.of(rules)
    if _prepared is None or _prepared[0] != common or not _are_mounts_as_before():
        return _make(common)
    ruleset, _prepared = _prepared[1], None
    return ruleset


def _are_mounts_as_before() -> bool:
    """Whether nothing was mounted since the last call: what is mounted on an allowed folder is not allowed with it."""
    return not _mounts().poll(0)


@functools.cache
def _mounts() -> select.poll:
    """What tells of each change of the mounts once. Raises OSError."""
    changes = select.poll()
    changes.register(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC), select.POLLPRI)
    return changes


def _make(common: _Common) -> int:
    """Make a ruleset that allows what is common. Raises OSError."""
    attributes = _RULESET.pack(_ALL, 0, _SCOPES)
    ruleset = _check(_syscall()(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path in around(common.hidden):
            _allow(ruleset, path, _READ, follows=False)
        for device in (*_DEVICES, *common.devices):
            _allow(ruleset, device, _ALL)
        for path in common.writable:
            for part in around(common.hidden, path):
                _allow(ruleset, part, _ALL, follows=part == path)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _restrict(ruleset: int, rules: Rules) -> None:
    """Add what is the job's own to a ruleset, confine this thread by it, and close it. Raises OSError."""
    hidden = rules["hidden"]
    try:
        for path in rules["readable"]:
            _allow(ruleset, path, _READ)
        for path in rules["writable"]:
            if _is_below(path, hidden):
                _allow(ruleset, path, _ALL)
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
        _check(_syscall()(_RESTRICT_SELF, ruleset, 0, 0))
    finally:
        os.close(ruleset)


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def around(hidden: tuple[str, ...], top: str = "/") -> Sequence[str]:
    """The paths that together are all below `top` but for hidden folders.

    The folders on the way to those are not among them, only what else lies in these.
    """
    way = _way(hidden, top)
    return _beside(hidden, way, tuple(map(_changed_at, way))) if way else (top,)


@functools.lru_cache(maxsize=64)
def _way(hidden: tuple[str, ...], top: str) -> tuple[str, ...]:
    """The folders from `top` to hidden ones; none where none is below it."""
    below = [path for path in hidden if path.startswith(f"{top.rstrip('/')}/")]
    if any(f"{top}/".startswith(f"{path}/") for path in hidden):
        return ()  # what lies in a hidden folder is the job's own, or it would not be asked for
    way = {top} if below else set()
    for path in below:
        while (path := os.path.dirname(path)) != top:
            way.add(path)
    return tuple(sorted(way))


@functools.lru_cache(maxsize=64)
def _beside(hidden: tuple[str, ...], way: tuple[str, ...], changed_at: tuple[int, ...]) -> Sequence[str]:
    """What lies in the folders of the way, but for that and what is hidden; read again after a change of one."""
    found = []
    for folder in way:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += [
                entry.path
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


def _allow(ruleset: int, path: str, rights: int, *, follows: bool = True) -> None:
    """Allow this for a file, or for all below a folder; nothing where it is not there. Raises OSError.

    Without `follows` nothing is allowed for the target of a link: somebody may just have put one in the place of what
    was listed.
    """
    how = os.O_PATH | os.O_CLOEXEC | (0 if follows else os.O_NOFOLLOW)
    try:
        fd = os.open(path, how | os.O_DIRECTORY)
    except NotADirectoryError:
        rights &= _OF_FILES
        try:
            fd = os.open(path, how)
        except OSError:
            return
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
