"""Defines `exporter`: metrics of the whole system for Prometheus, where no server runs."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.errors import InputError
from launch_worker.model.units import parse_duration
from launch_worker.runners.process.own_process import have_usual_signals
from launch_worker.settings import parse_address

_ADDRESS = "127.0.0.1:7601"


@click.command(
    epilog="Example: launch-worker exporter --file /var/lib/prometheus/node-exporter/launch.prom --interval 30s"
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help=f"Where scrapes are answered, at /metrics, without a login (default: {_ADDRESS}).",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a file instead, NAME.prom in the folder that node_exporter's textfile collector reads.",
)
@click.option(
    "--interval", default="15s", metavar="DUR", show_default=True, help="Time between two writes of the file."
)
@click.option(
    "--once", is_flag=True, help="Write the file once, or print the metrics, and end; exits 69 without Redis."
)
@click.pass_obj
def exporter_command(url: str | None, address: str | None, file: Path | None, interval: str, once: bool) -> None:
    """Tell Prometheus how the whole system is: queues, runs, workers, Redis.

    A server answers the same at /metrics, behind its login.
    """
    where = parse_address(address or _ADDRESS, what="--address")
    assert where is not None
    pause_s = parse_duration(interval)
    if file is not None and address is not None:
        raise InputError("give --address or --file, not both")
    if file is not None and file.suffix != ".prom":
        raise InputError(f"--file {file} must end with .prom: node_exporter reads no other names")
    if pause_s < 1:
        raise InputError(f"--interval {interval} is too short; 1s is the least")
    api = Api(url)
    # Imported here: whoever lists commands or asks for help does not wait for them.
    from launch_worker.prometheus.metrics import SYSTEM
    from launch_worker.prometheus.system import System

    system = System(api.store, api.settings)
    if once and file is None:
        from launch_worker.prometheus.text import as_text

        values = system.values()
        for line in as_text(SYSTEM, values).decode().splitlines():
            terminal.say(line)
        if values["launch_up"][0][1] != 1:
            # Says why.
            api.store.ping()
        return
    from launch_worker.prometheus.exporter import serve, write

    stopping = threading.Event()
    have_usual_signals(but_hang_up=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if file is None:
        terminal.say(f"the metrics are at http://{where[0]}:{where[1]}/metrics")
        serve(system, where, stopping)
        return
    while True:
        is_up = write(system, file)
        if once:
            if not is_up:
                api.store.ping()
            return
        if stopping.wait(pause_s):
            return
