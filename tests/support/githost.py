"""A real git server for tests: `git http-backend` behind HTTPS on loopback, with a certificate made on the spot."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.support.tls import make_certificate

#: Name and password that `/private/…` accepts.
USER, PASSWORD = "reader", "s3cr3t"
_PERSON = {"NAME": "Ada", "EMAIL": "ada@example.org"}
_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    # Git then accepts file:// URLs, and uses the same settings for whoever runs the tests.
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _PERSON.items()},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, env=_ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout.strip()


class Repository:
    """A repository on the server, with a working tree to commit in."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet")

    def git(self, *arguments: str) -> str:
        return git(self.folder, *arguments)

    def git_with_input(self, text: str, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=_ENV, input=text, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str] | None = None) -> str:
        """Commit these files, and return the id of the commit."""
        for name, text in (files or {}).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a commit")
        return self.git("rev-parse", "HEAD")

    def add_submodule(self, path: str, url: str, commit: str, *, name: str = "") -> str:
        """Commit a submodule with any URL, a hostile one too, and return the id of the commit."""
        name = name or path
        for word, value in (("path", path), ("url", url)):
            self.git("config", "--file", ".gitmodules", f"submodule.{name}.{word}", value)
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        self.git("add", ".gitmodules")
        self.git("commit", "--quiet", "--message", "a submodule")
        return self.git("rev-parse", "HEAD")


class GitHost:
    """A git server over HTTPS that serves every repository in its folder.

    `/private/…` asks for a password, `/slow/…` waits before each answer, `/hangs/…` never answers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repositories"
        self.folder.mkdir(parents=True)
        self.certificate, key = make_certificate(folder, name="localhost", san="DNS:localhost,IP:127.0.0.1")
        #: Paths that were requested.
        self.requests: list[str] = []
        self.released = threading.Event()
        #: Seconds that `/slow/…` waits before each answer.
        self.slow_s = 0.5
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                host._answer(self)

            do_POST = do_GET

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing: tests end git clients in the middle of a request."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def repository(self, name: str) -> Repository:
        return Repository(self.folder / name, f"{self.url}/{name}")

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        path, _, query = request.path.partition("?")
        if path.startswith("/hangs/"):
            self.released.wait(60)
            return
        if path.startswith("/slow/"):
            self.released.wait(self.slow_s)
        if path.startswith("/moved/"):
            request.send_response(301)
            request.send_header("Location", "http://127.0.0.1:1" + request.path)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if path.startswith("/private/") and request.headers.get("Authorization") != wanted:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="git"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        done = subprocess.run(
            ["git", "http-backend"],
            env=_ENV | {
                "GIT_PROJECT_ROOT": str(self.folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                "QUERY_STRING": query, "REQUEST_METHOD": request.command, "CONTENT_LENGTH": str(len(body)),
                "CONTENT_TYPE": request.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            },
            input=body, capture_output=True, check=False,
        )  # fmt: skip
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
