"""A scripted container engine: it implements the calls that the container runner makes, and misbehaves on demand.

Its containers are entries of a dictionary. The module needs no pytest.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Misbehaviours of the engine at a call:
#:   hang   acts and answers after `heal` only; the client may be gone by then
#:   late   closes the connection at once, and acts at `heal`
#:   lose   acts, and closes the connection in place of an answer
#:   error  answers with status 500, and does not act
MISDEEDS = ("hang", "late", "lose", "error")
#: Method and path of each call that a rule can name; the first that matches a request is its call.
CALLS = {
    "start": ("POST", r"/containers/[^/]+/start"),
    "kill": ("POST", r"/containers/[^/]+/kill"),
    "create": ("POST", r"/containers/create"),
    "put": ("PUT", r"/containers/[^/]+/archive"),
    "stat": ("HEAD", r"/containers/[^/]+/archive"),
    "logs": ("GET", r"/containers/[^/]+/logs"),
    "list": ("GET", r"/containers/json"),
    "inspect": ("GET", r"/containers/[^/]+/json"),
    "remove": ("DELETE", r"/containers/[^/]+"),
    "ping": ("GET", r"/_ping"),
}


@dataclass
class Scripted:
    """One container of the scripted engine."""

    id: str
    name: str
    labels: dict[str, str]
    status: str = "created"
    exit_code: int = 0
    starts: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def run(self) -> str:
        return self.labels["launch.run"]

    @property
    def attempt(self) -> int:
        return int(self.labels["launch.attempt"])


class ScriptedEngine:
    """The engine: it listens on a unix socket until it is closed. Thread-safe."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="launch-scripted.", dir="/tmp")
        self.path = Path(self._folder) / "engine.sock"
        self.url = f"unix://{self.path}"
        self.lock = threading.RLock()
        self.containers: dict[str, Scripted] = {}
        #: Runs that had two containers running at once, or a container that was started twice.
        self.doubled: list[str] = []
        #: Rules by the name of the call: the misbehaviour, and the number of calls left (None: all).
        self._rules: dict[str, tuple[str, int | None]] = {}
        self._healed = threading.Event()
        self._late: list[Callable[[], object]] = []
        self.is_closed = False
        self._server = _Server(str(self.path), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="scripted-engine", daemon=True).start()

    def misbehave(self, call: str, how: str, *, times: int | None = 1) -> None:
        with self.lock:
            self._rules[call] = (how, times)

    def heal(self) -> None:
        """Behave from now on, and do what hung or late calls asked for."""
        with self.lock:
            self._rules.clear()
            late, self._late = self._late, []
            healed, self._healed = self._healed, threading.Event()
        for act in late:
            act()
        healed.set()

    def running(self, run: str = "") -> list[Scripted]:
        with self.lock:
            return [c for c in self.containers.values() if c.status == "running" and run in ("", c.run)]

    def end(self, container: Scripted, exit_code: int) -> None:
        """End the container's job with this exit code."""
        with self.lock:
            if container.status == "running":
                container.status, container.exit_code = "exited", exit_code
                container.ended.set()

    def close(self) -> None:
        self.is_closed = True
        self.heal()
        for container in list(self.containers.values()):
            container.ended.set()
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- inside ----------------------------------------------------------------------------------------------------

    def take(self, method: str, path: str) -> str:
        """Return the misbehaviour for a call, and count it; '' for none."""
        for call, (wanted, pattern) in CALLS.items():
            if method == wanted and re.fullmatch(pattern, path):
                with self.lock:
                    how, left = self._rules.get(call, ("", None))
                    if how and left is not None:
                        if left <= 1:
                            del self._rules[call]
                        else:
                            self._rules[call] = (how, left - 1)
                    return how
        return ""

    def defer(self, act: Callable[[], object]) -> None:
        with self.lock:
            self._late.append(act)

    def await_heal(self) -> None:
        with self.lock:
            healed = self._healed
        healed.wait()

    def find(self, word: str) -> Scripted | None:
        with self.lock:
            return self.containers.get(word) or next((c for c in self.containers.values() if c.name == word), None)

    def act(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """Do what a call asks for; return the HTTP status and the answer."""
        with self.lock:
            if path == "/version":
                return 200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
            if path == "/_ping":
                return 200, "OK"
            if path == "/info":
                return 200, {"Plugins": {"Log": ["local"]}}
            if path.startswith("/images/"):
                return 200, {"Id": "sha256:0"}
            if path == "/containers/create":
                return self._create(query["name"][0], json.loads(body))
            if path == "/containers/json":
                return 200, self._list(json.loads(query.get("filters", ["{}"])[0]))
            found = self.find(path.split("/")[2])
            if found is None:
                return 404, {"message": f"No such container: {path.split('/')[2]}"}
            return self._act_on(found, method, path.rpartition("/")[2], query)

    def _create(self, name: str, config: dict[str, Any]) -> tuple[int, Any]:
        if self.find(name) is not None:
            return 409, {"message": f'Conflict. The container name "/{name}" is already in use by container x.'}
        made = Scripted(secrets.token_hex(32), name, config["Labels"])
        self.containers[made.id] = made
        return 201, {"Id": made.id, "Warnings": []}

    def _list(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = [label.split("=", 1) for label in filters.get("label", [])]
        fit = [c for c in self.containers.values() if all(c.labels.get(name) == value for name, value in wanted)]
        return [{"Id": c.id, "Names": [f"/{c.name}"], "Labels": c.labels, "State": c.status} for c in fit]

    def _act_on(self, found: Scripted, method: str, what: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if method == "DELETE":
            if found.status == "running" and query.get("force", ["0"])[0] not in ("1", "True", "true"):
                return 409, {"message": f"You cannot remove a running container {found.id}. Stop the container"}
            self.end(found, 137)
            found.status = "removed"
            found.ended.set()
            del self.containers[found.id]
            return 204, None
        if what == "start":
            if found.status == "running":
                return 304, None
            found.starts += 1
            if found.starts > 1 or self.running(found.run):
                self.doubled.append(found.run)
            found.status = "running"
            found.ended.clear()
            return 204, None
        if what == "kill":
            if found.status != "running":
                return 409, {"message": f"Container {found.id} is not running"}
            self.end(found, 143)
            return 204, None
        if what == "json":
            return 200, {
                "Id": found.id,
                "Path": "sh",
                "Config": {"Image": "any:1", "Labels": found.labels},
                "HostConfig": {"Init": True},
                "State": {
                    "Status": found.status,
                    "Running": found.status == "running",
                    "Pid": 4321 if found.status == "running" else 0,
                    "ExitCode": found.exit_code,
                    "Error": "",
                },
            }
        if method == "PUT":
            return 200, None
        return 404, {"message": "there is no such file"}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: tests end clients in the middle of a request."""


def _handler_of(engine: ScriptedEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = re.sub(r"^/v[\d.]+", "", parts.path)
            query = parse_qs(parts.query)
            body = self._read()
            how = engine.take(self.command, path)
            if how == "late":
                engine.defer(lambda: engine.act(self.command, path, query, body))
                self._hang_up()
                return
            if how == "hang":
                engine.await_heal()
            if how == "error":
                self._answer(500, {"message": "a scripted error"})
                return
            if path.endswith("/logs") and (found := engine.find(path.split("/")[2])) is not None:
                self._stream(found, follow=query.get("follow") == ["1"], lost=how == "lose")
                return
            status, answer = engine.act(self.command, path, query, body)
            if how == "lose":
                self._hang_up()
            else:
                self._answer(status, answer)

        do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

        def _read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _stream(self, found: Scripted, *, follow: bool, lost: bool) -> None:
            """Send an empty log, which ends when the container does."""
            self.close_connection = True
            if lost:
                self._hang_up()
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.flush()
            while follow and found.status == "running" and not engine.is_closed:
                if found.ended.wait(0.2):
                    break

        def _answer(self, status: int, answer: Any) -> None:
            data = (
                b"" if answer is None else answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD" and status not in (204, 304):
                self.wfile.write(data)

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def settle(condition: Callable[[], object], *, timeout_s: float) -> bool:
    """Poll until the condition is true; False after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
