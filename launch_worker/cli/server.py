"""Defines `server`: the API of a launch system, for people who do not reach its Redis."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import click

from launch_worker import terminal
from launch_worker.errors import SettingsError
from launch_worker.runners.process.own_process import have_usual_signals
from launch_worker.settings import Settings
from launch_worker.store.redis.safety import check_safe
from launch_worker.untrusted.log_line import OneLine

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.command(epilog="Example: launch-worker server --address 127.0.0.1:7600")
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Where it listens; port 0 is any free one (default: LAUNCH_SERVER_ADDRESS, else 127.0.0.1:7600).",
)
@click.option("--no-celery", is_flag=True, help="Leave out Celery's own page, /celery/, which takes 60 MB.")
@click.pass_obj
def server_command(url: str | None, address: str | None, no_celery: bool) -> None:
    """Serve the API, the archive and Celery's page until SIGTERM or Ctrl-C.

    On loopback the printed address lets its reader in: whoever has it may do everything.
    """
    have_usual_signals(but_hang_up=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server has its own handlers as long as it runs, and sends itself the signal again at its end.
        signal.signal(number, _end)
    handler = logging.StreamHandler()
    handler.addFilter(OneLine())
    logging.basicConfig(level=logging.WARNING, format=_FORMAT, handlers=[handler])
    logging.getLogger("launch_worker").setLevel(logging.INFO)
    settings = Settings.from_env(redis_url=url)
    check_safe(settings)
    try:
        from launch_worker.server.address import Address
        from launch_worker.server.serve import serve
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the server needs {error.name}, which is not installed; install it with: "
            "pip install 'launch_worker[server]'"
        ) from None

    where = Address.parse(address or settings.server_address)
    serve(settings, where, ready=_welcome, with_celery_page=not no_celery)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _welcome(url: str, first_admin: str) -> None:
    terminal.say(f"the server is up: {url}")
    if first_admin:
        terminal.say(f"nobody is an admin yet; whoever opens this link becomes the first one: {first_admin}")
