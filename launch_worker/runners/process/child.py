"""Runs one program to its end for a run's start: bounded, watched, and ended with all that it started.

A program that reads foreign bytes may run without end, or take all memory. In a child that may die it blocks no thread
of the worker, and no other run.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launch_worker.runners.process import orphans, tree

#: Seconds between two checks whether the child is still wanted.
_TURN_S = 0.05
_GRACE_S = 2.0
_LAST_WORDS = 16 << 10
_SHELL = "/bin/sh"


@dataclass(frozen=True)
class Bounds:
    """Bounds of each process of a child; 0 is no bound."""

    #: Bytes of memory that it writes to; files that are mapped to be read do not count.
    memory_bytes: int = 0
    #: Seconds of processor time.
    cpu_s: int = 0
    #: Bytes of one file.
    file_bytes: int = 0

    @property
    def _limits(self) -> str:
        """The shell's commands that set the bounds; a bound that is stricter already stays."""
        limits = (
            ("-c", 0, True),
            ("-d", self.memory_bytes >> 10, self.memory_bytes > 0),
            ("-S -t", self.cpu_s, self.cpu_s > 0),
            ("-f", self.file_bytes >> 9, self.file_bytes > 0),
        )
        return "".join(f"ulimit {option} {limit} 2>/dev/null; " for option, limit, is_set in limits if is_set)

    def wrap(self, program: str, arguments: Sequence[str]) -> list[str]:
        """Wrap a command so that it has the bounds from its first instruction on, as all processes that it starts."""
        return [_SHELL, "-c", self._limits + 'exec "$@"', program, program, *arguments]


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code or minus a signal's number, its output, and the end of its error output."""

    status: int
    out: bytes
    said: bytes


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    check: Callable[[], None],
    on_output: Callable[[bytes], object] | None = None,
    on_said: Callable[[bytes], object] = lambda _: None,
    stdin: BinaryIO | None = None,
    bounds: Bounds,
) -> Ended:
    """Block until the child has ended. Raises OSError when it cannot be started, and what `check` or `on_output` raise.

    `check` is called often, and raises when the child is no longer wanted; it is ended then. `on_output` gets its
    output, piece by piece, and `on_said` its error output. By its `env` the child is found should this worker die.
    """
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise FileNotFoundError(f"{argv[0]} is not there")
    process = orphans.start(
        bounds.wrap(program, argv[1:]),
        marked=tree.marks(env) if all(name in env for name in tree.MARKS) else (),
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, said = _watch(process, check, on_output, on_said)
    except BaseException:
        _end(process)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        orphans.reap()
    return Ended(process.returncode, out, said)


def _watch(
    process: subprocess.Popen[bytes],
    check: Callable[[], None],
    on_output: Callable[[bytes], object] | None,
    on_said: Callable[[bytes], object],
) -> tuple[bytes, bytes]:
    """Read both streams until the process has ended; a helper that stays behind may hold them open for ever."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, said = bytearray(), bytearray()
    on_output = on_output or out.extend
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            check()
            ready = selector.select(0 if ended else _TURN_S) if selector.get_map() else []
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    on_output(data)
                else:
                    on_said(data)
                    said += data
                    del said[:-_LAST_WORDS]
            if ended and not ready:
                return bytes(out), bytes(said)
            if not selector.get_map() and not ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TURN_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, so that it removes its temporary files; then SIGKILL to the rest of its group."""
    group = process.pid
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    until = time.monotonic() + _GRACE_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            orphans.reap()
            os.killpg(group, 0)
            time.sleep(0.01)
