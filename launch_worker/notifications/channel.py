"""Describes a channel: where notices go, by which means, and when not. Its address and its secret are never shown."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from email.utils import parseaddr
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from launch_worker.errors import InputError
from launch_worker.model.checks import PROJECT, PROJECT_RULE, check_text, encodes
from launch_worker.model.notify import CHANNEL_NAME, CHANNEL_NAME_RULE, STATES
from launch_worker.model.units import isoformat, micros_of
from launch_worker.settings import MAILBOX

if TYPE_CHECKING:
    from launch_worker.model.notice import OutboxState

WEBHOOK, SLACK, MAIL, APPRISE = "webhook", "slack", "mail", "apprise"
KINDS = (WEBHOOK, SLACK, MAIL, APPRISE)
#: Beginning of a webhook's secret, and bytes of chance after it (Standard Webhooks).
_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
_MOST_ADDRESS = 4096
_MOST_MAILBOXES = 50
_QUIET = re.compile(r"(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)(?:\s+(\S{1,60}))?")


@dataclass(frozen=True)
class QuietHours:
    """The hours of each day in which a channel says nothing."""

    begin: time
    end: time
    #: Name of the time zone.
    zone: str = "UTC"

    @classmethod
    def parse(cls, text: str) -> QuietHours | None:
        """Read `22:00-07:00 Europe/Vienna`; None for an empty text or `none`. Raises InputError."""
        text = text.strip()
        if text in ("", "none"):
            return None
        rule = f"quiet hours {text[:60]!r} are none; write them as 22:00-07:00 Europe/Vienna (without a zone: UTC)"
        match = _QUIET.fullmatch(text)
        if match is None:
            raise InputError(rule)
        first, first_minute, last, last_minute = (int(one) for one in match.groups()[:4])
        zone = match[5] or "UTC"
        try:
            ZoneInfo(zone)
            begin, end = time(first, first_minute), time(last, last_minute)
        except (KeyError, ValueError, OSError):
            raise InputError(rule) from None
        if begin == end:
            raise InputError("quiet hours must end at another time than they begin")
        return cls(begin, end, zone)

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M} {self.zone}"

    def until(self, now_us: int) -> int | None:
        """The end of the quiet hours that are now, in microseconds since 1970; None where it is not quiet."""
        zone = ZoneInfo(self.zone)
        now = datetime.fromtimestamp(now_us / 1e6, UTC).astimezone(zone)
        is_over_midnight = self.begin > self.end
        here = now.time().replace(tzinfo=None)
        is_quiet = here >= self.begin or here < self.end if is_over_midnight else self.begin <= here < self.end
        if not is_quiet:
            return None
        day = now.date() + timedelta(days=1) if is_over_midnight and here >= self.begin else now.date()
        end = datetime.combine(day, self.end, zone)
        # Where the clock is put back, the same hour comes twice.
        return max(int(end.timestamp() * 1e6), now_us + 1)


@dataclass(frozen=True)
class Channel:
    """A channel. Times are microseconds since 1970."""

    name: str
    kind: str
    #: URL, or addresses of mail with commas between; '' for a channel that is only shown.
    address: str = field(default="", repr=False)
    #: Secret by which messages of a webhook are signed.
    secret: str = field(default="", repr=False)
    #: Part of the address that is no secret: a host, a number of addresses, or Apprise's word.
    hint: str = ""
    #: Whether the last lines of a failed run's output are sent: logs may hold secrets.
    has_output: bool = True
    quiet: QuietHours | None = None
    #: Projects all of whose runs tell it something, each with the states of which they do; none for every end.
    projects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    created_at: int = 0
    created_by: str = ""
    #: What `sending_of` said of it; None for not known.
    sending: Mapping[str, Any] | None = None

    def quiet_until(self, now_us: int) -> int | None:
        """The end of its quiet hours, in microseconds since 1970; None where it is not quiet now."""
        return self.quiet.until(now_us) if self.quiet is not None else None

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Channel:
        return cls(
            name=shown["name"],
            kind=shown["kind"],
            hint=shown["to"] or "",
            has_output=shown["output"],
            quiet=QuietHours.parse(shown["quiet"] or ""),
            projects={name: tuple(states) for name, states in shown["projects"].items()},
            created_at=micros_of(shown["created_at"]) or 0,
            created_by=shown["created_by"] or "",
            sending=shown.get("sending"),
        )

    def as_json(self) -> dict[str, Any]:
        """The channel without its address and its secret."""
        return {
            "name": self.name,
            "kind": self.kind,
            "to": self.hint or None,
            "output": self.has_output,
            "quiet": str(self.quiet) if self.quiet else None,
            "projects": {name: list(states) for name, states in sorted(self.projects.items())},
            "created_at": isoformat(self.created_at),
            "created_by": self.created_by or None,
            "sending": dict(self.sending) if self.sending is not None else None,
        }


def with_sending(channels: Iterable[Channel], outbox: OutboxState) -> list[Channel]:
    """The channels with how the sending to each goes."""
    return [replace(channel, sending=_sending(channel.name, outbox)) for channel in channels]


def _sending(name: str, outbox: OutboxState) -> dict[str, Any]:
    state = outbox.channels.get(name)
    return {
        "has_sender": outbox.known is not None,
        "waiting": state.waiting if state else 0,
        "sent": state.sent if state else 0,
        "sent_at": isoformat(state.sent_at or None) if state else None,
        "failing_since": isoformat(state.failing_since or None) if state else None,
        "error": (state.error or None) if state else None,
        "lost": state.refused + state.given_up + state.dropped if state else 0,
    }


def check_channel_name(name: str) -> str:
    """Return the name. Raises InputError."""
    check_text("channel", name, CHANNEL_NAME, CHANNEL_NAME_RULE)
    return name


def read_projects(texts: Iterable[str]) -> dict[str, tuple[str, ...] | None]:
    """Read `PROJECT`, `PROJECT:STATES` or `PROJECT:none`, which takes it away (None). Raises InputError."""
    found: dict[str, tuple[str, ...] | None] = {}
    for text in texts:
        name, _, states = text.partition(":")
        check_text("project", name, PROJECT, PROJECT_RULE)
        if states == "none":
            found[name] = None
            continue
        words = tuple(dict.fromkeys(word.strip() for word in re.split(r"[+,]", states) if word.strip()))
        for word in words:
            if word not in STATES:
                raise InputError(f"the runs of a project tell of {', '.join(STATES)}, not {word[:40]!r}")
        found[name] = words
    return found


def check_address(kind: str, address: str) -> str:
    """Return the address in one spelling. Raises InputError, which does not repeat it: it may hold a secret."""
    if kind not in KINDS:
        raise InputError(f"a channel is of kind {', '.join(KINDS)}, not {kind[:40]!r}")
    address = address.strip()
    if not address:
        raise InputError(f"a channel of kind {kind} needs an address: {_WANTED[kind]}")
    if len(address) > _MOST_ADDRESS or not encodes(address) or not address.isprintable():
        raise InputError(f"the address of a channel is at most {_MOST_ADDRESS} characters that can be printed")
    if kind == MAIL:
        return ", ".join(_mailboxes(address))
    if kind == APPRISE:
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
            raise InputError(f"the address is none that Apprise knows: {_WANTED[kind]}")
        return address
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in ("http", "https") or " " in address:
        raise InputError(f"the address is not one of http or https: {_WANTED[kind]}")
    if parts.username is not None or parts.password is not None:
        raise InputError("the address must not hold a login; webhooks prove who sends them by their signature")
    return parts._replace(fragment="").geturl()


def hint_of(kind: str, address: str) -> str:
    """The part of a sound address that is no secret."""
    if kind == MAIL:
        number = len(address.split(","))
        return f"{number} address{'' if number == 1 else 'es'}"
    if kind == APPRISE:
        return f"{address.partition('://')[0].lower()}://…"
    return urlsplit(address).hostname or ""


def new_secret() -> str:
    """A secret for a webhook's signatures."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The key of a webhook's secret. Raises InputError for a damaged one."""
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise InputError("the secret of this channel is damaged; make the channel anew") from None


_WANTED = {
    WEBHOOK: "https://HOST/PATH",
    SLACK: "the URL of an incoming webhook, https://hooks.slack.com/services/…",
    MAIL: "name@example.org, more with commas between",
    APPRISE: "a URL as Apprise writes them, ntfy://HOST/TOPIC",
}


def _mailboxes(text: str) -> list[str]:
    found = [one.strip() for one in re.split(r"[,;\s]+", text) if one.strip()]
    for one in found:
        if not re.fullmatch(MAILBOX, one) or parseaddr(one)[1] != one:
            raise InputError(f"an address of mail is written as {_WANTED[MAIL]}")
    if len(found) > _MOST_MAILBOXES:
        raise InputError(f"a channel of kind {MAIL} has at most {_MOST_MAILBOXES} addresses; use a mailing list")
    return list(dict.fromkeys(found))
