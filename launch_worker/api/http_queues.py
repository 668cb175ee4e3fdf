"""Reads and configures queues, pools and allowances through a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from launch_worker.api.http_answers import known, path_of
from launch_worker.api.http_connection import part_of_path
from launch_worker.api.http_submitter import HttpSubmitter
from launch_worker.api.transport import Kind
from launch_worker.model.allowance import Allowance
from launch_worker.queues.described import Pool, Queue


class HttpQueues(HttpSubmitter):
    """The part of the transport through a server that is about queues. `Transport` documents it."""

    def queue_names(self) -> list[str]:
        return [queue.name for queue in self.queues()]

    def queues(self) -> list[Queue]:
        return [_queue(said) for said in self.server.ask("GET", "/queues")["queues"]]

    def queue(self, name: str) -> Queue:
        return _queue(self.server.ask("GET", path_of("queues", name)))

    def pools(self) -> list[Pool]:
        return [_pool(said) for said in self.server.ask("GET", "/pools")["pools"]]

    def pool(self, name: str) -> Pool:
        return _pool(self.server.ask("GET", path_of("pools", name)))

    def configure(self, kind: Kind, name: str, settings: Mapping[str, Any], *, create: bool) -> None:
        if create:
            self.server.ask("POST", f"/{kind}s", body={"name": name, **settings})
        else:
            self.server.ask("PATCH", path_of(f"{kind}s", name), body=dict(settings))

    def pause(self, kind: Kind, name: str, *, paused: bool) -> None:
        self.server.ask("POST", path_of(f"{kind}s", name, "pause" if paused else "resume"))

    def drop(self, kind: Kind, name: str) -> None:
        self.server.ask("DELETE", path_of(f"{kind}s", name))

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
    return known(Queue, {**said, **texts, "settings": settings})


def _pool(said: Mapping[str, Any]) -> Pool:
    settings = _settings(said, {})
    texts = {"problem": said["problem"] or "", "config_json": json.dumps(settings)}
    return known(Pool, {**said, **texts, "queues": tuple(said["queues"]), "settings": settings})


def _settings(said: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an admin has set, of which one that is empty is none."""
    shown = {"description": said["description"], "defaults": said["defaults"], **more}
    return {name: value for name, value in shown.items() if value not in (None, {}, [])}
