"""Takes a state of a job's folder of checkpoints: copies that the job cannot change, all of the same instant.

    ATTEMPT/checkpoint/              the job's folder
    ATTEMPT/taken.NUMBER.LABEL/      a state that was taken, until it is stored: files/, and facts.json

Files that end in .tmp or .partial are on their way and belong to no state. Hidden files do belong to it: PyTorch's
distributed checkpoints have one. A file that has not changed since a state that is stored is not copied again. The disk
shares the blocks of copies where it can.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launch_worker.errors import LaunchError
from launch_worker.outputs.content import IS_LINK, NO_FILE, Bounds, ChangedError, Found, Scan, open_below, scan
from launch_worker.outputs.manifest import MAX_BYTES, MAX_FILES, Manifest, StoredFile
from launch_worker.outputs.open_files import file_being_written
from launch_worker.untrusted.plain_files import read_plain
from launch_worker.untrusted.removal import remove_tree
from launch_worker.untrusted.text import read_json

#: Seconds without a change after which a folder counts as settled: its state is complete though nobody has said so.
SETTLED_S = 2.0
#: Nanoseconds of a tick of the clock from which files have their times: two changes within it look like one.
_TICK_NS = 20_000_000
#: Seconds after its last change within which a file may change again without a trace in its times, on any file system.
_RACY_NS = 3_000_000_000
#: Number of times that a state is taken anew because the folder has changed meanwhile.
_TRIES = 5
_UNFINISHED = (".tmp", ".partial")
_NAME = re.compile(r"taken\.([0-9]{1,18})\.([0-9]{1,19})")
#: Request of ioctl that has two files share their blocks, as btrfs and XFS can.
_FICLONE = 0x40049409
#: Errors of copy_file_range on file systems that do not have it.
_NO_RANGE = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})
_PIECE_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING = Manifest("", 0)
_ALL = Bounds(max_bytes=1 << 62, max_files=MAX_FILES)

#: Files that are stored, by path: the facts that another content would change, and what is stored of it.
Known = Mapping[str, tuple[tuple[int, ...], StoredFile]]


class UnsettledError(LaunchError):
    """The folder did not hold still while its state was taken."""


class Look:
    """A look at a folder: the files of its state, and when it last changed."""

    def __init__(self, found: Scan) -> None:
        self.files = [file for file in found.files if belongs(file.path)]
        self.links = [link for link in found.links if belongs(link.path)]
        self.left_out = [one for one in found.left_out if belongs(one.path)]
        #: Reason why a file is missing; '' where none is.
        self.problem = next((f"{one.path}: {one.why}" for one in self.left_out if not _is_harmless(one.why)), "")
        #: Time of the last change of any file, nanoseconds since 1970; 0 where there is none.
        self.changed_ns = max((max(file.mtime_ns, file.ctime_ns) for file in found.files), default=0)

    @property
    def state(self) -> dict[str, tuple[int, ...]]:
        """The facts of each file that another content would change, by path; of a link the bytes of its target."""
        return {file.path: file.state for file in self.files} | {
            link.path: tuple(link.target.encode()) for link in self.links
        }

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Snapshot:
    """A state that was taken."""

    #: Folder of the files that are to be stored.
    files: Path
    #: Number of the checkpoint that it becomes: milliseconds since 1970, and greater than any before.
    number: int
    #: Number by which the job asked for it; 0 for none.
    label: int = 0
    #: Files that have not changed since they were stored, links, and files that are left out.
    rest: Manifest = _NOTHING
    #: Facts of the job's files, by path, and time of the look, nanoseconds; None where another worker took it.
    look: Look | None = None
    looked_ns: int = 0
    #: Whether `files` is a copy, which is deleted once it is stored.
    is_copy: bool = True

    def remove(self) -> None:
        if self.is_copy:
            remove_tree(str(self.files.parent))

    def known(self, manifest: Manifest) -> Known:
        """The files that need not be copied again while they are as they were; `manifest`: of this state, stored."""
        if self.look is None:
            return {}
        stored = {file.path: file for file in manifest.files}
        return {
            file.path: (file.state, stored[file.path])
            for file in self.look.files
            if file.path in stored and self.looked_ns - max(file.mtime_ns, file.ctime_ns) > _RACY_NS
        }


def belongs(path: str) -> bool:
    """Whether a file is part of a state."""
    return not any(part.endswith(_UNFINISHED) for part in path.split("/"))


def look_at(folder: Path) -> Look:
    """Look at a folder. Raises OSError."""
    top = os.open(folder, _FOLDER)
    try:
        return _look(top)
    finally:
        os.close(top)


def _look(top: int) -> Look:
    """Look at a folder that is open. Raises OSError."""
    found, disk = scan(top, bounds=_ALL), os.fstatvfs(top)
    if found.files and sum(file.size for file in found.files) > disk.f_blocks * disk.f_frsize:
        # A file with holes may say any size; whoever restores it needs the disk.
        largest = max(found.files, key=lambda file: file.size)
        found.leave_out(largest.path, "it has holes, and the folder says more bytes than the disk has")
    return Look(found)


def take(
    folder: Path, *, number: int, label: int = 0, known: Known | None = None, may_be_amid: bool = False
) -> Snapshot:
    """Copy the state of a folder beside it, again while it changes meanwhile.

    `may_be_amid`: the job may be amid a file, so that no file may be open for writing either.
    Raises UnsettledError when the folder does not hold still; OSError, as for a full disk, and LaunchError for a folder
    of which no state can be kept.
    """
    into = folder.parent / f"taken.{number}.{label}"
    partial = folder.parent / "taking"
    why = ""
    for attempt in range(_TRIES):
        time.sleep(0.05 * attempt)
        remove_tree(str(partial))
        try:
            taken = _take(folder, partial, known or {})
            # After the copy: a file that was closed before is as it was copied.
            if may_be_amid and (path := file_being_written(folder)):
                raise ChangedError(path, "it is being written")
        except ChangedError as error:
            why = str(error)
            continue
        except BaseException:
            remove_tree(str(partial))
            raise
        remove_tree(str(into))
        partial.rename(into)
        return replace(taken, files=into / "files", number=number, label=label)
    remove_tree(str(partial))
    raise UnsettledError(f"the folder of checkpoints did not hold still: {why}")


def _take(folder: Path, partial: Path, known: Known) -> Snapshot:
    """Copy a state once. Raises ChangedError, LaunchError, OSError."""
    top = os.open(folder, _FOLDER)
    try:
        looked_ns = time.time_ns()
        look = _look(top)
        if look.problem:
            raise LaunchError(f"no state of the folder of checkpoints can be kept: {look.problem}")
        newest_ns = max((max(file.mtime_ns, file.ctime_ns) for file in look.files), default=0)
        if looked_ns - newest_ns < _TICK_NS:
            # A change within the same tick would leave no trace.
            time.sleep(_TICK_NS / 1e9)
        unchanged = [stored for path, (state, stored) in known.items() if look.state.get(path) == state]
        paths = {stored.path for stored in unchanged}
        (partial / "files").mkdir(parents=True, mode=0o700)
        for file in look.files:
            if file.path not in paths:
                _copy(top, file, partial / "files" / file.path)
        if _look(top).state != look.state:
            raise ChangedError(folder.name, "it changed while it was copied")
    finally:
        os.close(top)
    rest = Manifest("", 0, tuple(unchanged), tuple(look.left_out), len(look.left_out), tuple(look.links))
    facts = {"boot": boot_id(), "rest": rest.to_json().decode()}
    (partial / "facts.json").write_text(json.dumps(facts))
    return Snapshot(partial, 0, rest=rest, look=look, looked_ns=looked_ns)


def as_it_is(folder: Path, look: Look, *, number: int) -> Snapshot:
    """The state of a folder in which nothing writes any more: it is stored from there."""
    rest = Manifest("", 0, (), tuple(look.left_out), len(look.left_out), tuple(look.links))
    return Snapshot(folder, number, rest=rest, look=look, looked_ns=time.time_ns(), is_copy=False)


def taken_before(attempt: Path) -> list[Snapshot]:
    """The states that an earlier worker took of an attempt and did not store, the newest last."""
    found = []
    for path in attempt.glob("taken.*"):
        match = _NAME.fullmatch(path.name)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = read_json(read_plain(path / "facts.json", most_bytes=MAX_BYTES), is_exact=True)
            # A machine that was restarted may have lost what was not on its disk.
            if match and facts["boot"] == boot_id():
                rest = Manifest.from_json(facts["rest"].encode())
                found.append(Snapshot(path / "files", int(match[1]), int(match[2]), rest))
    return sorted(found, key=lambda taken: taken.number)


def next_number(after: int) -> int:
    """The number of a state that is taken now: greater than that of every earlier one."""
    return max(after + 1, time.time_ns() // 1_000_000)


def boot_id() -> str:
    """What names the time since the machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _is_harmless(why: str) -> bool:
    return why in (IS_LINK, NO_FILE)


def _copy(top: int, file: Found, target: Path) -> None:
    """Copy a file as it was found. Raises ChangedError, OSError."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        source = open_below(top, file.path)
    except OSError:
        raise ChangedError(file.path, "it changed while it was copied") from None
    try:
        _check(source, file)
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_content(source, copy, file)
            os.fchmod(copy, file.mode)
            os.utime(copy, ns=(file.mtime_ns, file.mtime_ns))
        finally:
            os.close(copy)
        _check(source, file)
    finally:
        os.close(source)


def _check(fd: int, file: Found) -> None:
    facts = os.fstat(fd)
    if (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns) != file.state:
        raise ChangedError(file.path, "it changed while it was copied")


def _copy_content(source: int, copy: int, file: Found) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(copy, _FICLONE, source)
        return
    by_range = True
    for start, end in _parts(source, file.size):
        for fd in (source, copy):
            os.lseek(fd, start, os.SEEK_SET)
        left = end - start
        while left:
            copied = 0
            if by_range:
                try:
                    copied = os.copy_file_range(source, copy, left)
                except OSError as error:
                    if error.errno not in _NO_RANGE:
                        raise
                    by_range = False
                    continue
            else:
                copied = _write(copy, os.read(source, min(left, _PIECE_BYTES)))
            if not copied:
                raise ChangedError(file.path, "it changed while it was copied")
            left -= copied
    os.ftruncate(copy, file.size)


def _parts(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that take room on the disk; a hole takes none in a copy either. Raises OSError."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # there are only zeros from here on
            if error.errno not in _NO_RANGE:
                raise
            yield end, size
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < end:
            yield start, end


def _write(fd: int, data: bytes) -> int:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
    return done
