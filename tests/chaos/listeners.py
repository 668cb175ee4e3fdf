"""Listeners, a process of its own: follow all events of the servers as each person, until SIGTERM and to the newest.

    python -m tests.chaos.listeners URL FOLDER

LAUNCH_TOKENS is a JSON object with each person's token. FOLDER/PERSON.events has a JSON line for each event, and is
there as soon as somebody listens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch_worker.api.http_connection import HttpConnection
from launch_worker.errors import BrokerUnavailableError, LaunchError, ServerUnavailableError
from tests.chaos.plan import PEOPLE

#: Seconds without a byte after which a stream is taken for dead; a listener that is to end then has all events.
_SILENCE_S = 5.0
_AGAIN_S = 0.3


class Listener:
    """One person's events, of one stream after the other."""

    def __init__(self, url: str, token: str, path: Path, stopping: threading.Event) -> None:
        self._server = HttpConnection(url, token)
        self._path = path
        self._stopping = stopping
        self._last = ""

    def listen(self) -> None:
        """Return when nothing more comes after the listener was told to end."""
        while not self._listen():
            time.sleep(_AGAIN_S)

    def _listen(self) -> bool:
        """Follow one stream to its end; whether all has been told."""
        is_last, has_begun = self._stopping.is_set(), False
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last} if self._last else {})
        try:
            with self._server.answer("GET", "/events", headers=headers, timeout_s=_SILENCE_S) as response:
                has_begun = True
                self._path.touch()
                for event in _events(self._server.lines(response)):
                    self._last = event["id"] or self._last
                    if event["kind"]:
                        self._note(**event)
        except ServerUnavailableError as error:
            return is_last and has_begun and isinstance(error.__cause__, TimeoutError)
        except BrokerUnavailableError:
            pass
        except LaunchError as error:
            self._note(kind="error", id="", data=repr(error))
        return False

    def _note(self, **event: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a stream; one that only has an id is of the kind ''."""
    found: dict[str, Any] = {"kind": "", "id": "", "data": None}
    for line in lines:
        name, _, value = line.decode().partition(": ")
        if name == "event":
            found["kind"] = value
        elif name == "id":
            found["id"] = value
        elif name == "data":
            found["data"] = json.loads(value)
        elif not line and (found["id"] or found["kind"]):
            yield found
            found = {"kind": "", "id": "", "data": None}


def main() -> None:
    url, folder = sys.argv[1:]
    tokens = json.loads(os.environ["LAUNCH_TOKENS"])
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    listeners = [Listener(url, tokens[name], Path(folder) / f"{name}.events", stopping) for name in PEOPLE]
    threads = [threading.Thread(target=listener.listen) for listener in listeners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
