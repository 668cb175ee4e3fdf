"""Joins the parts of the way to a launch system through its server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from launch_worker.api.http_answers import known, path_of
from launch_worker.api.http_connection import SILENCE_S
from launch_worker.api.http_groups import HttpGroups
from launch_worker.api.http_queues import HttpQueues
from launch_worker.api.http_runs import HttpRuns
from launch_worker.errors import NotFoundError, ServerUnavailableError
from launch_worker.model.finding import Finding
from launch_worker.model.totals import By, Total
from launch_worker.model.units import isoformat
from launch_worker.model.worker import WorkerOrder
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import TrustedKey
from launch_worker.untrusted.text import read_map


class HttpTransport(HttpRuns, HttpGroups, HttpQueues):
    """The transport through a server. `Transport` documents it."""

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
        told: int = self.server.ask("POST", path_of("workers", worker, word))["told"]
        return told

    def schedules(self) -> list[tuple[str, str, int]]:
        found = self.server.ask("GET", "/schedules")["schedules"]
        return [(said["name"], json.dumps(said["schedule"]), said["next_us"]) for said in found]

    def schedule(self, name: str) -> tuple[str, int] | None:
        try:
            said = self.server.ask("GET", path_of("schedules", name))
        except NotFoundError:
            return None
        return json.dumps(said["schedule"]), said["next_us"]

    def trusted_keys(self) -> list[TrustedKey]:
        return [TrustedKey.from_json(one) for one in self.server.ask("GET", "/keys")["keys"]]

    def trust_key(self, key: str, *, name: str, is_server: bool) -> TrustedKey:
        path = path_of("keys", read_public(key, "sign").id)
        return TrustedKey.from_json(self.server.ask("PUT", path, body={"key": key, "name": name, "server": is_server}))

    def revoke_key(self, word: str) -> TrustedKey:
        return TrustedKey.from_json(self.server.ask("POST", path_of("keys", word, "revoke")))

    def keep_schedule(self, name: str, text: str, next_us: int) -> tuple[str, int]:
        # The server knows the user, and says the next time itself.
        kept = {key: value for key, value in read_map(text).items() if key not in ("user", "user_groups")}
        said = self.server.ask("PUT", path_of("schedules", name), body=kept)
        return json.dumps(said["schedule"]), said["next_us"]

    def pause_schedule(self, name: str, *, paused: bool) -> bool:
        try:
            self.server.ask("POST", path_of("schedules", name, "pause" if paused else "resume"))
        except NotFoundError:
            return False
        return True

    def delete_schedule(self, name: str) -> bool:
        try:
            self.server.ask("DELETE", path_of("schedules", name))
        except NotFoundError:
            return False
        return True

    def acts(self, *, who: str, what: str, target: str, since_us: int | None, limit: int) -> list[dict[str, Any]]:
        query = {"who": who, "what": what, "target": target, "since": isoformat(since_us), "limit": limit}
        acts: list[dict[str, Any]] = self.server.ask("GET", "/audit", query=query)["acts"]
        return acts

    def sums(
        self, by: Sequence[By], *, since_us: int, until_us: int | None, project: str
    ) -> list[tuple[tuple[str, ...], Total]]:
        query = {"by": list(by), "since": isoformat(since_us), "until": isoformat(until_us), "project": project}
        found = self.server.ask("GET", "/usage", query=query)["sums"]
        return [(tuple(said[way] for way in by), known(Total, said)) for said in found]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.server.ask("GET", "/status")
        return status

    def listen(self, *, on_news: Callable[[], None], stopped: Callable[[], bool]) -> None:
        headers = {"Accept": "text/event-stream"}
        with self.server.answer("GET", "/events", headers=headers, timeout_s=SILENCE_S) as response:
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
