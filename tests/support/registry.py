"""A registry of one image on loopback, for real pulls. Engines accept plain HTTP from localhost."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.engine import busybox_root


class Registry:
    """A server of `image`. It sends the layer after `delay_s`; while it is `broken` it refuses every request.

    With a `login`, USER:PASSWORD, it answers only who logs in by that (basic auth), and `says` to all others.
    """

    def __init__(self, *, login: str = "") -> None:
        self.login = login
        self.says = "authentication required"
        root = busybox_root(mark=os.urandom(16))
        self.layer = gzip.compress(root, 1)
        self.delay_s = 0.0
        self.broken = False
        self.pulls = 0
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(root)]},
        }
        self.config = json.dumps(config).encode()
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": _entry("application/vnd.docker.container.image.v1+json", self.config),
            "layers": [_entry("application/vnd.docker.image.rootfs.diff.tar.gzip", self.layer)],
        }
        self.manifest = json.dumps(manifest).encode()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if not registry.knows(self.headers.get("Authorization", "")):
                    self.refuse()
                    return
                body, content_type = registry.answer(self.path, kind)
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Docker-Content-Digest", _digest(body))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def refuse(self) -> None:
                error = {"code": "UNAUTHORIZED", "message": registry.says}
                body = json.dumps({"errors": [error]}).encode()
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="tests"')
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if self.command == "GET" else b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.name = f"localhost:{self._server.server_address[1]}"
        self.image = f"{self.name}/team/train:1"

    def knows(self, authorization: str) -> bool:
        wanted = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        return not self.login or authorization == wanted

    def answer(self, path: str, manifest_kind: str) -> tuple[bytes, str]:
        if self.broken:
            return b"", "text/plain"
        if path == "/v2/":
            return b"{}", "application/json"
        if "/manifests/" in path:
            self.pulls += 1
            return self.manifest, manifest_kind
        for blob in (self.config, self.layer):
            if path.endswith(_digest(blob)):
                if blob is self.layer:
                    time.sleep(self.delay_s)
                return blob, "application/octet-stream"
        return b"", "text/plain"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _entry(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}
