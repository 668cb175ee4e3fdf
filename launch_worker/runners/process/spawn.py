"""Starts one process by `posix_spawn`, in half of the time that `subprocess` takes.

Standard library only, and for a single-threaded process: it changes its working directory meanwhile.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from launch_worker.runners.process.landlock import Rules, confined

#: Signals that have their usual meaning again in a started process.
_USUAL = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
#: Folder of the formats of programs that the kernel knows beside its own.
_FORMATS = "/proc/sys/fs/binfmt_misc"
#: Working directory between two starts: never a folder that a job may want to delete or unmount.
_HOME = "/"


def spawn(
    argv: list[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    output: int,
    sandboxed: bool = False,
    landlock: Rules | None = None,
) -> int:
    """Start a process in a session of its own, without input, both outputs in one descriptor; its pid.

    The program is searched in the PATH of `env`. `landlock`: what the process may reach; `sandboxed`: whether it makes
    a sandbox itself. Raises OSError, ValueError.
    """
    try:
        os.chdir(cwd)
        if sandboxed or landlock is not None:
            no_input()
            return confined(landlock, lambda: _start(argv, env, output))
        return _start(argv, env, output)
    finally:
        os.chdir(_HOME)


def _start(argv: list[str], env: Mapping[str, str], output: int) -> int:
    """Try the candidates as execvpe does: missing ones are passed over, else the first refusal is raised."""
    if not argv:
        raise ValueError("it is empty")
    refusal: OSError | None = None
    passed: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    for path in candidates(argv[0], env):
        try:
            return _spawn(path, argv, env, output)
        except (FileNotFoundError, NotADirectoryError) as error:
            passed = error
        except OSError as error:
            refusal = refusal or error
    raise refusal or passed


def look_at_program(argv: Sequence[str], *, env: Mapping[str, str], cwd: str) -> None:
    """Look once at the files that `spawn` needs: on a mount that hangs this thread waits, and not the guard."""
    try:
        for path in candidates("".join(argv[:1]), env, cwd):
            os.access(path if path.startswith("/") else f"{cwd}/{path}", os.X_OK)
            return
    except (OSError, ValueError):
        pass  # the guard says it


def check_program(argv: Sequence[str], *, env: Mapping[str, str], cwd: str) -> None:
    """Raise the OSError with which `spawn` would refuse this command, for a program that is started by another one."""
    if not argv:
        raise ValueError("it is empty")
    if not os.path.isdir(cwd):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), cwd)
    if not os.access(cwd, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), cwd)
    refusal: OSError | None = None
    for candidate in candidates(argv[0], env, cwd):
        path = os.path.join(cwd, candidate)
        if not os.path.exists(path):
            continue
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            refusal = refusal or PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        elif not _is_program(path):
            refusal = refusal or OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
        elif os.path.exists(_interpreter(path)):
            return
    raise refusal or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])


def _is_program(path: str) -> bool:
    """Whether the kernel executes the file: a script without a first line for that is none. True where unknown."""
    try:
        begin = _begin(path)
        # Formats that an admin has named for the kernel, beside its own `register` and `status`.
        is_more = os.path.isdir(_FORMATS) and len(os.listdir(_FORMATS)) > 2
    except OSError:
        return True
    return is_more or begin.startswith((b"#!", b"\x7fELF"))


def _interpreter(path: str) -> str:
    """The interpreter that a script names in its first line; the program itself where it is no script."""
    try:
        words = _begin(path).partition(b"\n")[0]
    except OSError:
        return path
    named = words[2:].split(maxsplit=1)
    return os.fsdecode(named[0]) if words.startswith(b"#!") and named else path


def _begin(path: str) -> bytes:
    """The first bytes of a file, in whose place a job may put a pipe at any time. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.read(fd, 256)
    finally:
        os.close(fd)


def candidates(program: str, env: Mapping[str, str], cwd: str = "") -> Iterator[str]:
    """The paths at which a program may be; `cwd` is where relative ones begin, '' for this process's folder.

    Raises PermissionError for an empty name.
    """
    if not program:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
    if "/" in program:
        yield program
        return
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        path = f"{folder}/{program}" if folder else program
        # A look costs a hundredth of a process that fails.
        if os.access(os.path.join(cwd, path), os.F_OK):
            yield path


@functools.cache
def no_input() -> int:
    """A descriptor from which nothing can be read."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _posix_spawn(path: str, argv: list[str], env: Mapping[str, str], output: int) -> int:
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=(
            (os.POSIX_SPAWN_DUP2, no_input(), 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ),
        setsid=True,
        setsigmask=(),
        setsigdef=_USUAL,
    )


def _popen(path: str, argv: list[str], env: Mapping[str, str], output: int) -> int:
    # Descriptors that the program is to have are inheritable, and no others, as with posix_spawn.
    process = subprocess.Popen(
        argv,
        executable=path,
        env=env,
        stdin=no_input(),
        stdout=output,
        stderr=output,
        start_new_session=True,
        close_fds=False,
    )
    process.returncode = 0  # its parent reaps it, not Popen
    return process.pid


def _spawn(path: str, argv: list[str], env: Mapping[str, str], output: int) -> int:
    try:
        return _posix_spawn(path, argv, env, output)
    except NotImplementedError:
        # A Python that was built for an old libc: it cannot make a session this way.
        return _popen(path, argv, env, output)


def explain_refusal(error: Exception, program: str, cwd: str, *, user: str = "") -> str:
    """Say, in a sentence for people, why `spawn` has raised; `user` is the process's, where it has another one."""
    if isinstance(error, FileNotFoundError):
        if not os.path.isdir(cwd):
            return f"working directory {cwd!r} does not exist on this worker"
        if os.path.exists(os.path.join(cwd, program)):
            return f"command {program!r} names an interpreter in its first line that is not there"
        return f"command {program!r} was not found on this worker"
    if isinstance(error, NotADirectoryError):
        return f"working directory {cwd!r} or a part of {program!r} is not a directory"
    if isinstance(error, PermissionError) and error.filename is not None:
        if error.filename == cwd or not os.access(cwd, os.X_OK):
            who = user or "the worker's user"
            return f"working directory {cwd!r} may not be entered by {who}"
        return f"command {program!r} is not executable (permission denied)"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"command {program!r} could not be started: {reason}"
