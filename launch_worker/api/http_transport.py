"""The way to a launch system through its server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from launch_worker.api.filters import Filter, Order
from launch_worker.api.http_connection import error_of, part_of_path
from launch_worker.api.http_submitter import HttpSubmitter
from launch_worker.api.naming import Meant
from launch_worker.api.transport import Kind, LogPart, Place, RunList, Seen, check_part
from launch_worker.errors import NotFoundError, ServerUnavailableError, UnknownRunError
from launch_worker.ids import check_run_id
from launch_worker.model.allowance import Allowance
from launch_worker.model.finding import Finding
from launch_worker.model.group import GroupRecord
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Gap, Log, Piece
from launch_worker.model.many import Done, ManyAct
from launch_worker.model.run import Record
from launch_worker.model.run_files import KeptFile, RunFiles
from launch_worker.model.states import RunState
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial
from launch_worker.model.totals import By, Total
from launch_worker.model.units import isoformat
from launch_worker.model.usage import Measured
from launch_worker.model.worker import WorkerOrder
from launch_worker.queues.described import Pool, Queue
from launch_worker.store.answers import CancelWord
from launch_worker.submission.options import Item
from launch_worker.submission.sent import Sent
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import TrustedKey
from launch_worker.untrusted.text import read_json, read_map

if TYPE_CHECKING:
    from launch_worker.model.explanation import Explanation

#: Runs of one page where all must be read before the first is known.
_LARGE_PAGE = 1000
#: Ids of one question.
_IDS = 100
#: Seconds of one wait at the server for news of a group or sweep.
_WAIT_S = 20.0
#: Seconds without any byte of a stream, whose server says something every 15 s, after which it is gone.
_SILENCE_S = 40.0

T = TypeVar("T")


class HttpTransport(HttpSubmitter):
    """The transport through a server. `Transport` documents it."""

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
        return iter(()) if first is None else _chained(first, pieces)

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
        silence_s = _SILENCE_S if deadline is None else min(_SILENCE_S, max(0.01, deadline - time.monotonic()))
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
        return _HttpList(self, wanted, order, per_page=per_page)

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

    # -- groups ----------------------------------------------------------------------------------------------------

    def group(self, group_id: str) -> GroupRecord | None:
        try:
            said = self.server.ask("GET", _group(group_id))
        except UnknownRunError:
            return None
        return _known(GroupRecord, said)

    def known_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        if not group_ids:
            return {}
        said = self.server.ask("GET", "/run-groups", query={"ids": ",".join(group_ids)})["groups"]
        return {group_id: _known(GroupRecord, one) for group_id, one in said.items()}

    def group_runs(self, group: GroupRecord, *, skip: int, limit: int) -> list[str]:
        said = self.server.ask("GET", _group(group.id, "/runs"), query={"skip": skip, "limit": limit})
        ids: list[str] = said["ids"]
        return ids

    def follow_group(self, group_id: str, *, deadline: float | None) -> Iterator[GroupRecord]:
        while (record := self.group(group_id)) is not None:
            yield record
            if record.is_over or (deadline is not None and time.monotonic() >= deadline):
                return
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            self.server.ask("GET", _group(group_id, "/wait"), query={"timeout": max(0.0, left_s)})

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        said = self.server.ask("POST", _group(group.id, "/cancel"), body={"reason": reason, "grace_s": grace_s})
        return said["killed"], said["requested"]

    def retry_group(self, group: GroupRecord, *, only_failed: bool, not_on_same_worker: bool = False) -> int:
        # A server of the release before refuses a word that it does not know.
        more = {"not_on_same_worker": True} if not_on_same_worker else {}
        how = {"only_failed": only_failed, **more}
        retried: int = self.server.ask("POST", _group(group.id, "/retry"), body=how)["retried"]
        return retried

    # -- queues and pools ------------------------------------------------------------------------------------------

    def queue_names(self) -> list[str]:
        return [queue.name for queue in self.queues()]

    def queues(self) -> list[Queue]:
        return [_queue(said) for said in self.server.ask("GET", "/queues")["queues"]]

    def queue(self, name: str) -> Queue:
        return _queue(self.server.ask("GET", _path("queues", name)))

    def pools(self) -> list[Pool]:
        return [_pool(said) for said in self.server.ask("GET", "/pools")["pools"]]

    def pool(self, name: str) -> Pool:
        return _pool(self.server.ask("GET", _path("pools", name)))

    def configure(self, kind: Kind, name: str, settings: Mapping[str, Any], *, create: bool) -> None:
        if create:
            self.server.ask("POST", f"/{kind}s", body={"name": name, **settings})
        else:
            self.server.ask("PATCH", _path(f"{kind}s", name), body=dict(settings))

    def pause(self, kind: Kind, name: str, *, paused: bool) -> None:
        self.server.ask("POST", _path(f"{kind}s", name, "pause" if paused else "resume"))

    def drop(self, kind: Kind, name: str) -> None:
        self.server.ask("DELETE", _path(f"{kind}s", name))

    # -- workers, sweeps, schedules, the whole ---------------------------------------------------------------------

    def workers(self) -> list[dict[str, Any]]:
        return self.live_workers()

    def gone_workers(self) -> list[dict[str, Any]]:
        try:
            gone: list[dict[str, Any]] = self.server.ask("GET", "/workers/gone")["workers"]
        except NotFoundError:
            # An older server.
            return []
        return gone

    def order(self, worker: str, word: WorkerOrder) -> int:
        told: int = self.server.ask("POST", _path("workers", worker, word))["told"]
        return told

    def create_sweep(self, sweep_id: str, fields: Mapping[str, str | int]) -> str:
        body = {name: fields[name] for name in ("name", "workers", "seed")} | {
            "id": sweep_id,
            "cap": fields["cap"] or None,
            "config": read_map(str(fields["config"])),
            "given": read_map(str(fields["given"])),
        }
        return str(self.server.ask("POST", "/sweeps", body=body, is_repeatable=True)["id"])

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        try:
            return _sweep(self.server.ask("GET", _path("sweeps", sweep_id)))
        except NotFoundError:
            return None

    def sweeps(self) -> list[SweepRecord]:
        return [_sweep(said) for said in self.server.ask("GET", "/sweeps")["sweeps"]]

    def trials(self, sweep_id: str) -> list[Trial]:
        return [
            _known(Trial, said | {"curve": tuple((step, value) for step, value in said["curve"])})
            for said in self.server.ask("GET", _path("sweeps", sweep_id, "trials"))["trials"]
        ]

    def steer_sweep(self, sweep_id: str, word: SweepOrder, *, reason: str) -> tuple[bool, str]:
        # The server says who it was.
        said = self.server.ask("POST", _path("sweeps", sweep_id, word))
        return said["done"], said["state"]

    def follow_sweep(self, sweep_id: str, *, deadline: float | None) -> Iterator[SweepRecord]:
        record = self.sweep(sweep_id)
        while record is not None:
            yield record
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            if record.is_over or left_s <= 0:
                return
            query = {"state": record.state, "timeout": left_s}
            try:
                record = _sweep(self.server.ask("GET", _path("sweeps", sweep_id, "wait"), query=query))
            except NotFoundError:
                return

    def schedules(self) -> list[tuple[str, str, int]]:
        found = self.server.ask("GET", "/schedules")["schedules"]
        return [(said["name"], json.dumps(said["schedule"]), said["next_us"]) for said in found]

    def schedule(self, name: str) -> tuple[str, int] | None:
        try:
            said = self.server.ask("GET", _path("schedules", name))
        except NotFoundError:
            return None
        return json.dumps(said["schedule"]), said["next_us"]

    def trusted_keys(self) -> list[TrustedKey]:
        return [TrustedKey.from_json(one) for one in self.server.ask("GET", "/keys")["keys"]]

    def trust_key(self, key: str, *, name: str, is_server: bool) -> TrustedKey:
        path = _path("keys", read_public(key, "sign").id)
        return TrustedKey.from_json(self.server.ask("PUT", path, body={"key": key, "name": name, "server": is_server}))

    def revoke_key(self, word: str) -> TrustedKey:
        return TrustedKey.from_json(self.server.ask("POST", _path("keys", word, "revoke")))

    def keep_schedule(self, name: str, text: str, next_us: int) -> tuple[str, int]:
        # The server knows the user, and says the next time itself.
        kept = {key: value for key, value in read_map(text).items() if key not in ("user", "user_groups")}
        said = self.server.ask("PUT", _path("schedules", name), body=kept)
        return json.dumps(said["schedule"]), said["next_us"]

    def pause_schedule(self, name: str, *, paused: bool) -> bool:
        try:
            self.server.ask("POST", _path("schedules", name, "pause" if paused else "resume"))
        except NotFoundError:
            return False
        return True

    def delete_schedule(self, name: str) -> bool:
        try:
            self.server.ask("DELETE", _path("schedules", name))
        except NotFoundError:
            return False
        return True

    def allowances(self) -> list[Allowance]:
        return [Allowance(**one) for one in self.server.ask("GET", "/allowances")["allowances"]]

    def allow(self, name: str, *, waiting: int | None, running: int | None, gpus: int | None) -> bool:
        path = f"/allowances/{part_of_path(name)}"
        if waiting is None and running is None and gpus is None:
            self.server.ask("DELETE", path)
            return False
        is_new = not any(one.name == name for one in self.allowances())
        self.server.ask("PUT", path, body={"waiting": waiting, "running": running, "gpus": gpus})
        return is_new

    def acts(self, *, who: str, what: str, target: str, since_us: int | None, limit: int) -> list[dict[str, Any]]:
        query = {"who": who, "what": what, "target": target, "since": isoformat(since_us), "limit": limit}
        acts: list[dict[str, Any]] = self.server.ask("GET", "/audit", query=query)["acts"]
        return acts

    def sums(
        self, by: Sequence[By], *, since_us: int, until_us: int | None, project: str
    ) -> list[tuple[tuple[str, ...], Total]]:
        query = {"by": list(by), "since": isoformat(since_us), "until": isoformat(until_us), "project": project}
        found = self.server.ask("GET", "/usage", query=query)["sums"]
        return [(tuple(said[way] for way in by), _known(Total, said)) for said in found]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.server.ask("GET", "/status")
        return status

    def listen(self, *, on_news: Callable[[], None], stopped: Callable[[], bool]) -> None:
        headers = {"Accept": "text/event-stream"}
        with self.server.answer("GET", "/events", headers=headers, timeout_s=_SILENCE_S) as response:
            on_news()
            for line in self.server.lines(response):
                if stopped():
                    return
                if line.startswith(b"event: problem"):
                    break
                if line.startswith(b"event: "):
                    on_news()
        raise ServerUnavailableError(f"the server {self.server.url} ended the stream")

    def findings(self) -> Iterator[Finding]:
        for said in self.server.ask("GET", "/problems")["findings"]:
            yield Finding(said["level"], said["name"], said["cause"], said["advice"] or "")


class _HttpList:
    """One list, read page by page."""

    def __init__(self, transport: HttpTransport, wanted: Filter, order: Order, *, per_page: int) -> None:
        self._transport = transport
        self._query = {"filter": wanted.to_json(), "order": order.text}
        # A server sorts by another order anew for each page.
        self._per_page = per_page if order.is_by_creation else max(per_page, _LARGE_PAGE)
        self.notices: list[str] = []

    def records(self) -> Iterator[Record]:
        after: str | None = None
        while True:
            query = self._query | {"limit": self._per_page, "after": after}
            said = self._transport.server.ask("GET", "/runs", query=query)
            self.notices += [notice for notice in said["notices"] if notice not in self.notices]
            yield from map(Record.from_json, said["runs"])
            after = said["next"]
            if after is None:
                return

    def count(self) -> int | None:
        said = self._transport.server.ask("GET", "/runs/count", query={"filter": self._query["filter"]})
        self.notices += [notice for notice in said["notices"] if notice not in self.notices]
        count: int | None = said["count"]
        return count

    def counts(self, by: Sequence[str]) -> dict[tuple[str, ...], int]:
        query = {"filter": self._query["filter"], "by": ",".join(by)}
        said = self._transport.server.ask("GET", "/runs/counts", query=query)
        self.notices += [notice for notice in said["notices"] if notice not in self.notices]
        return {tuple(one["values"]): one["count"] for one in said["counts"]}


def _group(group_id: str, rest: str = "") -> str:
    return f"/run-groups/{part_of_path(group_id)}{rest}"


def _chained(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield from rest


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


def _path(*parts: str) -> str:
    return "".join(f"/{part_of_path(part)}" for part in parts)


def _known(kind: type[T], said: Mapping[str, Any]) -> T:
    """The value of what a server says, which may say more when it is newer."""
    names = {of.name for of in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in said.items() if name in names})


def _sweep(said: Mapping[str, Any]) -> SweepRecord:
    texts = {name: json.dumps(said[name]) for name in ("config", "given")}
    return _known(SweepRecord, {**said, **texts})


#: Settings of a queue beside those that a pool has too; a server of an older release says fewer.
_OF_QUEUES = (
    *("resource", "container", "variables", "macro_env", "allow_env", "allow_uris"),
    *("sandbox", "writable", "run_as", "accounts", "limits", "sealing_key", "signers"),
)


def _queue(said: Mapping[str, Any]) -> Queue:
    settings = _settings(said, {name: said.get(name) for name in _OF_QUEUES})
    if not said["priorities"]:
        settings["priorities"] = False
    texts = {"pool": said["pool"] or "", "problem": said["problem"] or "", "config_json": json.dumps(settings)}
    return _known(Queue, {**said, **texts, "settings": settings})


def _pool(said: Mapping[str, Any]) -> Pool:
    settings = _settings(said, {})
    texts = {"problem": said["problem"] or "", "config_json": json.dumps(settings)}
    return _known(Pool, {**said, **texts, "queues": tuple(said["queues"]), "settings": settings})


def _settings(said: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an admin has set, of which one that is empty is none."""
    shown = {"description": said["description"], "defaults": said["defaults"], **more}
    return {name: value for name, value in shown.items() if value not in (None, {}, [])}
