"""Sends a message to a channel, by the sender of the channel's kind."""

from __future__ import annotations

from dataclasses import dataclass

from launch_worker.notifications.channel import Channel
from launch_worker.notifications.message import Message
from launch_worker.settings import Settings

#: Seconds for one try to send, from the name's resolution to the end of the answer.
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Senders:
    """Sends to channels of every kind, as the settings say. Thread-safe."""

    settings: Settings

    def send(self, channel: Channel, message: Message, *, timeout_s: float = TIMEOUT_S) -> None:
        """Send a message once. Raises SendError, which says whether another try makes sense."""
        raise NotImplementedError
