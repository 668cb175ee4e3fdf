"""Defines the people's tables. A change comes with a file in `database/migrations`, and a test compares the two.

Times are microseconds since 1970. Secrets are kept as hashes only.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, MetaData, String, Table, Text, false

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _key(name: str) -> Column[str]:
    return Column(name, String(255), primary_key=True, nullable=False)


def _name(name: str) -> Column[str]:
    return Column(name, String(255), nullable=False)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


users = Table(
    "users",
    metadata,
    _key("name"),
    _text("display"),
    #: Argon2 hash of the password; '' for a user who has none: a service account, or one with another way in.
    _text("password"),
    #: Name at the identity provider, `ISSUER SUBJECT`; INVITED until the first such login; '' for none.
    _text("subject"),
    #: Kind of the place where the user is managed: see Source.
    _text("source"),
    _time("created_at"),
    _text("created_by"),
    #: Time of the last login by a password or an identity provider.
    Column("login_at", BigInteger),
    #: Time at which the user was shut out; NULL for one who may log in.
    Column("disabled_at", BigInteger),
)

groups = Table("groups", metadata, _key("name"), _text("display"), _text("source"), _time("created_at"))

members = Table(
    "members",
    metadata,
    _key("group_name"),
    _key("user_name"),
    #: The same member may come from several places: of each only its own rows are taken away again.
    _key("source"),
    Index("members_user", "user_name"),
    sqlite_with_rowid=False,
)

projects = Table(
    "projects",
    metadata,
    _key("name"),
    Column("is_private", Boolean, nullable=False, server_default=false()),
    _text("source"),
    _time("created_at"),
)

roles = Table(
    "roles",
    metadata,
    #: Kind of the holder: user or group.
    _key("kind"),
    _key("name"),
    #: Project; '' for the system-wide role.
    _key("project"),
    _key("source"),
    #: Label of the role.
    _text("role"),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    #: Public id, by which the token is named and revoked.
    _key("id"),
    _name("user_name"),
    _name("name"),
    #: SHA-256 of the token.
    _name("hash"),
    #: Label of the highest role that the token has.
    _text("role"),
    _time("created_at"),
    _text("created_by"),
    Column("expires_at", BigInteger),
    #: Time and address of its last use, at most a minute old.
    Column("used_at", BigInteger),
    _text("used_from"),
    Index("tokens_hash", "hash", unique=True),
    Index("tokens_name", "user_name", "name", unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    #: Public id, by which the session is named and revoked.
    _key("id"),
    _name("user_name"),
    #: SHA-256 of the secret in the browser's cookie.
    _name("hash"),
    #: Kind of the login: password, oidc, link.
    _text("how"),
    _time("created_at"),
    _time("expires_at"),
    Column("used_at", BigInteger),
    _text("address"),
    #: Name of the browser, as it says.
    _text("agent"),
    Index("sessions_hash", "hash", unique=True),
    Index("sessions_user", "user_name"),
)
