"""Takes submissions: one run, many in one request, and the folders that they bring."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from launch_worker.errors import InputError, LaunchError
from launch_worker.model.spec import SHA256
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.fence import allow_body
from launch_worker.server.problems import document
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.submission.options import MAX_LINE_BYTES, Item, object_of, read_line, read_options
from launch_worker.untrusted.text import clean, read_json

router = APIRouter(tags=["submit"])
Submitting = Annotated[Asker, acting(Act.SUBMIT, what="submit", kind="run", is_named_late=True)]

_MAX_BULK_BYTES = 256 << 20
#: Bytes of a body that are kept in memory; a larger one is in a file.
_BYTES_IN_MEMORY = 1 << 20
#: Bytes of a piece of an answer: each is a change of thread.
_PIECE_BYTES = 16 << 10
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NDJSON = "application/x-ndjson"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_AUTHOR = Query(max_length=200, description="Who submits, for people; the login is kept beside it.")
_FOLDER = Query(max_length=4096, description="Folder of the submitter: the job starts there where the worker has it.")
#: Options that ask for a part of a machine.
_NEEDS = ("gpus", "cpus", "memory")
_STRICT = Query(description="Refuse an unknown queue.")
_CHECK = Query(description="Only check all: the answer has a line for a problem, and no other.")
_SPECS = Query(description="With `check`: answer with each run as it would be kept.")


class Submitted(BaseModel):
    """A run that was submitted."""

    id: str
    is_new: bool = Field(description="False for a run that was there already; nothing was changed.")
    queue_consumers: int = Field(description="Live workers that consume its queue.")
    group: str = Field(default="", description="Id of its array or bulk submission; empty for one alone.")
    advice: list[str] = Field(
        default=[], description="What earlier runs of its name used, where it asks for far more or less; for one alone."
    )


def named_by_hash(item: Item) -> Item:
    """An item of a request, whose upload is named by its hash: no folder of this machine. Raises InputError."""
    if item.upload is not None:
        if not SHA256.fullmatch(item.upload):
            raise InputError("upload must be the sha256 of an archive; send it first with: PUT /api/v1/uploads/SHA256")
        item.given["upload"], item.upload = item.upload, None
    return item


@router.post("/runs", status_code=201, responses={200: {"model": Submitted, "description": "It was there already."}})
def submit_run(
    shared: SharedHere,
    asker: Submitting,
    response: Response,
    options: Annotated[dict[str, Any], Body(examples=[{"command": ["python", "train.py"], "queue": "gpu", "gpus": 1}])],
    author: Annotated[str, _AUTHOR] = "",
    folder: Annotated[str, _FOLDER] = "",
    strict: Annotated[bool, _STRICT] = False,
    idempotency_key: Annotated[str | None, Header(description="A repeated request names the first one's run.")] = None,
) -> Submitted:
    """Submit one run: an object of the options of `launch-submit`, as a line of `--from-file`."""
    item = named_by_hash(read_options(options))
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
    if not sent.is_new:
        response.status_code = 200
    # A run that asks for nothing pays nothing for the look.
    asks = sent.is_new and any(item.given.get(name) for name in _NEEDS)
    advice = served.advice_by_earlier(served.record(sent.id)) if asks else []
    return Submitted(id=sent.id, is_new=sent.is_new, queue_consumers=sent.queue_consumers, advice=advice)


class _ToItsEnd(StreamingResponse):
    """An answer that is made to its end when its client goes away: all runs of a whole request are submitted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


@router.post("/runs/bulk", response_class=StreamingResponse)
async def submit_runs(
    request: Request,
    shared: SharedHere,
    asker: Submitting,
    author: Annotated[str, _AUTHOR] = "",
    folder: Annotated[str, _FOLDER] = "",
    strict: Annotated[bool, _STRICT] = False,
    check: Annotated[
        bool, Query(description="Only check all: the answer has a line for a problem, and no other.")
    ] = False,
    specs: Annotated[bool, Query(description="With `check`: answer with each run as it would be kept.")] = False,
) -> StreamingResponse:
    """Submit many runs, or arrays: one JSON object a line, as in `--from-file`. The answer has a line for each run.

    A line has `item` (the number of its line, from 0) and what `POST /runs` answers, or, as the last one, `problem`:
    runs of lines before it were submitted. Nothing is submitted before the whole request is there, and all of it then,
    also when the client goes away.
    """
    allow_body(request, _MAX_BULK_BYTES)
    served = await run_in_threadpool(Served, shared, asker, author=author, folder=folder)
    lines = await _body(request)
    if check:
        return _ToItsEnd(_in_pieces(_checked(served, lines, strict=strict, specs=specs)), media_type=_NDJSON)
    return _ToItsEnd(_in_pieces(_sent(served, asker, lines, strict=strict)), media_type=_NDJSON)


async def _body(request: Request) -> BinaryIO:
    """The body, beyond a size in a file. A slow client has no thread and no connection to Redis meanwhile."""
    body = tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY)  # noqa: SIM115 (closed once it is read)
    try:
        async for data in request.stream():
            await run_in_threadpool(body.write, data)
    except BaseException as error:
        body.close()
        if isinstance(error, ClientDisconnect):
            raise InputError("the client went away in the middle of its request; nothing of it was submitted") from None
        raise
    return cast("BinaryIO", body)


def _numbered(lines: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers. A line that is too long is cut."""
    lines.seek(0)
    for number in count():
        line = lines.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if line.strip():
            yield number, line


def _items(lines: BinaryIO) -> Iterator[Item]:
    """The items of the lines; the place of each is the number of its line."""
    for number, line in _numbered(lines):
        where = str(number)
        try:
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"the line has more than {MAX_LINE_BYTES:,} bytes")
            yield named_by_hash(read_line(line, where=where))
        except InputError as error:
            raise Item({}, where=where).error(error) from None


def _singles(lines: BinaryIO) -> int:
    """How many of the lines are no arrays. Only lines that may be one are read as JSON."""
    return sum(not (b"array" in line or b"\\u" in line) or not _is_array(line) for _, line in _numbered(lines))


def _is_array(line: bytes) -> bool:
    try:
        return "array" in object_of(line)
    except InputError:
        return False


def _sent(served: Served, asker: Asker, lines: BinaryIO, *, strict: bool) -> Iterator[dict[str, Any]]:
    sent = 0
    try:
        for run, item in served.send_items(_items(lines), strict=strict, singles=_singles(lines)):
            sent += 1
            yield {
                "item": int(item.where),
                "id": run.id,
                "is_new": run.is_new,
                "queue_consumers": run.queue_consumers,
                "group": run.group,
            }
    except LaunchError as error:
        asker.fail(f"{sent} runs were submitted, then line {error}")
        yield _problem(error)
    finally:
        lines.close()


def _checked(served: Served, lines: BinaryIO, *, strict: bool, specs: bool) -> Iterator[dict[str, Any]]:
    try:
        served.check_items(_items(lines), strict=strict)
        for item in _items(lines) if specs else ():
            yield {"item": int(item.where), "spec": read_json(served.complete(item.given).to_json())}
    except LaunchError as error:
        yield _problem(error)
    finally:
        lines.close()


def _problem(error: LaunchError) -> dict[str, Any]:
    """The line that tells of an error, and to which line of the request that belongs."""
    place, colon, text = str(error).partition(": ")
    if isinstance(error, InputError) and colon and place.isdecimal():
        return {"item": int(place), "problem": document(InputError(text))}
    return {"item": 0, "problem": document(error)}


def _in_pieces(told: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Lines of JSON, many in a piece."""
    piece = bytearray()
    for one in told:
        piece += _ENCODE(one).encode() + b"\n"
        if len(piece) > _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class Upload(BaseModel):
    """Whether an upload is there."""

    is_there: bool


@router.post("/uploads/{sha256}/renew")
def renew_upload(shared: SharedHere, asker: Annotated[Asker, allowed(Act.UPLOAD)], sha256: str) -> Upload:
    """Say whether an archive is there, and keep it from now on for as long as a new one.

    Who does not see all projects is told of archives that they have sent themselves.
    """
    return Upload(is_there=Served(shared, asker).renew_upload(_checked_hash(sha256)))


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
        served = await run_in_threadpool(Served, shared, asker)
        await run_in_threadpool(served.keep_upload, sha256, archive)
    return JSONResponse({"is_there": True}, 201)


def _checked_hash(sha256: str) -> str:
    if not SHA256.fullmatch(sha256):
        raise InputError(f"{clean(sha256)[:80]!r} is no sha256")
    return sha256
