"""Sets what a worker, a beat or a guard needs of its own process, whoever started it.

Standard library only, and cheap to import: the guard is a small process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
#: Version of the arguments of `capset`.
_CAPABILITY_VERSION = 0x20080522
#: Numbers of the system call `keyctl`, by machine.
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_JOIN_SESSION_KEYRING = 1
#: Errors of a kernel without keys, and of a container that forbids them to jobs too.
_NO_KEYS = frozenset((errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP))
#: Signals that Python sets for itself, and gives back to the programs that it starts.
_OF_PYTHON = frozenset((signal.SIGPIPE, signal.SIGXFSZ))


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children from now on, instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Let only root read this process's environment, memory and open files, trace it, or get a core dump of it.

    Jobs are processes of the same user, and could read the password of Redis there. To be called again after a change
    of the user, which sets it back. A program that this process executes begins readable.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up all capabilities of this thread; with `no_new_privs` no program gets any of them back. Raises OSError."""
    libc = _libc()
    if libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave_keyring() -> None:
    """Give this thread a session keyring of its own: it is inherited, with the keys that a login has put into it.

    A later user of a process reads those keys too. Raises OSError where there is no room for one.
    """
    number = _keyctl()
    if number is None:
        return
    libc = _libc()
    if libc.syscall(number, _JOIN_SESSION_KEYRING, None) < 0 and ctypes.get_errno() not in _NO_KEYS:
        reason = os.strerror(ctypes.get_errno())
        raise OSError(errno.EIO, f"its keyring could not be made: {reason} (/proc/key-users)")


def tie_to(parent: int) -> Callable[[], None]:
    """A function for a new process, by which the kernel ends it with the thread that started it."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def have_usual_signals(*, but_hang_up: bool = False) -> None:
    """Block no signal and ignore none; for the main thread, before there are others.

    `but_hang_up`: hang-ups stay ignored where they are, as below `nohup`.

    Some supervisors and language runtimes start programs with signals blocked or ignored, and both are inherited. A
    process with SIGCHLD blocked does not learn of the ends of its children, and one with SIGTERM blocked cannot be
    stopped.
    """
    for number in signal.valid_signals():
        is_kept = number in _OF_PYTHON or (but_hang_up and number == signal.SIGHUP)
        if is_kept or signal.getsignal(number) is not signal.SIG_IGN:
            continue
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@functools.cache
def _keyctl() -> int | None:
    return _KEYCTL.get(os.uname().machine)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
