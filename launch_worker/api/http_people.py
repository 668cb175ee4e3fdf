"""Sets users, groups, projects and tokens through a server, by the methods of the registry of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from launch_worker.api.http_connection import HttpConnection, part_of_path
from launch_worker.people.described import Group, Project, Token, User, labels_of, roles_as_json
from launch_worker.people.roles import Role


class HttpPeople:
    """The people of a server, as whoever has the login may set them. `people.registry.Registry` documents it."""

    def __init__(self, server: HttpConnection) -> None:
        self._server = server

    def users(self) -> list[User]:
        return [User.from_json(one) for one in self._server.ask("GET", "/users")["users"]]

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
        body: dict[str, Any] = {"name": name, "display": display, "password": password, "invited": is_invited}
        body |= {"groups": list(in_groups), **roles_as_json(given or {})}
        return str(self._server.ask("POST", "/users", body=body)["name"])

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
        body = {"display": display, "invited": is_invited, "disabled": is_disabled, **roles_as_json(given or {})}
        body |= {"join": list(joins), "leave": list(leaves)}
        if password is not None or has_no_password:
            body["password"] = password
        self._server.ask("PATCH", f"/users/{part_of_path(name)}", body=body)

    def delete_user(self, name: str) -> None:
        self._server.ask("DELETE", f"/users/{part_of_path(name)}")

    def revoke_sessions(self, user: str) -> int:
        return int(self._server.ask("POST", f"/users/{part_of_path(user)}/logout")["ended"])

    def groups(self) -> list[Group]:
        return [Group.from_json(one) for one in self._server.ask("GET", "/groups")["groups"]]

    def set_group(
        self,
        name: str,
        *,
        display: str | None = None,
        given: Mapping[str, Role] | None = None,
        adds: Iterable[str] = (),
        removes: Iterable[str] = (),
    ) -> str:
        body = {"display": display, "add": list(adds), "remove": list(removes), **roles_as_json(given or {})}
        return str(self._server.ask("PATCH", f"/groups/{part_of_path(name)}", body=body)["name"])

    def delete_group(self, name: str) -> None:
        self._server.ask("DELETE", f"/groups/{part_of_path(name)}")

    def projects(self) -> list[Project]:
        return [Project.from_json(one) for one in self._server.ask("GET", "/projects")["projects"]]

    def set_project(
        self,
        name: str,
        *,
        is_private: bool | None = None,
        to_users: Mapping[str, Role] | None = None,
        to_groups: Mapping[str, Role] | None = None,
    ) -> None:
        body = {"private": is_private, "users": labels_of(to_users or {}), "groups": labels_of(to_groups or {})}
        self._server.ask("PATCH", f"/projects/{part_of_path(name)}", body=body)

    def delete_project(self, name: str) -> None:
        self._server.ask("DELETE", f"/projects/{part_of_path(name)}")

    def create_token(
        self, user: str, name: str, *, role: Role = Role.ADMIN, lasts_s: float | None = None
    ) -> tuple[str, Token]:
        expires = "never" if lasts_s is None else f"{round(lasts_s)}s"
        made = self._server.ask(
            "POST", "/tokens", body={"name": name, "user": user or None, "role": role.label, "expires": expires}
        )
        return made["token"], Token.from_json(made)

    def tokens(self, user: str | None = None) -> list[Token]:
        found = self._server.ask("GET", "/tokens", query={"user": user})["tokens"]
        return [Token.from_json(one) for one in found]

    def revoke_token(self, token: str) -> None:
        self._server.ask("DELETE", f"/tokens/{part_of_path(token)}")
