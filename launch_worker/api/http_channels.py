"""Sets channels and rules through a server, by the methods of `notifications.channels.Channels`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from launch_worker.api.http_connection import HttpConnection, part_of_path
from launch_worker.notifications.channel import Channel
from launch_worker.notifications.rule import Rule


class HttpChannels:
    """The channels of a server, as whoever has the login may set them. `Channels` documents it."""

    def __init__(self, server: HttpConnection) -> None:
        self._server = server

    def shown(self) -> list[Channel]:
        return [Channel.from_json(one) for one in self._server.ask("GET", "/channels")["channels"]]

    def add(
        self,
        name: str,
        kind: str,
        address: str,
        *,
        has_output: bool = True,
        quiet: str = "",
        projects: Iterable[str] = (),
    ) -> tuple[Channel, str]:
        body = {"name": name, "kind": kind, "address": address, "output": has_output, "quiet": quiet or None}
        made = self._server.ask("POST", "/channels", body={**body, "projects": list(projects)})
        return Channel.from_json(made), made["secret"] or ""

    def set(
        self,
        name: str,
        *,
        address: str | None = None,
        has_output: bool | None = None,
        quiet: str | None = None,
        projects: Iterable[str] = (),
        has_new_secret: bool = False,
    ) -> tuple[Channel, str]:
        body: dict[str, Any] = {"address": address, "output": has_output, "quiet": quiet, "new_secret": has_new_secret}
        path = f"/channels/{part_of_path(name)}"
        # A repeated request would make another secret, of which the first answer does not tell.
        changed = self._server.ask(
            "PATCH", path, body={**body, "projects": list(projects)}, is_repeatable=not has_new_secret
        )
        return Channel.from_json(changed), changed["secret"] or ""

    def test(self, name: str) -> None:
        self._server.ask("POST", f"/channels/{part_of_path(name)}/test")

    def delete(self, name: str) -> None:
        self._server.ask("DELETE", f"/channels/{part_of_path(name)}")

    def rules(self) -> list[Rule]:
        return [Rule.from_json(one) for one in self._server.ask("GET", "/rules")["rules"]]

    def add_rule(
        self,
        name: str,
        condition: str,
        channel: str,
        *,
        seconds: float | None = None,
        queue: str = "",
        project: str = "",
    ) -> Rule:
        duration = None if seconds is None else f"{seconds:f}s"
        body = {"name": name, "when": condition, "channel": channel, "duration": duration}
        return Rule.from_json(self._server.ask("POST", "/rules", body={**body, "queue": queue, "project": project}))

    def delete_rule(self, name: str) -> None:
        self._server.ask("DELETE", f"/rules/{part_of_path(name)}")
