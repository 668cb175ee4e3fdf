"""Reads and writes which user groups may submit to a queue or a pool through a server, and up to which priority."""

from __future__ import annotations

import re
from collections.abc import Mapping

from launch_worker.errors import InputError
from launch_worker.model.checks import PRIORITIES

#: Group of everybody.
EVERYBODY = "*"
_GROUP = re.compile(r"\*|[a-z0-9][a-z0-9._@+-]{0,63}")
_WORDS = {level: word for word, level in PRIORITIES.items()}


def read_admits(text: str) -> dict[str, str]:
    """The priority of each group, of the text in the store."""
    found = {}
    for part in text.split():
        group, _, level = part.rpartition("=")
        if group and level.isdecimal() and int(level) in _WORDS:
            found[group] = _WORDS[int(level)]
    return found


def admits_text(admits: Mapping[str, str]) -> str:
    """The text that the store keeps; '' where all may submit. Raises InputError."""
    for group, priority in admits.items():
        if not _GROUP.fullmatch(group):
            raise InputError(f"{group[:60]!r} is no user group; write --admit GROUP=PRIORITY, with * for everybody")
        if priority not in PRIORITIES:
            raise InputError(f"priority {priority!r} is unknown; use one of: {', '.join(PRIORITIES)}")
    return " ".join(f"{group}={PRIORITIES[priority]}" for group, priority in sorted(admits.items()))
