"""Channels are kept with their addresses, and told to people without; each act is in the audit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.errors import InputError, NotFoundError
from launch_worker.notifications.channel import QuietHours
from launch_worker.notifications.channels import Channels

ADDRESS = "https://hooks.example/services/hush-hush"


@pytest.fixture
def channels(database: Database) -> Channels:
    return Channels(database, actor="root", address="192.0.2.1")


def test_a_channel_is_made_changed_and_deleted(channels: Channels) -> None:
    made, secret = channels.add("ops", "webhook", ADDRESS, quiet="22:00-07:00 Europe/Vienna", projects=["lab/x:failed"])
    assert secret.startswith("whsec_")
    assert (made.address, made.secret, made.hint) == ("", "", "hooks.example")
    assert made.projects == {"lab/x": ("failed",)}
    kept = channels.get("ops")
    assert (kept.address, kept.secret) == (ADDRESS, secret)
    assert channels.shown() == [made]
    changed, again = channels.set("ops", has_output=False, quiet="none", projects=["lab/y", "lab/x:none"])
    assert (changed.has_output, changed.quiet, changed.projects, again) == (False, None, {"lab/y": ()}, "")
    _, new = channels.set("ops", has_new_secret=True)
    assert new not in ("", secret)
    assert channels.get("ops").secret == new
    channels.delete("ops")
    with pytest.raises(NotFoundError, match="no channel ops"):
        channels.get("ops")


def test_what_is_wrong_is_said_before_anything_is_written(channels: Channels) -> None:
    for arguments, message in (
        (("Ops!", "webhook", ADDRESS), "channel 'Ops!' is not allowed"),
        (("ops", "webhook", "hush"), "not one of http or https"),
        (("ops", "slack", ""), "needs an address"),
    ):
        with pytest.raises(InputError, match=message):
            channels.add(*arguments)
    for more, message in (({"quiet": "at night"}, "quiet hours"), ({"projects": ["lab/x:soon"]}, "not 'soon'")):
        with pytest.raises(InputError, match=message):
            channels.add("ops", "webhook", ADDRESS, **more)
    assert channels.all() == []
    channels.add("ops", "slack", ADDRESS)
    with pytest.raises(InputError, match="there is a channel ops already"):
        channels.add("ops", "slack", ADDRESS)
    with pytest.raises(InputError, match="nothing to change"):
        channels.set("ops")
    with pytest.raises(InputError, match="only a channel of kind webhook has a secret"):
        channels.set("ops", has_new_secret=True)


def test_the_audit_has_each_act_and_no_address(channels: Channels, database: Database) -> None:
    _, secret = channels.add("ops", "webhook", ADDRESS)
    _, other = channels.set("ops", address=ADDRESS + "/more", has_new_secret=True)
    channels.test("ops")
    channels.delete("ops")
    with database.reading() as connection:
        lines = connection.execute(select(audit_lines).order_by(audit_lines.c.id)).all()
    assert [line.what for line in lines] == ["created", "changed", "tested", "deleted"]
    assert {(line.actor, line.kind, line.target, line.address, line.result) for line in lines} == {
        ("root", "channel", "ops", "192.0.2.1", "done")
    }
    for line in lines:
        for hidden in ("hush", secret, other):
            assert hidden not in str(line)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        ("22:00-07:00", "2026-01-10 21:59", None),
        ("22:00-07:00", "2026-01-10 22:00", "2026-01-11 07:00"),
        ("22:00-07:00", "2026-01-11 06:59", "2026-01-11 07:00"),
        ("22:00-07:00", "2026-01-11 07:00", None),
        ("12:00-13:00", "2026-01-11 12:30", "2026-01-11 13:00"),
        ("22:00-07:00 Europe/Vienna", "2026-07-10 20:30", "2026-07-11 05:00"),
        # The night in which the clock is put forward, and the one in which it is put back.
        ("22:00-07:00 Europe/Vienna", "2026-03-29 00:30", "2026-03-29 05:00"),
        ("22:00-07:00 Europe/Vienna", "2026-10-25 00:30", "2026-10-25 06:00"),
    ],
)
def test_quiet_hours_end_at_the_time_of_their_zone(hours: str, now: str, end: str | None) -> None:
    quiet = QuietHours.parse(hours)
    assert quiet is not None
    assert quiet.until(at(now)) == (at(end) if end else None)


@pytest.mark.parametrize(
    "text", ["25:00-07:00", "22:00", "22:00-07:00 Mars/Base", "22:00-07:00 ../etc/passwd", "1:1-2:2"]
)
def test_quiet_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="quiet hours"):
        QuietHours.parse(text)
