"""Takes submissions: one run, many in one request, and the folders that they bring."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse

from launch_worker.code.storage import storage_of
from launch_worker.errors import InputError, LaunchError
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.fence import allow_body
from launch_worker.server.problems import document
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.submission.options import MAX_LINE_BYTES, Item, object_of, read_options
from launch_worker.untrusted.text import clean, read_json

router = APIRouter(tags=["submit"])
Submitting = Annotated[Asker, acting(Act.SUBMIT, what="submit", kind="run")]

_MAX_BULK_BYTES = 256 << 20
_NDJSON = "application/x-ndjson"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_AUTHOR = Query(max_length=200, description="Who submits, for people; the login is kept beside it.")
_FOLDER = Query(max_length=4096, description="Folder of the submitter: the job starts there where the worker has it.")
_STRICT = Query(description="Refuse an unknown queue.")


class Submitted(BaseModel):
    """A run that was submitted."""

    id: str
    is_new: bool = Field(description="False for a run that was there already; nothing was changed.")
    queue_consumers: int = Field(description="Live workers that consume its queue.")
    group: str = Field(default="", description="Id of its array or bulk submission; empty for one alone.")


def read_item(options: dict[str, Any], *, where: str = "") -> Item:
    """An item of a request: options of `launch-submit`, but for an upload, which is named by its hash."""
    sha256 = options.get("upload")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise InputError("upload must be the sha256 of an archive; send it first with: PUT /api/v1/uploads/SHA256")
    item = read_options(options, where=where)
    if sha256 is not None:
        item.given["upload"], item.upload = sha256, None
    return item


@router.post("/runs", status_code=201)
def submit_run(
    shared: SharedHere,
    asker: Submitting,
    options: Annotated[dict[str, Any], Body(examples=[{"command": ["python", "train.py"], "queue": "gpu", "gpus": 1}])],
    author: Annotated[str, _AUTHOR] = "",
    folder: Annotated[str, _FOLDER] = "",
    strict: Annotated[bool, _STRICT] = False,
    idempotency_key: Annotated[str | None, Header(description="A repeated request names the first one's run.")] = None,
) -> Submitted:
    """Submit one run: an object of the options of `launch-submit`, as a line of `--from-file`."""
    item = read_item(options)
    if item.array is not None:
        raise InputError("an array is many runs; send it to /api/v1/runs/bulk")
    if idempotency_key is not None:
        if not _KEY.fullmatch(idempotency_key):
            raise InputError("Idempotency-Key must be 1 to 200 visible ASCII characters")
        if item.run_id or item.unique:
            raise InputError("id and unique say once only, as Idempotency-Key does; leave out one of them")
        item.unique = idempotency_key
    served = Served(shared, asker, author=author, folder=folder)
    [(sent, _)] = served.send_items([item], strict=strict)
    return Submitted(id=sent.id, is_new=sent.is_new, queue_consumers=sent.queue_consumers)


@router.post("/runs/bulk", response_class=StreamingResponse)
async def submit_runs(
    request: Request,
    shared: SharedHere,
    asker: Submitting,
    author: Annotated[str, _AUTHOR] = "",
    folder: Annotated[str, _FOLDER] = "",
    strict: Annotated[bool, _STRICT] = False,
    check: Annotated[bool, Query(description="Only check all, and answer with each run as it would be kept.")] = False,
) -> StreamingResponse:
    """Submit many runs, or arrays: one JSON object a line, as in `--from-file`. The answer has a line for each run.

    A line has `item` (the number of its line, from 0) and what `POST /runs` answers, or, as the last one, `problem`:
    runs of lines before it were submitted.
    """
    allow_body(request, _MAX_BULK_BYTES)
    lines = (await request.body()).split(b"\n")
    served = await run_in_threadpool(Served, shared, asker, author=author, folder=folder)
    told = _checked(served, lines, strict=strict) if check else _sent(served, lines, strict=strict)
    return StreamingResponse(_in_pieces(told), media_type=_NDJSON)


def _items(lines: list[bytes]) -> Iterator[Item]:
    """The items of the lines; the place of each is the number of its line."""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"the line has more than {MAX_LINE_BYTES:,} bytes")
            yield read_item(object_of(line), where=str(number))
        except InputError as error:
            raise Item({}, where=str(number)).error(error) from None


def _sent(served: Served, lines: list[bytes], *, strict: bool) -> Iterator[dict[str, Any]]:
    try:
        for sent, item in served.send_items(_items(lines), strict=strict):
            answer = {
                "id": sent.id,
                "is_new": sent.is_new,
                "queue_consumers": sent.queue_consumers,
                "group": sent.group,
            }
            yield {"item": int(item.where), **answer}
    except LaunchError as error:
        yield _problem(error)


def _checked(served: Served, lines: list[bytes], *, strict: bool) -> Iterator[dict[str, Any]]:
    try:
        items = list(_items(lines))
        served.check_items(items, strict=strict)
        for item in items:
            yield {"item": int(item.where), "spec": read_json(served.complete(item.given).to_json())}
    except LaunchError as error:
        yield _problem(error)


def _problem(error: LaunchError) -> dict[str, Any]:
    """The line that tells of an error, and to which line of the request that belongs."""
    place, colon, text = str(error).partition(": ")
    if isinstance(error, InputError) and colon and place.isdecimal():
        return {"item": int(place), "problem": document(InputError(text))}
    return {"item": 0, "problem": document(error)}


def _in_pieces(told: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Lines of JSON, many in a piece: each piece is a change of thread."""
    piece = bytearray()
    for one in told:
        piece += json.dumps(one, ensure_ascii=False).encode() + b"\n"
        if len(piece) > 8192:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class Upload(BaseModel):
    """Whether an upload is there."""

    is_there: bool


@router.post("/uploads/{sha256}/renew")
def renew_upload(shared: SharedHere, asker: Annotated[Asker, allowed(Act.UPLOAD)], sha256: str) -> Upload:
    """Say whether an archive is there, and keep it from now on for as long as a new one."""
    return Upload(is_there=storage_of(shared.settings, shared.connection.store).renew(_checked_hash(sha256)))


@router.put("/uploads/{sha256}", status_code=201)
async def send_upload(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.UPLOAD, what="upload", kind="upload")],
    sha256: str,
) -> JSONResponse:
    """Keep the archive of a folder, a `.tar.gz` with this sha256."""
    _checked_hash(sha256)
    allow_body(request, shared.settings.upload_bytes)
    found = hashlib.sha256()
    with tempfile.TemporaryFile() as archive:
        async for data in request.stream():
            found.update(data)
            await run_in_threadpool(archive.write, data)
        if found.hexdigest() != sha256:
            raise InputError("the upload is refused: its content has another sha256; send it again")
        archive.seek(0)
        storage = storage_of(shared.settings, shared.connection.store)
        await run_in_threadpool(storage.put, sha256, archive)
    return JSONResponse({"is_there": True}, 201)


def _checked_hash(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise InputError(f"{clean(sha256)[:80]!r} is no sha256")
    return sha256
