"""Answers over HTTP a worker's probes, `/live`, `/health` and `/ready`, with 200 or 503 and JSON, and `/metrics`."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from launch_worker.agent.probes import Verdict, Vitals
from launch_worker.agent.worker_metrics import WorkerMetrics
from launch_worker.errors import LaunchError
from launch_worker.prometheus.metrics import WORKER


class _Handler(BaseHTTPRequestHandler):
    # A client that says nothing must not hold its thread.
    timeout: ClassVar[float] = 5.0
    server_version = "launch_worker"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        vitals = self.server.vitals
        probes = {"/live": vitals.live, "/health": vitals.healthy, "/ready": vitals.ready}
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._tell_metrics()
            return
        probe = probes.get(path)
        if probe is None:
            self._answer(404, Verdict(False, f"there is no such probe; use one of: {', '.join(probes)}, /metrics"))
            return
        verdict = probe()
        self._answer(200 if verdict.ok else 503, verdict)

    do_HEAD = do_GET

    def _tell_metrics(self) -> None:
        # Imported here: most workers are never asked.
        from launch_worker.prometheus.text import CONTENT_TYPE, as_text

        self._send(200, CONTENT_TYPE, as_text(WORKER, self.server.metrics.values()))

    def _answer(self, status: int, verdict: Verdict) -> None:
        body = json.dumps({"ok": verdict.ok, "reason": verdict.reason}).encode() + b"\n"
        self._send(status, "application/json", body)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each probe would bury what matters in the worker's log."""


# Not http.server's: that asks the name service for the address's name, which may take long.
class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    # Connections that wait to be taken: with the usual 5, a flood of them would hold up a probe for seconds.
    request_queue_size = 128
    daemon_threads = True
    # Like the handler's own: closing must not wait for a client.
    block_on_close = False

    def __init__(self, address: tuple[str, int], vitals: Vitals, metrics: WorkerMetrics) -> None:
        self.vitals = vitals
        self.metrics = metrics
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class ProbeServer:
    """Answers from a thread of its own, so also while the worker waits for Redis."""

    def __init__(self, address: tuple[str, int], vitals: Vitals, metrics: WorkerMetrics) -> None:
        """Raises LaunchError when the address cannot be had."""
        try:
            self._server = _Server(address, vitals, metrics)
        except OSError as error:
            raise LaunchError(
                f"the worker cannot listen on LAUNCH_HEALTH_ADDRESS {address[0]}:{address[1]}: {error}; give each "
                "worker of a machine a port of its own"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="launch-probes", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
