"""Who knows nothing opens the address that `launch-worker dev` prints, and finds what they need with few clicks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from launch_worker.api.client import Api
from tests.conftest import wait_until

LAUNCH_WORKER = str(Path(sys.executable).parent / "launch-worker")
#: Height of the window: what is farther down needs scrolling.
HEIGHT = 720


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[str, Api]]:
    """A launch system as `dev` starts it: the printed address, and a way to it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LAUNCH_", "CELERY_"))}
    # The path of the guard's socket must be short.
    env |= {"TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    command = [LAUNCH_WORKER, "dev", "--temporary", "--json", "-c", "2"]
    dev = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        assert dev.stdout is not None
        said = next(json.loads(line) for line in dev.stdout if "server_url" in line)
        yield said["server_url"], Api(said["redis_url"])
    finally:
        dev.terminate()
        dev.communicate()


class Visitor:
    """Somebody with a mouse, whose clicks are counted."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.clicks = 0

    def click(self, what: Locator) -> None:
        self.clicks += 1
        what.click()


def test_why_one_waits_why_another_failed_and_the_end_of_a_third(browser: Browser, started: tuple[str, Api]) -> None:
    address, api = started
    api.submit({"command": ["true"], "name": "waits", "queue": "night"})
    crash = "print('loading')\nraise KeyError('label')"
    failed = api.submit({"command": [sys.executable, "-c", crash], "name": "etl-clean"})
    third = api.submit({"command": ["sleep", "600"], "name": "resnet"})
    wait_until(lambda: (failed.state, third.state) == ("failed", "running"), what="one has failed and one runs")

    page = browser.new_page(viewport={"width": 1280, "height": HEIGHT})
    visitor = Visitor(page)
    page.goto(address)

    def task(act: Callable[[], None]) -> int:
        """Do it, in less than ten seconds; returns the clicks."""
        visitor.clicks, began = 0, time.monotonic()
        act()
        assert time.monotonic() - began < 10
        return visitor.clicks

    def find_why_it_waits() -> None:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="waits", exact=True))
        expect(row).to_contain_text("no worker consumes queue night")
        in_view(row)

    def find_why_it_failed() -> None:
        visitor.click(page.get_by_role("navigation", name="Runs by state").get_by_role("link", name="Failed"))
        expect(page.get_by_role("row").filter(has_text="etl-clean")).to_contain_text("KeyError: 'label'")
        visitor.click(page.get_by_role("link", name="etl-clean", exact=True))
        trace = page.locator(".say pre")
        expect(trace).to_contain_text("Traceback (most recent call last):")
        in_view(trace)

    def stop_the_third() -> None:
        visitor.click(page.get_by_role("link", name="launch_worker"))
        visitor.click(page.get_by_role("link", name="resnet", exact=True))
        visitor.click(page.get_by_role("button", name="Cancel…"))
        visitor.click(page.get_by_role("button", name="Cancel the run"))
        expect(page.locator(".run-head .state")).to_have_text("Killed")

    assert [task(find_why_it_waits), task(find_why_it_failed), task(stop_the_third)] == [0, 2, 4]
    page.close()


def in_view(what: Locator) -> None:
    """Check that it is seen without scrolling."""
    box = what.bounding_box()
    assert box is not None
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= HEIGHT
