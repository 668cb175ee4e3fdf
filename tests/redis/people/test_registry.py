"""What admins do to users, groups, projects and tokens."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.errors import InputError, RefusedError
from launch_worker.people.directory import Directory
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.redis.people.conftest import GOOD


def test_users_are_added_changed_listed_and_deleted(registry: Registry) -> None:
    registry.add_user("ada", display="Ada L.", password=GOOD, given={"": Role.ADMIN})
    registry.add_user("bot", given={"a/b": Role.MEMBER}, in_groups=["ci"])
    registry.add_user("eve", is_invited=True)
    registry.set_user("bot", display="CI", joins=["nightly"], leaves=["ci"], given={"": Role.VIEWER})
    ada, bot, eve = registry.users()
    assert (ada.name, ada.display, ada.ways, dict(ada.roles)) == ("ada", "Ada L.", ("password",), {"": Role.ADMIN})
    assert (bot.display, bot.ways, bot.groups) == ("CI", (), ("nightly",))
    assert bot.roles == {"": Role.VIEWER, "a/b": Role.MEMBER}
    assert eve.ways == ("invited",)
    registry.set_user("bot", given={"a/b": Role.NONE})
    assert registry.users()[1].roles == {"": Role.VIEWER}
    registry.delete_user("eve")
    assert [user.name for user in registry.users()] == ["ada", "bot"]


def test_a_name_that_cannot_be_one_is_refused(registry: Registry) -> None:
    for name in ("", "-x", "a b", "ä", "a/b", "x" * 65, "a\x1b", "a\0"):
        with pytest.raises(InputError, match="the name of a user"):
            registry.add_user(name)
        with pytest.raises(InputError, match="the name of a group"):
            registry.set_group(name)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "at least 10"),
        ("x" * 1025, "at most 1024"),
        ("adalovelace", "user's name"),
        ("x" * 9 + "\ud800", "no character"),
    ],
)
def test_a_password_that_cannot_be_one_is_refused(registry: Registry, password: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        registry.add_user("AdaLovelace", password=password)
    assert registry.users() == []


def test_a_second_of_the_same_name_is_refused(registry: Registry) -> None:
    registry.add_user("ada")
    with pytest.raises(InputError, match="there is a user ada already"):
        registry.add_user("ADA")
    registry.create_token("ada", "t")
    with pytest.raises(InputError, match="a token t already"):
        registry.create_token("ada", "t")


def test_who_is_not_there_is_said_so(registry: Registry) -> None:
    for act in (
        lambda: registry.set_user("bob", display="x"),
        lambda: registry.delete_user("bob"),
        lambda: registry.create_token("bob", "t"),
        lambda: registry.set_project("a/b", to_users={"bob": Role.VIEWER}),
    ):
        with pytest.raises(InputError, match="no user bob"):
            act()
    with pytest.raises(InputError, match="no group g"):
        registry.delete_group("g")
    with pytest.raises(InputError, match="a project p"):
        registry.delete_project("p")
    with pytest.raises(InputError, match="no token"):
        registry.revoke_token("0\0")
    assert registry.revoke_sessions("bob", session="\0") == 0


def test_somebody_stays_an_admin(registry: Registry) -> None:
    registry.add_user("bob", given={"": Role.MEMBER})
    registry.set_group("admins", given={"": Role.ADMIN})
    registry.add_user("ada", in_groups=["admins"])
    for act in (
        lambda: registry.delete_user("ada"),
        lambda: registry.set_user("ada", is_disabled=True),
        lambda: registry.set_user("ada", leaves=["admins"]),
        lambda: registry.set_group("admins", given={"": Role.OPERATOR}),
        lambda: registry.delete_group("admins"),
    ):
        with pytest.raises(RefusedError, match="nobody would be an admin"):
            act()
    assert registry.groups()[0].members == ("ada",), "nothing of a refused act stays"
    registry.set_user("bob", given={"": Role.ADMIN})
    registry.delete_user("ada")


def test_groups_are_made_by_whoever_names_them(registry: Registry, directory: Directory) -> None:
    from launch_worker.people.claims import Claims

    directory.by_claims(Claims("ada", groups=frozenset({"idp"})))
    registry.add_user("bob", in_groups=["ml"])
    registry.set_group("ml", display="Learning", given={"a/b": Role.MEMBER})
    assert [(group.name, group.display, group.members, dict(group.roles)) for group in registry.groups()] == [
        ("idp", "", ("ada",), {}),
        ("ml", "Learning", ("bob",), {"a/b": Role.MEMBER}),
    ]
    with pytest.raises(InputError, match="not put into the group idp by an admin"):
        registry.set_user("ada", leaves=["idp"])
    registry.delete_group("ml")
    assert [group.name for group in registry.groups()] == ["idp"]


def test_projects_are_private_and_have_roles(registry: Registry) -> None:
    registry.add_user("ada")
    registry.set_project("a/b", is_private=True, to_users={"ada": Role.ADMIN}, to_groups={"ml": Role.VIEWER})
    registry.set_project("c/d", to_groups={"ml": Role.MEMBER})
    assert [(p.name, p.is_private, dict(p.users), dict(p.groups)) for p in registry.projects()] == [
        ("a/b", True, {"ada": Role.ADMIN}, {"ml": Role.VIEWER}),
        ("c/d", False, {}, {"ml": Role.MEMBER}),
    ]
    registry.set_project("a/b", to_users={"ada": Role.NONE})
    assert registry.projects()[0].is_private, "what is not said stays"
    registry.set_project("a/b", is_private=False)
    assert not registry.projects()[0].is_private
    registry.delete_project("a/b")
    assert [p.name for p in registry.projects()] == ["c/d"]
    for name in ("", "a b", "a/b/c", "\x1b"):
        with pytest.raises(InputError, match="ENTITY/PROJECT"):
            registry.set_project(name, is_private=True)


def test_tokens_are_listed_without_their_text(registry: Registry) -> None:
    registry.add_user("ada")
    registry.add_user("bob")
    text, token = registry.create_token("ada", "laptop", role=Role.MEMBER, lasts_s=60)
    registry.create_token("bob", "t")
    assert text.startswith("lw_")
    assert len(text) == 46
    assert registry.tokens("ada") == [token]
    assert [found.user for found in registry.tokens()] == ["ada", "bob"]
    with pytest.raises(InputError, match="no token"):
        registry.revoke_token(token.id, user="bob")
    registry.revoke_token(token.id, user="ada")
    assert registry.tokens("ada") == []
    for name in ("", " x", "a\nb", "x" * 65):
        with pytest.raises(InputError, match="the name of a token"):
            registry.create_token("ada", name)
    with pytest.raises(InputError, match="could do nothing"):
        registry.create_token("ada", "t", role=Role.NONE)


def test_each_change_is_in_the_audit_with_who_and_what(database: Database) -> None:
    registry = Registry(database, actor="ada", address="192.0.2.1")
    registry.add_user("bob", password=GOOD, given={"": Role.MEMBER})
    registry.set_user("bob", password="another horse")
    _, token = registry.create_token("bob", "laptop")
    registry.set_project("a/b", is_private=True)
    with pytest.raises(InputError):
        registry.add_user("bob")
    with database.reading() as connection:
        c = audit_lines.c
        query = select(c.actor, c.address, c.what, c.kind, c.target, c.detail, c.result).order_by(c.id)
        rows = [tuple(row) for row in connection.execute(query)]
    assert {(row[0], row[1], row[6]) for row in rows} == {("ada", "192.0.2.1", "done")}
    assert [row[2:5] for row in rows] == [
        ("created", "user", "bob"),
        ("changed", "user", "bob"),
        ("created", "token", token.id),
        ("created", "project", "a/b"),
    ]
    assert rows[0][5] == '{"role": "member"}'
    assert rows[1][5] == '{"password": "changed"}'
    assert "horse" not in repr(rows)
