"""What the server costs: many runs in one request, beside the same over Redis."""

from __future__ import annotations

import re
import time

from bench.measure import Results, wait_until
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.submission.options import read_options

#: The line that a server prints on loopback: its URL and its key.
_PRINTED = re.compile(r"(http://[^/\s]+)/\?token=(\S+)")


def bulk(results: Results, *, rounds: int, runs: int) -> None:
    """Runs a second that one client hands over in one call, over Redis and through a server in turns."""
    rate = results.metric("bulk submit through a server", "/s", baseline="over Redis", goal="5,000/s")
    checked = results.metric("submit_many through a server", "/s", baseline="over Redis")
    with Running(LAUNCH, start=False) as running:
        url, key, _ = start_server(running)
        ways = {
            "over Redis": Api(settings=Settings.from_env(running.env)),
            "through a server": Api(settings=Settings(api_url=url, api_token=key)),
        }
        for turn in range(rounds + 1):
            for name, api in ways.items():
                sent_s, checked_s = _seconds(api, runs, check=False), _seconds(api, runs, check=True)
                # The first turn opens connections.
                if turn:
                    rate.add(name, runs / sent_s)
                    checked.add(name, runs / checked_s)


def start_server(running: Running) -> tuple[str, str, int]:
    """Start a server beside a system; returns its URL, its key and its process."""
    pid = running.start([f"{LAUNCH.bin}/launch-worker", "server", "--no-celery", "--address", "127.0.0.1:0"])
    log = running.folder / "log"
    wait_until(lambda: _PRINTED.search(log.read_text()) is not None, timeout_s=30)
    found = _PRINTED.search(log.read_text())
    assert found is not None
    return found[1], found[2], pid


def _seconds(api: Api, runs: int, *, check: bool) -> float:
    items = [read_options({"command": ["true"], "id": new_run_id()}) for _ in range(runs)]
    began = time.perf_counter()
    if check:
        api.transport.check_items(items, strict=False)
    for _ in api.transport.send_items(items):
        pass
    return time.perf_counter() - began
