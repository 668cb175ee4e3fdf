"""Checks that files and folders are this user's own, and that nobody else may put something in their place."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def why_not_ours(path: Path) -> str:
    """Say who else may change a file or folder, and what to do about it; '' where only this user and root may.

    Its parents up to the root are looked at too, and those of a link's target. Raises OSError.
    """
    for each in (path.absolute(), path.resolve()):
        for part in reversed(each.parents):
            reason = _why_not(part, os.lstat(part), is_parent=True)
            if reason:
                return reason
        reason = _why_not(each, os.lstat(each), is_parent=False)
        if reason:
            return reason
    return ""


def read_ours(path: Path) -> tuple[bytes, str]:
    """Read a file; its content and '', or b'' and why others may have written it. Raises OSError."""
    reason = _why_not(path, os.lstat(path), is_parent=False)
    with path.open("rb") as file:
        # The file that is read, whatever is put in its place meanwhile.
        reason = reason or _why_not(path, os.fstat(file.fileno()), is_parent=False)
        return (b"", reason) if reason else (file.read(), "")


def make_ours(folder: Path) -> str:
    """Make the folder and its missing parents for this user alone; then answer as `why_not_ours`."""
    for part in (*reversed(folder.absolute().parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
    return why_not_ours(folder)


def _why_not(path: Path, info: os.stat_result, *, is_parent: bool) -> str:
    if info.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to {_user(info.st_uid)}, who can put anything there; use a place of your own"
    # A link's permissions mean nothing. In a sticky folder nobody can move or delete another user's files.
    if stat.S_ISLNK(info.st_mode) or (is_parent and info.st_mode & stat.S_ISVTX):
        return ""
    if info.st_mode & stat.S_IWOTH:
        return f"{path} can be written to by everybody; take that away with: chmod o-w {path}"
    if info.st_mode & stat.S_IWGRP and not _is_private(info):
        return f"{path} can be written to by group {_group(info.st_gid)}; take that away with: chmod g-w {path}"
    return ""


def _is_private(info: os.stat_result) -> bool:
    """Whether its group has no member but its owner, as the group that most systems make for each user."""
    try:
        group, owner = grp.getgrgid(info.st_gid), pwd.getpwuid(info.st_uid)
    except KeyError:
        return False
    return owner.pw_gid == info.st_gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
