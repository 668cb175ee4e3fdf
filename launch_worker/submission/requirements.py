"""Reads the requirements of a run from the submitter's machine, for a run that brings no code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launch_worker.errors import InputError

if TYPE_CHECKING:
    from launch_worker.submission.options import Item


def attach(item: Item, *, folder: str, known: dict[str, tuple[str, dict[str, str]]] | None = None) -> Item:
    """The item with the content of its requirements, read where it names a file of this machine. Raises InputError.

    `folder` is where a relative path starts. `known` keeps what was read, for many items with the same file. Only the
    submitter's own process may call it: a server must not read its files for people.
    """
    from launch_worker.model.requirements import is_file

    given = item.given
    named = given.get("requirements", "")
    if not is_file(named) or given.get("requirements_files") or given.get("uri"):
        return item
    try:
        if item.upload is not None:
            if not os.path.isfile(os.path.join(item.upload, named)):
                raise InputError(f"requirements {named!r} is no file of {item.upload}")
            return item
        path = os.path.normpath(os.path.join(folder or os.sep, os.path.expanduser(named)))
        known = {} if known is None else known
        if path not in known:
            known[path] = _read(path)
    except InputError as error:
        raise item.error(error) from None
    given["requirements"], given["requirements_files"] = known[path]
    return item


def _read(path: str) -> tuple[str, dict[str, str]]:
    """The name of a file among the files that go with the run, and those: by their paths from a common folder."""
    from launch_worker.model.requirements import gather

    found = gather(path, _text)
    root = os.path.commonpath([os.path.dirname(each) for each in found])
    return os.path.relpath(path, root), {os.path.relpath(each, root): text for each, text in found.items()}


def _text(path: str) -> str | None:
    from launch_worker.model.requirements import MAX_BYTES

    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
