"""Says which files of a folder are wanted, by patterns as in a `.gitignore`, in time that is linear in their length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from launch_worker.code.ignoring import Pattern
from launch_worker.untrusted.patterns import PatternError, searcher

#: Characters of a pattern's regular expression at most.
_MAX_CHARS = 20_000


def wanted_by(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Make a function that says whether a path is wanted; no pattern at all means that each is.

    The last pattern that matches a file decides, or else the last one that matches its nearest folder; one that begins
    with `!` is for files that are not wanted. With such patterns alone all other files are wanted.
    """
    parsed = [Pattern.parse(pattern.encode(errors="surrogateescape")) for pattern in patterns if pattern]
    rules = [(one, found) for one in reversed(parsed) if (found := _finder(one)) is not None]
    otherwise = all(one.is_negated for one in parsed)
    folders: dict[str, bool] = {"": otherwise}

    def decided(path: str, *, is_folder: bool) -> bool:
        # As many characters as the path has bytes, as the patterns have.
        plain = path.encode(errors="surrogateescape").decode("latin-1")
        for one, matches in rules:
            if (is_folder or not one.of_folders) and matches(plain.rpartition("/")[2] if one.of_names else plain):
                return not one.is_negated
        return in_folder(path.rpartition("/")[0])

    def in_folder(folder: str) -> bool:
        if folder not in folders:
            folders[folder] = decided(folder, is_folder=True)
        return folders[folder]

    return lambda path: decided(path, is_folder=False)


def _finder(pattern: Pattern) -> Callable[[str], bool] | None:
    """Tells whether a text matches the pattern; None for a pattern that matches nothing."""
    regex = pattern.regex
    if regex is None:
        return None
    try:
        return searcher(f"(?s)^(?:{regex.decode('latin-1')})$", max_chars=_MAX_CHARS, max_weight=math.inf)
    except PatternError:
        return None
