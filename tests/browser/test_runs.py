"""The list of runs in a real browser: choices, keys, rows that stay while others come, a small screen, no script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from launch_worker.dev.redis_server import RedisServer
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FAILED, claim, create
from tests.support.http_servers import KEY, TestServer, serving

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """Of its own: other tests, which may come between these, empty the one that all share."""
    made = RedisServer()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A server for the tests of this file, each of which has a queue of its own: the feed of changes goes on."""
    with serving(own_redis.url, tmp_path_factory.mktemp("server"), with_archive=True) as running:
        yield running


@pytest.fixture(scope="module")
def store(own_redis: RedisServer) -> Iterator[Store]:
    made = Store(own_redis.url)
    yield made
    made.close()


def failed(store: Store, **options: Any) -> str:
    record = claim(store, create(store, **options))
    store.finish(record, FAILED)
    return record.id


def test_a_person_finds_failed_runs_by_a_click_and_one_by_its_name(page: Page, store: Store) -> None:
    lost, waiting = failed(store, queue="find", name="etl-clean"), create(store, queue="find", name="big")
    page.goto("/runs?queue=find")
    expect(page.locator("tr[data-row]")).to_have_count(2)
    page.get_by_role("link", name=re.compile("^Failed")).first.click()
    expect(page.locator("tr[data-row]")).to_have_count(1)
    expect(page.locator(f"#row-{lost}")).to_contain_text("exit code 3")
    page.goto("/runs?queue=find")
    page.keyboard.press("/")
    page.keyboard.type("big")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=big"))
    expect(page.locator(f"#row-{waiting}")).to_be_visible()
    expect(page.locator("tr[data-row]")).to_have_count(1)


def test_runs_are_cancelled_with_keys_alone(page: Page, store: Store) -> None:
    older, newer = create(store, queue="keys", name="older"), create(store, queue="keys", name="newer")
    page.goto("/runs?queue=keys")
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.keyboard.press("c")
    button = page.get_by_role("button", name="Cancel 2 runs")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="2 runs are cancelled")).to_be_visible()
    assert {store.get(one).state.value for one in (older, newer)} == {"Killed"}


def test_a_key_acts_on_the_row_at_which_one_is(page: Page, store: Store) -> None:
    create(store, queue="key", name="older")
    newer = create(store, queue="key", name="newer")
    page.goto("/runs?queue=key")
    page.keyboard.press("j")
    page.keyboard.press("c")
    expect(page).to_have_url(re.compile(f"id={newer}"))
    expect(page.get_by_role("button", name="Cancel 1 run")).to_be_visible()


def test_rows_stay_while_they_change_and_newer_ones_come(page: Page, store: Store) -> None:
    run_id = create(store, queue="live", name="first")
    page.goto("/runs?queue=live")
    box = page.locator(f"#row-{run_id} input")
    box.check()
    claim(store, run_id, lease_s=600.0)
    expect(page.locator(f"#row-{run_id}")).to_contain_text("Running")
    expect(box).to_be_checked()
    later = create(store, queue="live", name="second")
    pill = page.get_by_role("link", name="1 newer")
    expect(pill).to_be_visible()
    expect(page.locator("tr[data-row]")).to_have_count(1)
    expect(box).to_be_checked()
    pill.click()
    expect(page.locator(f"#row-{later}")).to_be_visible()


def test_a_list_is_saved_by_name_and_forgotten(page: Page, store: Store) -> None:
    failed(store, queue="saved", name="etl-clean")
    page.goto("/runs?queue=saved&state=Failed")
    page.get_by_label("Name of this list").fill("bad ones")
    page.get_by_role("button", name="Save", exact=True).click()
    page.goto("/runs?queue=saved")
    page.get_by_role("link", name="bad ones").click()
    expect(page).to_have_url(re.compile(r"state=Failed"))
    page.get_by_role("button", name="Forget bad ones").click()
    expect(page.get_by_role("link", name="bad ones")).to_have_count(0)


def test_on_a_small_screen_nothing_is_cut_and_choices_are_folded(page: Page, store: Store) -> None:
    failed(store, queue="small", name="a-name-that-is-far-longer-than-the-screen-of-a-phone-is-wide-and-goes-on-" * 2)
    create(store, queue="small", name=HOSTILE)
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto("/runs?queue=small")
    expect(page.get_by_role("heading", name="State")).to_be_hidden()
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_text("Choices").click()
    page.get_by_role("link", name=re.compile("^Failed")).click()
    expect(page.locator("tr[data-row]")).to_have_count(1)


def test_without_a_script_runs_are_chosen_and_cancelled(browser: Browser, server: TestServer, store: Store) -> None:
    run_id = create(store, queue="plain", name="plain")
    failed(store, queue="plain", name="other")
    context = browser.new_context(java_script_enabled=False, base_url=server.url)
    context.request.get(f"/?token={KEY}", max_redirects=0)
    page = context.new_page()
    page.goto("/runs?queue=plain")
    page.get_by_role("link", name=re.compile("^Pending")).click()
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.get_by_label(f"Select plain {run_id}").check()
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel 1 run").click()
    expect(page.get_by_role("heading", name="1 run is cancelled")).to_be_visible()
    context.close()
    wait_until(lambda: store.get(run_id).state == "Killed")
