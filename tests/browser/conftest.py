"""A real Chromium, one for each process of the test run, and a server whose pages it opens."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from launch_worker.dev.redis_server import RedisServer
from tests.support.http_servers import KEY, TestServer, serving

#: Milliseconds that a page has for what a test waits for.
PATIENCE_MS = 15_000


@pytest.fixture(scope="session")
def started_browser() -> Iterator[tuple[Browser, AbstractEventLoop]]:
    """Debian's Chromium, and Playwright's loop. Without Chromium the tests are skipped, but in CI they fail."""
    # The first one has no window to draw: a page takes a third of the processor's time.
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium on PATH; apt-get install chromium-headless-shell")
        pytest.skip("there is no Chromium on PATH (apt-get install chromium-headless-shell)")
    playwright = sync_playwright().start()
    expect.set_options(timeout=PATIENCE_MS)
    # As root, and in containers, its own sandbox does not start.
    started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    loop = asyncio.get_running_loop()
    with _running(None):
        yield started, loop
    started.close()
    playwright.stop()


@pytest.fixture
def browser(started_browser: tuple[Browser, AbstractEventLoop]) -> Iterator[Browser]:
    """The browser, while the test lasts."""
    started, loop = started_browser
    with _running(loop):
        yield started


@contextmanager
def _running(loop: AbstractEventLoop | None) -> Iterator[None]:
    """Have this loop count as the thread's running one.

    Playwright's is half-way in a run as long as it is used. Tests without a browser, which may run their own loops
    between those with one, must not see it.
    """
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)


@pytest.fixture(scope="session")
def log_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where whole logs are kept."""
    return f"file://{tmp_path_factory.mktemp('logs')}"


@pytest.fixture(scope="session")
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, log_url: str) -> Iterator[TestServer]:
    """One server for all tests; what is in its Redis is deleted before each test that has `store` or `redis_url`."""
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), LAUNCH_LOG_URL=log_url) as running:
        yield running


@pytest.fixture
def context(browser: Browser, server: TestServer) -> Iterator[BrowserContext]:
    """A window of one who may do everything."""
    made = browser.new_context(viewport={"width": 1280, "height": 740}, base_url=server.url, locale="en-GB")
    made.set_default_timeout(PATIENCE_MS)
    made.request.get(f"/?token={KEY}", max_redirects=0)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab; an error of a script, or what the policy refuses, fails the test."""
    made = context.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield made
    # A test may have cut its page off.
    assert [error for error in errors if "net::ERR_FAILED" not in error] == []
