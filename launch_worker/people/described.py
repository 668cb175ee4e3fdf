"""Describes users, groups, projects, tokens and sessions as admins see them, and as JSON does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launch_worker.model.units import isoformat, micros_of
from launch_worker.people.roles import Role


@dataclass(frozen=True)
class User:
    """A user. Times are microseconds since 1970."""

    name: str
    display: str
    #: Ways in: password, oidc, invited; none for a service account, which has tokens only.
    ways: tuple[str, ...]
    #: Kind of the place where the user is managed: file, login, or '' for commands.
    source: str
    created_at: int
    login_at: int | None
    disabled_at: int | None
    groups: tuple[str, ...] = ()
    #: Roles that were given to the user, not to groups; '' is the system-wide one.
    roles: Mapping[str, Role] = field(default_factory=dict)

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> User:
        return cls(
            name=shown["name"],
            display=shown["display"] or "",
            ways=tuple(shown["ways"]),
            source=shown["source"] or "",
            created_at=micros_of(shown["created_at"]) or 0,
            login_at=micros_of(shown["login_at"]),
            disabled_at=micros_of(shown["disabled_at"]),
            groups=tuple(shown["groups"]),
            roles=_roles(shown),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "display": self.display or None,
            "ways": list(self.ways),
            **roles_as_json(self.roles),
            "groups": list(self.groups),
            "source": self.source or None,
            "created_at": isoformat(self.created_at),
            "login_at": isoformat(self.login_at),
            "disabled_at": isoformat(self.disabled_at),
        }


@dataclass(frozen=True)
class Group:
    """A group of users, with the roles that its members have by it."""

    name: str
    display: str
    members: tuple[str, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Group:
        return cls(shown["name"], shown["display"] or "", tuple(shown["members"]), _roles(shown))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "display": self.display or None,
            **roles_as_json(self.roles),
            "members": list(self.members),
        }


@dataclass(frozen=True)
class Project:
    """A project of which something is set."""

    name: str
    is_private: bool
    #: Roles that users and groups have in it.
    users: Mapping[str, Role] = field(default_factory=dict)
    groups: Mapping[str, Role] = field(default_factory=dict)

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Project:
        return cls(shown["name"], shown["private"], _parsed(shown["users"]), _parsed(shown["groups"]))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "private": self.is_private,
            "users": labels_of(self.users),
            "groups": labels_of(self.groups),
        }


@dataclass(frozen=True)
class Token:
    """An API token without its text, which nobody can read any more. Times are microseconds since 1970."""

    id: str
    user: str
    name: str
    #: Highest role that it has; never more than its user.
    role: Role
    created_at: int
    created_by: str
    expires_at: int | None
    used_at: int | None
    used_from: str

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Token:
        return cls(
            id=shown["id"],
            user=shown["user"],
            name=shown["name"],
            role=Role.parse(shown["role"]),
            created_at=micros_of(shown["created_at"]) or 0,
            created_by=shown["created_by"],
            expires_at=micros_of(shown["expires_at"]),
            used_at=micros_of(shown["used_at"]),
            used_from=shown["used_from"] or "",
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "user": self.user,
            "name": self.name,
            "role": self.role.label,
            "created_at": isoformat(self.created_at),
            "created_by": self.created_by,
            "expires_at": isoformat(self.expires_at),
            "used_at": isoformat(self.used_at),
            "used_from": self.used_from or None,
        }


@dataclass(frozen=True)
class Session:
    """A login that a browser holds. Times are microseconds since 1970."""

    id: str
    user: str
    #: Kind of the login: password, oidc, link.
    how: str
    created_at: int
    expires_at: int
    used_at: int | None
    address: str
    agent: str

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "user": self.user,
            "how": self.how,
            "created_at": isoformat(self.created_at),
            "expires_at": isoformat(self.expires_at),
            "used_at": isoformat(self.used_at),
            "address": self.address or None,
            "agent": self.agent or None,
        }


def roles_as_json(given: Mapping[str, Role]) -> dict[str, Any]:
    """Roles as JSON: the system-wide one, and those in projects."""
    return {
        "role": given[""].label if "" in given else None,
        "projects": labels_of({project: role for project, role in given.items() if project}),
    }


def labels_of(given: Mapping[str, Role]) -> dict[str, str]:
    """The names of roles, by what they are of."""
    return {name: role.label for name, role in sorted(given.items())}


def _roles(shown: Mapping[str, Any]) -> dict[str, Role]:
    return ({"": Role.parse(shown["role"])} if shown["role"] else {}) | _parsed(shown["projects"])


def _parsed(labels: Mapping[str, str]) -> dict[str, Role]:
    return {name: Role.parse(label) for name, label in labels.items()}
