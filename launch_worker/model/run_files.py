"""Lists the files of a run: those that were saved with its record, and the outputs of its attempts."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from launch_worker.errors import NotFoundError
from launch_worker.model.links import resolved
from launch_worker.model.run import Record
from launch_worker.model.units import isoformat, micros_of
from launch_worker.untrusted.text import plain_line, read_map

#: Kinds of files: an output of an attempt, and a file that was saved with the record.
OUTPUT, SAVED = "output", "saved"
#: Files that an error names.
_NAMED = 10


class SavedFile(NamedTuple):
    """A file that was saved with the record."""

    name: str
    size: int
    #: Server time in microseconds.
    saved_at: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "saved_at": isoformat(self.saved_at)}


def saved_files(record: Record) -> list[SavedFile]:
    """A run's saved files by name, as its record lists them."""
    found = []
    for name, entry in sorted(read_map(record.files).items()):
        # A damaged entry is left out.
        with suppress(AttributeError, OverflowError, TypeError, ValueError):
            found.append(SavedFile(name, int(entry.get("size")), int(entry.get("at"))))
    return found


class KeptFile(NamedTuple):
    """A file that is kept with a run. All of it but its size was said by others."""

    #: Relative path with `/` between its parts.
    path: str
    size: int
    #: Microseconds: an output's last change by its worker's clock, or the time at which a file was saved.
    at: int
    kind: str = OUTPUT
    #: Attempt that left it; None for a saved file.
    attempt: int | None = None
    #: Hash of an output's content; '' for a saved file.
    sha256: str = ""
    #: Permissions, as of chmod.
    mode: int = 0o644
    #: What it leads to, from the folder in which it stands, where it is a symbolic link; '' for a file. Size, time and
    #: hash are those of the file that it leads to; without a hash it leads to a folder.
    link: str = ""

    @property
    def leads_to_folder(self) -> bool:
        """Whether it is a link to a folder, which has no content."""
        return bool(self.link) and not self.sha256

    def as_json(self) -> dict[str, Any]:
        return {
            # The name by which saved files were known before there were outputs.
            "name": self.path,
            "path": self.path,
            "size": self.size,
            "saved_at": isoformat(self.at or None),
            "kind": self.kind,
            "attempt": self.attempt,
            "sha256": self.sha256 or None,
            "mode": self.mode,
            "link": self.link or None,
        }

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> KeptFile:
        """Read what `as_json` wrote."""
        return cls(
            str(shown["path"]),
            int(shown["size"]),
            micros_of(shown["saved_at"]) or 0,
            str(shown["kind"]),
            shown["attempt"],
            str(shown["sha256"] or ""),
            int(shown["mode"]),
            str(shown.get("link") or ""),
        )


class LeftOut(NamedTuple):
    """A file that a job left and that is not kept."""

    path: str
    why: str


@dataclass(frozen=True)
class RunFiles:
    """All that is kept of one attempt's outputs, with the saved files."""

    files: tuple[KeptFile, ...] = ()
    #: Attempt whose outputs these are; None where there are none.
    attempt: int | None = None
    #: Files that are not kept, the first of them; and the number of all.
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    #: Sentences for people: that more is on its way, or cannot be read here.
    notices: tuple[str, ...] = ()
    #: Whether a worker is still to send outputs.
    is_sending: bool = False

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files if not file.link)

    def file(self, run_id: str, path: str) -> KeptFile:
        """The file at a path. Raises NotFoundError, which names what there is."""
        found = self._at(path)
        if len(found) != 1 or found[0].path != path:
            raise self._nothing(run_id, path)
        return found[0]

    def below(self, run_id: str, paths: Iterable[str]) -> list[KeptFile]:
        """The files at these paths and in these folders, in their order; all for no path. Raises NotFoundError.

        What a path leads to through a link comes as a file of that path. So does what a link leads to that is not among
        them; a link to such a folder is left out.
        """
        wanted = [path.removeprefix("./").rstrip("/") for path in paths]
        if not wanted or "." in wanted or "" in wanted:
            return list(self.files)
        found: dict[str, KeptFile] = {}
        for path in wanted:
            those = self._at(path)
            if not those:
                raise self._nothing(run_id, path)
            found |= {file.path: file for file in those}
        return list(self._with_targets(found))

    @cached_property
    def _links(self) -> dict[str, str]:
        return {file.path: file.link for file in self.files if file.link}

    def _at(self, path: str) -> list[KeptFile]:
        """The file at a path, or those in the folder at the path."""
        those = [file for file in self.files if file.path == path or file.path.startswith(f"{path}/")]
        if those and not those[0].leads_to_folder:
            return those
        real = self._resolved(path)
        if real is None:
            return []
        above = f"{real}/" if real else ""
        return [
            file._replace(path=path if file.path == real else f"{path}/{file.path.removeprefix(above)}", link="")
            for file in self.files
            if not file.leads_to_folder and (file.path == real or file.path.startswith(above))
        ]

    def _resolved(self, path: str) -> str | None:
        """The path without links; None where that is none."""
        try:
            return resolved(path, self._links)
        except ValueError:
            return None

    def _with_targets(self, found: Mapping[str, KeptFile]) -> Iterator[KeptFile]:
        """These files; a link that leads to none of them as the file that it leads to."""
        folders = {folder for path in found for folder in _parents(path)}
        #: Path of the file that stands for one that is not among them, by the path of that: it comes once.
        places: dict[str | None, str] = {}
        for file in found.values():
            if not file.link or (leads_to := self._resolved(file.path)) in found or leads_to in folders:
                yield file
            elif not file.leads_to_folder:
                place = places.setdefault(leads_to, file.path)
                link = "" if place == file.path else posixpath.relpath(place, posixpath.dirname(file.path) or ".")
                yield file._replace(link=link)

    def _nothing(self, run_id: str, path: str) -> NotFoundError:
        known = ", ".join(plain_line(file.path) for file in self.files[:_NAMED]) or "none"
        more = f" and {len(self.files) - _NAMED:,} more" if len(self.files) > _NAMED else ""
        said = "".join(f"; {notice}" for notice in self.notices)
        return NotFoundError(f"run {run_id} has no file {path[:100]!r}; there are: {known}{more}{said}")

    def as_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "files": [file.as_json() for file in self.files],
            "left_out": [one._asdict() for one in self.left_out],
            "left_out_count": self.left_out_count,
            "notices": list(self.notices),
            "sending": self.is_sending,
        }

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> RunFiles:
        """Read what `as_json` wrote."""
        return cls(
            tuple(map(KeptFile.from_json, shown["files"])),
            shown["attempt"],
            tuple(LeftOut(str(one["path"]), str(one["why"])) for one in shown["left_out"]),
            int(shown["left_out_count"]),
            tuple(map(str, shown["notices"])),
            shown["sending"] is True,
        )


def _parents(path: str) -> Iterator[str]:
    """The folders in which a path is, and the folder of all."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def number_of_files(shown: Mapping[str, Any]) -> int:
    """The number of files of a run, by the object of `show --json`: the saved ones, and the newest outputs."""
    kept = [one for one in (shown.get("outputs") or {}).values() if not one["sending"]]
    return len(shown["files"]) + (int(kept[-1]["files"]) if kept else 0)


def joined(saved: Iterable[SavedFile], outputs: Iterable[KeptFile]) -> tuple[KeptFile, ...]:
    """One list of both, by path. A saved file with the path of an output is listed below `saved/`."""
    found = {file.path: file for file in outputs}
    for one in saved:
        path = one.name
        while path in found:
            path = f"saved/{path}"
        found[path] = KeptFile(path, one.size, one.saved_at, SAVED)
    return tuple(file for _, file in sorted(found.items()))
