"""A key of the kernel's that this process has, and a program that looks for it."""

from __future__ import annotations

import ctypes
import os

from launch_worker.runners.process.own_process import _KEYCTL, leave_keyring

_NAME = b"launch-test:login"
#: A program that says whether it sees the key. `request_key` is the system call before `keyctl`.
LOOK = f"""
import ctypes, os
found = ctypes.CDLL(None).syscall({_KEYCTL}[os.uname().machine] - 1, b"user", {_NAME!r}, None, 0)
print("seen" if found > 0 else "not seen")
"""


def put_key() -> bool:
    """Put the key into a new session keyring of this process; False where the kernel has none for it."""
    leave_keyring()
    # `add_key` is the second system call before `keyctl`.
    add_key = _KEYCTL.get(os.uname().machine, 2) - 2
    return bool(ctypes.CDLL(None).syscall(add_key, b"user", _NAME, b"secret", 6, -3) > 0)
