"""Finds the accounts of this machine whose processes a worker may start, and says why it may not."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from launch_worker.errors import InputError

#: Capabilities, by number, without which a worker cannot give a job to another account and take its files back.
_NEEDED = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID"}


@dataclass(frozen=True)
class Account:
    """An account of this machine."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    @property
    def variables(self) -> dict[str, str]:
        """The variables that a login sets."""
        named = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        return named | ({"SHELL": self.shell} if self.shell else {})

    def barred_from(self, path: Path) -> Path | None:
        """The folder above this path that the account may not enter; None where none is known."""
        for folder in reversed(path.absolute().parents):
            try:
                found = folder.stat()
            except FileNotFoundError:
                # Nothing is there yet that could bar anybody: `~/.config` of a worker that has no settings.
                return None
            bit = 0o100 if found.st_uid == self.uid else 0o010 if found.st_gid in self.groups else 0o001
            if not found.st_mode & bit and not _has_list(folder):
                return folder
        return None


def _has_list(folder: Path) -> bool:
    """Whether a folder has an access control list, which may let in whom its mode does not."""
    try:
        return bool(os.getxattr(folder, "system.posix_acl_access"))
    except OSError:
        return False


def find_account(name: str) -> Account:
    """The account with this name. Raises InputError for one that is not there, is root's or the worker's own."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise InputError(f"there is no account {name!r} on this machine") from None
    if found.pw_uid == 0:
        raise InputError(f"account {name!r} is root's, which nothing confines")
    if found.pw_uid == os.geteuid():
        raise InputError(f"account {name!r} is the worker's own, from which nothing of the worker is safe")
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    if 0 in groups:
        raise InputError(f"account {name!r} is in root's group, which nothing confines")
    return Account(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir, found.pw_shell)


def why_no_other_user() -> str:
    """Why this worker can start no process as another user, as a clause; '' where it can."""
    try:
        with open("/proc/self/status", "rb") as status:
            has = int(status.read().partition(b"CapEff:")[2].split(maxsplit=1)[0], 16)
    except (OSError, ValueError, IndexError):
        has = 0
    missing = [name for number, name in _NEEDED.items() if not has >> number & 1]
    if not missing:
        return ""
    return f"this worker may not start processes as others: it is not root, and lacks CAP_{', CAP_'.join(missing)}"
