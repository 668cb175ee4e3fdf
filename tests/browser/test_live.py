"""What open pages do by themselves: become new without a reload, cost nothing unseen, and say when they are lost."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from launch_worker.store.store import Store
from tests.support.arrows import create


@pytest.fixture
def store(store: Store) -> Store:
    """The store, which tells of changes: that the server follows them was deleted with all else."""
    store.want_changes()
    return store


def test_a_queue_that_one_person_pauses_is_paused_on_the_other_ones_page(
    page: Page, context: BrowserContext, store: Store
) -> None:
    create(store, queue="gpu")
    page.goto("/queues")
    row = page.get_by_role("row").filter(has_text="gpu")
    expect(row).to_contain_text("No worker")
    page.evaluate("window.isSame = true")
    other = context.new_page()
    other.goto("/queues/gpu")
    other.get_by_role("button", name="Pause").click()
    expect(other.locator(".say")).to_contain_text("nothing of it starts")
    expect(row).to_contain_text("Paused")
    other.get_by_role("button", name="Resume").click()
    expect(row).not_to_contain_text("Paused")
    assert page.evaluate("window.isSame")


def test_a_page_that_nobody_sees_asks_for_nothing_and_is_new_when_it_is_seen(page: Page, store: Store) -> None:
    page.goto("/queues")
    expect(page.locator("main")).to_contain_text("No queue yet")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    seen = "(is) => {Object.defineProperty(document, 'hidden', {value: !is, configurable: true});"
    seen += " document.dispatchEvent(new Event('visibilitychange'))}"
    page.evaluate(seen, False)
    create(store, queue="unseen")
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate(seen, True)
    expect(page.get_by_role("row").filter(has_text="unseen")).to_be_visible()
    assert any("/ring?" in url for url in asked)


def test_a_lost_connection_is_said_and_what_happened_meanwhile_is_shown_afterwards(page: Page, store: Store) -> None:
    def cut(route: Route) -> None:
        route.abort()

    page.route("**/ring?*", cut)
    page.goto("/queues")
    lost = page.get_by_role("status").filter(has_text="The server does not answer")
    expect(lost).to_be_visible()
    create(store, queue="meanwhile")
    page.unroute("**/ring?*", cut)
    expect(lost).to_be_hidden()
    expect(page.get_by_role("row").filter(has_text="meanwhile")).to_be_visible()


def test_a_person_pages_through_all_runs_and_meets_each_once(page: Page, store: Store) -> None:
    wanted = {create(store, name=f"run-{at}") for at in range(130)}
    page.goto("/runs")
    seen: list[str] = []
    while True:
        rows = page.locator("tbody tr[data-row] .id")
        expect(rows.first).to_be_visible()
        seen += [text.split()[0] for text in rows.all_inner_texts()]
        following = page.get_by_role("link", name="Next page")
        if not following.count():
            break
        before = page.url
        following.click()
        expect(page).not_to_have_url(before)
    assert sorted(seen) == sorted(wanted)


def test_the_keys_are_listed_and_lead_to_pages(page: Page, store: Store) -> None:
    page.goto("/")
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("Queues")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page).to_have_url(re.compile("/queues$"))
