"""Sends a message by mail, through the SMTP server of LAUNCH_SMTP_URL."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote, urlsplit

from launch_worker.notifications.channel import Channel
from launch_worker.notifications.message import Message
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.senders.post import connect, cut_at, why_invalid
from launch_worker.notifications.texts import text_of
from launch_worker.settings import Settings

_PORTS = {"smtp": 25, "smtps": 465}
#: Characters of a subject: longer ones are cut in lists of mails anyway.
_MOST_SUBJECT = 150


def send_mail(channel: Channel, message: Message, settings: Settings, *, server_url: str, timeout_s: float) -> None:
    """Send the message to all addresses of the channel. Raises SendError."""
    if not settings.smtp_url:
        raise SendError("no mail can be sent: LAUNCH_SMTP_URL is not set where the archive runs")
    mail = mail_of(channel, message, settings, server_url=server_url)
    parts = urlsplit(settings.smtp_url)
    host = parts.hostname or ""
    deadline = time.monotonic() + timeout_s
    with _clear_errors(deadline):
        sock = connect(host, parts.port or _PORTS[parts.scheme], timeout_s=timeout_s)
        with cut_at(sock, deadline), _Smtp(sock, host, is_secure=parts.scheme == "smtps", timeout_s=timeout_s) as smtp:
            smtp.begin()
            if parts.username:
                if not smtp.is_secure and not _is_loopback(sock):
                    raise SendError(
                        "the mail server offers no encryption, and a password is not sent without; use smtps://"
                    )
                smtp.login(unquote(parts.username), unquote(parts.password or ""))
            # Raises only where nobody is taken: then it was not sent to anybody.
            smtp.send_message(mail)


def mail_of(channel: Channel, message: Message, settings: Settings, *, server_url: str) -> EmailMessage:
    """The message as a mail; its Message-ID is the same for every try, so that mail programs show it once."""
    text = text_of(message, server_url=server_url, has_output=channel.has_output)
    sender = settings.mail_from or f"launch-worker@{socket.getfqdn()}"
    mail = EmailMessage()
    # Texts are clean: no line break of others is in a header.
    mail["Subject"] = text.subject[:_MOST_SUBJECT]
    mail["From"] = sender
    mail["To"] = channel.address
    mail["Date"] = formatdate(message.at / 1e6)
    mail["Message-ID"] = f"<{''.join(c if c.isalnum() else '.' for c in message.id)}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text.body() + (f"\n\n{text.url}\n" if text.url else "\n"))
    return mail


class _Smtp(smtplib.SMTP):
    """SMTP over a connection that was made already."""

    def __init__(self, sock: socket.socket, host: str, *, is_secure: bool, timeout_s: float) -> None:
        super().__init__(timeout=timeout_s)
        self.is_secure = is_secure
        self._context = ssl.create_default_context()
        # `starttls` checks the certificate for this name.
        self._host = host
        self._plain = sock
        self.sock = sock

    def begin(self) -> None:
        """Hear the server, say EHLO, and encrypt where the server offers it."""
        if self.is_secure:
            self.sock = self._context.wrap_socket(self._plain, server_hostname=self._host)
        code, text = self.getreply()
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)
        self.ehlo_or_helo_if_needed()
        if not self.is_secure and self.has_extn("starttls"):
            self.starttls(context=self._context)
            self.is_secure = True
            self.ehlo()


def _is_loopback(sock: socket.socket) -> bool:
    peer: Any = sock.getpeername()
    return str(peer[0]).startswith("127.") or peer[0] == "::1"


@contextmanager
def _clear_errors(deadline: float) -> Iterator[None]:
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        is_final = bool(codes) and all(code >= 500 for code in codes)
        raise SendError(f"the mail server takes none of the addresses ({codes[0]})", is_final=is_final) from None
    except smtplib.SMTPAuthenticationError as error:
        raise SendError(f"the mail server refuses the login of LAUNCH_SMTP_URL ({error.smtp_code})") from None
    except smtplib.SMTPResponseException as error:
        # A server that refuses the sender or the text (5xx) will refuse it again.
        is_final = error.smtp_code >= 500 and not isinstance(error, smtplib.SMTPConnectError | smtplib.SMTPHeloError)
        raise SendError(f"the mail server refuses the mail ({error.smtp_code})", is_final=is_final) from None
    except ssl.SSLCertVerificationError as error:
        raise SendError(f"the mail server: {why_invalid(error)}") from None
    except (OSError, smtplib.SMTPException) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            raise SendError("the mail server did not answer in time") from None
        raise SendError("the mail server cut the connection, or speaks no SMTP") from None
