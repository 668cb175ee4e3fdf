"""Submits runs through a server. Imports stay minimal: start-up time of `launch-submit`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from launch_worker.api.http_connection import HttpConnection, LostAnswerError, error_of
from launch_worker.errors import InputError, LaunchError
from launch_worker.ids import new_run_id
from launch_worker.model.unique import parse_unique
from launch_worker.settings import Settings
from launch_worker.submission.options import Item, as_options
from launch_worker.submission.resolve import current_folder
from launch_worker.submission.sent import Sent, me
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.model.spec import RunSpec

# What is no UTF-8 is escaped: the server says where it is.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class HttpSubmitter:
    """A connection to one launch system through its server, for submitting only. `Submits` documents it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server = HttpConnection(settings.api_url, settings.api_token)
        #: The sha256 of each folder that was sent, by its path.
        self._sent: dict[str, str] = {}
        self.on_upload: Callable[[int, int], None] = lambda *_: None

    @cached_property
    def actor(self) -> str:
        return me()

    def send_items(self, items: Iterable[Item], *, strict: bool = False) -> Iterator[tuple[Sent, Item]]:
        known = list(items)
        if len(known) == 1 and known[0].array is None:
            yield self._send_one(known[0], strict=strict), known[0]
        elif known:
            yield from self._send_many(known, strict=strict)

    def _send_one(self, item: Item, *, strict: bool) -> Sent:
        if item.upload is not None:
            # All other mistakes are found before the folder is read.
            self.check_items([item], strict=strict)
        body = self._said(item)
        try:
            said = self.server.ask("POST", "/runs", query=self._query(strict=strict), body=body, is_repeatable=True)
        except InputError as error:
            raise item.error(error) from None
        return _sent(said, item)

    def _send_many(self, items: Sequence[Item], *, strict: bool) -> Iterator[tuple[Sent, Item]]:
        body, told = self._lines(items), 0
        for is_last in (False, True):
            try:
                for number, answer in enumerate(self._bulk(body, strict=strict)):
                    item = items[answer["item"]]
                    if "problem" in answer:
                        raise _placed(error_of(answer["problem"]), item)
                    # A repeated request is answered by the same runs in the same order.
                    if number == told:
                        told += 1
                        yield _sent(answer, item), item
                return
            except LostAnswerError:
                if is_last:
                    raise

    def check_items(self, items: Sequence[Item], *, strict: bool) -> None:
        for item in items:
            if item.upload is not None and not os.path.isdir(item.upload):
                raise item.error(f"upload {item.upload!r} is not a folder of this machine")
        body = self._lines(items, check=True)
        for answer in self.server.repeated(lambda: list(self._bulk(body, strict=strict, check=True))):
            raise _placed(error_of(answer["problem"]), items[answer["item"]])

    def complete(self, given: Mapping[str, Any], *, fresh: bool = False) -> RunSpec:
        from launch_worker.model.spec import parse_spec

        body = self._lines([Item(dict(given))], check=True)
        [answer] = self.server.repeated(lambda: list(self._bulk(body, check=True, specs=True)))
        if "problem" in answer:
            raise error_of(answer["problem"])
        return parse_spec(json.dumps(answer["spec"]))

    def _lines(self, items: Sequence[Item], *, check: bool = False) -> bytes:
        return "\n".join(_ENCODE(self._said(item, check=check)) for item in items).encode()

    def _bulk(
        self, body: bytes, *, strict: bool = False, check: bool = False, specs: bool = False
    ) -> Iterator[dict[str, Any]]:
        modes = {"check": "true" if check else None, "specs": "true" if specs else None}
        with self.server.answer(
            "POST",
            "/runs/bulk",
            query=self._query(strict=strict) | modes,
            body=body,
            headers={"Content-Type": "application/x-ndjson"},
            is_repeatable=True,
        ) as response:
            for line in self.server.lines(response):
                yield read_json(line)

    def _query(self, *, strict: bool) -> dict[str, Any]:
        """What is the same for all runs of a request: who submits them, and the folder in which that person is."""
        return {"author": self.actor, "folder": current_folder(), "strict": "true" if strict else None}

    def _said(self, item: Item, *, check: bool = False) -> dict[str, Any]:
        said = as_options(item)
        if self.settings.project and not said.get("project"):
            said["project"] = self.settings.project
        if item.upload is not None and not check:
            said["upload"] = self.send_folder(item.upload)
        if not item.run_id and not (item.unique and not parse_unique(item.unique).is_timed):
            # The request can then be repeated.
            said["id"] = new_run_id(room=1 if item.array is None else len(item.array.indexes))
        return said

    def send_folder(self, folder: str) -> str:
        # Imported for an upload only.
        import tempfile
        from pathlib import Path

        from launch_worker.code.archive import make_archive

        path = os.path.abspath(folder)
        if path not in self._sent:
            with tempfile.TemporaryFile() as archive:
                sha256 = make_archive(Path(path), archive, limit_bytes=self.settings.upload_bytes)
                if not self.server.ask("POST", f"/uploads/{sha256}/renew", is_repeatable=True)["is_there"]:
                    self.server.repeated(lambda: self._send_archive(sha256, archive))
            self._sent[path] = sha256
        return self._sent[path]

    def _send_archive(self, sha256: str, archive: BinaryIO) -> None:
        from launch_worker.code.archive import Counted

        headers = {"Content-Type": "application/gzip", "Content-Length": str(archive.seek(0, os.SEEK_END))}
        body = Counted(archive, self.on_upload)
        with self.server.answer("PUT", f"/uploads/{sha256}", body=body, headers=headers) as response:
            response.read()

    def live_workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.server.ask("GET", "/workers")["workers"]
        return workers


def _sent(said: Mapping[str, Any], item: Item) -> Sent:
    # A run whose id was made for this request is new, also where a repeated request finds it.
    is_new = bool(said["is_new"]) or not (item.run_id or item.unique)
    advice = tuple(map(str, said.get("advice", ())))
    return Sent(str(said["id"]), int(said["queue_consumers"]), is_new, str(said.get("group", "")), advice)


def _placed(error: LaunchError, item: Item) -> LaunchError:
    return item.error(error) if isinstance(error, InputError) else error
