"""Reads the users file, and makes what the database has of it equal: users, groups, roles, private projects.

The file is TOML, with argon2 hashes of passwords. It is read at the server's start. What it no longer has is taken
away: its users are disabled, and its roles and memberships are deleted. What admins set by commands stays.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from launch_worker.database.audit import DONE, write_act
from launch_worker.database.database import Database
from launch_worker.errors import InputError, SettingsError
from launch_worker.people.directory import BY_FILE
from launch_worker.people.names import check_name, check_project
from launch_worker.people.passwords import is_hash
from launch_worker.people.roles import Role
from launch_worker.people.schema import groups, members, projects, roles, sessions, users
from launch_worker.untrusted.ownership import read_ours

_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class FileUser:
    password: str = ""
    display: str = ""
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UsersFile:
    """What a users file says."""

    users: Mapping[str, FileUser] = field(default_factory=dict)
    #: Names of the groups, those of the users included.
    groups: frozenset[str] = frozenset()
    #: Names of the private projects.
    private: frozenset[str] = frozenset()
    #: Kind and name of the holder, and the project ('' for the system), with the role.
    roles: Mapping[tuple[str, str, str], Role] = field(default_factory=dict)


def read_users_file(path: Path) -> UsersFile:
    """Read and check a file. Raises SettingsError with a sentence that names the place."""
    try:
        raw, why_foreign = read_ours(path)
    except OSError as error:
        raise SettingsError(f"the users file {path} cannot be read: {error.strerror}") from None
    if why_foreign:
        # Whoever can write it can become an admin.
        raise SettingsError(f"the users file is not read: {why_foreign}")
    if len(raw) > _MOST_BYTES:
        raise SettingsError(f"the users file {path} has more than {_MOST_BYTES >> 20} MiB")
    try:
        return parse_users_file(tomllib.loads(raw.decode()))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"the users file {path} is no TOML: {error}") from None
    except InputError as error:
        raise SettingsError(f"the users file {path}: {error}") from None


def parse_users_file(content: Mapping[str, Any]) -> UsersFile:
    """Check the content of a file. Raises InputError."""
    given: dict[tuple[str, str, str], Role] = {}
    found: dict[str, FileUser] = {}
    named: set[str] = set()
    private: set[str] = set()
    _check_keys("the file", content, {"users", "groups", "projects"})
    for name, fields in _tables(content, "users"):
        place = f"user {name}"
        name = check_name("user", name)
        _check_keys(place, fields, {"password", "display", "groups", "role", "projects"})
        password = _text(place, fields, "password")
        if password and not is_hash(password):
            raise InputError(f"{place}: password must be an argon2id hash; make one with: launch-worker users hash")
        said = fields.get("groups", [])
        if not isinstance(said, list) or not all(isinstance(group, str) for group in said):
            raise InputError(f"{place}: groups must be a list of names")
        joined = frozenset(check_name("group", group) for group in said)
        named |= joined
        found[name] = FileUser(password=password, display=_text(place, fields, "display"), groups=joined)
        _read_roles(given, place, "user", name, fields)
    for name, fields in _tables(content, "groups"):
        place = f"group {name}"
        name = check_name("group", name)
        _check_keys(place, fields, {"role", "projects"})
        named.add(name)
        _read_roles(given, place, "group", name, fields)
    for name, fields in _tables(content, "projects"):
        _check_keys(f"project {name}", fields, {"private"})
        is_private = fields.get("private", False)
        if not isinstance(is_private, bool):
            raise InputError(f"project {name}: private must be true or false")
        if is_private:
            private.add(check_project(name))
    return UsersFile(found, frozenset(named), frozenset(private), given)


def apply_users_file(database: Database, file: UsersFile) -> None:
    """Make what the database has of the file equal to it, in one transaction; write only what differs."""
    with database.writing() as connection:
        changed = _Applying(connection, file).apply()
        if changed:
            write_act(
                connection,
                actor="",
                what="read",
                kind="users file",
                target="",
                detail={"changes": changed},
                result=DONE,
            )


class _Applying:
    """Compares the rows of the source `file` with the file, table by table."""

    def __init__(self, connection: Connection, file: UsersFile) -> None:
        self._connection = connection
        self._file = file
        self._now = time.time_ns() // 1000
        self._changes = 0

    def apply(self) -> int:
        """Returns the number of changes."""
        self._users()
        self._rows(members, {(group, name) for name, user in self._file.users.items() for group in user.groups})
        self._roles()
        self._groups()
        self._projects()
        return self._changes

    def _users(self) -> None:
        found = {row.name: row for row in self._connection.execute(select(users))}
        for name, user in self._file.users.items():
            row = found.get(name)
            wanted = {"password": user.password, "display": user.display, "source": BY_FILE, "disabled_at": None}
            if row is None:
                self._change(insert(users).values(name=name, created_at=self._now, created_by="users file", **wanted))
            elif any(getattr(row, column) != value for column, value in wanted.items()):
                self._change(update(users).where(users.c.name == name).values(wanted))
                if row.password != user.password:
                    self._connection.execute(delete(sessions).where(sessions.c.user_name == name))
        for name, row in found.items():
            if row.source == BY_FILE and name not in self._file.users and row.disabled_at is None:
                self._change(update(users).where(users.c.name == name).values(disabled_at=self._now))
                self._connection.execute(delete(sessions).where(sessions.c.user_name == name))

    def _rows(self, table: Any, wanted: set[tuple[str, str]]) -> None:
        mine = table.c.source == BY_FILE
        keys = (table.c.group_name, table.c.user_name)
        there = {tuple(row) for row in self._connection.execute(select(*keys).where(mine))}
        for group, user in there - wanted:
            self._change(delete(table).where(mine, keys[0] == group, keys[1] == user))
        for group, user in wanted - there:
            self._change(insert(table).values(group_name=group, user_name=user, source=BY_FILE))

    def _roles(self) -> None:
        mine = roles.c.source == BY_FILE
        query = select(roles.c.kind, roles.c.name, roles.c.project, roles.c.role).where(mine)
        there = {(kind, name, project): role for kind, name, project, role in self._connection.execute(query)}
        wanted = {key: role.label for key, role in self._file.roles.items()}
        for key in there.keys() | wanted.keys():
            if there.get(key) == wanted.get(key):
                continue
            kind, name, project = key
            at = (roles.c.kind == kind, roles.c.name == name, roles.c.project == project)
            self._change(delete(roles).where(mine, *at))
            if key in wanted:
                values = {"kind": kind, "name": name, "project": project, "source": BY_FILE, "role": wanted[key]}
                self._connection.execute(insert(roles).values(values))

    def _groups(self) -> None:
        there = set(self._connection.execute(select(groups.c.name)).scalars())
        for name in self._file.groups - there:
            self._change(insert(groups).values(name=name, source=BY_FILE, created_at=self._now))

    def _projects(self) -> None:
        there = {row.name: row for row in self._connection.execute(select(projects))}
        for name in self._file.private:
            if name not in there:
                values = {"name": name, "is_private": True, "source": BY_FILE, "created_at": self._now}
                self._change(insert(projects).values(values))
            elif not there[name].is_private:
                self._change(update(projects).where(projects.c.name == name).values(is_private=True, source=BY_FILE))
        for name, row in there.items():
            if row.source == BY_FILE and row.is_private and name not in self._file.private:
                self._change(update(projects).where(projects.c.name == name).values(is_private=False))

    def _change(self, statement: Any) -> None:
        self._connection.execute(statement)
        self._changes += 1


def _tables(content: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = content.get(key, {})
    if not isinstance(found, Mapping) or not all(isinstance(fields, Mapping) for fields in found.values()):
        raise InputError(f"{key} must be tables, such as [{key}.NAME]")
    return list(found.items())


def _check_keys(place: str, fields: Mapping[str, Any], known: set[str]) -> None:
    for key in fields:
        if key not in known:
            raise InputError(f"{place} has no setting {key}; known are {', '.join(sorted(known))}")


def _text(place: str, fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{place}: {key} must be a text")
    return value


def _read_roles(
    given: dict[tuple[str, str, str], Role], place: str, kind: str, name: str, fields: Mapping[str, Any]
) -> None:
    try:
        if "role" in fields:
            given[kind, name, ""] = Role.parse(_text(place, fields, "role"))
        said = fields.get("projects", {})
        if not isinstance(said, Mapping):
            raise InputError("projects must be PROJECT = ROLE")
        for project in said:
            given[kind, name, check_project(project)] = Role.parse(_text(place, said, project))
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
