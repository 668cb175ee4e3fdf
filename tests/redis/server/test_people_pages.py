"""The pages of people, of one's own account, and of the audit: what they show, and what their forms do."""

from __future__ import annotations

import re

import httpx
import pytest

from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.support.http_servers import TestServer
from tests.support.people import tokens_of_everybody

HTML = {"Accept": "text/html"}


@pytest.fixture
def browser(client: httpx.Client) -> httpx.Client:
    client.headers.update(HTML)
    return client


def test_an_admin_adds_changes_disables_and_deletes_a_user_by_forms(browser: httpx.Client) -> None:
    form = {"name": "ada", "display": "<b>Ada</b>", "role": "member", "groups": "ml, ops", "way": "password"}
    made = browser.post("/people/users", data=form | {"password": "correct horse battery"})
    assert (made.status_code, made.headers["location"]) == (303, "/people/users/ada")
    assert "&lt;b&gt;Ada" in browser.get("/people").text
    change = {"display": "Ada", "role": "viewer", "groups": "ml lab", "projects": "me/iris operator\nme/x member"}
    assert browser.post("/people/users/ada", data=change).status_code == 303
    [user] = [one for one in browser.get("/api/v1/users").json()["users"] if one["name"] == "ada"]
    assert (user["role"], user["groups"]) == ("viewer", ["lab", "ml"])
    assert user["projects"] == {"me/iris": "operator", "me/x": "member"}
    assert browser.post("/people/users/ada", data=change | {"projects": "me/x member"}).status_code == 303
    [user] = [one for one in browser.get("/api/v1/users").json()["users"] if one["name"] == "ada"]
    assert user["projects"] == {"me/x": "member"}
    assert user["ways"] == ["password"]

    browser.post("/people/users/ada/disable")
    assert "nobody comes in by this user" in browser.get("/people/users/ada").text
    browser.post("/people/users/ada/enable")
    assert browser.post("/people/users/ada/delete").headers["location"] == "/people"
    assert browser.get("/people/users/ada").status_code == 404


def test_groups_projects_and_allowances_are_set_by_forms(browser: httpx.Client, server: TestServer) -> None:
    Registry(server.shared.database, actor="test").add_user("ada")
    assert browser.post("/people/groups", data={"name": "ml"}).headers["location"] == "/people/groups/ml"
    browser.post("/people/groups/ml", data={"role": "operator", "members": "ada", "projects": "", "display": ""})
    [group] = browser.get("/api/v1/groups").json()["groups"]
    assert (group["role"], group["members"]) == ("operator", ["ada"])
    assert browser.post("/people/projects", data={"name": "me/secret"}).headers["location"] == (
        "/people/projects/me/secret"
    )
    browser.post("/people/project-settings/me/secret", data={"private": "1", "users": "ada member", "groups": ""})
    [project] = browser.get("/api/v1/projects").json()["projects"]
    assert (project["private"], project["users"]) == (True, {"ada": "member"})
    browser.post("/people/project-settings/me/secret", data={"users": "", "groups": "ml viewer"})
    [project] = browser.get("/api/v1/projects").json()["projects"]
    assert (project["private"], project["users"], project["groups"]) == (False, {}, {"ml": "viewer"})
    browser.post("/people/allowances", data={"name": "user:ada", "running": "3", "waiting": "", "gpus": ""})
    assert "0 of 3" in browser.get("/people").text
    wrong = browser.post("/people/allowances", data={"name": "user:ada", "running": "many"})
    assert wrong.status_code == 422
    assert "must be a whole number" in wrong.text


def test_who_is_no_admin_gets_no_page_of_people(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    for name in ("viewer", "member", "insider", "operator"):
        with server.client(tokens[name]) as client:
            client.headers.update(HTML)
            for path in ("/people", "/people/users/admin", "/people/groups/x", "/people/projects/a/b", "/audit"):
                assert client.get(path).status_code == 403, (name, path)
            for path in ("/people/users", "/people/users/admin/delete", "/people/allowances", "/people/projects"):
                assert client.post(path, data={"name": "x/y"}).status_code == 403, (name, path)


def test_everybody_sees_and_ends_their_own_logins_only(server: TestServer) -> None:
    tokens = tokens_of_everybody(server)
    with server.client(tokens["member"]) as member, server.client(tokens["viewer"]) as viewer:
        member.headers.update(HTML)
        page = member.get("/account").text
        [own] = re.findall(r"/account/tokens/([0-9a-f]+)/revoke", page)
        assert viewer.post(f"/account/tokens/{own}/revoke", data={"next": "/account"}).status_code == 404
        answer = member.post(f"/account/tokens/{own}/revoke", data={"next": "//evil.example"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert member.get("/api/v1/whoami").status_code == 401


def test_a_password_is_changed_by_who_knows_it(server: TestServer) -> None:
    registry = Registry(server.shared.database, actor="test")
    registry.add_user("ada", password="correct horse battery", given={"": Role.MEMBER})
    with server.client("") as browser:
        browser.headers.update(HTML)
        browser.post("/login", data={"name": "ada", "password": "correct horse battery", "next": "/"})
        form = {"old": "correct horse battery", "new": "another password 1", "again": "another password 2"}
        answer = browser.post("/account/password", data=form)
        assert answer.status_code == 422
        assert "the two passwords differ" in answer.text
        assert browser.post("/account/password", data=form | {"again": form["new"]}).status_code == 303
        assert browser.get("/account").status_code == 200
        browser.cookies.clear()
        answer = browser.post("/login", data={"name": "ada", "password": form["new"], "next": "/account"})
        assert answer.headers["location"] == "/account"


def test_the_audit_is_searched(browser: httpx.Client) -> None:
    browser.post("/queues", data={"name": "night"})
    browser.post("/queues/night/pause")
    assert "night" in browser.get("/audit", params={"what": "pause"}).text
    assert "Nobody did such a thing" in browser.get("/audit", params={"who": "somebody else"}).text
    assert "neither a duration" in browser.get("/audit", params={"since": "yesterdayish"}).text
