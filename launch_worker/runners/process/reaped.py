"""Reads what an ended process has used, before and while it is reaped. Standard library only, cheap to import.

The kernel counts for each process what it used itself, and what its children used that it has waited for. So the sum
over a job's main process and its orphans, all of which the guard reaps, is the whole tree's, however brief its
processes were.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import struct
from typing import NamedTuple

#: Number of the system call `waitid`, which can tell more than libc's function of that name, by machine.
_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95, "loongarch64": 95, "ppc64le": 272, "s390x": 281}
_P_PID = 1
_WNOWAIT = 0x01000000
_RUSAGE = struct.Struct("=5q")
#: Bytes of a `struct rusage`.
_RUSAGE_BYTES = 144


class Reaped(NamedTuple):
    """What an ended process has used, with those of its descendants that were waited for."""

    #: Seconds of CPU.
    cpu_s: float
    #: Bytes of resident memory of the largest one of these processes; 0 where that is not known.
    peak_memory: int

    def __add__(self, other: object) -> Reaped:
        assert isinstance(other, Reaped)
        return Reaped(round(self.cpu_s + other.cpu_s, 6), max(self.peak_memory, other.peak_memory))


def of_unreaped(pid: int) -> Reaped | None:
    """What a child that has ended, and is not reaped yet, has used; None where the kernel does not tell."""
    number = _WAITID.get(_machine())
    if number is None:
        return None
    found = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if _libc().syscall(number, _P_PID, pid, None, os.WEXITED | os.WNOHANG | _WNOWAIT, found):
        return None
    user_s, user_us, system_s, system_us, peak_kib = _RUSAGE.unpack_from(found)
    return _reaped(user_s + system_s + (user_us + system_us) / 1e6, peak_kib)


def of_rusage(used: resource.struct_rusage) -> Reaped:
    """What `os.wait4` says."""
    return _reaped(used.ru_utime + used.ru_stime, used.ru_maxrss)


def _reaped(cpu_s: float, peak_kib: int) -> Reaped:
    # A process counts the memory of its parent as its own until its exec, so less than this process's own is not known.
    return Reaped(round(cpu_s, 6), peak_kib << 10 if _own_peak.is_below(peak_kib) else 0)


class _OwnPeak:
    """The most resident memory that this process has had, which only grows; read again where that may decide."""

    def __init__(self) -> None:
        self._kib = 0

    def is_below(self, kib: int) -> bool:
        if self._kib < kib < 2 * self._kib or not self._kib:
            try:
                # Not `getrusage`, which counts the memory of the program that started this one.
                with open("/proc/self/status", "rb") as status:
                    self._kib = int(status.read().partition(b"VmHWM:")[2].split(maxsplit=1)[0])
            except (OSError, IndexError, ValueError):
                return False
        return self._kib < kib


_own_peak = _OwnPeak()


@functools.cache
def _machine() -> str:
    return os.uname().machine


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    return libc
