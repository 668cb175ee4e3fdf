"""Says which files a job left, and which object has the content of each. Pure values.

    content/ab/SHA256                    the content of outputs, shared by all runs
    outputs/RUN/ATTEMPT.json             the manifest of an attempt's outputs
    checkpoints/RUN/ATTEMPT/SHA256       the content of checkpoints, of this run only
    checkpoints/RUN/ATTEMPT/NUMBER.json  the manifest of a checkpoint

A manifest is written after all content that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from launch_worker.untrusted.text import read_json

#: Bytes of a manifest at most: a file takes about 300.
MAX_BYTES = 256 << 20
#: Number of files in a manifest at most, and of links, whatever a worker allows.
MAX_FILES = 200_000
#: Bytes of a path at most, and of each of its parts, as Linux has them.
MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255
#: First and last time that a file may have, microseconds since 1970: in the years 1 and 9999, as a calendar has them.
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_000_000
#: Names of a file's facts in JSON, in the order of `StoredFile`.
_FIELDS = ("path", "size", "sha256", "mode", "mtime", "content")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT = re.compile(r"(?:content/[0-9a-f]{2}|checkpoints/[0-9a-z]{15}/[0-9]{1,9})/[0-9a-f]{64}")


class StoredFile(NamedTuple):
    """A file, and the object with its content."""

    #: Path below the job's folder, with `/` between its parts: normalised, and never out of the folder.
    path: str
    size: int
    sha256: str
    #: Permissions, as of chmod.
    mode: int
    #: Time of the last change, microseconds since 1970 by the clock of the machine.
    mtime_us: int
    #: Name of the object.
    content: str


class Link(NamedTuple):
    """A symbolic link to something in the same folder."""

    path: str
    #: Path that it leads to, from the folder in which it stands.
    target: str


class LeftOut(NamedTuple):
    """A file that is not kept, and a reason."""

    path: str
    why: str


@dataclass(frozen=True)
class Manifest:
    """The files of one attempt's outputs, or of one checkpoint."""

    run_id: str
    attempt: int
    files: tuple[StoredFile, ...] = ()
    #: Files that are not kept, the first of them; and the number of all.
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    #: Links to something in the folder. Those of outputs lead to a file that is kept, or to a folder with such files.
    links: tuple[Link, ...] = ()
    #: Of a checkpoint: hash of what was executed (`Record.executed`); '' where nothing is bound to that.
    executed: str = ""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def contents(self) -> dict[str, str]:
        """The object of each content, by the content's hash."""
        return {file.sha256: file.content for file in self.files}

    def file(self, path: str) -> StoredFile | None:
        """The file at a path."""
        return next((file for file in self.files if file.path == path), None)

    def to_json(self) -> bytes:
        files = [dict(zip(_FIELDS, file, strict=True)) for file in self.files]
        left_out = [{"path": one.path, "why": one.why} for one in self.left_out]
        known = {"version": 1, "run": self.run_id, "attempt": self.attempt, "files": files}
        known |= {"left_out": left_out, "left_out_count": self.left_out_count}
        if self.executed:
            known["executed"] = self.executed
        if self.links:
            known["links"] = [link._asdict() for link in self.links]
        return json.dumps(known, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Read what anybody may have written. Raises ValueError."""
        known = read_json(text, max_chars=MAX_BYTES, is_exact=True)
        try:
            if len(known["files"]) > MAX_FILES or len(known.get("links", ())) > MAX_FILES:
                raise ValueError(f"it has more than {MAX_FILES:,} files")
            files = tuple(map(_file, known["files"]))
            links = tuple(map(_link, known.get("links", ())))
            left_out = tuple(LeftOut(str(one["path"]), str(one["why"])) for one in known.get("left_out", ()))
            manifest = cls(
                str(known["run"]),
                _count(known["attempt"]),
                files,
                left_out,
                _count(known.get("left_out_count", len(left_out))),
                links,
                str(known.get("executed", "")),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is no manifest: {error!r}") from None
        check_together([*(file.path for file in files), *(link.path for link in links)])
        return manifest


def why_no_path(path: str) -> str:
    """Why a manifest cannot have the path; '' where it can."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if len(encoded) > MAX_PATH_BYTES:
        return f"its path has more than {MAX_PATH_BYTES:,} bytes"
    parts = encoded.split(b"/")
    if b"\0" in encoded or any(part in (b"", b".", b"..") for part in parts):
        return "its path leads out of the folder, or is not normalised"
    if any(len(part) > MAX_NAME_BYTES for part in parts):
        return f"a part of its path has more than {MAX_NAME_BYTES} bytes"
    return ""


def why_no_link(link: Link) -> str:
    """Why a manifest cannot have the link; '' where it can.

    It may go up first and then down. Its folder is no link, so it leads to something in the folder of all.
    """
    ups, parts = 0, link.target.split("/")
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    below = parts[ups:]
    if ups > link.path.count("/") or (below and why_no_path("/".join(below))) or len(link.target) > MAX_PATH_BYTES:
        return "it is a link that leads out of the folder, or is not normalised"
    return why_no_path(link.path)


def check_together(paths: Iterable[str]) -> None:
    """Raise ValueError unless one folder can have files with all these paths."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if path in files:
            raise ValueError(f"it has two files {path[:100]!r}")
        files.add(path)
        # A folder that is known has parents that are known.
        folder = path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    if both := files & folders:
        raise ValueError(f"{min(both)[:100]!r} is a file and a folder")


def _link(known: Any) -> Link:
    link = Link(known["path"], known["target"])
    if not (isinstance(link.path, str) and isinstance(link.target, str)) or why_no_link(link):
        raise ValueError(f"no link is called {str(link.path)[:100]!r}, or none leads to {str(link.target)[:100]!r}")
    return link


def _file(known: Any) -> StoredFile:
    path, sha256, content, mode = known["path"], known["sha256"], known["content"], known["mode"]
    why = why_no_path(path) if isinstance(path, str) else "it is no text"
    if why:
        raise ValueError(f"no file is called {str(path)[:100]!r}: {why}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{str(sha256)[:100]!r} is no hash")
    if not isinstance(content, str) or not _CONTENT.fullmatch(content) or not content.endswith(sha256):
        raise ValueError(f"no object of {sha256} is called {str(content)[:100]!r}")
    if type(known["mtime"]) is not int or not EARLIEST_US <= known["mtime"] <= LATEST_US:
        raise ValueError(f"{str(known['mtime'])[:40]!r} is no time")
    return StoredFile(path, _count(known["size"]), sha256, _count(mode) & 0o777, known["mtime"], content)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value
