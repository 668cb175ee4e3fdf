"""Stores a folder's files by their content, and makes a folder of a manifest: verified, and whole or not at all.

A job, or what is left of it, may still write there: it may put links, pipes and other folders in the place of what was
found. So each file is opened below the folder's descriptor, part by part, and no link is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import secrets
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from launch_worker.errors import DamagedError, InputError, LaunchError
from launch_worker.model.links import resolved
from launch_worker.outputs.manifest import (
    EARLIEST_US,
    LATEST_US,
    MAX_FILES,
    LeftOut,
    Link,
    Manifest,
    StoredFile,
    check_together,
    why_no_link,
    why_no_path,
)
from launch_worker.outputs.stored import GRACE_S, StoredOutputs, content_name
from launch_worker.untrusted.removal import remove_tree

#: Bytes that are read and hashed at once.
_PIECE_BYTES = 1 << 20
#: Number of files that are sent or fetched at once; each may hold some pieces of the store in memory.
_AT_ONCE = 4
#: Number of files that are named as left out, at most.
_NAMED = 1000
#: Number of folders in folders, at most.
_MAX_DEPTH = 64
#: Number of entries that are looked at for each file that may be kept.
_LOOKS = 10
#: Seconds after its last change in which a file may change again without a trace in its times.
_RACY_S = 2.0

#: Reasons why something is left out.
IS_LINK, NO_FILE = "it is an absolute link, or one that leads out of the folder", "it is no plain file"
_LEADS_NOWHERE = "it is a link to something that is not kept"

T = TypeVar("T", str, StoredFile)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Not to block on a pipe that stands in the place of a file.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class ChangedError(LaunchError):
    """A file was changed, replaced or deleted while it was read, or it cannot be read."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path!r} was not stored: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True)
class Bounds:
    """How much of one folder is kept."""

    #: Bytes of all files together, and their number, at most.
    max_bytes: int = 10 << 30
    max_files: int = 10_000


class Found(NamedTuple):
    """A file in a folder, as it was when it was found."""

    path: str
    size: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @property
    def state(self) -> tuple[int, ...]:
        """The facts that another content would change."""
        return (self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns)


@dataclass
class Scan:
    """The files of a folder that are to be kept, and those that are left out."""

    files: list[Found] = field(default_factory=list)
    #: Links to something in the folder; other links are left out.
    links: list[Link] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_count: int = 0

    def leave_out(self, path: str, why: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < _NAMED:
            self.left_out.append(LeftOut(path.encode(errors="backslashreplace").decode(), why))


class Hashes:
    """The hashes of one folder's files, so that an unchanged file is read once. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def of(self, folder: int, file: Found) -> str:
        """The sha256 of a file's content. Raises ChangedError."""
        known = self._known.get(file.state)
        if known is not None:
            return known
        seen = hashlib.sha256()
        for piece in read_file(folder, file):
            seen.update(piece)
        if time.time() - max(file.mtime_ns, file.ctime_ns) / 1e9 > _RACY_S:
            self._known[file.state] = seen.hexdigest()
        return seen.hexdigest()


def all_files(path: str) -> bool:
    """The answer where no patterns say which files are wanted."""
    return True


def scan(folder: int, *, wanted: Callable[[str], bool] = all_files, bounds: Bounds | None = None) -> Scan:
    """Find the files below a folder's descriptor that are to be kept, in the order of their paths. Raises OSError."""
    return _Scanner(wanted, bounds or Bounds()).scan(folder)


class _Scanner:
    def __init__(self, wanted: Callable[[str], bool], bounds: Bounds) -> None:
        self._wanted = wanted
        self._bounds = bounds
        self._files = min(bounds.max_files, MAX_FILES)
        self._looks = _LOOKS * self._files
        self._bytes = 0
        #: User whose folder it is.
        self._owner = os.geteuid()
        self._found = Scan()

    def scan(self, folder: int) -> Scan:
        self._owner = os.fstat(folder).st_uid
        self._look(folder, "", 0)
        return self._found

    def _look(self, folder: int, prefix: str, depth: int) -> None:
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._looks <= 0:
                    self._found.leave_out(prefix or ".", "there are too many files, and not all were looked at")
                    break
                self._looks -= 1
                names.append(entry.name)
        for name in sorted(names):
            path = f"{prefix}{name}"
            try:
                self._entry(folder, name, path, depth)
            except FileNotFoundError:
                pass  # it was deleted meanwhile
            except OSError as error:
                self._found.leave_out(path, f"it cannot be read: {os.strerror(error.errno or 0)}")

    def _entry(self, folder: int, name: str, path: str, depth: int) -> None:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if depth >= _MAX_DEPTH:
                self._found.leave_out(path, f"it is more than {_MAX_DEPTH} folders deep")
                return
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                self._look(below, f"{path}/", depth + 1)
            finally:
                os.close(below)
            return
        if stat.S_ISLNK(facts.st_mode):
            self._link(Link(path, os.readlink(name, dir_fd=folder)))
            return
        why = why_no_path(path) or _why_no_file(facts.st_mode) or self._why_not_theirs(facts)
        if why:
            self._found.leave_out(path, why)
        elif self._wanted(path):
            self._keep(_found(path, facts))

    def _why_not_theirs(self, facts: os.stat_result) -> str:
        """Why a file is left out of another account's folder: it may have linked what only this process can read."""
        is_theirs = self._owner in (facts.st_uid, os.geteuid())
        return "" if is_theirs else "it belongs to another user"

    def _link(self, link: Link) -> None:
        if why_no_link(link):
            self._found.leave_out(link.path, IS_LINK)
        elif self._wanted(link.path) and self._has_room(link.path, self._found.links):
            self._found.links.append(link)

    def _keep(self, file: Found) -> None:
        if not self._has_room(file.path, self._found.files):
            return
        if self._bytes + file.size > self._bounds.max_bytes:
            self._found.leave_out(file.path, f"the files have more than {self._bounds.max_bytes:,} bytes")
        else:
            self._found.files.append(file)
            self._bytes += file.size

    def _has_room(self, path: str, found: Sized) -> bool:
        if len(found) < self._files:
            return True
        self._found.leave_out(path, f"there are more than {self._files:,} files")
        return False


def _why_no_file(mode: int) -> str:
    return "" if stat.S_ISREG(mode) else NO_FILE


def _found(path: str, facts: os.stat_result) -> Found:
    times = (facts.st_mtime_ns, facts.st_ctime_ns)
    return Found(path, facts.st_size, stat.S_IMODE(facts.st_mode) & 0o777, *times, facts.st_ino, facts.st_dev)


def read_file(folder: int, file: Found) -> Iterator[bytes]:
    """The content of a file that was found below a folder's descriptor. Raises ChangedError, perhaps at its end."""
    try:
        fd = open_below(folder, file.path)
    except OSError as error:
        raise ChangedError(file.path, _why(error)) from None
    try:
        if _found(file.path, os.fstat(fd)).state != file.state:
            raise ChangedError(file.path, "it changed while it was read")
        left = file.size
        while left:
            piece = os.read(fd, min(_PIECE_BYTES, left))
            if not piece:
                break
            left -= len(piece)
            yield piece
        if left or _found(file.path, os.fstat(fd)).state != file.state:
            raise ChangedError(file.path, "it changed while it was read")
    except OSError as error:
        raise ChangedError(file.path, _why(error)) from None
    finally:
        os.close(fd)


def open_below(folder: int, path: str) -> int:
    """Open a file by its path below a folder, without following a link in any part of it. Raises OSError."""
    *parents, name = path.split("/")
    opened = folder
    try:
        for part in parents:
            below = os.open(part, _FOLDER, dir_fd=opened)
            if opened != folder:
                os.close(opened)
            opened = below
        return os.open(name, _FILE, dir_fd=opened)
    finally:
        if opened != folder:
            os.close(opened)


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return "it changed while it was read"
    return f"it cannot be read: {os.strerror(error.errno or 0)}"


# -- a folder into the store -------------------------------------------------------------------------------------------


def store_folder(
    folder: str | Path,
    stored: StoredOutputs,
    *,
    run_id: str,
    attempt: int,
    wanted: Callable[[str], bool] = all_files,
    bounds: Bounds | None = None,
    hashes: Hashes | None = None,
    name_of: Callable[[str], str] = content_name,
    earlier: Mapping[str, str] | None = None,
    is_strict: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Manifest:
    """Store the content of a folder's files; returns the manifest, which the caller writes.

    `name_of` gives the object of a content's hash. `earlier` has the objects, by hash, that a manifest of the same run
    names: these are not sent again, and neither is an object that is there and so young that it stays for now. A file
    that changes meanwhile is left out, or, with `is_strict`, an error. `check` is called between pieces, and may raise.
    Raises LaunchError, ChangedError, OSError.
    """
    top = os.open(folder, _FOLDER)
    try:
        found = scan(top, wanted=wanted, bounds=bounds)
        sending = _Sending(top, stored, hashes or Hashes(), earlier or {}, name_of, is_strict, check)
        for_each(sending.send, sending.contents(found.files))
    finally:
        os.close(top)
    files = []
    for file in found.files:
        if file.path in sending.failed:
            found.leave_out(file.path, sending.failed[file.path])
        else:
            sha256 = sending.hashed[file.path]
            # A job may give a file any time.
            times = min(max(file.mtime_ns // 1000, EARLIEST_US), LATEST_US)
            files.append(StoredFile(file.path, file.size, sha256, file.mode, times, sending.name(sha256)))
    links = tuple(_leading_somewhere(found, files))
    return Manifest(run_id, attempt, tuple(files), tuple(found.left_out), found.left_out_count, links)


def _leading_somewhere(found: Scan, files: Iterable[StoredFile]) -> Iterator[Link]:
    """The links that lead to one of the files, or to a folder with such files; others are left out."""
    there = {file.path for file in files}
    for path in list(there):
        while (path := path.rpartition("/")[0]) not in there:
            there.add(path)
    targets = {link.path: link.target for link in found.links}
    for link in found.links:
        try:
            leads_somewhere = resolved(link.path, targets) in there
        except ValueError:
            leads_somewhere = False
        if leads_somewhere:
            yield link
        else:
            found.leave_out(link.path, _LEADS_NOWHERE)


@dataclass
class _Sending:
    """The contents of one folder on their way into the store."""

    folder: int
    stored: StoredOutputs
    hashes: Hashes
    earlier: Mapping[str, str]
    name_of: Callable[[str], str]
    is_strict: bool
    check: Callable[[], None]
    #: Hash of each file, by path; and the reason why a file is not stored.
    hashed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    #: Files with the same content, by its hash.
    _same: dict[str, list[Found]] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def name(self, sha256: str) -> str:
        """The object of a content."""
        return self.earlier.get(sha256) or self.name_of(sha256)

    def contents(self, files: Iterable[Found]) -> Iterator[str]:
        """The hashes of the contents that may have to be sent. Raises ChangedError."""
        for file in files:
            self.check()
            try:
                sha256 = self.hashes.of(self.folder, file)
            except ChangedError as error:
                self._fail(file, error)
                continue
            self.hashed[file.path] = sha256
            with self._changing:
                same = self._same.setdefault(sha256, [])
                same.append(file)
                is_new = len(same) == 1
            if is_new and sha256 not in self.earlier:
                yield sha256

    def send(self, sha256: str) -> None:
        """Send a content, unless it is there. Raises LaunchError, ChangedError."""
        name = self.name(sha256)
        while (file := self._source(sha256)) is not None:
            if self.stored.has(name, file.size, younger_than_s=GRACE_S / 2):
                return
            try:
                self.stored.objects.put(name, self._pieces(file, sha256), size=file.size, on_disk=True)
            except ChangedError as error:
                self._fail(file, error)
                with self._changing:
                    self._same[sha256] = [one for one in self._same.get(sha256, ()) if one is not file]
            else:
                return

    def _source(self, sha256: str) -> Found | None:
        """A file with the content; None once each has changed: a later one begins anew."""
        with self._changing:
            same = self._same.get(sha256)
            if not same:
                self._same.pop(sha256, None)
                return None
            return same[0]

    def _fail(self, file: Found, error: ChangedError) -> None:
        if self.is_strict:
            raise error
        self.failed[file.path] = error.why

    def _pieces(self, file: Found, sha256: str) -> Iterator[bytes]:
        seen = hashlib.sha256()
        for piece in read_file(self.folder, file):
            self.check()
            seen.update(piece)
            yield piece
        if seen.hexdigest() != sha256:
            raise ChangedError(file.path, "it changed while it was read")


def for_each(work: Callable[[T], None], things: Iterable[T]) -> None:
    """Do the work for each thing, some at once; the first error ends it, and is raised.

    Its threads are no executor's: for those a process waits when it ends, however long a store may hang.
    """
    waiting: queue.Queue[T | None] = queue.Queue(_AT_ONCE)
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run() -> None:
        while (thing := waiting.get()) is not None:
            try:
                if not errors:
                    work(thing)
            except BaseException as error:  # noqa: BLE001 (raised by the caller's thread)
                errors.append(error)

    try:
        for thing in things:
            if errors:
                break
            if len(threads) < _AT_ONCE:
                threads.append(threading.Thread(target=run, name="outputs", daemon=True))
                threads[-1].start()
            waiting.put(thing)
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


# -- a manifest into a folder ------------------------------------------------------------------------------------------


def fetch_folder(
    stored: StoredOutputs,
    files: Collection[StoredFile],
    folder: Path,
    *,
    links: Collection[Link] = (),
    mode: int = 0o777,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Make a folder with these files and links, whole or not at all. It must not be there yet, or be empty.

    `mode` is the folder's, less the umask. Raises InputError, DamagedError, LaunchError, OSError.
    """
    _check_paths(files, links)
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(folder):
            raise InputError(f"{folder} is not empty; name another folder")
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    os.mkdir(partial, mode)
    try:
        paths = [*(file.path for file in files), *(link.path for link in links)]
        for parent in sorted({path.rpartition("/")[0] for path in paths}):
            os.makedirs(partial / parent, exist_ok=True)
        for_each(lambda file: _fetch(stored, file, partial / file.path, check), files)
        # At last: nothing is written through a link.
        for link in links:
            os.symlink(link.target, partial / link.path)
        os.rename(partial, folder)
    except BaseException:
        remove_tree(str(partial))
        raise


def _check_paths(files: Iterable[StoredFile], links: Iterable[Link]) -> None:
    try:
        for file in files:
            if why := why_no_path(file.path):
                raise ValueError(f"{file.path[:100]!r}: {why}")
        for link in links:
            if why := why_no_link(link):
                raise ValueError(f"{link.path[:100]!r}: {why}")
        check_together([*(file.path for file in files), *(link.path for link in links)])
    except ValueError as error:
        raise DamagedError(f"the manifest cannot be a folder: {error}") from None


def _fetch(stored: StoredOutputs, file: StoredFile, path: Path, check: Callable[[], None]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode & 0o777)
    with open(fd, "wb") as target:
        for piece in stored.pieces(file):
            check()
            target.write(piece)
        target.flush()
        os.utime(fd, ns=(file.mtime_us * 1000, file.mtime_us * 1000))
