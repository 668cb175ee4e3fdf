"""Sends a message as Slack's incoming webhooks take it; Mattermost, Rocket.Chat, Discord (/slack) and others do too."""

from __future__ import annotations

import json

from launch_worker.notifications.channel import Channel
from launch_worker.notifications.message import Message
from launch_worker.notifications.senders.post import post_json
from launch_worker.notifications.texts import Text, text_of

#: Characters of a text that Slack shows whole.
_MOST_CHARS = 35_000


def send_slack(channel: Channel, message: Message, *, server_url: str, timeout_s: float) -> None:
    """Post the message. Raises SendError."""
    text = text_of(message, server_url=server_url, has_output=channel.has_output)
    body = {"text": slack_text(text), "unfurl_links": False, "unfurl_media": False}
    post_json(channel.address, json.dumps(body).encode(), {}, timeout_s=timeout_s)


def slack_text(text: Text) -> str:
    """The text with all that others wrote as code, in which nothing is a link, an image, a mention or a format."""
    head = f"*{text.what}*" + (f" `{_code(text.name)}`" if text.name else "")
    body = _code(text.body())[:_MOST_CHARS]
    link = f"\n{_escaped(text.url)}" if text.url else ""
    return f"{head}\n```\n{body}\n```{link}"


def _code(text: str) -> str:
    """Others' text for within code: no character ends the code, and Slack finds no command in `<…>`."""
    return _escaped(text.replace("`", "\N{MODIFIER LETTER GRAVE ACCENT}"))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
