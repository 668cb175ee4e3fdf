"""Sees through a sandbox of bubblewrap: which process is the job's program, and how that has ended.

The guard starts bubblewrap, which waits outside of the sandbox. It starts the first process of the sandbox's pid
namespace, and that one the program. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping

from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId

#: What bubblewrap adds to the number of the signal that has ended the program, and exits with.
_BY_SIGNAL = 128
#: Signals that end no program: an exit code that names one was chosen by the program.
_HARMLESS = frozenset(
    (
        *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
        *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    )
)


@contextlib.contextmanager
def giving(inside: Mapping[str, str] | None, argv: list[str]) -> Iterator[list[str]]:
    """The command of bubblewrap with the variables of its program; the command itself where those are None.

    bubblewrap reads them from a descriptor, which it closes: nobody sees them on its command line. Raises ValueError
    for a NUL byte, behind which it would read options of its own.
    """
    if inside is None:
        yield argv
        return
    if any("\0" in text for variable in inside.items() for text in variable):
        raise ValueError("embedded null byte")
    words = "".join(f"--setenv\0{name}\0{value}\0" for name, value in inside.items())
    fd = os.memfd_create("inside", 0)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(os.fsencode(words))
        os.lseek(fd, 0, os.SEEK_SET)
        yield [argv[0], "--args", str(fd), *argv[1:]]
    finally:
        os.close(fd)


def status_of(status: int) -> int:
    """The exit status of the program, from that of bubblewrap: exit code, or minus the signal's number.

    A program that itself exits with 128 and the number of a signal, as shells do, counts as ended by that signal.
    """
    number = status - _BY_SIGNAL
    return -number if number in signal.valid_signals() and number not in _HARMLESS else status


def program_of(monitor: ProcessId) -> ProcessId | None:
    """The process of the program; None before it is there, and once it is gone."""
    processes = tree.table()
    firsts = {process.id.pid for process in processes if process.ppid == monitor.pid}
    # What the program leaves behind comes to the same parent, later.
    return min(
        (process.id for process in processes if process.ppid in firsts),
        key=lambda each: (each.start, each.pid),
        default=None,
    )
