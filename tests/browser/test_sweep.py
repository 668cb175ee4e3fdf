"""Pictures in a real browser: drawn under the policy, picked on an axis, and walked by keys."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from launch_worker.api.client import Api
from launch_worker.store import keys
from launch_worker.store.store import Store


@pytest.fixture
def sweep(api: Api, store: Store) -> str:
    """A sweep with 40 ended runs, whose loss is the distance of x from 20."""
    said = {
        "method": "grid",
        "parameters": {"x": {"min": 0, "max": 39}, "kind": {"values": ["plain"]}},
        "metric": {"name": "loss"},
        "command": ["true"],
    }
    made = api.create_sweep(said, queue="nobodys", workers=40)
    results = {str(place): f'{{"state": "Finished", "value": "{abs(place - 20)}"}}' for place in range(40)}
    store._redis.hset(keys.sweep_part(made.id, "results"), mapping=results)
    store._redis.delete(keys.sweep_part(made.id, "live"))
    return made.id


def test_dragging_along_an_axis_picks_rows_and_escape_shows_all(page: Page, sweep: str) -> None:
    # The values come when all else has its size.
    held: list[Route] = []
    page.route("**/points", lambda route: held.append(route))
    page.goto(f"/sweeps/{sweep}")
    rows = page.locator("#trials tbody tr")
    expect(rows).to_have_count(40)
    expect(page.get_by_role("slider")).to_be_visible()
    held.pop().continue_()
    page.unroute("**/points")
    lines = page.locator(".lines .canvas")
    expect(lines).to_have_attribute("aria-label", "Parallel axes: 40 runs by x, loss. The table of runs says the same.")
    box = lines.bounding_box()
    assert box is not None
    # The axis of the metric is the last one; its lower half is the better one.
    x = box["x"] + box["width"] - 60
    page.mouse.move(x, box["y"] + 160)
    page.mouse.down()
    page.mouse.move(x, box["y"] + 285, steps=4)
    page.mouse.up()
    expect(page.locator("#trials")).to_contain_text("of 40 runs are in what is picked")
    assert 10 < rows.count() < 30
    assert "to%3Aloss=" in page.url
    page.keyboard.press("Escape")
    expect(rows).to_have_count(40)
    assert page.url.endswith(f"/sweeps/{sweep}")
    # The form does the same by keys.
    page.get_by_text("Pick runs by their values").click()
    page.locator("[name='to:loss']").fill("2")
    page.keyboard.press("Tab")
    expect(rows).to_have_count(5)


def test_a_series_is_drawn_from_its_table_and_walked_by_keys(page: Page, sweep: str) -> None:
    page.goto(f"/sweeps/{sweep}")
    series = page.get_by_role("slider", name="Best loss so far over run")
    expect(series).to_have_attribute("aria-valuetext", "run 39: loss 0")
    series.focus()
    page.keyboard.press("Home")
    expect(series).to_have_attribute("aria-valuetext", "run 0: loss 20")
    # The picture follows the table.
    page.locator("#best-so-far").evaluate("(table) => { table.tBodies[0].rows[0].cells[1].textContent = '25'; }")
    expect(series).to_have_attribute("aria-valuetext", "run 0: loss 25")
