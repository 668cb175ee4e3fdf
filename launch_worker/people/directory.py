"""Says who somebody is, by password, token, session, identity provider or proxy, and makes and ends sessions."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Table, delete, exists, insert, select, update

from launch_worker.database.audit import write_act
from launch_worker.database.database import Database
from launch_worker.errors import ArchiveError, InputError, LoginError
from launch_worker.people.claims import Claims
from launch_worker.people.lookup import person_of
from launch_worker.people.names import check_name, folded_name
from launch_worker.people.passwords import check_password, hash_password, is_old, is_password
from launch_worker.people.roles import Person, Role, lowered
from launch_worker.people.schema import members, roles, sessions, tokens, users
from launch_worker.people.secrets import TOKEN_PREFIX, hash_of, new_id, new_session
from launch_worker.people.throttle import Throttle

log = logging.getLogger("launch_worker.people")

#: Seconds for which a login is not looked up again: as long may a revoked one go on.
FRESH_S = 1.0
#: Seconds for which a login that was looked up works while the database is away.
KNOWN_S = 600.0
#: Seconds from one note of a login's use to the next.
_USE_S = 60.0
#: Seconds of a session, from its last use and from its beginning.
IDLE_S = 7 * 86400.0
SESSION_S = 30 * 86400.0
#: Logins that are remembered, the ones used last.
_MOST_KNOWN = 10_000

#: `subject` of a user whom an admin invited: the first login of that name at the identity provider is theirs.
INVITED = "?"
#: Kinds of places where users, members and roles are managed; each changes only its own.
BY_HAND, BY_FILE, BY_LOGIN = "", "file", "login"

_WRONG = "the name or the password is wrong"


@dataclass(frozen=True)
class _Known:
    person: Person
    #: Seconds of the clock at which the database said so.
    at: float
    #: Microseconds since 1970 from which on it is no login any more; None: no such time.
    expires_at: int | None
    #: Microseconds of the use that was noted last.
    used_at: int


class Directory:
    """The people in a database. Thread-safe; every method may raise ArchiveUnavailableError, and blocks."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.throttle = Throttle()
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()
        #: Time of the last change of people by this process: what was looked up before that is not fresh.
        self.changed_at = 0.0
        self._first_secret: str | None = None

    # Who asks

    def by_token(self, text: str, address: str = "") -> Person | None:
        """The person of an API token, with no role above the token's; None for a token that is none (any more)."""
        return self._by_secret(text, address, self._read_token) if text.startswith(TOKEN_PREFIX) else None

    def by_session(self, text: str, address: str = "") -> Person | None:
        """The person of a session's cookie; None for one that is over."""
        return self._by_secret(text, address, self._read_session) if text else None

    def by_claims(self, claims: Claims) -> Person:
        """The person whom a trusted proxy named in this request; a new one becomes a user. Raises LoginError."""
        key = hash_of(repr(claims))
        known = self._fresh_login(key)
        if known is None:
            try:
                person = replace(self._admit(claims), how="proxy")
                known = self._remember(key, _Known(person, self._clock(), None, 0))
            except ArchiveError:
                known = self._known_login(key, KNOWN_S)
                if known is None:
                    raise
        return known.person

    def changed(self) -> None:
        """Look everybody up again: this process has changed people."""
        self.changed_at = self._clock()

    # Logins

    def login(self, name: str, password: str, *, address: str, agent: str = "") -> tuple[Person, str]:
        """A new session of whoever has this name and password. Returns the person and the session's secret.

        Raises LoginError; before it call `throttle.wait_s` and wait. It says not whether name or password was wrong,
        and takes as long for a name that nobody has.
        """
        folded = folded_name(name)
        with self.database.reading() as connection:
            query = select(users.c.password).where(users.c.name == folded, users.c.disabled_at.is_(None))
            kept = connection.execute(query).scalar_one_or_none() or ""
        if not is_password(password, kept):
            self.throttle.failed(folded, address)
            self._note_refusal(folded, address, _WRONG)
            raise LoginError(_WRONG)
        self.throttle.succeeded(folded, address)
        with self.database.writing() as connection:
            if is_old(kept):
                connection.execute(update(users).where(users.c.name == folded).values(password=hash_password(password)))
            return self._begin(connection, folded, how="password", address=address, agent=agent)

    def login_by_claims(self, claims: Claims, *, address: str, agent: str = "") -> tuple[Person, str]:
        """A new session of the person whom an identity provider vouches for. Raises LoginError."""
        try:
            person = self._admit(claims)
        except LoginError as error:
            self._note_refusal(claims.name, address, str(error))
            raise
        with self.database.writing() as connection:
            return self._begin(connection, person.name, how="oidc", address=address, agent=agent)

    def logout(self, text: str) -> None:
        """End a session."""
        key = hash_of(text)
        with self._lock:
            self._known.pop(key, None)
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == key))

    # The first admin

    def first_secret(self) -> str | None:
        """The secret of the one-time link that makes the first admin; None where there is an admin already.

        It lives as long as this object, and only until somebody is an admin.
        """
        with self.database.reading() as connection:
            if has_admin(connection):
                self._first_secret = None
            elif self._first_secret is None:
                self._first_secret = new_session()
        return self._first_secret

    def make_first_admin(
        self, secret: str, name: str, password: str, *, address: str, agent: str = ""
    ) -> tuple[Person, str]:
        """Make the first admin, and a session of theirs. Raises LoginError for another secret or a second admin."""
        wanted = self._first_secret or ""
        if not wanted or not hmac.compare_digest(wanted.encode(), secret.encode(errors="replace")):
            raise LoginError("this link is used up or wrong; an admin adds users with: launch-worker users add NAME")
        name = check_name("user", name)
        check_password(password, name=name)
        kept = hash_password(password)
        with self.database.writing() as connection:
            if has_admin(connection):
                raise LoginError("there is an admin already; the link is used up")
            if connection.execute(select(users.c.name).where(users.c.name == name)).first():
                raise InputError(f"there is a user {name} already; choose another name")
            now = self._now()
            connection.execute(insert(users).values(name=name, password=kept, created_at=now, created_by=name))
            connection.execute(
                insert(roles).values(kind="user", name=name, project="", source=BY_HAND, role=Role.ADMIN.label)
            )
            write_act(
                connection,
                actor=name,
                what="created",
                kind="user",
                target=name,
                address=address,
                detail={"role": "admin", "how": "first link"},
            )
            begun = self._begin(connection, name, how="link", address=address, agent=agent)
        self._first_secret = None
        return begun

    # Inside

    def _by_secret(self, text: str, address: str, read: Callable[[Connection, str], _Known | None]) -> Person | None:
        key = hash_of(text)
        known = self._fresh_login(key)
        if known is None:
            try:
                with self.database.reading() as connection:
                    known = read(connection, key)
            except ArchiveError:
                known = self._known_login(key, KNOWN_S)
                if known is None:
                    raise
            else:
                if known is None:
                    with self._lock:
                        self._known.pop(key, None)
                    return None
                known = self._note_use(key, known, address)
                self._remember(key, known)
        if known.expires_at is not None and known.expires_at <= self._now():
            return None
        return known.person

    def _read_token(self, connection: Connection, key: str) -> _Known | None:
        row = connection.execute(select(tokens).where(tokens.c.hash == key)).one_or_none()
        if row is None or (row.expires_at is not None and row.expires_at <= self._now()):
            return None
        person = person_of(connection, row.user_name)
        if person is None:
            return None
        person = replace(lowered(person, Role.parse(row.role)), how="token", token=row.name)
        return _Known(person, self._clock(), row.expires_at, row.used_at or 0)

    def _read_session(self, connection: Connection, key: str) -> _Known | None:
        row = connection.execute(select(sessions).where(sessions.c.hash == key)).one_or_none()
        if row is None:
            return None
        expires_at = min(row.expires_at, (row.used_at or row.created_at) + int(IDLE_S * 1e6))
        person = person_of(connection, row.user_name) if expires_at > self._now() else None
        if person is None:
            return None
        return _Known(replace(person, how="session"), self._clock(), expires_at, row.used_at or 0)

    def _note_use(self, key: str, known: _Known, address: str) -> _Known:
        """Write that the login was used now, unless it was written a short time ago. It fails without a word."""
        now = self._now()
        if now - known.used_at < _USE_S * 1e6:
            return known
        table: Table = tokens if known.person.how == "token" else sessions
        values: dict[str, object] = {"used_at": now}
        if table is tokens:
            values["used_from"] = address
        try:
            with self.database.writing() as connection:
                connection.execute(update(table).where(table.c.hash == key).values(values))
        except ArchiveError as error:
            log.warning("people.use_not_noted error=%s", error)
        return replace(known, used_at=now)

    def _begin(self, connection: Connection, name: str, *, how: str, address: str, agent: str) -> tuple[Person, str]:
        person = person_of(connection, name)
        if person is None:
            raise LoginError(_WRONG)
        now = self._now()
        secret = new_session()
        # Those that are over are deleted where others begin.
        connection.execute(delete(sessions).where(sessions.c.user_name == name, sessions.c.expires_at <= now))
        connection.execute(
            insert(sessions).values(
                id=new_id(),
                user_name=name,
                hash=hash_of(secret),
                how=how,
                created_at=now,
                expires_at=now + int(SESSION_S * 1e6),
                used_at=now,
                address=address,
                agent=agent[:200].encode(errors="replace").decode().replace("\0", ""),
            )
        )
        connection.execute(update(users).where(users.c.name == name).values(login_at=now))
        write_act(connection, actor=name, what="login", kind="user", target=name, address=address, detail={"how": how})
        return replace(person, how="session"), secret

    def _admit(self, claims: Claims) -> Person:
        """The user whom a proxy or an identity provider names, with the groups and the role that it says."""
        with self.database.writing() as connection:
            row = None
            if claims.subject:
                row = connection.execute(select(users).where(users.c.subject == claims.subject)).first()
            if row is None:
                row = connection.execute(select(users).where(users.c.name == claims.name)).first()
                if row is None:
                    now = self._now()
                    connection.execute(
                        insert(users).values(
                            name=claims.name,
                            subject=claims.subject,
                            source=BY_LOGIN,
                            created_at=now,
                            created_by=claims.name,
                        )
                    )
                elif claims.subject and row.subject == INVITED:
                    connection.execute(update(users).where(users.c.name == claims.name).values(subject=claims.subject))
                elif claims.subject:
                    # A provider may let people choose their names.
                    raise LoginError(
                        f"the name {claims.name} belongs to somebody who logs in another way; "
                        f"ask an admin for: launch-worker users set {claims.name} --invite"
                    )
            name = claims.name if row is None else row.name
            self._take_claims(connection, name, claims)
            person = person_of(connection, name)
        if person is None:
            raise LoginError(f"the user {name} is disabled; ask an admin")
        return person

    @staticmethod
    def _take_claims(connection: Connection, name: str, claims: Claims) -> None:
        """Make what the last login said of groups and role equal to the claims; write only what differs."""
        if claims.display:
            connection.execute(
                update(users)
                .where(users.c.name == name, users.c.display != claims.display)
                .values(display=claims.display)
            )
        mine = (members.c.user_name == name, members.c.source == BY_LOGIN)
        before = set(connection.execute(select(members.c.group_name).where(*mine)).scalars())
        if before - claims.groups:
            connection.execute(delete(members).where(*mine, members.c.group_name.in_(before - claims.groups)))
        for group in claims.groups - before:
            connection.execute(insert(members).values(group_name=group, user_name=name, source=BY_LOGIN))
        given = (
            roles.c.kind == "user",
            roles.c.name == name,
            roles.c.project == "",
            roles.c.source == BY_LOGIN,
        )
        role = connection.execute(select(roles.c.role).where(*given)).scalar_one_or_none()
        wanted = None if claims.role is Role.NONE else claims.role.label
        if role != wanted:
            connection.execute(delete(roles).where(*given))
            if wanted:
                connection.execute(
                    insert(roles).values(kind="user", name=name, project="", source=BY_LOGIN, role=wanted)
                )

    def _note_refusal(self, name: str, address: str, why: str) -> None:
        log.warning("people.login_refused user=%r address=%s", name, address)
        try:
            with self.database.writing() as connection:
                write_act(connection, actor=name, what="login", kind="user", target=name, address=address, result=why)
        except ArchiveError:
            return

    def _fresh_login(self, key: str) -> _Known | None:
        known = self._known_login(key, FRESH_S)
        return known if known is not None and known.at > self.changed_at else None

    def _known_login(self, key: str, age_s: float) -> _Known | None:
        with self._lock:
            known = self._known.get(key)
        return known if known is not None and 0 <= self._clock() - known.at < age_s else None

    def _remember(self, key: str, known: _Known) -> _Known:
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    def _now(self) -> int:
        return int(self._clock() * 1e6)


def has_admin(connection: Connection, *, but: str = "") -> bool:
    """Whether a user who may log in is a system-wide admin, other than this one."""
    is_admin = exists(
        select(roles.c.name).where(
            roles.c.project == "",
            roles.c.role == Role.ADMIN.label,
            (
                ((roles.c.kind == "user") & (roles.c.name == users.c.name))
                | (
                    (roles.c.kind == "group")
                    & roles.c.name.in_(
                        select(members.c.group_name).where(members.c.user_name == users.c.name).correlate(users)
                    )
                )
            ),
        )
    )
    query = select(users.c.name).where(users.c.disabled_at.is_(None), users.c.name != but, is_admin).limit(1)
    return connection.execute(query).first() is not None
