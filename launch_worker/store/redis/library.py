"""The library of functions that Redis gets: one function for each script of `store/lua`, and the words they share."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

try:
    # As `random` does: hashlib brings OpenSSL, for which `launch-submit` would wait.
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha1

#: The files of `lua/words`, by subject. A word may use the words of its own file above it and those of earlier files.
SUBJECTS = (
    *(
        "text",
        "keys",
        "states",
        "record",
        "feed",
        "notice",
        "group",
        "once",
        "retention",
        "damage",
        "counts",
        "settings",
        "uploads",
        "sweep",
        "outputs",
    ),
    *(
        "places",
        "arrow",
        "phases",
        "stop",
        "item",
        "line",
        "capacity",
        "apart",
        "park",
        "wake",
        "offer",
        "waiting",
        "attempt",
    ),
    *("due", "create", "server", "claims", "ends", "functions"),
)
# Found by the path of this file: importing importlib.resources takes longer than reading all files.
LUA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "lua")


class Library(NamedTuple):
    """A library as FUNCTION LOAD takes it."""

    name: str
    #: Its code, below the line that names it.
    code: bytes

    @property
    def text(self) -> bytes:
        return b"#!lua name=%b\nlocal LIBRARY = '%b'\n\n%b" % (self.name.encode(), self.name.encode(), self.code)


@cache
def library() -> Library:
    """The library of this version. It is named by its content: clients of two versions use one Redis in an upgrade."""
    scripts = sorted(file.removesuffix(".lua") for file in os.listdir(LUA) if file.endswith(".lua"))
    code = b"\n".join(
        [
            *(_read(os.path.join("words", subject)) for subject in SUBJECTS),
            *(b"define('%b', function(ARGV)\n%bend)\n" % (script.encode(), _read(script)) for script in scripts),
        ]
    )
    return Library(f"launch_{sha1(code, usedforsecurity=False).hexdigest()[:12]}", code)


@cache
def function_of(script: str) -> str:
    """The name by which FCALL calls a script. Names of functions are the server's, so the version is part of each."""
    return f"{library().name}_{script}"


def is_not_ready(error: Exception) -> bool:
    """Whether a server's refusal says that the library must be loaded, or the server looked at, before the call."""
    refusal = str(error)
    return "Function not found" in refusal or "LAUNCHNEW" in refusal


def is_loaded_already(error: BaseException) -> bool:
    """Whether FUNCTION LOAD was refused because another client was quicker."""
    return "already exists" in str(error)


def _read(name: str) -> bytes:
    # Unbuffered: there are many small files.
    with open(os.path.join(LUA, f"{name}.lua"), "rb", buffering=0) as file:
        return file.read()
