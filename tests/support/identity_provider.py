"""A real identity provider on loopback, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import wait_until
from tests.support.ports import own_port


@dataclass(frozen=True)
class IdentityProvider:
    """Where it is, and who is known there."""

    url: str
    process: subprocess.Popen[bytes]

    def knows(self, subject: str, **claims: Any) -> None:
        """Make a person known there, by what it says of them."""
        httpx.put(f"{self.url}/users/{subject}", json=claims, trust_env=False).raise_for_status()

    def log_in(self, there: str, subject: str) -> str:
        """What a person's browser does there; returns the address to which it is sent back."""
        answer = httpx.post(there, data={"sub": subject}, trust_env=False)
        assert answer.is_redirect, answer.text
        return answer.headers["location"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def identity_provider(folder: Path) -> Iterator[IdentityProvider]:
    port = own_port()
    with (folder / "provider.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    provider = IdentityProvider(f"http://127.0.0.1:{port}", process)

    def answers() -> bool:
        assert process.poll() is None, (folder / "provider.log").read_text()
        try:
            return httpx.get(f"{provider.url}/jwks", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="the identity provider answers")
        yield provider
    finally:
        provider.stop()
