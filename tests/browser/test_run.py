"""The page of a run and the form to submit one, in a real browser: live, by keys, narrow, without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.support.arrows import FINISHED, claim, create
from tests.support.http_servers import KEY, TestServer
from tests.support.people import OPEN, tokens_of_everybody

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def store(store: Store) -> Store:
    """The store, which tells of changes: that the server follows them was deleted with all else."""
    store.want_changes()
    return store


def failed(store: Store, output: bytes, **options: Any) -> Record:
    """A run that failed after this output."""
    record = claim(store, create(store, **options))
    store.append_log(record.id, 1, output, offset=0, line=0)
    store.finish(record, NextStep(Outcome(RunState.FAILED, reason="exit code 1", phase="run", exit_code=1)))
    return record


def state(page: Page, name: str) -> None:
    """Wait until the page shows this state."""
    expect(page.locator(".run-head .state")).to_have_text(name)


def test_from_the_form_to_a_retry_without_loading_the_page_again(page: Page, store: Store) -> None:
    page.goto("/submit")
    page.locator("#command").fill("python train.py --lr 0.1")
    page.locator("#name").fill("vit")
    expect(page.locator(".equal")).to_have_text(re.compile(r"--name vit \\\s+-- python train.py --lr 0.1"))
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/runs/*")
    run_id = page.url.rpartition("/")[2]
    state(page, "Pending")
    page.evaluate("window.isSame = true")

    record = claim(store, run_id)
    state(page, "Running")
    # A form that is open while the page makes itself new stays open, with what was typed.
    page.keyboard.press("c")
    page.locator("#cancel input").fill("wrong data")
    store.append_log(run_id, 1, b"epoch 1\n", offset=0, line=0)
    store.tell(run_id, record.token, {"loss": 0.25}, [], "", end=1)
    page.evaluate("document.body.dispatchEvent(new CustomEvent('ring'))")
    expect(page.locator("#side")).to_contain_text("0.25")
    expect(page.locator("#cancel input")).to_have_value("wrong data")
    assert page.evaluate("window.isSame")
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".say")).to_contain_text("It was asked to end")
    expect(page.locator(".say")).to_contain_text("wrong data")

    store.finish(record, NextStep(Outcome(RunState.KILLED, reason="wrong data (ada)", signal="SIGTERM")))
    state(page, "Killed")
    page.keyboard.press("r")
    state(page, "Pending")
    assert store.get(run_id).state is RunState.PENDING


def test_a_run_that_is_deleted_meanwhile_stays_on_the_page_and_says_so(
    page: Page, context: BrowserContext, store: Store
) -> None:
    run = failed(store, b"the last words\n")
    other = context.new_page()
    other.goto(f"/runs/{run.id}")
    state(other, "Failed")
    store.delete(run.id, who="ada", keep_s=60)
    other.evaluate("document.body.dispatchEvent(new CustomEvent('ring'))")
    expect(other.locator("#lost")).to_contain_text("not there any more")
    expect(other.locator(".say")).to_contain_text("the last words")


def test_nothing_of_a_job_or_a_name_becomes_a_part_of_the_page(page: Page, store: Store) -> None:
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    output = b"\x1b]0;pwned\x07\x1b[31m" + HOSTILE.encode() + b"\x1b[0m\n"
    run = failed(store, output, name=HOSTILE, config={HOSTILE: HOSTILE}, env={"A": HOSTILE})
    for tab in ("", "/timeline", "/metrics", "/resources", "/details", "/files"):
        page.goto(f"/runs/{run.id}{tab}")
        expect(page.locator("h1")).to_have_text(HOSTILE)
        expect(page.locator(".say pre")).to_have_text(HOSTILE)
        assert page.locator("main img").count() == 0
    page.goto(f"/submit?from={run.id}")
    expect(page.locator("#name")).to_have_value(HOSTILE)
    expect(page.locator(".equal")).to_contain_text(HOSTILE)


def test_all_is_done_by_keys(page: Page, store: Store) -> None:
    run = create(store)
    page.goto(f"/runs/{run}")
    page.keyboard.press("n")
    expect(page.locator("#command")).to_be_focused()
    page.keyboard.type("true")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('button.main')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/*")
    page.keyboard.press("c")
    # The button that does it has the focus at once.
    expect(page.get_by_role("button", name="Cancel the run")).to_be_focused()
    page.keyboard.press("Enter")
    state(page, "Killed")


def test_nothing_is_wider_than_a_narrow_window(page: Page, store: Store) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    run = failed(store, b"x" * 3000 + b"\n", name="n" * 200, tags=("t" * 90,), project=OPEN)
    tabs = ("", "/timeline", "/metrics", "/resources", "/details", "/files")
    for path in (*(f"/runs/{run.id}{tab}" for tab in tabs), f"/submit?from={run.id}"):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


@pytest.fixture
def plain(browser: Browser, server: TestServer) -> Iterator[Page]:
    """A tab without scripts."""
    made = browser.new_context(base_url=server.url, java_script_enabled=False)
    made.request.get(f"/?token={KEY}", max_redirects=0)
    yield made.new_page()
    made.close()


def test_without_a_script_it_is_read_submitted_cancelled_and_tried_again(plain: Page, store: Store) -> None:
    plain.goto("/submit")
    plain.locator("#command").fill("sh -c 'echo hello'")
    plain.get_by_role("button", name="Show command").click()
    expect(plain.locator(".equal")).to_contain_text("-- sh -c 'echo hello'")
    plain.get_by_role("button", name="Submit", exact=True).click()
    run_id = plain.url.rpartition("/")[2]
    plain.get_by_role("button", name="Cancel…").click()
    plain.get_by_role("button", name="Cancel the run").click()
    state(plain, "Killed")
    plain.get_by_role("button", name="Retry", exact=True).click()
    state(plain, "Pending")
    record = claim(store, run_id)
    store.append_log(run_id, record.attempt, b"hello\n", offset=0, line=0)
    store.finish(record, FINISHED)
    plain.reload()
    expect(plain.locator("log-view pre")).to_have_text(re.compile("hello"))


def test_two_people_see_the_buttons_of_their_roles(browser: Browser, server: TestServer, store: Store) -> None:
    tokens = tokens_of_everybody(server)
    run = create(store, project=OPEN)
    for name, buttons in (("viewer", 0), ("operator", 1)):
        headers = {"Authorization": f"Bearer {tokens[name]}"}
        window = browser.new_context(base_url=server.url, extra_http_headers=headers)
        tab = window.new_page()
        tab.goto(f"/runs/{run}")
        state(tab, "Pending")
        expect(tab.get_by_role("button", name="Cancel…")).to_have_count(buttons)
        window.close()
