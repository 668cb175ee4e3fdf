"""Submits, reads, follows, lists and steers runs through a server."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from launch_worker.api.filters import Filter, Order
from launch_worker.api.http_connection import SILENCE_S, HttpConnection, error_of, part_of_path
from launch_worker.api.http_submitter import HttpSubmitter
from launch_worker.api.naming import Meant
from launch_worker.api.transport import LogPart, Place, RunList, Seen, check_part
from launch_worker.errors import ServerUnavailableError
from launch_worker.ids import check_run_id
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Gap, Log, Piece
from launch_worker.model.many import Done, ManyAct
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile, RunFiles
from launch_worker.model.states import RunState
from launch_worker.model.usage import Measured
from launch_worker.store.answers import CancelWord
from launch_worker.submission.options import Item
from launch_worker.submission.sent import Sent
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.model.explanation import Explanation

#: Runs of one page where all must be read before the first is known.
_LARGE_PAGE = 1000
#: Ids of one question.
_IDS = 100


class HttpRuns(HttpSubmitter):
    """The part of the transport through a server that is about runs. `Transport` documents it."""

    def send(
        self,
        given: Mapping[str, Any],
        *,
        delay_s: float = 0.0,
        at_us: int | None = None,
        strict: bool = False,
        run_id: str = "",
    ) -> Sent:
        item = Item(dict(given), delay_s=delay_s, at_us=at_us, run_id=check_run_id(run_id) if run_id else "")
        return self._send_one(item, strict=strict)

    # -- runs, read ------------------------------------------------------------------------------------------------

    def _run(self, run_id: str, rest: str = "") -> str:
        return f"/runs/{part_of_path(run_id)}{rest}"

    def find(self, run_id: str) -> Record:
        return self.record(run_id)

    def record(self, run_id: str) -> Record:
        return Record.from_json(self.server.ask("GET", self._run(run_id), query={"live": "true"}))

    def meant_by(self, word: str) -> Meant:
        return Meant.from_json(self.server.ask("GET", "/runs/named", query={"word": word}))

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        found: dict[str, Record] = {}
        for start in range(0, len(run_ids), _IDS):
            ids = ",".join(run_ids[start : start + _IDS])
            for shown in self.server.ask("GET", "/runs", query={"ids": ids})["runs"]:
                found[shown["id"]] = Record.from_json(shown)
        return [found[run_id] for run_id in run_ids if run_id in found]

    def shown(self, run_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.server.ask("GET", self._run(run_id))
        return shown

    def explain(self, run_id: str) -> Explanation:
        # Few commands need it: start-up time.
        from launch_worker.model.explanation import Explanation

        return Explanation.from_json(self.server.ask("GET", self._run(run_id, "/explain")))

    def why_waiting(self, queue: str) -> str:
        # The server has said it in the run's reason.
        return ""

    def transitions(self, run_id: str) -> list[Transition]:
        return [Transition.from_json(step) for step in self.server.ask("GET", self._run(run_id, "/history"))]

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.server.ask("GET", self._run(run_id, "/metrics"))
        return rows

    def measured(self, run_id: str, attempt: int | None, *, timeout_s: float) -> tuple[Record, Measured]:
        query = {"attempt": attempt, "timeout": timeout_s}
        said = self.server.ask("GET", self._run(run_id, "/usage"), query=query)
        return Record.from_json(said["run"]), Measured.from_json(said)

    def advice_by_earlier(self, record: Record) -> list[str]:
        said: list[str] = self.server.ask("GET", self._run(record.id, "/advice"))
        return said

    def files(self, run_id: str, attempt: int | None) -> RunFiles:
        return RunFiles.from_json(self.server.ask("GET", self._run(run_id, "/outputs"), query={"attempt": attempt}))

    def read_file(self, run_id: str, file: KeptFile, start: int, end: int | None = None) -> Iterator[bytes]:
        path = self._run(run_id, "/files/" + "/".join(map(part_of_path, file.path.split("/"))))
        headers = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        with self.server.answer("GET", path, query={"attempt": file.attempt}, headers=headers) as response:
            yield from self.server.pieces(response)

    def read_files(self, run_id: str, files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        # Imported where several are wanted: start-up time.
        from launch_worker.api.tar_stream import contents

        query = {"attempt": files[0].attempt, "path": [file.path for file in files]}
        with self.server.answer("GET", self._run(run_id, "/files.tar"), query=query) as response:
            yield from contents(self.server.pieces(response), f"{run_id}/", files)

    def output(self, run_id: str, part: LogPart) -> Iterator[Piece]:
        check_part(part)
        pieces = self._pieces(run_id, part)
        # Errors are raised now, and not with the first piece that is taken.
        first = next(pieces, None)
        return iter(()) if first is None else chain((first,), pieces)

    def _pieces(self, run_id: str, part: LogPart) -> Iterator[Piece]:
        headers = {"Accept": "application/x-ndjson"}
        with self.server.answer("GET", self._run(run_id, "/logs"), query=part, headers=headers) as response:
            for line in self.server.lines(response):
                said = read_json(line)
                if "problem" in said:
                    raise error_of(said["problem"])
                gap = said.get("gap")
                yield Piece(_data(said), said["line"], None if gap is None else Gap(**gap))

    def newest_output(self, run_id: str, attempt: int) -> Log:
        said = self.server.ask("GET", self._run(run_id, "/logs/newest"), query={"attempt": attempt})
        return Log(_data(said), said["missing"], attempt=attempt, entry=said["entry"], end=said["end"])

    def follow(
        self,
        run_id: str,
        place: Place | None,
        *,
        logs: bool,
        attempt: int | None,
        deadline: float | None,
    ) -> Iterator[Seen]:
        query = {"logs": "true" if logs else "false", "attempt": attempt}
        headers = {"Accept": "text/event-stream"} | ({} if place is None else {"Last-Event-ID": place.to_text()})
        path = self._run(run_id, "/logs/tail")
        silence_s = SILENCE_S if deadline is None else min(SILENCE_S, max(0.01, deadline - time.monotonic()))
        try:
            with self.server.answer("GET", path, query=query, headers=headers, timeout_s=silence_s) as response:
                for kind, event_id, data in _events(self.server.lines(response)):
                    if kind == "problem":
                        raise error_of(data)
                    place = Place.of_text(event_id)
                    record = Record.from_json(data["run"]) if kind == "state" else None
                    state = RunState.parse(data["state"]) if kind == "state" and data["state"] else None
                    yield Seen(place, record, state, _data(data) if kind == "output" else b"", data.get("missing", 0))
                    if place.is_end:
                        return
                    if deadline is not None and time.monotonic() >= deadline:
                        return
            raise ServerUnavailableError(f"the server {self.server.url} ended the stream")
        except ServerUnavailableError:
            if deadline is None or time.monotonic() < deadline:
                raise

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> RunList:
        return _HttpList(self.server, wanted, order, per_page=per_page)

    def in_line(self, wanted: Filter, *, queue: str, limit: int) -> list[tuple[Record, int | None]]:
        query = {"filter": wanted.to_json(), "queue": queue or None, "limit": limit}
        said = self.server.ask("GET", "/runs/line", query=query)
        return [(Record.from_json(one["run"]), one["place"]) for one in said]

    def now_us(self) -> int:
        now = datetime.fromisoformat(self.server.ask("GET", "/time")["now"])
        return round(now.timestamp() * 1_000_000)

    # -- runs, steered ---------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None) -> CancelWord:
        word: CancelWord = self._act(run_id, "cancel", {"reason": reason, "grace_s": grace_s})["cancel"]
        return word

    def preempt(self, run_id: str, *, reason: str) -> None:
        self._act(run_id, "preempt", {"reason": reason})

    def retry(self, run_id: str, *, from_scratch: bool = False, not_on_same_worker: bool = False) -> None:
        how = {"from_scratch": from_scratch, "not_on_same_worker": not_on_same_worker}
        self._act(run_id, "retry", {name: True for name, is_asked in how.items() if is_asked})

    def confirm_ended(self, run_id: str) -> Record:
        return Record.from_json(self._act(run_id, "confirm", {}))

    def delete(self, run_id: str) -> None:
        self.server.ask("DELETE", self._run(run_id))

    def act_on_many(
        self, act: ManyAct, run_ids: Sequence[str], *, reason: str, grace_s: float | None
    ) -> Iterator[Done]:
        more = {"reason": reason, "grace_s": grace_s} if act == "cancel" else {}
        for start in range(0, len(run_ids), _IDS):
            body = {"ids": list(run_ids[start : start + _IDS]), **more}
            for one in self.server.ask("POST", f"/runs/acts/{act}", body=body)["runs"]:
                problem = one["problem"]
                yield Done(one["id"], one["done"], None if problem is None else error_of(problem))

    def _act(self, run_id: str, word: str, body: Mapping[str, Any]) -> Any:
        return self.server.ask("POST", self._run(run_id, f"/{word}"), body=body)


class _HttpList:
    """One list, read page by page."""

    def __init__(self, server: HttpConnection, wanted: Filter, order: Order, *, per_page: int) -> None:
        self._server = server
        self._query = {"filter": wanted.to_json(), "order": order.text}
        # A server sorts by another order anew for each page.
        self._per_page = per_page if order.is_by_creation else max(per_page, _LARGE_PAGE)
        self.notices: list[str] = []

    def records(self) -> Iterator[Record]:
        after: str | None = None
        while True:
            query = self._query | {"limit": self._per_page, "after": after}
            said = self._server.ask("GET", "/runs", query=query)
            self.notices += [notice for notice in said["notices"] if notice not in self.notices]
            yield from map(Record.from_json, said["runs"])
            after = said["next"]
            if after is None:
                return

    def count(self) -> int | None:
        said = self._server.ask("GET", "/runs/count", query={"filter": self._query["filter"]})
        self.notices += [notice for notice in said["notices"] if notice not in self.notices]
        count: int | None = said["count"]
        return count

    def counts(self, by: Sequence[str]) -> dict[tuple[str, ...], int]:
        query = {"filter": self._query["filter"], "by": ",".join(by)}
        said = self._server.ask("GET", "/runs/counts", query=query)
        self.notices += [notice for notice in said["notices"] if notice not in self.notices]
        return {tuple(one["values"]): one["count"] for one in said["counts"]}


def _data(said: Mapping[str, Any]) -> bytes:
    """The bytes of some output: as text where it is UTF-8, else as base64."""
    if said.get("base64") is not None:
        return base64.b64decode(said["base64"])
    return str(said["text"]).encode()


def _events(lines: Iterator[bytes]) -> Iterator[tuple[str, str, Any]]:
    """Kind, id and data of each server-sent event."""
    kind = event_id = ""
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif name == "data":
            yield kind, event_id, read_json(value)
            kind = ""
