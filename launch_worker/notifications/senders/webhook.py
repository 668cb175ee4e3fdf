"""Sends a message to a webhook, signed as Standard Webhooks says (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

from launch_worker.notifications.channel import Channel, key_of
from launch_worker.notifications.message import Message
from launch_worker.notifications.payload import payload
from launch_worker.notifications.senders.post import post_json


def send_webhook(channel: Channel, message: Message, *, server_url: str, timeout_s: float) -> None:
    """Post the message as JSON. Raises SendError."""
    shown = payload(message, server_url=server_url, has_output=channel.has_output)
    body = json.dumps(shown, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "webhook-id": message.id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(channel.secret, message.id, timestamp, body),
    }
    post_json(channel.address, body, headers, timeout_s=timeout_s)


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The header's value that proves who has sent the body, and when."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
