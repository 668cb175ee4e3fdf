"""Offers the metrics of the whole system where no server runs: at an address of its own, or as a file."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from prometheus_client import start_http_server

from launch_worker.errors import LaunchError
from launch_worker.prometheus.metrics import SYSTEM
from launch_worker.prometheus.system import System
from launch_worker.prometheus.text import as_text, registry_of


def serve(system: System, address: tuple[str, int], stopping: threading.Event) -> None:
    """Answer scrapes at an address until `stopping` is set. Raises LaunchError when the address cannot be had."""
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry_of(SYSTEM, system.values))
    except OSError as error:
        raise LaunchError(
            f"the exporter cannot listen on {host}:{port}: {error}; give it another port by --address"
        ) from None
    stopping.wait()
    server.shutdown()
    server.server_close()
    thread.join()


def write(system: System, file: Path) -> bool:
    """Write all metrics into a file, which is whole at any time. Returns whether Redis answered. Raises LaunchError."""
    values = system.values()
    text = as_text(SYSTEM, values)
    try:
        # node_exporter reads names that end with .prom only, so it does not see the unfinished one.
        number, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with open(number, "wb") as unfinished:
                unfinished.write(text)
                os.fchmod(number, 0o644)
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise LaunchError(f"the metrics cannot be written to {file}: {error.strerror or error}") from None
    return values["launch_up"][0][1] == 1
