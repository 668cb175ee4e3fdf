"""Sends a message by Apprise, which knows a hundred services; it is imported with the first message, if it is there."""

from __future__ import annotations

import importlib.util
import logging
import re
from typing import Any

from launch_worker.errors import InputError
from launch_worker.notifications.channel import Channel
from launch_worker.notifications.message import Message
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.texts import text_of

_MISSING = (
    "a channel of kind apprise needs Apprise, which is not installed here; install it with: "
    "pip install 'launch_worker[notify]'"
)
#: A mention: an @ at the beginning of a word.
_MENTION = re.compile(r"(?<!\w)@(?=\w)")


def send_by_apprise(channel: Channel, message: Message, *, server_url: str, timeout_s: float) -> None:
    """Send the message. Raises SendError: Apprise says only that it has not sent it."""
    apprise = _apprise()
    text = text_of(message, server_url=server_url, has_output=channel.has_output)
    body = text.body() + (f"\n\n{text.url}" if text.url else "")
    # Its errors, and what it logs, have the address in them.
    try:
        known = apprise.Apprise()
        was_added = known.add(_bounded(channel.address, timeout_s))
        was_sent = was_added and known.notify(
            title=_unmentioned(text.subject), body=_unmentioned(body), body_format=apprise.NotifyFormat.TEXT
        )
    except Exception as error:  # noqa: BLE001 (a plug-in of Apprise may raise anything)
        raise SendError(f"Apprise could not send to {channel.hint}: {type(error).__name__}") from None
    if not was_added:
        raise SendError(f"Apprise does not know the address {channel.hint} of the channel {channel.name}")
    if not was_sent:
        raise SendError(f"Apprise could not send to {channel.hint}")


def check_with_apprise(address: str) -> None:
    """Raises InputError where Apprise is not here, or for an address that it does not know."""
    if not importlib.util.find_spec("apprise"):
        raise InputError(_MISSING)
    if not _apprise().Apprise().add(address):
        raise InputError("Apprise does not know this address; its documentation lists all kinds")


def _apprise() -> Any:
    try:
        import apprise
    except ModuleNotFoundError:
        raise SendError(_MISSING) from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    return apprise


def _bounded(address: str, timeout_s: float) -> str:
    """The address with Apprise's own limits of time (connect and read), and no redirects."""
    more = f"cto={timeout_s / 2:.1f}&rto={timeout_s / 2:.1f}&redirect=no"
    return address + ("&" if "?" in address else "?") + more


def _unmentioned(text: str) -> str:
    """The text in which no service finds somebody, or everybody, to be called."""
    return _MENTION.sub("@\N{ZERO WIDTH SPACE}", text)
