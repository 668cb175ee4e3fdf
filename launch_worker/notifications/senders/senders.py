"""Sends a message to a channel, by the sender of the channel's kind."""

from __future__ import annotations

from dataclasses import dataclass

from launch_worker.notifications.channel import APPRISE, MAIL, SLACK, WEBHOOK, Channel
from launch_worker.notifications.message import Message
from launch_worker.notifications.senders.by_apprise import send_by_apprise
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.senders.mail import send_mail
from launch_worker.notifications.senders.slack import send_slack
from launch_worker.notifications.senders.webhook import send_webhook
from launch_worker.settings import Settings

#: Seconds for one try to send, from the connection to the end of the answer.
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Senders:
    """Sends to channels of every kind, as the settings say. Thread-safe."""

    settings: Settings

    def send(self, channel: Channel, message: Message, *, timeout_s: float = TIMEOUT_S) -> None:
        """Send a message once. Raises SendError, which says whether another try makes sense."""
        server_url = self.settings.server_url
        if channel.kind == WEBHOOK:
            send_webhook(channel, message, server_url=server_url, timeout_s=timeout_s)
        elif channel.kind == SLACK:
            send_slack(channel, message, server_url=server_url, timeout_s=timeout_s)
        elif channel.kind == MAIL:
            send_mail(channel, message, self.settings, server_url=server_url, timeout_s=timeout_s)
        elif channel.kind == APPRISE:
            send_by_apprise(channel, message, server_url=server_url, timeout_s=timeout_s)
        else:
            raise SendError(f"this release knows no channel of kind {channel.kind}; update where the archive runs")
