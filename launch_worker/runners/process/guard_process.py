"""Starts a guard: its process, its end of the conversation, and the socket at which it answers the next worker."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from launch_worker.runners.process import orphans
from launch_worker.runners.process.direct_channel import SEND_TIMEOUT_S
from launch_worker.runners.process.protocol import SOCKET

log = logging.getLogger("launch_worker.runner")

#: Names of the variables that a guard gets of its worker's environment, no secrets among them. Programs and libraries
#: are found by some, the container engine by others; by LAUNCH_… a person, or the worker of which this worker is itself
#: a job, tells whose guard it is.
_ENVIRONMENT = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|XDG_RUNTIME_DIR|LD_.*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|"
    "DOCKER_(HOST|TLS_VERIFY|CERT_PATH|CONFIG|CONTEXT|API_VERSION)|SSH_AUTH_SOCK|((HTTPS?|NO|ALL)_PROXY)|"
    "((https?|no|all)_proxy)|LAUNCH_(WORK_DIR|RUN_ID|TOKEN)"
)

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.runners.process.guard import main; main()"
)


def start_guard(folder: Path | None, *, lock_fd: int | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a guard; its process, and this worker's end of the conversation with it. Raises OSError.

    `folder` is where the guard answers the next worker, None for nowhere; `lock_fd` is that folder's lock.
    """
    ours, theirs = socket.socketpair()
    bound_sends(ours)
    root = str(Path(__file__).parents[3])
    with theirs, _listening(folder) as takeover:
        inherited = [theirs.fileno(), None if takeover is None else takeover.fileno(), lock_fd]
        words = ["-" if fd is None else str(fd) for fd in inherited]
        # It begins with all signals blocked, as this thread has them meanwhile, until it can handle them.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            guard = orphans.start(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, root, *words, root, "" if folder is None else str(folder)],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for fd in inherited if fd is not None],
                cwd="/",
                env={name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    return guard, ours


def bound_sends(control: socket.socket) -> None:
    """Have a send fail when the guard does not read its orders for some time; reads may wait as long as they like."""
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """A path of the folder's socket that fits into the 108 bytes that the kernel allows. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _listening(folder: Path | None) -> Iterator[socket.socket | None]:
    """A socket that listens in the folder; None where there is no folder, or its file system has no sockets."""
    if folder is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as takeover:
        try:
            (folder / SOCKET).unlink(missing_ok=True)
            with short_path(folder) as short:
                takeover.bind(short)
            takeover.listen(4)
        except OSError as error:
            log.warning("guard.no_door folder=%s: %s; its jobs cannot be handed over", folder, error)
            yield None
            return
        yield takeover
