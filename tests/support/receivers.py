"""Receivers of notices on loopback: HTTP that keeps what it gets and answers as told, and an SMTP server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


@dataclass
class Receiver:
    """An HTTP receiver. `answer` gets the handler of a request, and may do as it likes."""

    url: str
    #: Path, headers in lower case, and body of each request that came.
    got: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.got.append((self.path, headers, body))
            if made.answer is not None:
                made.answer(self)
                return
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    made = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Mailbox:
    """An SMTP server that keeps what it gets."""

    port: int
    got: list[EmailMessage] = field(default_factory=list)
    #: Addresses to which each mail came.
    to: list[list[str]] = field(default_factory=list)
    #: Answer to each recipient: `250 OK`, or a refusal.
    rcpt: str = "250 OK"
    logins: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def mailbox(**more: Any) -> Iterator[Mailbox]:
    """Run an SMTP server until the end of the block; `more` goes to aiosmtpd's controller."""

    class Handler:
        async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:
            if box.rcpt.startswith("250"):
                envelope.rcpt_tos.append(address)
            return box.rcpt

        async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            box.got.append(mail)
            box.to.append(list(envelope.rcpt_tos))
            return "250 OK"

    def check(_: Any, __: Any, ___: Any, ____: Any, data: LoginPassword) -> AuthResult:
        box.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"right", handled=False)

    class AnyPort(Controller):
        def _trigger_server(self) -> None:
            # It begins to serve with the first connection, for which it needs the port that it got.
            server: Any = self.server
            self.port = server.sockets[0].getsockname()[1]
            super()._trigger_server()  # type: ignore[no-untyped-call]

    box = Mailbox(0)
    controller = AnyPort(Handler(), hostname="127.0.0.1", port=0, authenticator=check, auth_require_tls=False, **more)
    controller.start()
    try:
        box.port = controller.port
        yield box
    finally:
        controller.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP receiver."""
    with receiving() as made:
        yield made
