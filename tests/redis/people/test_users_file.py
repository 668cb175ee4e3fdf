"""The users file: what it says is there, what it no longer says is gone, and what admins set stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.errors import LoginError, RefusedError, SettingsError
from launch_worker.people.directory import Directory
from launch_worker.people.passwords import hash_password
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from launch_worker.people.users_file import apply_users_file, read_users_file
from tests.redis.people.conftest import GOOD


@pytest.fixture
def take(tmp_path: Path, database: Database) -> Callable[[str], None]:
    def take(text: str) -> None:
        path = tmp_path / "users.toml"
        path.write_text(text)
        apply_users_file(database, read_users_file(path))

    return take


def test_the_file_is_what_is_there(
    take: Callable[[str], None], directory: Directory, registry: Registry, database: Database
) -> None:
    text = f"""
        [users.ada]
        password = "{hash_password(GOOD)}"
        display = "Ada"
        role = "admin"
        groups = ["ml"]
        [users."bob@x.org"]
        projects = {{ "a/b" = "operator" }}
        [groups.ml]
        projects = {{ "a/b" = "member" }}
        [groups.empty]
        [projects."a/b"]
        private = true
    """
    take(text)
    person, _ = directory.login("ada", GOOD, address="192.0.2.1")
    assert (person.role, person.groups, person.projects) == (Role.ADMIN, frozenset({"ml"}), {"a/b": Role.MEMBER})
    assert registry.users()[1].roles == {"a/b": Role.OPERATOR}
    assert [group.name for group in registry.groups()] == ["empty", "ml"]
    assert registry.projects()[0].is_private
    with database.reading() as connection:
        lines = connection.execute(select(func.count()).select_from(audit_lines)).scalar_one()
    take(text)
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(audit_lines)).scalar_one() == lines, "nothing to do"


def test_what_the_file_has_no_more_is_gone_and_what_admins_set_stays(
    take: Callable[[str], None], directory: Directory, registry: Registry
) -> None:
    take(
        f"""
        [users.ada]
        password = "{hash_password(GOOD)}"
        role = "admin"
        groups = ["ml"]
        [users.bob]
        role = "member"
        groups = ["ml"]
        [projects.x]
        private = true
        """
    )
    registry.set_user("bob", given={"": Role.OPERATOR, "p": Role.VIEWER}, joins=["ml", "mine"])
    registry.set_project("mine", is_private=True)
    with pytest.raises(RefusedError, match="users file"):
        registry.set_user("ada", password="another horse")
    with pytest.raises(RefusedError, match="users file"):
        registry.delete_user("bob")
    take("[users.bob]")
    with pytest.raises(LoginError):
        directory.login("ada", GOOD, address="192.0.2.1")
    ada, bob = registry.users()
    assert ada.disabled_at is not None
    assert ada.roles == {}
    assert bob.roles == {"": Role.OPERATOR, "p": Role.VIEWER}
    assert bob.groups == ("mine", "ml")
    assert {project.name: project.is_private for project in registry.projects()} == {
        "mine": True,
        "x": False,
        "p": False,
    }
    registry.delete_user("ada")
    take('[users.ada]\nrole = "viewer"')
    assert registry.users()[0].disabled_at is None
    assert registry.users()[1].disabled_at is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("users = 5", "users must be tables"),
        ("[users]\nada = 5", "users must be tables"),
        ("[people.ada]", "no setting people; known are groups, projects, users"),
        ("[users.ada]\npasswd = 'x'", "user ada has no setting passwd"),
        ("[users.ada]\npassword = 'secret'", "user ada: password must be an argon2id hash"),
        ("[users.ada]\npassword = 5", "password must be a text"),
        ("[users.ada]\nrole = 'root'", "user ada: a role is one of"),
        ("[users.ada]\nprojects = 'x'", "user ada: projects must be"),
        ("[users.ada]\nprojects = { 'a b' = 'viewer' }", "user ada: the name of a project"),
        ("[users.ada]\ngroups = 'ml'", "user ada: groups must be a list"),
        ("[users.'a b']", "the name of a user"),
        ("[projects.x]\nprivate = 'yes'", "project x: private must be true or false"),
        ("[users.ada", "is no TOML"),
        ("x = " + "[" * 5000, "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused_with_the_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "users.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=why) as refusal:
        read_users_file(path)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_users_file(tmp_path / "users.toml")


def test_a_file_that_others_may_write_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text("[users.eve]\nrole = 'admin'")
    path.chmod(0o666)
    with pytest.raises(SettingsError, match="can be written to by everybody"):
        read_users_file(path)
    path.chmod(0o644)
    assert "eve" in read_users_file(path).users
