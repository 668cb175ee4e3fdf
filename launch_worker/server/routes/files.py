"""Serves the files of runs: a list, one of them, or all in an archive. None of them is ever shown as a page."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from launch_worker.errors import InputError
from launch_worker.model.run_files import KeptFile
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere

router = APIRouter(tags=["runs"])
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]

_ATTEMPT = Query(ge=1, description="Attempt; without it the latest of which outputs are kept.")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
#: Whatever a file says of itself: nothing of it is carried out, and no page of this server has it as a part.
_SAFE = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}
#: Bytes of a block of a tar archive, and of what is sent at once: each piece is a way to another thread and back.
_BLOCK, _PIECE_BYTES = 512, 256 << 10
#: Kinds of pictures that a page shows: types that no browser carries out anything of.
_PICTURES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}


class OneFile(BaseModel):
    """A file that is kept with a run."""

    name: str = Field(description="The same as `path`.")
    path: str = Field(description="Relative path, with / between its parts.", examples=["checkpoints/best.pt"])
    size: int
    saved_at: str | None = Field(description="An output's last change by its worker's clock; when a file was saved.")
    kind: str = Field(description="One of output, saved.", examples=["output"])
    attempt: int | None = Field(description="Attempt that left it; null for a saved file.")
    sha256: str | None = Field(description="Hash of an output's content.")
    mode: int = Field(description="Permissions, as of chmod.")
    link: str | None = Field(
        description="What it leads to, from its own folder, where it is a symbolic link; size and hash are that file's."
    )


class NotKept(BaseModel):
    """A file that a job left and that is not kept."""

    path: str
    why: str


class AllFiles(BaseModel):
    """What is kept with a run: the outputs of one attempt, and files that were saved with the record."""

    attempt: int | None = Field(description="Attempt of the outputs; null where there are none.")
    files: list[OneFile]
    left_out: list[NotKept] = Field(description="Files that are not kept, the first of them.")
    left_out_count: int
    notices: list[str] = Field(description="Sentences for people: that more is on its way.")
    sending: bool = Field(description="Whether a worker is still to send outputs.")


@router.get("/runs/{run_id}/outputs", response_model=AllFiles)
def list_outputs(
    shared: SharedHere, asker: Seeing, run_id: str, attempt: Annotated[int | None, _ATTEMPT] = None
) -> Response:
    """List what is kept with a run, and say what is not and why."""
    return as_json(Served(shared, asker).files(run_id, attempt).as_json())


@router.get("/runs/{run_id}/files", response_model=list[OneFile])
def list_files(
    shared: SharedHere, asker: Seeing, run_id: str, attempt: Annotated[int | None, _ATTEMPT] = None
) -> Response:
    """List the files that are kept with a run."""
    files: list[dict[str, Any]] = Served(shared, asker).files(run_id, attempt).as_json()["files"]
    return as_json(files)


@router.get("/runs/{run_id}/files.tar", response_class=StreamingResponse)
def show_archive(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    attempt: Annotated[int | None, _ATTEMPT] = None,
    path: Annotated[list[str] | None, Query(description="Paths of files; without them all.", max_length=1000)] = None,
) -> Response:
    """All files that are kept with a run, or those at some paths, in one tar archive."""
    served = Served(shared, asker)
    found = served.files(run_id, attempt)
    files: Sequence[KeptFile] = found.files
    if path:
        by_path = {file.path: file for file in files}
        files = [by_path.get(one) or found.file(run_id, one) for one in path]
    headers = {"Content-Disposition": f'attachment; filename="{run_id}.tar"', **_SAFE}
    content = _joined(_archive(served, run_id, files))
    return StreamingResponse(content, media_type="application/x-tar", headers=headers)


@router.get("/runs/{run_id}/files/{path:path}", response_class=StreamingResponse)
def show_file(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    path: str,
    attempt: Annotated[int | None, _ATTEMPT] = None,
    range: Annotated[str, Header(description="One range of bytes: bytes=100-199, bytes=100-.")] = "",
    if_range: Annotated[str, Header()] = "",
    if_none_match: Annotated[str, Header()] = "",
    view: Annotated[bool, Query(description="A picture as what it is, for an <img>; refused for others.")] = False,
) -> Response:
    """The bytes of a file that is kept with a run, or a range of them. It is always a download, never a page."""
    served = Served(shared, asker)
    file = served.file(run_id, attempt, path)
    kind, how = "application/octet-stream", "attachment"
    if view:
        kind, how = _kind_of_picture(file.path), "inline"
    name = file.path.rpartition("/")[2]
    headers = {"Content-Disposition": f"{how}; filename*=UTF-8''{quote(name, safe='')}", "Accept-Ranges": "bytes"}
    headers |= _SAFE
    if file.sha256:
        headers["ETag"] = f'"{file.sha256}"'
        if headers["ETag"] in (part.strip().removeprefix("W/") for part in if_none_match.split(",")):
            return Response(status_code=304, headers=headers)
    start, end = 0, None
    if range and if_range in ("", headers.get("ETag")) and (asked := _range_of(range, file.size)) is not None:
        start, end = asked
        if start >= end:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{file.size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers["Content-Length"] = str((file.size if end is None else end) - start)
    content = served.read_file(run_id, file, start, end)
    # A store that does not answer is a problem, and not an answer without an end.
    begun = next(content, b"")
    status = 206 if "Content-Range" in headers else 200
    return StreamingResponse(chain((begun,), content), status, media_type=kind, headers=headers)


def is_picture(path: str) -> bool:
    """Whether a page may have the file as an <img>, by its name."""
    return path.rpartition(".")[2].lower() in _PICTURES


def _kind_of_picture(path: str) -> str:
    if not is_picture(path):
        raise InputError(f"{path[:100]!r} is no picture that a page shows; such are: {', '.join(_PICTURES)}")
    return _PICTURES[path.rpartition(".")[2].lower()]


def _range_of(text: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last; None for what is no single range, which is all of it."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), size if not last else min(size, int(last) + 1)


def _archive(served: Served, run_id: str, files: Sequence[KeptFile]) -> Iterator[bytes]:
    """The files as a tar archive, piece by piece."""
    # Links are the last ones: nothing is unpacked through them.
    for file in sorted(files, key=lambda file: bool(file.link)):
        entry = tarfile.TarInfo(f"{run_id}/{file.path}")
        entry.size, entry.mtime = 0 if file.link else file.size, file.at // 1_000_000
        entry.mode = 0o755 if file.mode & 0o100 else 0o644
        if file.link:
            entry.type, entry.linkname = tarfile.SYMTYPE, file.link
        yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if file.link:
            continue
        yield from served.read_file(run_id, file, 0)
        yield b"\0" * (-file.size % _BLOCK)
    yield b"\0" * (2 * _BLOCK)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    some: list[bytes] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(some)
            some, size = [], 0
    yield b"".join(some)
