"""Screens that are watched: drawn on news alone, within the window, through outages; the terminal is left as it was."""

from __future__ import annotations

import queue
import re
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import LaunchError
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.http_servers import KEY, serving
from tests.support.window import Window
from tests.system.conftest import NOWHERE, Cluster, through_both_doors


def has(window: Window, text: str) -> Callable[[], bool]:
    return lambda: any(text in row for row in window.shown())


@through_both_doors
def test_who_listens_is_told_of_new_runs_and_of_their_ends(redis_url: str, tmp_path: Path, door: str) -> None:
    with ExitStack() as stack:
        direct = Api(redis_url)
        api = direct
        if door == "http":
            # A server of its own: the feed that a server reads must not be deleted below it.
            server = stack.enter_context(serving(redis_url, tmp_path))
            api = Api(settings=Settings.of_client({"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": KEY}))
        heard: queue.SimpleQueue[None] = queue.SimpleQueue()
        stopping = threading.Event()

        def listen() -> None:
            # The server that stops ends the stream.
            with suppress(LaunchError):
                api.transport.listen(on_news=lambda: heard.put(None), stopped=stopping.is_set)

        threading.Thread(target=listen, name="listener", daemon=True).start()
        heard.get(timeout=20)
        run = submit(["true"], api=direct)
        heard.get(timeout=20)
        while not heard.empty():
            heard.get()
        run.cancel()
        heard.get(timeout=20)
        stopping.set()
        submit(["true"], api=direct)


@through_both_doors
def test_a_list_that_is_watched_is_drawn_on_news_and_stays_when_it_ends(cluster: Cluster) -> None:
    for number in range(4):
        submit(["true"], name=f"old{number}", api=cluster.api)
    with Window("launch-worker", "runs", "--watch", env=cluster.env | cluster.door, columns=100, rows=20) as window:
        wait_until(has(window, "old3"), what="the list is there")
        wait_until(lambda: window.written.count(b"\x1b[?2026l") >= 2, what="the ages are new")
        before = len(window.written)
        submit(["true"], name="new0", api=cluster.api)
        wait_until(has(window, "new0"), what="the new run is shown")
        frames = window.written[before:].split(b"\x1b[?2026h")[1:]
        # A frame has its rows alone, and nothing clears the screen before it is drawn.
        assert all(len(frame) < 2500 for frame in frames), frames
        assert b"\x1b[2J" not in window.written
        window.resize(100, 5)
        wait_until(has(window, "… "), what="the list fits the window")
        assert len(window.shown()) == 5
        assert re.fullmatch("… [0-9]+ more", window.shown()[-1])
        window.resize(100, 30)
        wait_until(has(window, "old0"), what="all runs are shown again")
        window.press(b"typed\n")
        window.press(b"\x03")
        assert window.process.wait(30) == 130
        wait_until(lambda: not window.is_on_other_screen())
        assert {f"old{number}" for number in range(4)} < {word for row in window.usual_screen() for word in row.split()}
        assert window.settings_now() == window.settings
        assert b"typed" not in window.written


def test_a_watched_screen_outlasts_an_outage_and_says_since_when(tmp_path: Path) -> None:
    server = RedisServer(aof="always")
    server.start()
    cluster = Cluster(server.url, tmp_path)
    try:
        submit(["true"], queue="sim", api=cluster.api)
        with Window("launch-worker", "status", "--watch", env=cluster.env, columns=100, rows=30) as window:
            wait_until(has(window, "sim"), what="the system is shown")
            server.kill()
            wait_until(has(window, "Redis has not answered since "), what="the outage is said")
            assert has(window, "sim")()
            server.start()
            wait_until(lambda: not has(window, "has not answered")(), what="its end is seen")
            submit(["true"], queue="later", api=cluster.api)
            wait_until(has(window, "later"), what="what came then is shown")
            window.process.send_signal(signal.SIGTERM)
            assert window.process.wait(30) == 143
            wait_until(lambda: not window.is_on_other_screen())
            assert window.settings_now() == window.settings
    finally:
        cluster.close()
        server.stop()


def test_a_watched_screen_that_is_stopped_gives_the_terminal_back_and_goes_on(cluster: Cluster) -> None:
    submit(["true"], name="first", api=cluster.api)
    with Window("bash", "--norc", "-i", env=cluster.env, columns=100) as window:
        window.press(b"launch-worker runs --watch\n")
        wait_until(has(window, "first"), what="the list is there")
        window.press(b"\x1a")
        wait_until(has(window, "Stopped"), what="the shell has the terminal")
        assert not window.is_on_other_screen()
        submit(["true"], name="second", api=cluster.api)
        window.press(b"fg\n")
        wait_until(has(window, "second"), what="the list is there again")
        assert window.is_on_other_screen()
        window.press(b"\x03")
        wait_until(lambda: not window.is_on_other_screen())
        window.press(b"stty -a; exit\n")
        window.process.wait(30)
        assert " echo " in " ".join(window.usual_screen())


@pytest.mark.parametrize("command", ["runs", "status", "workers", "queues", "sweep status 1"])
def test_what_was_never_reached_is_not_watched(cluster: Cluster, command: str) -> None:
    with Window("launch-worker", "--api", NOWHERE, *command.split(), "--watch", env=cluster.env) as window:
        assert window.process.wait(20) == 69
        assert "is not reachable" in " ".join(window.shown())
        assert b"\x1b" not in window.written
