"""Starts one process that is confined: in a control group, as another user, with no way to more rights.

A fork of this process confines itself and then executes the program. That takes about two milliseconds of CPU longer
than `spawn`. In cgroup v2 the fork begins in its group: to move a process there takes the kernel ten milliseconds.

Standard library only, and for a single-threaded process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from launch_worker.runners.process.control_groups import Group
from launch_worker.runners.process.landlock import Rules, restrict
from launch_worker.runners.process.own_process import drop_capabilities, leave_keyring
from launch_worker.runners.process.spawn import candidates, no_input

#: Number of the system call `clone3`, the same on all machines, and its flag for the group of the new process.
_CLONE3 = 435
_CLONE_INTO_CGROUP = 1 << 33
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITIES = range(64)
#: Signals that Python ignores for itself; the others have their usual meaning again after an exec.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
_WORDS = 4000
#: Seconds that a start may take: meanwhile the guard serves no other job.
_START_S = 5.0
#: Seconds between two looks at one that takes long.
_TURN_S = 0.02


class User(NamedTuple):
    """The account of a process, by numbers."""

    uid: int
    gid: int
    groups: Sequence[int]


def spawn_confined(
    argv: list[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    output: int,
    group: Group | None,
    user: User | None,
    landlock: Rules | None = None,
) -> int:
    """Start a process as `spawn` does, in a group, as a user and within rules; its pid. Raises OSError, ValueError.

    The program is looked for, and the working directory entered, with the rights of the user. A start that takes too
    long is given up (ETIMEDOUT), as on a mount that does not answer: its process is then this one's to reap.
    """
    if not argv:
        raise ValueError("it is empty")
    no_input()
    _libc()
    told, telling = os.pipe2(os.O_CLOEXEC)
    try:
        pid, is_in_v2 = _fork(group)
        if pid == 0:
            _become(argv, env, cwd, output, group, is_in_v2, user, landlock, telling)
        os.close(telling)
        telling = -1
        why = _why_untold(told, pid)
        if why:
            # SIGKILL stays pending while the kernel waits for a file: the program does not begin later either.
            os.kill(pid, signal.SIGKILL)
            raise OSError(errno.ETIMEDOUT, why)
        said = os.read(told, _WORDS)
    finally:
        os.close(told)
        if telling >= 0:
            os.close(telling)
    if not said:
        return pid
    os.waitpid(pid, 0)
    number, _, words = said.decode("utf-8", "surrogateescape").partition(" ")
    reason, _, name = words.partition("\0")
    raise OSError(int(number), reason, name or None)


def _why_untold(told: int, pid: int) -> str:
    """Wait until the fork has executed the program, or said why it cannot; returns why it never will, '' if it has."""
    waiting = select.poll()
    waiting.register(told, select.POLLIN)
    until = time.monotonic() + _START_S
    while not waiting.poll(_TURN_S * 1000):
        # Another process of its account may do that, again and again, to hold up the guard.
        if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None:
            return "another process has stopped it before its program began"
        if time.monotonic() > until:
            return f"its files did not answer within {_START_S:.0f} s, as on a mount that hangs"
    return ""


def _fork(group: Group | None) -> tuple[int, bool]:
    """Fork; the pid, and whether the child is in its group of cgroup v2 already."""
    if group is not None and group.v2:
        with contextlib.suppress(OSError):
            return _fork_into(group.v2), True
    return os.fork(), False


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
            *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


def _fork_into(folder: str) -> int:
    """Fork with the child in a group from its beginning. Raises OSError, as within a container that forbids it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        arguments = _CloneArguments(flags=_CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=fd)
        pid: int = _libc().syscall(_CLONE3, ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
        if pid < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return pid
    finally:
        os.close(fd)


def _become(
    argv: list[str],
    env: Mapping[str, str],
    cwd: str,
    output: int,
    group: Group | None,
    is_in_v2: bool,
    user: User | None,
    landlock: Rules | None,
    telling: int,
) -> NoReturn:
    """Turn this process, a fork, into the job's; what keeps it from that is told through the pipe."""
    try:
        os.setsid()
        if group is not None:
            with telling_of("its control group could not be entered"):
                group.enter(but_v2=is_in_v2)
        for fd, target in ((no_input(), 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        leave_keyring()
        if landlock is not None:
            restrict(landlock)
        if user is not None:
            with telling_of("its account could not be taken on"):
                _change_user(user)
        elif landlock is not None:
            drop_capabilities()
        os.chdir(cwd)
        _execute(argv, env)
    except OSError as error:
        reason = f"{error.errno or errno.EIO} {error.strerror or error}\0{error.filename or ''}"
    except BaseException as error:  # noqa: BLE001 (nothing of this fork may go on as the guard)
        reason = f"{errno.EIO} {error!r}\0"
    with contextlib.suppress(BaseException):
        os.write(telling, reason.encode("utf-8", "surrogateescape")[:_WORDS])
    os._exit(127)


def _execute(argv: list[str], env: Mapping[str, str]) -> NoReturn:
    """Try the candidates as `spawn` does. Raises OSError."""
    refusal: OSError | None = None
    passed: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    for path in candidates(argv[0], env):
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            passed = error
        except OSError as error:
            refusal = refusal or error
    raise refusal or passed


def _change_user(user: User) -> None:
    """Change to a user for good: no program that is executed gets more rights than this one has then. Raises OSError.

    Not root alone may do that, but whoever may change the user (CAP_SETUID, CAP_SETGID).
    """
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # who may not need not: no new rights come
    os.setgroups(list(user.groups))
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    drop_capabilities()


@contextlib.contextmanager
def telling_of(what: str) -> Iterator[None]:
    """Have an error say what this machine could not do for a job."""
    try:
        yield
    except OSError as error:
        # By this number the worker knows that any job would be refused so.
        raise OSError(errno.EIO, f"{what}: {error.strerror or error}") from None


@functools.cache
def _libc() -> ctypes.PyDLL:
    # PyDLL: a fork between two of its instructions must have the interpreter's lock.
    return ctypes.PyDLL(None, use_errno=True)
