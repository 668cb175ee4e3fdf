"""Defines the tables of channels and rules. A change comes with a file in `database/migrations`; a test compares them.

Times are microseconds since 1970.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, MetaData, String, Table, Text, true

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _key(name: str) -> Column[str]:
    return Column(name, String(255), primary_key=True, nullable=False)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


channels = Table(
    "channels",
    metadata,
    _key("name"),
    _text("kind"),
    #: URL, or addresses of mail with commas between.
    _text("address"),
    #: Secret of a webhook's signatures: the sender needs it as it is.
    _text("secret"),
    Column("has_output", Boolean, nullable=False, server_default=true()),
    #: Quiet hours as people write them; '' for none.
    _text("quiet"),
    #: JSON of the projects all of whose runs tell the channel something, each with its states.
    _text("projects"),
    _time("created_at"),
    _text("created_by"),
)

rules = Table(
    "rules",
    metadata,
    _key("name"),
    #: Word for the condition: see rules.Condition.
    _text("condition"),
    #: Seconds for which it must be so.
    Column("seconds", Float, nullable=False, server_default="0"),
    #: Queue and project that the rule watches; '' for every one.
    _text("queue"),
    _text("project"),
    _text("channel"),
    _time("created_at"),
    _text("created_by"),
)

#: What the rules have found and told, until it is so no more: a process that starts anew does not tell it again.
alarms = Table(
    "alarms",
    metadata,
    _key("rule"),
    _key("subject"),
    #: Time since which it is so.
    _time("since"),
    _time("told_at"),
    sqlite_with_rowid=False,
)
