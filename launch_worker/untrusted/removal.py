"""Deletes a folder in which a job has been: whatever it did to permissions, however deep it is, and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterator

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> OSError | None:
    """Delete a folder and all in it; the first reason why something stays, None when nothing does.

    A link is deleted and never followed. A folder without permissions, as `chmod 555` and Go's module cache leave them,
    gets its owner's first. Folders in folders are moved to the top one by one, so no depth is too large.
    """
    problems: list[OSError] = []
    try:
        with opened(path) as top:
            prefix, numbers = f".{secrets.token_hex(8)}.", itertools.count()
            waiting = _empty(top, top, prefix, numbers, problems)
            while waiting:
                name = waiting.pop()
                try:
                    with opened(name, dir_fd=top) as folder:
                        waiting += _empty(folder, top, prefix, numbers, problems)
                    os.rmdir(name, dir_fd=top)
                except OSError as error:
                    problems.append(error)
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(error)
    return problems[0] if problems else None


@contextlib.contextmanager
def opened(path: str, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open the folder, and let its owner read and write it."""
    handle = os.open(path, os.O_PATH | _FOLDER, dir_fd=dir_fd)
    try:
        # Through the handle: whatever is put in the folder's place meanwhile is not touched.
        with contextlib.suppress(PermissionError):
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
    try:
        yield fd
    finally:
        os.close(fd)


def _empty(folder: int, top: int, prefix: str, numbers: Iterator[int], problems: list[OSError]) -> list[str]:
    """Delete a folder's content; folders that are not empty are moved to `top`, under the names returned."""
    left = []
    for name in os.listdir(folder):
        try:
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):
                left += _take_away(name, folder, top, prefix, numbers)
        except FileNotFoundError:
            pass
        except OSError as error:
            problems.append(error)
    return left


def _take_away(name: str, folder: int, top: int, prefix: str, numbers: Iterator[int]) -> list[str]:
    """Delete an empty folder, or move one that is not to `top`; its name there. Raises OSError."""
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=folder)
        return []
    if folder == top:
        return [name]
    # It must be writable to be moved.
    with opened(name, dir_fd=folder):
        moved = f"{prefix}{next(numbers)}"
        os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
    return [moved]
