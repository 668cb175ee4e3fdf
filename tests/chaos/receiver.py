"""The receiver of notices, a process of its own: keeps what it is told, and answers as it is spoiled.

    python -m tests.chaos.receiver PORT FOLDER

FOLDER/told has a JSON line for each request, written before its answer; FOLDER/spoiled is how the next requests are
treated: 500, 429, hang, close, or nothing for well.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Seconds after which a request that hangs looks whether it still shall.
_LOOK_S = 0.1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: The listening socket's queue, as of real servers: the usual one of 5 is soon full.
    request_queue_size = 128

    def __init__(self, port: int, folder: Path) -> None:
        self.told = (folder / "told").open("a", buffering=1)
        self.spoiled = folder / "spoiled"
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def how(self) -> str:
        return self.spoiled.read_text() if self.spoiled.exists() else ""

    def note(self, **facts: object) -> None:
        with self.lock:
            self.told.write(json.dumps(facts) + "\n")


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        how, told = self.server.how(), json.loads(body)
        while how == "hang":
            time.sleep(_LOOK_S)
            if (how := self.server.how()) != "hang":
                # Whoever asked has given up, or not: one that was heard.
                break
        data = {name: value for name, value in told["data"].items() if name not in ("text", "output", "hint")}
        self.server.note(
            id=self.headers["webhook-id"], at=time.time(), answer=how or "204", type=told["type"], data=data
        )
        if how == "close":
            self.close_connection = True
            return
        self.send_response(int(how or 204))
        if how == "429":
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    port, folder = sys.argv[1:]
    server = _Server(int(port), Path(folder))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
