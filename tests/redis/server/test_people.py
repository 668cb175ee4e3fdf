"""Users, groups, projects, tokens, sessions and allowances over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from launch_worker.database.audit import audit_lines
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

V1 = "/api/v1"
GOOD = "correct horse"
As = Callable[[str], httpx.Client]


@pytest.fixture
def person(server: TestServer) -> Iterator[As]:
    """A client for each of tests/support/people.py."""
    tokens = tokens_of_everybody(server)
    with ExitStack() as clients:
        yield lambda name: clients.enter_context(server.client(tokens[name]))


def test_a_user_lives(server: TestServer, person: As) -> None:
    admin = person("admin")
    user = {"name": "New", "password": GOOD, "role": "member", "projects": {"a/b": "operator"}, "groups": ["ml"]}
    made = admin.post(f"{V1}/users", json=user)
    assert made.status_code == 201
    shown = made.json()
    assert (shown["name"], shown["ways"], shown["role"]) == ("new", ["password"], "member")
    assert (shown["projects"], shown["groups"]) == ({"a/b": "operator"}, ["ml"])
    assert admin.post(f"{V1}/users", json=user).status_code == 422
    changed = admin.patch(f"{V1}/users/new", json={"role": "none", "projects": {"a/b": "none"}, "leave": ["ml"]}).json()
    assert (changed["role"], changed["projects"], changed["groups"]) == (None, {}, [])
    with server.client("") as browser:
        assert browser.post(f"{V1}/login", json={"name": "new", "password": GOOD}).status_code == 200
        assert browser.get(f"{V1}/whoami").json()["role"] == "none"
        assert admin.post(f"{V1}/users/new/logout").json() == {"ended": 1}
    assert admin.patch(f"{V1}/users/new", json={"password": None}).json()["ways"] == []
    assert admin.patch(f"{V1}/users/new", json={"disabled": True}).json()["disabled_at"]
    assert "new" in [one["name"] for one in admin.get(f"{V1}/users").json()["users"]]
    assert admin.delete(f"{V1}/users/new").status_code == 204
    assert admin.delete(f"{V1}/users/new").status_code == 404


@pytest.mark.parametrize(
    "body", [{"name": "a b"}, {"name": "x", "role": "root"}, {"name": "x", "password": "short"}, {"called": "x"}, {}]
)
def test_what_is_no_user_gets_a_sentence(person: As, body: dict[str, Any]) -> None:
    refused = person("admin").post(f"{V1}/users", json=body)
    assert refused.status_code == 422
    assert refused.json()["detail"]


def test_only_admins_set_people(person: As) -> None:
    for name in ("viewer", "member", "operator"):
        client = person(name)
        for method, path, body in (
            ("GET", "users", None),
            ("POST", "users", {"name": "x"}),
            ("PATCH", f"users/{name}", {"role": "admin"}),
            ("DELETE", "users/admin", None),
            ("POST", "users/admin/logout", None),
            ("GET", "groups", None),
            ("PATCH", "groups/ml", {"role": "admin"}),
            ("DELETE", "groups/ml", None),
            ("GET", "projects", None),
            ("PATCH", f"projects/{OPEN}", {"users": {name: "admin"}}),
            ("DELETE", f"projects/{OPEN}", None),
            ("PUT", f"allowances/user:{name}", {"running": 1000}),
            ("DELETE", f"allowances/user:{name}", None),
            ("GET", "tokens?user=*", None),
            ("GET", "sessions?user=admin", None),
            ("POST", "tokens", {"name": "t", "user": "admin"}),
        ):
            answer = client.request(method, f"{V1}/{path}", json=body)
            assert answer.status_code == 403, (name, method, path, answer.text)


def test_a_group_lives(person: As) -> None:
    admin = person("admin")
    made = admin.patch(f"{V1}/groups/ml", json={"projects": {"a/b": "member"}, "add": ["viewer"]}).json()
    assert (made["projects"], made["members"]) == ({"a/b": "member"}, ["viewer"])
    assert person("viewer").get(f"{V1}/whoami").json()["projects"] == {"a/b": "member"}
    assert admin.patch(f"{V1}/groups/ml", json={"remove": ["viewer"]}).json()["members"] == []
    assert admin.patch(f"{V1}/groups/ml", json={"add": ["nobody"]}).status_code == 404
    assert [one["name"] for one in admin.get(f"{V1}/groups").json()["groups"]] == ["ml"]
    assert admin.delete(f"{V1}/groups/ml").status_code == 204


def test_an_admin_of_a_project_sets_that_one_and_no_other(person: As) -> None:
    admin = person("admin")
    admin.patch(f"{V1}/projects/lab/own", json={"private": True, "users": {"member": "admin"}})
    member = person("member")
    assert [one["name"] for one in member.get(f"{V1}/projects").json()["projects"]] == ["lab/own"]
    changed = member.patch(f"{V1}/projects/lab/own", json={"users": {"viewer": "viewer"}}).json()
    assert changed == {
        "name": "lab/own",
        "private": True,
        "users": {"member": "admin", "viewer": "viewer"},
        "groups": {},
    }
    assert member.patch(f"{V1}/projects/{OPEN}", json={"private": True}).status_code == 403
    hidden = member.patch(f"{V1}/projects/lab/hidden", json={"private": True})
    assert hidden.status_code == 403, "one that nobody has set is open"
    admin.patch(f"{V1}/projects/lab/hidden", json={"private": True})
    assert member.patch(f"{V1}/projects/lab/hidden", json={"private": False}).status_code == 404
    assert member.delete(f"{V1}/projects/lab/hidden").status_code == 404
    assert member.delete(f"{V1}/projects/lab/own").status_code == 204


def test_a_person_makes_lists_and_revokes_own_tokens_by_a_session(server: TestServer, person: As) -> None:
    admin = person("admin")
    admin.patch(f"{V1}/users/member", json={"password": GOOD})
    with server.client("") as browser:
        browser.post(f"{V1}/login", json={"name": "member", "password": GOOD})
        made = browser.post(f"{V1}/tokens", json={"name": "laptop", "expires": "never"})
        assert made.status_code == 201
        token = made.json()
        assert (token["user"], token["role"], token["expires_at"]) == ("member", "member", None)
        with server.client(token["token"]) as program:
            assert program.get(f"{V1}/whoami").json()["token"] == "laptop"
            assert program.post(f"{V1}/tokens", json={"name": "t"}).status_code == 403, "a token makes no tokens"
        listed = browser.get(f"{V1}/tokens").json()["tokens"]
        assert {one["user"] for one in listed} == {"member"}
        assert "token" not in listed[0]
        theirs = admin.get(f"{V1}/tokens", params={"user": "admin"}).json()["tokens"]
        assert browser.delete(f"{V1}/tokens/{theirs[0]['id']}").status_code == 404
        assert browser.delete(f"{V1}/tokens/{token['id']}").status_code == 204
        [session] = browser.get(f"{V1}/sessions").json()["sessions"]
        assert session["how"] == "password"
        assert browser.delete(f"{V1}/sessions/{'0' * 12}").status_code == 404
        assert browser.delete(f"{V1}/sessions/{session['id']}").status_code == 204
    assert len(admin.get(f"{V1}/tokens", params={"user": "*"}).json()["tokens"]) >= 4


def test_a_token_ends_itself_and_no_other_login_of_its_user(server: TestServer, person: As) -> None:
    """Who has stolen one must not shut out its user; an admin may, and so makes lesser tokens."""
    admin = person("admin")
    admin.patch(f"{V1}/users/member", json={"password": GOOD})
    for user, role in (("member", "member"), ("admin", "operator")):
        made = [
            admin.post(f"{V1}/tokens", json={"name": name, "user": user, "role": role}).json()
            for name in ("stolen", "other")
        ]
        with server.client("") as browser, server.client(made[0]["token"]) as stolen:
            browser.post(f"{V1}/login", json={"name": "member", "password": GOOD})
            [session] = browser.get(f"{V1}/sessions").json()["sessions"]
            assert stolen.delete(f"{V1}/tokens/{made[1]['id']}").status_code == 403
            assert stolen.delete(f"{V1}/tokens/{'0' * 12}").status_code == 404
            # The browser is the member's: for the admin's lesser token another person's.
            ended = stolen.delete(f"{V1}/sessions/{session['id']}").status_code
            assert ended == (403 if user == "member" else 404)
            assert browser.delete(f"{V1}/sessions/{session['id']}").status_code == 204
            assert stolen.delete(f"{V1}/tokens/{made[0]['id']}").status_code == 204
            assert stolen.get(f"{V1}/whoami").status_code == 401
        with server.client(made[1]["token"]) as other:
            assert other.get(f"{V1}/whoami").json()["name"] == user


def test_people_change_their_own_password_by_the_old_one(server: TestServer, person: As) -> None:
    person("admin").patch(f"{V1}/users/member", json={"password": GOOD})
    with server.client("") as browser, server.client("") as other:
        for one in (browser, other):
            one.post(f"{V1}/login", json={"name": "member", "password": GOOD})
        assert browser.post(f"{V1}/password", json={"old": "wrong", "new": "another horse"}).status_code == 401
        assert browser.post(f"{V1}/password", json={"old": GOOD, "new": "short"}).status_code == 422
        assert browser.get(f"{V1}/whoami").status_code == 200
        assert browser.post(f"{V1}/password", json={"old": GOOD, "new": "another horse"}).status_code == 204
        assert browser.get(f"{V1}/whoami").json()["name"] == "member", "logged in by a new session"
        assert other.get(f"{V1}/whoami").status_code == 401
        assert other.post(f"{V1}/login", json={"name": "member", "password": GOOD}).status_code == 401
        assert other.post(f"{V1}/login", json={"name": "member", "password": "another horse"}).status_code == 200


def test_an_admin_makes_tokens_for_programs(person: As) -> None:
    admin = person("admin")
    admin.post(f"{V1}/users", json={"name": "ci", "role": "member"})
    made = admin.post(f"{V1}/tokens", json={"name": "n", "user": "ci", "role": "viewer", "expires": "1h"}).json()
    assert (made["user"], made["role"], made["created_by"]) == ("ci", "viewer", "admin")
    for body, status in (
        ({"name": "n", "user": "nobody"}, 404),
        ({"name": "n", "user": "ci"}, 422),
        ({"name": "m", "user": "ci", "expires": "soon"}, 422),
        ({"name": "m", "user": "ci", "role": "none"}, 422),
    ):
        assert admin.post(f"{V1}/tokens", json=body).status_code == status


def test_allowances_are_set_by_admins_and_seen_by_those_whom_they_bind(person: As, store: Store) -> None:
    admin = person("admin")
    made = admin.put(f"{V1}/allowances/user:member", json={"running": 2}).json()
    assert (made["most_running"], made["most_gpus"], made["running"]) == (2, None, 0)
    assert admin.put(f"{V1}/allowances/project:{PRIVATE}", json={"waiting": 5}).status_code == 200
    assert admin.put(f"{V1}/allowances/user:other", json={"gpus": 1}).status_code == 200
    assert admin.put(f"{V1}/allowances/queue:x", json={"gpus": 1}).status_code == 422
    assert admin.put(f"{V1}/allowances/user:x", json={}).status_code == 422
    assert [one.name for one in store.allowances()] == [f"project:{PRIVATE}", "user:member", "user:other"]
    assert len(admin.get(f"{V1}/allowances").json()["allowances"]) == 3
    assert [one["name"] for one in person("member").get(f"{V1}/allowances").json()["allowances"]] == ["user:member"]
    assert admin.delete(f"{V1}/allowances/user:member").status_code == 204
    assert admin.delete(f"{V1}/allowances/user:member").status_code == 404


def test_each_change_is_one_line_of_the_audit(server: TestServer, person: As) -> None:
    admin = person("admin")
    with server.shared.database.reading() as connection:
        before = len(connection.execute(select(audit_lines.c.id)).all())
    admin.post(f"{V1}/users", json={"name": "new"})
    admin.put(f"{V1}/allowances/user:new", json={"running": 2})
    # What is refused is a line as well: for want of a role, and for a reason.
    person("operator").delete(f"{V1}/users/new")
    admin.post(f"{V1}/users", json={"name": "new"})
    admin.patch(f"{V1}/users/admin", json={"role": "viewer"})
    person("member").post(f"{V1}/tokens", json={"name": "mine", "user": "admin"})

    def lines() -> list[tuple[str, ...]]:
        c = audit_lines.c
        query = select(c.actor, c.what, c.kind, c.target, c.address, c.result).order_by(c.id)
        with server.shared.database.reading() as connection:
            return [tuple(row) for row in connection.execute(query)][before:]

    # The result is written after the answer was sent.
    wait_until(lambda: len(lines()) == 6 and all(result for *_, result in lines()))
    found = lines()
    assert found[:2] == [
        ("admin", "created", "user", "new", "127.0.0.1", "done"),
        ("admin", "set", "allowance", "user:new", "127.0.0.1", "done"),
    ]
    assert [line[:4] for line in found[2:]] == [
        ("operator", "deleted", "user", "new"),
        ("admin", "created", "user", "new"),
        ("admin", "changed", "user", "admin"),
        ("member", "created", "token", "admin: mine"),
    ]
    words = ("this takes admin", "there is a user", "nobody", "this takes admin")
    assert all(word in line[-1] for word, line in zip(words, found[2:], strict=True)), found
