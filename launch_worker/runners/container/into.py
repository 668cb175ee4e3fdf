"""Makes the archive of the files that a container gets: a stream, for its folders may be large."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from launch_worker.model.container_options import ARGS_FILE
from launch_worker.runners.talk_folder import TALK

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Files:
    """The files that a container gets from its attempt: its configuration, and the folder with its code, if any."""

    config: bytes
    code: Path | None = None
    #: JSON for the macro `${args_json_file}` of sweeps; None for a run of no sweep.
    arguments: bytes | None = None
    #: Folders of this machine, as of a run's inputs, by their names in the container.
    folders: dict[str, Path] = field(default_factory=dict)
    #: Names of folders that begin empty, for what the job leaves.
    empty: tuple[str, ...] = ()


def archive_of(files: Files) -> Iterator[bytes]:
    """An archive of the files for LAUNCH_DIR; every user of the container may read and write them. Raises OSError."""
    for name, data in (("config.json", files.config), (ARGS_FILE, files.arguments)):
        if data is not None:
            yield from _file(_entry(name, 0o666), io.BytesIO(data), len(data))
    for name in (TALK, *files.empty):
        yield _head(_entry(name, 0o777, tarfile.DIRTYPE))
    folders = files.folders if files.code is None else {"code": files.code, **files.folders}
    for name, folder in folders.items():
        yield from _folder(name, folder)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _folder(name: str, folder: Path) -> Iterator[bytes]:
    yield _head(_entry(name, 0o777, tarfile.DIRTYPE, folder.stat()))
    for parent, folders, names in os.walk(folder):
        inside = os.path.normpath(f"{name}/{os.path.relpath(parent, folder)}")
        for each in sorted((*folders, *names)):
            path = f"{parent}/{each}"
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):
                entry = _entry(f"{inside}/{each}", 0o777, tarfile.SYMTYPE, facts)
                entry.linkname = os.readlink(path)
                yield _head(entry)
            elif stat.S_ISDIR(facts.st_mode):
                yield _head(_entry(f"{inside}/{each}", 0o777, tarfile.DIRTYPE, facts))
            elif stat.S_ISREG(facts.st_mode):
                mode = 0o777 if facts.st_mode & 0o100 else 0o666
                with open(path, "rb") as file:
                    yield from _file(_entry(f"{inside}/{each}", mode, tarfile.REGTYPE, facts), file, facts.st_size)


def _entry(name: str, mode: int, kind: bytes = tarfile.REGTYPE, facts: os.stat_result | None = None) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    if facts is not None:
        entry.mtime = facts.st_mtime
    return entry


def _head(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _file(entry: tarfile.TarInfo, source: IO[bytes], size: int) -> Iterator[bytes]:
    entry.size = left = size
    yield _head(entry)
    while left:
        block = source.read(min(_BLOCK, left))
        if not block:
            raise OSError(f"{entry.name} became shorter while it was read")
        left -= len(block)
        yield block
    yield bytes(-size % tarfile.BLOCKSIZE)
