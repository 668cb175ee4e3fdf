"""The scripts as Redis gets them: each with the parts of the prelude that it uses."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache

_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")


@cache
def script_of(name: str) -> tuple[str, str]:
    """A script's text, with what it needs of the prelude, and its SHA-1."""
    # Read as files: importlib.resources takes longer to import than all that is read.
    lua = os.path.join(os.path.dirname(os.path.dirname(__file__)), "lua")
    with open(os.path.join(lua, "prelude.lua"), encoding="utf-8") as file:
        prelude = file.read()
    with open(os.path.join(lua, f"{name}.lua"), encoding="utf-8") as file:
        script = file.read()
    source = needed_of(prelude, script) + script
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def needed_of(prelude: str, script: str) -> str:
    """The parts of the prelude that a script uses, directly or not: Redis makes all that is there anew in each call.

    A part is a `local` that begins its line, and what follows it up to the next one.
    """
    # A comment uses nothing.
    prelude, script = _COMMENT.sub("", prelude), _COMMENT.sub("", script)
    used = set(_WORD.findall(script))
    kept = []
    # What a part uses is above it, as Lua wants it.
    for part in reversed(prelude.split("\nlocal ")[1:]):
        name = _WORD.search(part, len("function ") if part.startswith("function ") else 0)
        if name and name[0] in used:
            kept.append(f"local {part}\n")
            used.update(_WORD.findall(part))
    return "".join(reversed(kept))
