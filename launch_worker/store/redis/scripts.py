"""The scripts as Redis gets them: each with the shared words that it uses."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache

#: The files of `lua/words`, by subject. A word may use the words of its own file above it and those of earlier files.
SUBJECTS = (
    *("text", "keys", "states", "record", "array", "retention", "damage", "settings", "uploads", "sweep", "places"),
    *("arrow", "phases", "stop", "item", "line", "capacity", "park", "wake", "offer", "waiting", "attempt", "due"),
    "create",
)
# Found by the path of this file: importing importlib.resources takes longer than reading all files.
LUA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "lua")

_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")


@cache
def script_of(name: str) -> tuple[str, str]:
    """A script's text, with the shared words that it uses, and its SHA-1."""
    words = "\n\n".join(_code(_read(os.path.join("words", subject))).strip() for subject in SUBJECTS)
    script = _read(name)
    source = needed_of(words, _code(script)) + script
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def needed_of(words: str, script: str) -> str:
    """The shared words that a script uses, directly or not: Redis makes all that it is sent anew in each call.

    A word is a `local` that begins its line, with all lines up to the next one. Both texts are without comments.
    """
    used = set(_WORD.findall(script))
    kept = []
    # From the last to the first: a word uses only words above it.
    for part in reversed(f"\n{words}\n".split("\nlocal ")[1:]):
        name = _WORD.search(part, len("function ") if part.startswith("function ") else 0)
        if name and name[0] in used:
            kept.append(f"local {part}\n")
            used.update(_WORD.findall(part))
    return "".join(reversed(kept))


def _code(lua: str) -> str:
    """The text without its lines of comments: a name in a comment is no use of the word."""
    return _COMMENT.sub("", lua)


def _read(name: str) -> str:
    with open(os.path.join(LUA, f"{name}.lua"), encoding="utf-8") as file:
        return file.read()
