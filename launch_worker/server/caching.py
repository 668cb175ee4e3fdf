"""Answers with JSON and an ETag; a client that has the same already gets 304 and no body."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import Request
from starlette.responses import Response


def tagged(request: Request, value: Any, *, status: int = 200) -> Response:
    """The value as JSON, or 304 when `If-None-Match` names it."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return tagged_bytes(request, body, media_type="application/json", status=status)


def tagged_bytes(request: Request, body: bytes, *, media_type: str, status: int = 200) -> Response:
    """The same for bytes that are made already."""
    # Weak: what is compressed on its way is the same to a reader.
    tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    known = {part.strip() for part in request.headers.get("if-none-match", "").split(",")}
    if known & {tag, tag.removeprefix("W/"), "*"}:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, status, media_type=media_type, headers={"ETag": tag})
