"""Serves the files that browsers get as they are, so that a second view of a page asks for none of them."""

from __future__ import annotations

import hashlib
from functools import cache
from os import stat_result
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import PathLike, StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
#: Path under which the files are served.
MOUNT = "/static"
#: First letter of the part of a path that names the files' version.
_MARK = "@"


def asset(name: str) -> str:
    """The path of a file that a page names. It changes with any file, those that a module imports included."""
    return f"{MOUNT}/{_version()}/{name}"


class Assets(StaticFiles):
    """The static files. Under the path of this version they are kept by browsers; under another they are asked for."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def get_path(self, scope: Scope) -> str:
        path = super().get_path(scope)
        first, _, rest = path.partition("/")
        # A page that was opened before the server was renewed names an older version.
        return rest if first.startswith(_MARK) else path

    def file_response(
        self, full_path: PathLike, stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_current = f"/{_version()}/" in scope["path"]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_current else "no-cache"
        return response


@cache
def _version() -> str:
    """A digest of all files."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(FOLDER)}\0".encode() + path.read_bytes())
    return f"{_MARK}{digest.hexdigest()}"
