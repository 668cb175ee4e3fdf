"""Keeps channels and rules in the database, as admins set them; each change is a line of the audit."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from launch_worker.database.audit import DONE, write_act
from launch_worker.database.database import Database
from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.notifications.channel import (
    APPRISE,
    WEBHOOK,
    Channel,
    QuietHours,
    check_address,
    check_channel_name,
    hint_of,
    new_secret,
    read_projects,
)
from launch_worker.notifications.message import of_test
from launch_worker.notifications.rule import CONDITIONS, Condition, Rule
from launch_worker.notifications.schema import alarms, channels, rules
from launch_worker.notifications.senders.by_apprise import check_with_apprise
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.senders.senders import Senders
from launch_worker.untrusted.text import read_map


class Channels:
    """The channels of one database. Methods raise InputError, RefusedError, ArchiveError."""

    def __init__(
        self, database: Database, *, actor: str = "", address: str = "", senders: Senders | None = None
    ) -> None:
        """`actor`: person who makes changes, and `address`: where that person asks from; `senders` send tests."""
        self._database = database
        self._senders = senders
        self._actor = actor
        self._address = address

    def all(self) -> list[Channel]:
        """All channels, by name, with addresses and secrets: for those who send."""
        with self._database.reading() as connection:
            return [_channel(row) for row in connection.execute(select(channels).order_by(channels.c.name))]

    def get(self, name: str) -> Channel:
        """The channel of this name, with address and secret. Raises NotFoundError."""
        with self._database.reading() as connection:
            return _channel(_row(connection, name))

    def shown(self) -> list[Channel]:
        """All channels, by name, as people may see them."""
        return [replace(one, address="", secret="") for one in self.all()]

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
        """Make a channel. Returns it as people may see it, and a webhook's secret, which is shown this once."""
        name, address = check_channel_name(name), check_address(kind, address)
        hours = QuietHours.parse(quiet)
        if kind == APPRISE:
            check_with_apprise(address)
        given = {one: states for one, states in read_projects(projects).items() if states is not None}
        secret = new_secret() if kind == WEBHOOK else ""
        with self._database.writing() as connection:
            if connection.execute(select(channels.c.name).where(channels.c.name == name)).first() is not None:
                raise InputError(
                    f"there is a channel {name} already; change it with: launch-worker channels set {name}"
                )
            connection.execute(
                insert(channels).values(
                    name=name,
                    kind=kind,
                    address=address,
                    secret=secret,
                    has_output=has_output,
                    quiet=str(hours or ""),
                    projects=json.dumps(given),
                    created_at=time.time_ns() // 1000,
                    created_by=self._actor,
                )
            )
            detail = {"kind": kind, "output": has_output, "quiet": str(hours or "none"), "projects": given}
            self._note(connection, "created", name, detail)
            return replace(_channel(_row(connection, name)), address="", secret=""), secret

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
        """Change what is given. Returns the channel as people may see it, and its new secret, '' for none."""
        changed = read_projects(projects)
        with self._database.writing() as connection:
            before = _channel(_row(connection, name))
            values: dict[str, Any] = {}
            detail: dict[str, Any] = {}
            secret = ""
            if address is not None:
                values["address"] = check_address(before.kind, address)
                if before.kind == APPRISE:
                    check_with_apprise(address)
                detail["address"] = "changed"
            if has_output is not None:
                values["has_output"] = detail["output"] = has_output
            if quiet is not None:
                values["quiet"] = str(QuietHours.parse(quiet) or "")
                detail["quiet"] = values["quiet"] or "none"
            if changed:
                kept = {one: states for one, states in {**before.projects, **changed}.items() if states is not None}
                values["projects"] = json.dumps(kept)
                detail["projects"] = {one: "none" if states is None else states for one, states in changed.items()}
            if has_new_secret:
                if before.kind != WEBHOOK:
                    raise InputError(f"only a channel of kind {WEBHOOK} has a secret; {name} is of kind {before.kind}")
                values["secret"] = secret = new_secret()
                detail["secret"] = "changed"
            if not values:
                raise InputError("nothing to change was given; see: launch-worker channels set --help")
            connection.execute(update(channels).where(channels.c.name == name).values(values))
            self._note(connection, "changed", name, detail)
            return replace(_channel(_row(connection, name)), address="", secret=""), secret

    def delete(self, name: str) -> None:
        """Delete a channel. Raises RefusedError while a rule tells it something."""
        with self._database.writing() as connection:
            _row(connection, name)
            told = connection.execute(select(rules.c.name).where(rules.c.channel == name)).scalars().first()
            if told is not None:
                raise RefusedError(
                    f"the rule {told} tells the channel {name}; delete it first: launch-worker rules delete {told}"
                )
            connection.execute(delete(channels).where(channels.c.name == name))
            self._note(connection, "deleted", name)

    def test(self, name: str) -> None:
        """Send a test to a channel now, from here. Raises RefusedError that says why it was not sent."""
        channel = self.get(name)
        try:
            if self._senders is not None:
                self._senders.send(channel, of_test(f"test-{secrets.token_hex(8)}", time.time_ns() // 1000))
        except SendError as error:
            raise RefusedError(f"the test was not sent: {error}") from None
        with self._database.writing() as connection:
            self._note(connection, "tested", name)

    # Rules

    def rules(self) -> list[Rule]:
        """All rules, by name, with what they find now; those of a newer release are left out."""
        with self._database.reading() as connection:
            found = select(alarms.c.rule, func.count(), func.min(alarms.c.since)).group_by(alarms.c.rule)
            now = {rule: (count, since) for rule, count, since in connection.execute(found)}
            query = select(rules).where(rules.c.condition.in_(CONDITIONS)).order_by(rules.c.name)
            return [_rule(row, *now.get(row.name, (0, None))) for row in connection.execute(query)]

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
        """Make a rule. `seconds`: for how long it must be so; None for the condition's default."""
        rule = Rule.checked(name, condition, channel, seconds=seconds, queue=queue, project=project)
        rule = replace(rule, created_at=time.time_ns() // 1000, created_by=self._actor)
        with self._database.writing() as connection:
            _row(connection, channel)
            if connection.execute(select(rules.c.name).where(rules.c.name == name)).first() is not None:
                raise InputError(f"there is a rule {name} already; delete it first: launch-worker rules delete {name}")
            values = {
                column.name: getattr(rule, column.name) for column in rules.c if column.name != rules.c.condition.name
            }
            connection.execute(insert(rules).values(condition=rule.condition.value, **values))
            self._note(connection, "created", name, {"when": rule.says(), "channel": channel}, kind="rule")
        return rule

    def delete_rule(self, name: str) -> None:
        """Delete a rule, and what it remembers. Raises NotFoundError."""
        with self._database.writing() as connection:
            if not connection.execute(delete(rules).where(rules.c.name == name)).rowcount:
                raise NotFoundError(f"there is no rule {name[:100]}; see: launch-worker rules")
            connection.execute(delete(alarms).where(alarms.c.rule == name))
            self._note(connection, "deleted", name, kind="rule")

    def _note(
        self,
        connection: Connection,
        what: str,
        target: str,
        detail: Mapping[str, Any] | None = None,
        *,
        kind: str = "channel",
    ) -> None:
        write_act(
            connection,
            actor=self._actor,
            what=what,
            kind=kind,
            target=target,
            address=self._address,
            detail=detail,
            result=DONE,
        )


def _row(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(select(channels).where(channels.c.name == name)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no channel {name[:100]}; see: launch-worker channels")
    return row


def _channel(row: Row[Any]) -> Channel:
    projects = read_map(row.projects)
    return Channel(
        name=row.name,
        kind=row.kind,
        address=row.address,
        secret=row.secret,
        hint=hint_of(row.kind, row.address),
        has_output=row.has_output,
        quiet=QuietHours.parse(row.quiet),
        projects={name: tuple(map(str, states)) for name, states in projects.items() if isinstance(states, list)},
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _rule(row: Row[Any], findings: int, since: int | None) -> Rule:
    names = ("name", "seconds", "channel", "queue", "project", "created_at", "created_by")
    known = {name: getattr(row, name) for name in names}
    return Rule(condition=Condition(row.condition), findings=findings, since=since, **known)
