"""The commands `users`, `groups`, `projects` and `tokens`, on a database."""

from __future__ import annotations

import contextlib
import gc
import os
import pty
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from launch_worker.database.database import Database
from launch_worker.errors import ArchiveUnavailableError, InputError, NotFoundError, RefusedError
from launch_worker.people.directory import Directory
from launch_worker.people.passwords import is_password
from launch_worker.people.roles import Role
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.redis.people.conftest import GOOD
from tests.support.commands import objects, run_here
from tests.support.http_servers import KEY, serving

Do = Callable[..., str]


@pytest.fixture
def do(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Do:
    """Carries out a command of `launch-worker` in this process, and returns what it prints."""
    monkeypatch.setenv("LAUNCH_DATABASE_URL", database_url)
    return run_here


def test_a_first_admin_a_member_and_a_program_are_added(do: Do, directory: Directory) -> None:
    assert do("users", "add", "Ada", "--admin", "--display", "Ada L.", given=f"{GOOD}\n") == "user ada is added\n"
    do("users", "add", "bob", "--group", "ml", given=GOOD)
    do("users", "add", "eve", "--project", "lab/x=operator", "--invite")
    assert "tokens create NAME --user ci" in do("users", "add", "ci", "--service", "--role", "viewer")
    found = objects(do("users", "--json"))
    assert [(user["name"], user["ways"], user["role"], user["projects"], user["groups"]) for user in found] == [
        ("ada", ["password"], "admin", {}, []),
        ("bob", ["password"], "member", {}, ["ml"]),
        ("ci", [], "viewer", {}, []),
        ("eve", ["invited"], None, {"lab/x": "operator"}, []),
    ]
    person, _ = directory.login("ada", GOOD, address="192.0.2.1")
    assert person.role is Role.ADMIN
    lines = do("users", "list").splitlines()
    assert lines[1].split()[:4] == ["ada", "Ada", "L.", "password"]
    assert "lab/x=operator" in lines[4]


def test_a_user_is_changed_and_deleted(do: Do, directory: Directory) -> None:
    do("users", "add", "ada", "--admin", given=GOOD)
    do("users", "add", "bob", given=GOOD)
    do("users", "set", "bob", "--role", "none", "--project", "a/b=viewer", "--join", "ml", "--display", "Bob")
    do("users", "set", "bob", "--password", given="another horse")
    [_, bob] = objects(do("users", "--json"))
    assert (bob["role"], bob["projects"], bob["groups"], bob["display"]) == (None, {"a/b": "viewer"}, ["ml"], "Bob")
    directory.login("bob", "another horse", address="192.0.2.1")
    assert do("users", "logout", "bob") == "1 session of bob ended\n"
    do("users", "set", "bob", "--disable")
    assert objects(do("users", "--json"))[1]["disabled_at"]
    do("users", "set", "bob", "--enable", "--leave", "ml", "--no-password")
    assert objects(do("users", "--json"))[1]["ways"] == []
    with pytest.raises(RefusedError, match="nobody would be an admin"):
        do("users", "delete", "ada", "--yes")
    assert do("users", "delete", "bob", given="y\n").endswith("user bob is deleted\n")
    assert len(objects(do("users", "--json"))) == 1


def test_what_makes_no_sense_is_refused(do: Do) -> None:
    do("users", "add", "ada", given=GOOD)
    for words, why in (
        (("users", "add", "bob", "--admin", "--role", "viewer"), "say different things"),
        (("users", "add", "bob", "--service", "--invite"), "exclude each other"),
        (("users", "add", "bob", "--service", "--project", "lab"), "is not --project PROJECT=ROLE"),
        (("users", "add", "bob", "--service", "--project", "lab=root"), "a role is one of"),
        (("users", "add", "bob"), "standard input has no password"),
        (("users", "set", "ada"), "nothing to change"),
        (("users", "set", "ada", "--password", "--no-password"), "exclude each other"),
        (("groups", "set", "ml", "--add", "ada", "--remove", "ada"), "to be added and removed"),
        (("tokens", "create", "t", "--user", "ada", "--expires", "soon"), "--expires"),
        (("tokens", "create", "t"), "say whose token it is"),
    ):
        with pytest.raises(InputError, match=why):
            do(*words, given="")


def test_groups_have_roles_and_members(do: Do) -> None:
    do("users", "add", "ada", given=GOOD)
    do("groups", "set", "ml", "--role", "member", "--project", "lab/x=operator", "--add", "ada")
    do("groups", "set", "ml", "--role", "none", "--display", "Learning")
    assert objects(do("groups", "--json")) == [
        {
            "name": "ml",
            "display": "Learning",
            "role": None,
            "projects": {"lab/x": "operator"},
            "members": ["ada"],
        }
    ]
    assert "lab/x=operator" in do("groups")
    do("groups", "set", "ml", "--remove", "ada")
    assert objects(do("groups", "--json"))[0]["members"] == []
    do("groups", "delete", "ml", "--yes")
    assert do("groups") == ""


def test_projects_are_private_and_have_roles(do: Do) -> None:
    do("users", "add", "ada", given=GOOD)
    do("projects", "set", "lab/secret", "--private", "--user", "ada=admin", "--group", "ml=viewer")
    assert objects(do("projects", "--json")) == [
        {"name": "lab/secret", "private": True, "users": {"ada": "admin"}, "groups": {"ml": "viewer"}}
    ]
    assert "private" in do("projects")
    do("projects", "set", "lab/secret", "--public", "--user", "ada=none")
    assert objects(do("projects", "--json"))[0]["private"] is False
    do("projects", "delete", "lab/secret", "--yes")
    assert do("projects") == ""


def test_a_token_is_printed_once(do: Do, directory: Directory) -> None:
    do("users", "add", "ada", "--role", "operator", given=GOOD)
    text = do("tokens", "create", "laptop", "--user", "ada", "--role", "member").strip()
    person = directory.by_token(text)
    assert person is not None
    assert (person.name, person.role) == ("ada", Role.MEMBER)
    made = objects(do("tokens", "create", "nightly", "--user", "ada", "--expires", "never", "--json"))[0]
    assert made["expires_at"] is None
    listed = do("tokens", "list", "--user", "ada", "--json")
    assert text not in listed
    assert made["token"] not in listed
    assert [token["name"] for token in objects(listed)] == ["laptop", "nightly"]
    assert "operator" not in do("tokens"), "the table has the token's own role"
    do("tokens", "revoke", *(token["id"] for token in objects(listed)))
    assert do("tokens") == ""


def test_without_a_database_add_makes_one_for_this_user_alone(
    tmp_path: Path, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "people.db"
    monkeypatch.setenv("LAUNCH_DATABASE_URL", f"sqlite:///{path}")
    with pytest.raises(ArchiveUnavailableError):
        do("users")
    old = os.umask(0)
    try:
        do("users", "add", "ada", "--admin", given=GOOD)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "ada" in do("users")


def test_a_hash_for_the_users_file_is_printed(do: Do) -> None:
    assert is_password(GOOD, do("users", "hash", given=GOOD).strip())
    with pytest.raises(InputError, match="at least 10"):
        do("users", "hash", given="short")


def test_at_a_terminal_the_password_is_typed_twice_and_not_shown(database_url: str, database: Database) -> None:
    code = "import sys; sys.argv[1:] = ['users', 'add', 'ada']; from launch_worker.cli.programs import worker; worker()"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "LAUNCH_DATABASE_URL": database_url},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    for prompt in (b"password: ", b"once more: "):
        while not seen.endswith(prompt):
            seen += os.read(ours, 1024)
        os.write(ours, GOOD.encode() + b"\n")
    # At its end a terminal gives an error.
    with contextlib.suppress(OSError):
        while more := os.read(ours, 1024):
            seen += more
    os.close(ours)
    assert process.wait() == 0, seen
    assert GOOD.encode() not in seen
    assert b"user ada is added" in seen


def test_through_a_server_the_commands_are_the_same(
    redis_url: str, tmp_path: Path, do: Do, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed on the database is printed through its server as well."""
    url = os.environ["LAUNCH_DATABASE_URL"]
    with serving(redis_url, tmp_path, LAUNCH_DATABASE_URL=url) as server:
        lists = ("users", "groups", "projects")

        def on_server(*words: str, given: str | None = None) -> str:
            with monkeypatch.context() as patch:
                patch.setenv("LAUNCH_API_URL", server.url)
                patch.setenv("LAUNCH_API_TOKEN", KEY)
                patch.delenv("LAUNCH_DATABASE_URL")
                with warnings.catch_warnings():
                    # `allowances` leaves its connection to the end of its process.
                    warnings.simplefilter("ignore", ResourceWarning)
                    try:
                        return do(*words, given=given)
                    finally:
                        gc.collect()

        on_server("users", "add", "ada", "--admin", "--display", "Ada L.", given=GOOD)
        on_server("users", "add", "ci", "--service", "--project", "lab/x=viewer", "--group", "bots")
        on_server("users", "set", "ci", "--role", "operator", "--leave", "bots", "--join", "ops")
        on_server("groups", "set", "ml", "--role", "member", "--add", "ada", "--display", "Learning")
        on_server("projects", "set", "lab/secret", "--private", "--user", "ada=admin", "--group", "ml=viewer")
        for name in lists:
            assert on_server(name, "--json") == do(name, "--json") != ""
            assert on_server(name) == do(name)
        text = on_server("tokens", "create", "n", "--user", "ci", "--role", "viewer").strip()
        person = server.shared.directory.by_token(text)
        assert person is not None
        assert (person.name, person.role) == ("ci", Role.VIEWER)
        # The ages that both print are of two moments.
        wait_until(lambda: on_server("tokens", "list", "--user", "ci") == do("tokens", "list", "--user", "ci"))
        [token] = objects(on_server("tokens", "list", "--user", "*", "--json"))
        on_server("tokens", "revoke", token["id"])
        assert do("tokens") == ""
        assert on_server("users", "logout", "ada") == "0 sessions of ada ended\n"
        on_server("allowances", "set", "project:lab/x", "--running", "2")
        assert "0 of 2" in on_server("allowances")
        on_server("allowances", "delete", "project:lab/x")
        for words, kind, why in (
            (("users", "delete", "ada", "--yes"), RefusedError, "nobody would be an admin"),
            (("users", "add", "ada", "--service"), InputError, "there is a user ada already"),
            (("users", "set", "bob", "--disable"), NotFoundError, "no user bob"),
            (("groups", "delete", "none", "--yes"), NotFoundError, "no group none"),
        ):
            with pytest.raises(kind, match=why):
                on_server(*words)
        on_server("users", "delete", "ci", "--yes")
        on_server("groups", "delete", "ml", "--yes")
        on_server("projects", "delete", "lab/secret", "--yes")
        assert objects(do("users", "--json"))[0]["name"] == "ada"


@pytest.fixture
def on_redis(redis_url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> Do:
    """Carries out a command that needs Redis and no database."""
    monkeypatch.setenv("LAUNCH_REDIS_URL", redis_url)

    def do(*words: str) -> str:
        with warnings.catch_warnings():
            # A command leaves its connection to the end of its process.
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                return run_here(*words)
            finally:
                gc.collect()

    return do


def test_a_queue_says_whom_it_admits(on_redis: Do) -> None:
    on_redis("queues", "create", "gpu", "--admit", "ml=high", "--admit", "*=low")
    assert "admit" in on_redis("queues", "show", "gpu")
    on_redis("queues", "set", "gpu", "--admit", "ml=")
    assert objects(on_redis("queues", "show", "gpu", "--json"))[0]["admits"] == {"*": "low"}
    on_redis("pools", "create", "lab", "--admit", "ml=medium")
    assert "ml=medium" in on_redis("pools", "show", "lab")
    with pytest.raises(InputError, match="priority 'urgent' is unknown"):
        on_redis("queues", "set", "gpu", "--admit", "ml=urgent")


def test_allowances_are_set_in_parts_listed_and_removed(on_redis: Do) -> None:
    def do(*words: str) -> str:
        return on_redis("allowances", *words)

    assert do("set", "user:ada", "--running", "20") == "the allowance of user:ada is made\n"
    assert do("set", "user:ada", "--gpus", "8") == "the allowance of user:ada is changed\n"
    do("set", "project:lab/x", "--waiting", "0")
    [project, ada] = objects(do("--json"))
    assert (project["name"], project["most_waiting"]) == ("project:lab/x", 0)
    assert (ada["most_waiting"], ada["most_running"], ada["most_gpus"]) == (None, 20, 8)
    assert "0 of 20" in do("list")
    assert do("set", "user:ada", "--running", "none", "--gpus", "none") == "the allowance of user:ada is removed\n"
    do("delete", "project:lab/x")
    assert do() == ""
    for words, why in (
        (("set", "ada", "--running", "1"), "user:NAME, group:NAME or project:NAME"),
        (("set", "user:ada"), "nothing to change"),
        (("delete", "user:ada"), "there is no allowance"),
    ):
        with pytest.raises(InputError, match=why):
            do(*words)
