"""Who somebody is: passwords, tokens, sessions, claims, and what goes on while the database is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from sqlalchemy import select

from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.errors import ArchiveUnavailableError, InputError, LoginError, RefusedError
from launch_worker.people import passwords
from launch_worker.people.claims import Claims
from launch_worker.people.directory import IDLE_S, KNOWN_S, SESSION_S, Directory
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Person, Role
from launch_worker.people.schema import sessions, tokens, users
from tests.redis.people.conftest import GOOD, Clock

HOME = "192.0.2.1"


def audited(database: Database) -> list[tuple[str, str, str, str]]:
    with database.reading() as connection:
        c = audit_lines.c
        return [tuple(row) for row in connection.execute(select(c.actor, c.what, c.target, c.result).order_by(c.id))]


@pytest.fixture
def away(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes the database be away."""

    def fails(_: Database) -> NoReturn:
        raise ArchiveUnavailableError("the database does not answer")

    def make() -> None:
        monkeypatch.setattr(Database, "reading", fails)
        monkeypatch.setattr(Database, "writing", fails)

    return make


def test_a_password_opens_a_session_with_the_roles_of_the_moment(directory: Directory, registry: Registry) -> None:
    registry.add_user("Ada@Example.org", display="Ada", password=GOOD, given={"": Role.VIEWER, "a/b": Role.OPERATOR})
    registry.set_group("ml", given={"a/b": Role.ADMIN, "": Role.MEMBER})
    registry.set_user("ada@example.org", joins=["ml"])
    registry.set_project("secret", is_private=True)
    person, secret = directory.login(" ADA@example.org", GOOD, address=HOME)
    assert person == Person(
        name="ada@example.org",
        display="Ada",
        groups=frozenset({"ml"}),
        role=Role.MEMBER,
        projects={"a/b": Role.ADMIN},
        private=frozenset({"secret"}),
        how="session",
    )
    assert directory.by_session(secret) == person


def test_no_secret_is_in_the_database(directory: Directory, registry: Registry, database: Database) -> None:
    registry.add_user("ada", password=GOOD)
    _, session = directory.login("ada", GOOD, address=HOME)
    token, _ = registry.create_token("ada", "laptop")
    with database.reading() as connection:
        found = repr([connection.execute(select(table)).all() for table in (users, sessions, tokens, audit_lines)])
    assert GOOD not in found
    assert session not in found
    assert token not in found
    assert "$argon2id$" in found


def test_a_wrong_login_is_refused_with_the_same_words(directory: Directory, registry: Registry) -> None:
    registry.add_user("ada", password=GOOD)
    registry.add_user("bot")
    registry.add_user("gone", password=GOOD)
    registry.set_user("gone", is_disabled=True)
    wrong = ("", "wrong", GOOD + " ", GOOD.upper(), "x" * 5000, "\ud800", "a\0b")
    tries = [("ada", given) for given in wrong]
    tries += [
        (name, given) for name in ("bot", "gone", "nobody", "", "x" * 5000, "a\0", "\ud800") for given in ("", GOOD)
    ]
    for name, given in tries:
        with pytest.raises(LoginError) as refusal:
            directory.login(name, given, address=HOME)
        assert str(refusal.value) == "the name or the password is wrong"


def test_a_refused_login_is_in_the_audit(directory: Directory, registry: Registry, database: Database) -> None:
    registry.add_user("ada", password=GOOD)
    with pytest.raises(LoginError):
        directory.login("ada", "wrong", address=HOME)
    directory.login("ada", GOOD, address=HOME)
    assert audited(database)[-2:] == [
        ("ada", "login", "ada", "the name or the password is wrong"),
        ("ada", "login", "ada", ""),
    ]


def test_a_name_that_nobody_has_costs_a_hash_too(
    directory: Directory, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_user("ada", password=GOOD)
    registry.add_user("bot")
    checked: list[str] = []

    class Counting:
        def __init__(self, real: Any) -> None:
            self._real = real

        def verify(self, kept: str, given: bytes) -> Any:
            checked.append(kept.rsplit("$", 2)[0])
            return self._real.verify(kept, given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(passwords, "_hasher", Counting(passwords._hasher))
    for name in ("ada", "bot", "nobody"):
        with pytest.raises(LoginError):
            directory.login(name, "wrong", address=HOME)
    assert len(checked) == 3
    assert len(set(checked)) == 1, "all with the same costs"


def test_a_hash_of_older_costs_is_made_anew(
    directory: Directory, registry: Registry, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_user("ada", password=GOOD)
    from argon2 import PasswordHasher

    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    directory.login("ada", GOOD, address=HOME)
    with database.reading() as connection:
        assert "t=2" in connection.execute(select(users.c.password)).scalar_one()
    directory.login("ada", GOOD, address=HOME)


def test_a_token_has_no_more_than_its_role_nor_than_its_user(
    directory: Directory, registry: Registry, clock: Clock
) -> None:
    registry.add_user("ada", given={"": Role.OPERATOR, "a/b": Role.ADMIN})
    text, _ = registry.create_token("ada", "laptop", role=Role.MEMBER)
    person = directory.by_token(text)
    assert person is not None
    assert (person.role, person.projects, person.how, person.token) == (
        Role.MEMBER,
        {"a/b": Role.MEMBER},
        "token",
        "laptop",
    )
    registry.set_user("ada", given={"": Role.VIEWER})
    clock.now += 2
    person = directory.by_token(text)
    assert person is not None
    assert person.role is Role.VIEWER


def test_a_token_ends(directory: Directory, registry: Registry, clock: Clock) -> None:
    registry.add_user("ada", given={"": Role.MEMBER})
    expiring, _ = registry.create_token("ada", "brief", lasts_s=3600)
    revoked, token = registry.create_token("ada", "laptop")
    assert directory.by_token(expiring)
    assert directory.by_token(revoked)
    registry.revoke_token(token.id)
    clock.now += 2
    assert directory.by_token(revoked) is None
    assert directory.by_token(expiring)
    clock.now += 3600
    assert directory.by_token(expiring) is None
    for text in ("", "lw_", "lw_" + "x" * 43, expiring[3:], expiring.upper(), "lw_\ud800"):
        assert directory.by_token(text) is None


def test_a_user_who_is_disabled_or_deleted_has_no_login(directory: Directory, registry: Registry, clock: Clock) -> None:
    for name in ("ada", "bob"):
        registry.add_user(name, password=GOOD, given={"": Role.MEMBER})
    logins = {
        name: (registry.create_token(name, "t")[0], directory.login(name, GOOD, address=HOME)[1])
        for name in ("ada", "bob")
    }
    registry.set_user("ada", is_disabled=True)
    registry.delete_user("bob")
    clock.now += 2
    for token, session in logins.values():
        assert directory.by_token(token) is None
        assert directory.by_session(session) is None
    registry.set_user("ada", is_disabled=False)
    assert directory.by_token(logins["ada"][0]), "the token was kept, the session was not"
    assert directory.by_session(logins["ada"][1]) is None


def test_the_use_of_a_token_is_noted_once_a_minute(
    directory: Directory, registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_user("ada", given={"": Role.MEMBER})
    text, _ = registry.create_token("ada", "laptop")
    writes = []
    real = Database.writing

    def counted(self: Database) -> Any:
        writes.append(1)
        return real(self)

    monkeypatch.setattr(Database, "writing", counted)
    for _ in range(50):
        directory.by_token(text, HOME)
        clock.now += 1
    (token,) = registry.tokens("ada")
    assert len(writes) == 1
    assert token.used_from == HOME
    assert token.used_at is not None
    clock.now += 15
    directory.by_token(text, "192.0.2.9")
    assert registry.tokens("ada")[0].used_from == "192.0.2.9"


def test_a_session_ends_when_it_is_not_used_or_old_or_ended(
    directory: Directory, registry: Registry, clock: Clock
) -> None:
    registry.add_user("ada", password=GOOD)
    _, idle = directory.login("ada", GOOD, address=HOME)
    _, used = directory.login("ada", GOOD, address=HOME)
    _, ended = directory.login("ada", GOOD, address=HOME)
    directory.logout(ended)
    assert directory.by_session(ended) is None
    began = clock.now
    while clock.now < began + SESSION_S - 2 * IDLE_S / 3:
        assert directory.by_session(used)
        clock.now += IDLE_S / 2
    assert directory.by_session(idle) is None
    clock.now = began + SESSION_S + 1
    assert directory.by_session(used) is None
    assert directory.by_session("") is None


def test_a_new_password_ends_the_sessions(directory: Directory, registry: Registry, clock: Clock) -> None:
    registry.add_user("ada", password=GOOD)
    _, secret = directory.login("ada", GOOD, address=HOME)
    registry.set_user("ada", password="another horse")
    clock.now += 2
    assert directory.by_session(secret) is None
    with pytest.raises(LoginError):
        directory.login("ada", GOOD, address=HOME)
    directory.login("ada", "another horse", address=HOME)


def test_sessions_are_listed_and_revoked(directory: Directory, registry: Registry, clock: Clock) -> None:
    registry.add_user("ada", password=GOOD)
    secrets = [directory.login("ada", GOOD, address=HOME, agent="Firefox\x1b" * 100)[1] for _ in range(3)]
    listed = registry.sessions("ada")
    assert len(listed) == 3
    assert registry.revoke_sessions("ada", session=listed[0].id) == 1
    clock.now += 2
    assert sum(directory.by_session(secret) is not None for secret in secrets) == 2
    assert registry.revoke_sessions("ada") == 2


def test_while_the_database_is_away_known_logins_work_for_ten_minutes(
    directory: Directory, registry: Registry, clock: Clock, away: Callable[[], None]
) -> None:
    registry.add_user("ada", password=GOOD, given={"": Role.MEMBER})
    known, _ = registry.create_token("ada", "known")
    brief, _ = registry.create_token("ada", "brief", lasts_s=60)
    unknown, _ = registry.create_token("ada", "unknown")
    _, session = directory.login("ada", GOOD, address=HOME)
    proxied = Claims("eve")
    for person in (directory.by_token(known), directory.by_token(brief), directory.by_session(session)):
        assert person
    directory.by_claims(proxied)
    away()
    clock.now += KNOWN_S - 1
    assert directory.by_token(known)
    assert directory.by_session(session)
    assert directory.by_claims(proxied).name == "eve"
    assert directory.by_token(brief) is None, "its own end counts all the same"
    for ask in (
        lambda: directory.by_token(unknown),
        lambda: directory.login("ada", GOOD, address=HOME),
        lambda: directory.by_claims(Claims("new")),
    ):
        with pytest.raises(ArchiveUnavailableError):
            ask()
    clock.now += 2
    with pytest.raises(ArchiveUnavailableError):
        directory.by_token(known)


def test_what_is_known_is_bounded(directory: Directory, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch_worker.people.directory._MOST_KNOWN", 3)
    registry.add_user("ada")
    for at in range(6):
        assert directory.by_token(registry.create_token("ada", f"t{at}")[0])
    assert len(directory._known) == 3


def test_the_first_admin_comes_by_a_link_that_works_once(directory: Directory, database: Database) -> None:
    secret = directory.first_secret()
    assert secret
    assert directory.first_secret() == secret
    with pytest.raises(LoginError):
        directory.make_first_admin("x" * len(secret), "ada", GOOD, address=HOME)
    with pytest.raises(InputError, match="at least 10"):
        directory.make_first_admin(secret, "ada", "short", address=HOME)
    person, session = directory.make_first_admin(secret, "Ada", GOOD, address=HOME)
    assert (person.name, person.role) == ("ada", Role.ADMIN)
    assert directory.by_session(session)
    with pytest.raises(LoginError, match="used up"):
        directory.make_first_admin(secret, "eve", GOOD, address=HOME)
    assert directory.first_secret() is None
    assert ("ada", "created", "ada", "") in audited(database)


def test_the_link_is_worth_nothing_once_there_is_an_admin(directory: Directory, registry: Registry) -> None:
    secret = directory.first_secret()
    assert secret
    registry.add_user("ada", given={"": Role.ADMIN})
    with pytest.raises(LoginError, match="an admin already"):
        directory.make_first_admin(secret, "eve", GOOD, address=HOME)
    assert directory.first_secret() is None


def test_a_provider_makes_users_and_their_groups(directory: Directory, registry: Registry) -> None:
    registry.set_group("ml", given={"a/b": Role.OPERATOR})
    claims = Claims("ada", "https://idp 1", "Ada", frozenset({"ml", "all"}), Role.MEMBER)
    person, secret = directory.login_by_claims(claims, address=HOME)
    assert (person.display, person.groups, person.role) == ("Ada", frozenset({"ml", "all"}), Role.MEMBER)
    assert person.projects == {"a/b": Role.OPERATOR}
    assert directory.by_session(secret) == person
    person, _ = directory.login_by_claims(Claims("ada", "https://idp 1", "Ada"), address=HOME)
    assert (person.groups, person.role, person.projects) == (frozenset(), Role.NONE, {})


def test_what_an_admin_gave_a_login_does_not_take(directory: Directory, registry: Registry) -> None:
    directory.by_claims(Claims("ada", groups=frozenset({"ml"}), role=Role.ADMIN))
    registry.set_user("ada", given={"": Role.VIEWER}, joins=["ml"])
    person = directory.by_claims(Claims("ada"))
    assert (person.groups, person.role, person.how) == (frozenset({"ml"}), Role.VIEWER, "proxy")
    registry.set_group("ops")
    directory.by_claims(Claims("ada", groups=frozenset({"ops"}), role=Role.MEMBER))
    with pytest.raises(RefusedError, match="last login"):
        registry.set_user("ada", given={"": Role.NONE})


def test_a_name_at_the_provider_takes_nobody_elses_user(
    directory: Directory, registry: Registry, database: Database
) -> None:
    registry.add_user("ada", password=GOOD, given={"": Role.ADMIN})
    registry.add_user("bot", given={"": Role.ADMIN})
    for name in ("ada", "bot"):
        with pytest.raises(LoginError, match="another way"):
            directory.login_by_claims(Claims(name, "https://idp 666"), address=HOME)
    registry.set_user("ada", is_invited=True)
    person, _ = directory.login_by_claims(Claims("ada", "https://idp 1"), address=HOME)
    assert person.role is Role.ADMIN
    with pytest.raises(LoginError, match="another way"):
        directory.login_by_claims(Claims("ada", "https://idp 2"), address=HOME)
    person, _ = directory.login_by_claims(Claims("renamed", "https://idp 1"), address=HOME)
    assert person.name == "ada", "the subject is the same person under another name"


def test_a_disabled_user_does_not_come_in_by_a_provider(directory: Directory, registry: Registry) -> None:
    directory.login_by_claims(Claims("ada", "https://idp 1"), address=HOME)
    registry.set_user("ada", is_disabled=True)
    with pytest.raises(LoginError, match="disabled"):
        directory.login_by_claims(Claims("ada", "https://idp 1"), address=HOME)
    with pytest.raises(LoginError, match="disabled"):
        directory.by_claims(Claims("ada"))


def test_a_login_that_is_fresh_is_not_looked_up(
    directory: Directory, registry: Registry, clock: Clock, away: Callable[[], None]
) -> None:
    registry.add_user("ada", given={"": Role.MEMBER})
    text, _ = registry.create_token("ada", "laptop")
    person = directory.by_token(text)
    clock.now += 0.5
    registry.set_user("ada", given={"": Role.VIEWER})
    assert directory.by_token(text) is person
    directory.changed()
    viewer = directory.by_token(text)
    assert viewer is not None
    assert viewer.role is Role.VIEWER, "this process made the change"
    clock.now += 0.5
    away()
    assert directory.by_token(text) is viewer
