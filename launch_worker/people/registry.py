"""Keeps users, groups, projects, roles, tokens and sessions, as admins set them; each change is a line of the audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from launch_worker.database.audit import DONE, write_act
from launch_worker.database.database import Database
from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.people.described import Group, Project, Session, Token, User
from launch_worker.people.directory import BY_FILE, BY_HAND, INVITED, has_admin
from launch_worker.people.names import check_name, check_project, check_token_name
from launch_worker.people.passwords import check_password, hash_password
from launch_worker.people.roles import Role
from launch_worker.people.schema import groups, members, projects, roles, sessions, tokens, users
from launch_worker.people.secrets import hash_of, is_id, new_id, new_token
from launch_worker.untrusted.text import clean

_USER, _GROUP = "user", "group"


class Registry:
    """The people of one database, for admins. Methods raise InputError, RefusedError, ArchiveError."""

    def __init__(
        self,
        database: Database,
        *,
        actor: str,
        address: str = "",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called after each change."""
        self._database = database
        self._changed = changed
        self._actor = actor
        self._address = address

    # Users

    def users(self) -> list[User]:
        with self._database.reading() as connection:
            given = _roles(connection, _USER)
            groups_of: dict[str, set[str]] = {}
            for group, user in connection.execute(select(members.c.group_name, members.c.user_name)):
                groups_of.setdefault(user, set()).add(group)
            return [
                User(
                    name=row.name,
                    display=row.display,
                    ways=_ways(row),
                    source=row.source,
                    created_at=row.created_at,
                    login_at=row.login_at,
                    disabled_at=row.disabled_at,
                    groups=tuple(sorted(groups_of.get(row.name, ()))),
                    roles=given.get(row.name, {}),
                )
                for row in connection.execute(select(users).order_by(users.c.name))
            ]

    def add_user(
        self,
        name: str,
        *,
        display: str = "",
        password: str | None = None,
        is_invited: bool = False,
        given: Mapping[str, Role] | None = None,
        in_groups: Iterable[str] = (),
    ) -> str:
        """Add a user; without a password and an invitation it is a service account. Returns the name's spelling."""
        name = check_name(_USER, name)
        kept = _hashed(password, name)
        with self._changing() as connection:
            if _user(connection, name) is not None:
                raise InputError(f"there is a user {name} already; change it with: launch-worker users set {name}")
            now = _now()
            connection.execute(
                insert(users).values(
                    name=name,
                    display=_shown(display),
                    password=kept,
                    subject=INVITED if is_invited else "",
                    created_at=now,
                    created_by=self._actor,
                )
            )
            self._give(connection, _USER, name, given or {})
            self._join(connection, name, in_groups)
            detail = {**_labels(given or {}), **({"groups": sorted(in_groups)} if in_groups else {})}
            self._note(connection, "created", _USER, name, detail)
        return name

    def set_user(
        self,
        name: str,
        *,
        display: str | None = None,
        password: str | None = None,
        has_no_password: bool = False,
        is_invited: bool = False,
        is_disabled: bool | None = None,
        given: Mapping[str, Role] | None = None,
        joins: Iterable[str] = (),
        leaves: Iterable[str] = (),
    ) -> None:
        """Change what is given. A new password, or none, ends the user's sessions; so does a disabled user."""
        name = check_name(_USER, name)
        kept = _hashed(password, name) if password is not None else "" if has_no_password else None
        with self._changing() as connection:
            row = _user(connection, name)
            if row is None:
                raise _no_user(name)
            values: dict[str, Any] = {}
            detail: dict[str, Any] = dict(_labels(given or {}))
            if display is not None:
                values["display"] = detail["display"] = _shown(display)
            if kept is not None:
                if row.source == BY_FILE:
                    raise RefusedError(f"the user {name} is kept in the users file; set the password there")
                values["password"] = kept
                detail["password"] = "changed" if kept else "removed"
            if is_invited:
                values["subject"] = INVITED
                detail["invited"] = True
            if is_disabled is not None:
                values["disabled_at"] = (row.disabled_at or _now()) if is_disabled else None
                detail["disabled"] = is_disabled
            if values:
                connection.execute(update(users).where(users.c.name == name).values(values))
            if kept is not None or is_disabled:
                connection.execute(delete(sessions).where(sessions.c.user_name == name))
            self._give(connection, _USER, name, given or {})
            self._join(connection, name, joins)
            for group in leaves:
                self._leave(connection, name, check_name(_GROUP, group))
            if leaves:
                detail["leaves"] = sorted(leaves)
            if joins:
                detail["joins"] = sorted(joins)
            self._note(connection, "changed", _USER, name, detail)

    def delete_user(self, name: str) -> None:
        """Delete a user with tokens, sessions and roles; their runs and their lines of the audit stay."""
        name = check_name(_USER, name)
        with self._changing() as connection:
            row = _user(connection, name)
            if row is None:
                raise _no_user(name)
            if row.source == BY_FILE and row.disabled_at is None:
                raise RefusedError(f"the user {name} is kept in the users file; take it out there, and restart")
            for table in (tokens, sessions, members):
                connection.execute(delete(table).where(table.c.user_name == name))
            connection.execute(delete(roles).where(roles.c.kind == _USER, roles.c.name == name))
            connection.execute(delete(users).where(users.c.name == name))
            self._note(connection, "deleted", _USER, name)

    # Groups

    def groups(self) -> list[Group]:
        """All groups: those that were made, and those that only a provider or a role names."""
        with self._database.reading() as connection:
            given = _roles(connection, _GROUP)
            members_of: dict[str, set[str]] = {}
            for group, user in connection.execute(select(members.c.group_name, members.c.user_name)):
                members_of.setdefault(group, set()).add(user)
            shown = {row.name: row.display for row in connection.execute(select(groups))}
            return [
                Group(name, shown.get(name, ""), tuple(sorted(members_of.get(name, ()))), given.get(name, {}))
                for name in sorted({*shown, *members_of, *given})
            ]

    def set_group(
        self,
        name: str,
        *,
        display: str | None = None,
        given: Mapping[str, Role] | None = None,
        adds: Iterable[str] = (),
        removes: Iterable[str] = (),
    ) -> str:
        """Make a group, or change it and its members. Returns the name's spelling."""
        name = check_name(_GROUP, name)
        with self._changing() as connection:
            is_new = _make_group(connection, name, display)
            self._give(connection, _GROUP, name, given or {})
            for user in adds:
                user = check_name(_USER, user)
                if _user(connection, user) is None:
                    raise _no_user(user)
                self._join(connection, user, [name])
            for user in removes:
                self._leave(connection, check_name(_USER, user), name)
            detail = {**_labels(given or {}), **({} if display is None else {"display": display})}
            detail |= {word: sorted(users) for word, users in (("added", adds), ("removed", removes)) if users}
            self._note(connection, "created" if is_new else "changed", _GROUP, name, detail)
        return name

    def delete_group(self, name: str) -> None:
        """Delete a group with its roles and memberships. One that a provider names comes back, without a role."""
        name = check_name(_GROUP, name)
        with self._changing() as connection:
            found = 0
            for query in (
                delete(members).where(members.c.group_name == name),
                delete(roles).where(roles.c.kind == _GROUP, roles.c.name == name),
                delete(groups).where(groups.c.name == name),
            ):
                found += connection.execute(query).rowcount
            if not found:
                raise NotFoundError(f"there is no group {name}; see: launch-worker groups")
            self._note(connection, "deleted", _GROUP, name)

    # Projects

    def projects(self) -> list[Project]:
        """All projects that were set, or in which somebody was given a role."""
        with self._database.reading() as connection:
            private = {row.name: row.is_private for row in connection.execute(select(projects))}
            held: dict[str, dict[str, dict[str, Role]]] = {}
            for kind in (_USER, _GROUP):
                for holder, given in _roles(connection, kind).items():
                    for project, role in given.items():
                        if project:
                            held.setdefault(project, {}).setdefault(kind, {})[holder] = role
            return [
                Project(
                    name,
                    private.get(name, False),
                    held.get(name, {}).get(_USER, {}),
                    held.get(name, {}).get(_GROUP, {}),
                )
                for name in sorted({*private, *held})
            ]

    def set_project(
        self,
        name: str,
        *,
        is_private: bool | None = None,
        to_users: Mapping[str, Role] | None = None,
        to_groups: Mapping[str, Role] | None = None,
    ) -> None:
        """Make a project known, private or not, and give roles in it; Role.NONE takes one away."""
        name = check_project(name)
        with self._changing() as connection:
            detail: dict[str, Any] = {}
            row = connection.execute(select(projects).where(projects.c.name == name)).one_or_none()
            if row is None:
                connection.execute(insert(projects).values(name=name, is_private=bool(is_private), created_at=_now()))
            elif is_private is not None:
                connection.execute(update(projects).where(projects.c.name == name).values(is_private=is_private))
            if is_private is not None:
                detail["private"] = is_private
            for kind, given in ((_USER, to_users or {}), (_GROUP, to_groups or {})):
                for holder, role in given.items():
                    holder = check_name(kind, holder)
                    if kind == _USER and _user(connection, holder) is None:
                        raise _no_user(holder)
                    self._give(connection, kind, holder, {name: role})
                    detail.setdefault(f"{kind}s", {})[holder] = role.label
            self._note(connection, "changed" if row else "created", "project", name, detail)

    def delete_project(self, name: str) -> None:
        """Forget what was set of a project, roles included; its runs stay, and are private no more."""
        with self._changing() as connection:
            found = connection.execute(delete(projects).where(projects.c.name == name)).rowcount
            found += connection.execute(delete(roles).where(roles.c.project == name, roles.c.project != "")).rowcount
            if not found:
                raise NotFoundError(f"nothing is set of a project {name}; see: launch-worker projects")
            self._note(connection, "deleted", "project", name)

    # Tokens and sessions

    def create_token(
        self, user: str, name: str, *, role: Role = Role.ADMIN, lasts_s: float | None = None
    ) -> tuple[str, Token]:
        """A new token of a user; it never has more than its user has. Returns its text, which is kept nowhere."""
        if not user:
            raise InputError("say whose token it is, with --user USER")
        user, name = check_name(_USER, user), check_token_name(name)
        if role is Role.NONE:
            raise InputError("a token without a role could do nothing; give it viewer, member, operator or admin")
        if lasts_s is not None and lasts_s <= 0:
            raise InputError("a token must last for more than 0 s")
        text, now = new_token(), _now()
        token = Token(
            id=new_id(),
            user=user,
            name=name,
            role=role,
            created_at=now,
            created_by=self._actor,
            expires_at=None if lasts_s is None else now + int(lasts_s * 1e6),
            used_at=None,
            used_from="",
        )
        with self._changing() as connection:
            if _user(connection, user) is None:
                raise _no_user(user)
            taken = select(tokens.c.id).where(tokens.c.user_name == user, tokens.c.name == name)
            if connection.execute(taken).first():
                raise InputError(f"{user} has a token {name} already; revoke it, or choose another name")
            connection.execute(
                insert(tokens).values(
                    id=token.id,
                    user_name=user,
                    name=name,
                    hash=hash_of(text),
                    role=role.label,
                    created_at=now,
                    created_by=self._actor,
                    expires_at=token.expires_at,
                )
            )
            detail = {"user": user, "name": name, "role": role.label, "expires_at": token.expires_at}
            self._note(connection, "created", "token", token.id, detail)
        return text, token

    def tokens(self, user: str | None = None) -> list[Token]:
        """The tokens of a user, or of all."""
        query = select(tokens).order_by(tokens.c.user_name, tokens.c.created_at, tokens.c.id)
        if user is not None:
            query = query.where(tokens.c.user_name == check_name(_USER, user))
        with self._database.reading() as connection:
            return [
                Token(
                    id=row.id,
                    user=row.user_name,
                    name=row.name,
                    role=Role.parse(row.role),
                    created_at=row.created_at,
                    created_by=row.created_by,
                    expires_at=row.expires_at,
                    used_at=row.used_at,
                    used_from=row.used_from,
                )
                for row in connection.execute(query)
            ]

    def revoke_token(self, token: str, *, user: str | None = None) -> None:
        """Delete a token by its id; with `user` only one of that user's."""
        with self._changing() as connection:
            mine = [tokens.c.id == token] + ([tokens.c.user_name == user] if user is not None else [])
            query = select(tokens.c.user_name, tokens.c.name).where(*mine)
            row = connection.execute(query).one_or_none() if is_id(token) else None
            if row is None:
                raise NotFoundError(f"there is no token {token[:40]}; see: launch-worker tokens")
            connection.execute(delete(tokens).where(tokens.c.id == token))
            self._note(connection, "revoked", "token", token, {"user": row.user_name, "name": row.name})

    def sessions(self, user: str | None = None) -> list[Session]:
        """The sessions of a user, or of all, that are not over."""
        query = select(sessions).where(sessions.c.expires_at > _now()).order_by(sessions.c.user_name, sessions.c.id)
        if user is not None:
            query = query.where(sessions.c.user_name == check_name(_USER, user))
        with self._database.reading() as connection:
            return [
                Session(
                    id=row.id,
                    user=row.user_name,
                    how=row.how,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                    used_at=row.used_at,
                    address=row.address,
                    agent=row.agent,
                )
                for row in connection.execute(query)
            ]

    def revoke_sessions(self, user: str, *, session: str | None = None) -> int:
        """End a session of a user, or all. Returns how many were ended."""
        user = check_name(_USER, user)
        if session is not None and not is_id(session):
            return 0
        with self._changing() as connection:
            mine = [sessions.c.user_name == user] + ([] if session is None else [sessions.c.id == session])
            found = connection.execute(delete(sessions).where(*mine)).rowcount
            if found:
                self._note(connection, "logged out", _USER, user, {"sessions": found})
            return found

    # Inside

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """A transaction, of which nothing stays where it would leave the system without an admin."""
        with self._database.writing() as connection:
            had_admin = has_admin(connection)
            yield connection
            if had_admin and not has_admin(connection):
                raise RefusedError("nobody would be an admin any more; make another user an admin first")
        self._changed()

    def _give(self, connection: Connection, kind: str, name: str, given: Mapping[str, Role]) -> None:
        for project, role in given.items():
            if project:
                check_project(project)
            mine = (roles.c.kind == kind, roles.c.name == name, roles.c.project == project)
            by_hand = roles.c.source == BY_HAND
            connection.execute(delete(roles).where(*mine, by_hand))
            if role is not Role.NONE:
                connection.execute(
                    insert(roles).values(kind=kind, name=name, project=project, source=BY_HAND, role=role.label)
                )
            elif connection.execute(select(roles.c.source).where(*mine)).first():
                raise RefusedError(f"{name} has that role by the users file or by the last login, not by an admin")

    def _join(self, connection: Connection, name: str, joins: Iterable[str]) -> None:
        for group in joins:
            group = check_name(_GROUP, group)
            _make_group(connection, group, None)
            mine = (members.c.user_name == name, members.c.group_name == group, members.c.source == BY_HAND)
            if not connection.execute(select(members.c.source).where(*mine)).first():
                connection.execute(insert(members).values(group_name=group, user_name=name, source=BY_HAND))

    @staticmethod
    def _leave(connection: Connection, name: str, group: str) -> None:
        mine = (members.c.user_name == name, members.c.group_name == group, members.c.source == BY_HAND)
        if not connection.execute(delete(members).where(*mine)).rowcount:
            raise InputError(f"{name} was not put into the group {group} by an admin")

    def _note(
        self, connection: Connection, what: str, kind: str, target: str, detail: Mapping[str, Any] | None = None
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


def _make_group(connection: Connection, name: str, display: str | None) -> bool:
    row = connection.execute(select(groups.c.name).where(groups.c.name == name)).first()
    if row is None:
        connection.execute(insert(groups).values(name=name, display=_shown(display or ""), created_at=_now()))
    elif display is not None:
        connection.execute(update(groups).where(groups.c.name == name).values(display=_shown(display)))
    return row is None


def _roles(connection: Connection, kind: str) -> dict[str, dict[str, Role]]:
    """The roles that each holder of this kind was given, by project; from several sources the highest."""
    found: dict[str, dict[str, Role]] = {}
    query = select(roles.c.name, roles.c.project, roles.c.role).where(roles.c.kind == kind)
    for holder, project, label in connection.execute(query):
        given = found.setdefault(holder, {})
        given[project] = max(given.get(project, Role.NONE), Role.parse(label))
    return found


def _user(connection: Connection, name: str) -> Any:
    return connection.execute(select(users).where(users.c.name == name)).one_or_none()


def _no_user(name: str) -> NotFoundError:
    return NotFoundError(f"there is no user {name}; see: launch-worker users")


def _ways(row: Any) -> tuple[str, ...]:
    ways = ["password"] if row.password else []
    if row.subject:
        ways.append("invited" if row.subject == INVITED else "oidc")
    return tuple(ways)


def _hashed(password: str | None, name: str) -> str:
    if password is None:
        return ""
    check_password(password, name=name)
    return hash_password(password)


def _labels(given: Mapping[str, Role]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": given[""].label} if "" in given else {}
    if others := {project: role.label for project, role in given.items() if project}:
        found["projects"] = others
    return found


def _shown(display: str) -> str:
    return clean(display)[:100]


def _now() -> int:
    return time.time_ns() // 1000
