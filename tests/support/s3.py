"""An S3 server for tests: moto's, as a process of its own on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from launch_worker.dev.redis_server import free_port
from tests.conftest import wait_until


class S3Server:
    """Not up before `start`; its address is known from the beginning."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.secret = "not-a-real-secret"
        #: Variables by which a client finds it.
        self.env = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self._answers("GET", ""), timeout_s=40, what="the S3 server answers")

    def make(self, *, bucket: str) -> None:
        assert self._answers("PUT", bucket)

    def _answers(self, method: str, path: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the S3 server ended"
        try:
            with urlopen(Request(f"{self.url}/{path}", method=method), timeout=5):
                return True
        except HTTPError:
            return False
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
