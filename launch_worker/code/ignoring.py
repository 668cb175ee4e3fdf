"""Applies git's rules for ignored files where git itself cannot be asked, as its `dir.c` and `wildmatch.c` do."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_SPECIAL = re.compile(rb"[*?\[\\]")
_CLASSES = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, [*range(32), 127])),
    b"digit": string.digits,
    b"graph": string.ascii_letters + string.digits + string.punctuation,
    b"lower": string.ascii_lowercase,
    b"print": string.ascii_letters + string.digits + string.punctuation + " ",
    b"punct": string.punctuation,
    b"space": string.whitespace,
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}


@dataclass(frozen=True)
class Pattern:
    """One line of an ignore file."""

    text: bytes
    is_negated: bool
    of_folders: bool
    #: Whether the pattern is for the last part of a path, not for the path from the ignore file on.
    of_names: bool

    @classmethod
    def parse(cls, line: bytes) -> Pattern:
        is_negated = line.startswith(b"!")
        text = line[1:] if is_negated else line
        of_folders = text.endswith(b"/")
        text = text[:-1] if of_folders else text
        of_names = b"/" not in text
        return cls(text.removeprefix(b"/"), is_negated, of_folders, of_names)

    @property
    def regex(self) -> bytes | None:
        """The pattern as a regular expression for a whole name or path; None for one that matches nothing."""
        found = _SPECIAL.search(self.text)
        start = 0 if self.of_names else found.start() if found else len(self.text)
        rest = _translated(self.text[start:], in_paths=not self.of_names)
        return None if rest is None else re.escape(self.text[:start]) + rest

    @cached_property
    def _compiled(self) -> re.Pattern[bytes] | None:
        regex = self.regex
        return None if regex is None else re.compile(regex, re.DOTALL)

    def matches(self, path: bytes, name: bytes, *, is_folder: bool) -> bool:
        if self.of_folders and not is_folder:
            return False
        return self._compiled is not None and self._compiled.fullmatch(name if self.of_names else path) is not None


def _translated(pattern: bytes, *, in_paths: bool) -> bytes | None:
    """A pattern as a regular expression; None for one that matches nothing."""
    any_char, out, at = (b"[^/]" if in_paths else b"."), b"", 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"\\":
            if at + 1 == len(pattern):
                return None
            out += re.escape(pattern[at + 1 : at + 2])
            at += 2
        elif char == b"?":
            out += any_char
            at += 1
        elif char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            is_own_part = end - at > 1 and pattern[at - 1 : at] in (b"", b"/")
            if in_paths and is_own_part and pattern[end : end + 1] == b"/":
                out += b"(?:.*/)?"
                end += 1
            elif in_paths and is_own_part and (end == len(pattern) or pattern[end : end + 2] == b"\\/"):
                out += b".*"
            else:
                out += any_char + b"*"
            at = end
        elif char == b"[":
            found = _class(pattern, at + 1)
            if found is None:
                return None
            members, at = found
            if in_paths:
                members -= {ord("/")}
            if not members:
                return None
            out += b"[" + b"".join(b"\\x%02x" % each for each in sorted(members)) + b"]"
        else:
            out += re.escape(char)
            at += 1
    return out


def _class(pattern: bytes, at: int) -> tuple[set[int], int] | None:
    """The bytes of a class whose `[` is before `at`, and where it ends; None for one that is malformed."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    before = 0
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if at >= len(pattern):
            return None
        char = pattern[at]
        if char == ord("\\"):
            at += 1
            if at >= len(pattern):
                return None
            char = pattern[at]
            members.add(char)
        elif char == ord("-") and before and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
            if pattern[at] == ord("\\"):
                at += 1
                if at >= len(pattern):
                    return None
            members.update(range(before, pattern[at] + 1))
            char = 0
        elif pattern[at : at + 2] == b"[:":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return None
            if end == at + 2 or pattern[end - 1] != ord(":"):
                members.add(ord("["))
            elif pattern[at + 2 : end - 1] in _CLASSES:
                members.update(_CLASSES[pattern[at + 2 : end - 1]].encode())
                at, char = end, 0
            else:
                return None
        else:
            members.add(char)
        before = char
        at += 1
    return (set(range(256)) - members if negated else members), at + 1


def _trimmed(line: bytes) -> bytes:
    """A line without the spaces at its end, unless a backslash keeps them."""
    end = at = 0
    while at < len(line):
        if line[at : at + 1] == b"\\":
            at += 2
            if at > len(line):
                return line
            end = at
        else:
            at += 1
            end = end if line[at - 1 : at] == b" " else at
    return line[:end]


@dataclass(frozen=True)
class IgnoreFile:
    """The patterns of one file, for what is below its folder (absolute, without a slash at its end)."""

    folder: bytes
    patterns: tuple[Pattern, ...]

    @classmethod
    def read(cls, path: bytes, *, folder: bytes = b"") -> IgnoreFile | None:
        """Read a file; None where git does not read it: it is missing, a link, or no file. Raises OSError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError:
            raise
        except OSError:
            return None
        with open(fd, "rb") as file:
            try:
                text = file.read().removeprefix(b"\xef\xbb\xbf")
            except IsADirectoryError:
                return None
        lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
        kept = [_trimmed(line) for line in lines if line and not line.startswith(b"#")]
        return cls(folder or os.path.dirname(path), tuple(Pattern.parse(line) for line in reversed(kept)))

    def decides(self, path: bytes, *, is_folder: bool) -> bool | None:
        """Whether the file ignores a path below its folder; None when no pattern matches."""
        name, below = path.rpartition(b"/")[2], path[len(self.folder) + 1 :]
        for pattern in self.patterns:
            if pattern.matches(below, name, is_folder=is_folder):
                return not pattern.is_negated
        return None


def is_ignored(path: bytes, files: Sequence[IgnoreFile], *, is_folder: bool) -> bool:
    """The decision of the nearest file that has one; `files` are the nearest first. Its folder is not ignored."""
    for file in files:
        decided = file.decides(path, is_folder=is_folder)
        if decided is not None:
            return decided
    return False
