"""Defines the transport of commands to Redis, of which there are two: redis-py's connections, and the plain wire."""

from __future__ import annotations

from typing import Any, Protocol


class Refused(Exception):
    """The server's refusal, in its own words. The command may be half done: do not repeat it."""


class NotReady(Refused):
    """The refusal of a server that must be given the library, or be looked at, before the call is repeated."""


class Again(Exception):
    """The command's effect is unknown; repeat it through redis-py (every script is idempotent)."""


class Line(Protocol):
    """Calls that are sent before the answers of those before them were read."""

    def send(self, *words: str | int) -> None:
        """Send a command. Answers come in the order of the commands."""

    def receive(self) -> Any:
        """The next answer; a refusal is returned as the LaunchError that it is.

        Raises LaunchError where there is no answer; Again and NotReady where the command must be given to `call`.
        """

    def close(self) -> None:
        """End the line: no other call reads its unread answers."""


class Transport(Protocol):
    """A way for commands to one Redis."""

    def call(self, *words: Any) -> Any:
        """Send a command and wait for its answer. Raises LaunchError for an error, NotReady, and Again."""

    def line(self) -> Line: ...

    def close(self) -> None: ...
