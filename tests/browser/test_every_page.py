"""Every page in a real browser: nothing that axe finds, no error of a script, nothing wider than a telephone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext

from launch_worker.api.client import Api
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from launch_worker.server.pages.routers import PAGES
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FAILED, claim, create
from tests.support.http_servers import KEY, TestServer

#: Routes that are no pages: streams, data, and what belongs to another page.
NO_PAGES = {"/ring", "/sweeps/{sweep_id}/points", "/usage.csv", "/runs/{run_id}/used"}
HOSTILE = "<img src=x onerror=alert(1)>"
#: Rules of axe in each theme: themes differ in their colours only.
RULES: dict[Literal["light", "dark"], dict[str, Any]] = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}
#: Leaves two of the hundreds of routes and objects in each section of the API's page, which are alike: axe would take
#: as long for them as for all other pages.
LESS = "document.querySelectorAll('article:nth-of-type(n + 3)').forEach(one => one.remove())"
#: Calls axe. To tell all that is well would take most of the time.
FIND = "rules => axe.run({resultTypes: ['violations'], ...rules}).then(said => said.violations)"


@dataclass
class Filled:
    """Ids of things that pages show."""

    run: str
    waiting: str
    sweep: str


@pytest.fixture
def filled(api: Api, store: Store, server: TestServer) -> Filled:
    """Something on each page, with names that would act if they were markup."""
    record = claim(store, create(store, name=HOSTILE, tags=("demo",), project="team/open", config={"lr": 0.1}))
    store.append_log(record.id, 1, f"{HOSTILE}\n\x1b[31mred\x1b[0m\n".encode(), offset=0, line=0)
    store.finish(record, FAILED)
    waiting = create(store, queue="gpu", gpus=8)
    claim(store, create(store, name="runs on"))
    sweep = api.create_sweep(
        {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "metric": {"name": "loss"}, "command": ["true"]},
        queue="nobodys",
    )
    with server.client() as client:
        client.put("/api/v1/schedules/nightly", json={"cron": "@daily", "given": {"command": ["true"]}})
        client.post("/api/v1/pools", json={"name": "big", "limit": 4})
        client.post("/api/v1/queues", json={"name": "gpu", "pool": "big", "description": HOSTILE})
        client.put("/api/v1/allowances/user:ada", json={"running": 3})
        channel = {"kind": "webhook", "address": "https://hooks.example/x", "projects": ["team/open:failed"]}
        client.post("/api/v1/channels", json={"name": "ops", **channel})
        client.post("/api/v1/rules", json={"name": "slow", "when": "waiting", "duration": "2h", "channel": "ops"})
    registry = Registry(server.shared.database, actor="test")
    if not registry.users():
        registry.add_user("ada", display=HOSTILE, given={"": Role.MEMBER, "team/x": Role.OPERATOR}, in_groups=["ml"])
        registry.set_project("team/secret", is_private=True)
        registry.create_token("ada", "laptop")
    return Filled(record.id, waiting, sweep.id)


def addresses(filled: Filled) -> dict[str, list[str]]:
    """The addresses of each page by its route, so that none is forgotten."""
    tabs = ("timeline", "metrics", "resources", "details", "files")
    known = {
        "/": ["/"],
        "/runs": ["/runs", "/runs?each=1&q=nothing-is-so"],
        "/runs/acts": [f"/runs/acts?act=cancel&id={filled.waiting}"],
        "/runs/compare": [f"/runs/compare?id={filled.run}&id={filled.waiting}"],
        "/runs/{run_id}": [f"/runs/{filled.run}", f"/runs/{filled.waiting}"],
        "/runs/{run_id}/log": [f"/runs/{filled.run}/log"],
        "/runs/{run_id}/{tab}": [f"/runs/{filled.run}/{tab}" for tab in tabs],
        "/queues/{name}": ["/queues/gpu"],
        "/pools/{name}": ["/pools/big"],
        "/workers/{name}": [],
        "/sweeps/{sweep_id}": [f"/sweeps/{filled.sweep}"],
        "/people/users/{name}": ["/people/users/ada"],
        "/channels/{name}": ["/channels/ops"],
        "/people/groups/{name}": ["/people/groups/ml"],
        "/people/projects/{name:path}": ["/people/projects/team/secret"],
    }
    routes = {route.path for router in PAGES for route in router.routes if "GET" in getattr(route, "methods", ())}
    plain = {path: [path] for path in routes if "{" not in path and path not in NO_PAGES}
    found = plain | known
    assert routes - NO_PAGES - found.keys() == set(), "give these pages an address here"
    return found | {"/login": ["/login"], "/token": ["/token"], "/api": ["/api"]}


@pytest.mark.timeout(300)
def test_no_page_has_what_axe_finds_nor_is_wider_than_its_window(context: BrowserContext, filled: Filled) -> None:
    # Axe itself tries styles that the policy refuses: the fixture `page` would take that for an error.
    page, wrong = context.new_page(), []
    for path in [path for paths in addresses(filled).values() for path in paths]:
        answer = page.goto(path)
        assert answer is not None
        if answer.status != 200:
            wrong.append(f"{path}: status {answer.status}")
        # Twice as large as usual is a window of half the size.
        for width in (640, 400):
            page.set_viewport_size({"width": width, "height": 800})
            # Pictures are drawn anew a moment later.
            wait_until(
                lambda: not page.evaluate("document.documentElement.scrollWidth > innerWidth"),
                what=f"{path} is no wider than {width} px",
            )
        page.set_viewport_size({"width": 1280, "height": 800})
        page.evaluate(LESS)
        page.evaluate(AXE_SCRIPT)
        for theme, rules in RULES.items():
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            for found in page.evaluate(FIND, rules):
                where = "; ".join(node["html"][:120] for node in found["nodes"][:3])
                wrong.append(f"{path} {theme}: {found['id']}: {where}")
    assert wrong == [], "\n".join(wrong)


def test_every_page_is_there_without_a_script(browser: Browser, server: TestServer, filled: Filled) -> None:
    context: BrowserContext = browser.new_context(base_url=server.url, java_script_enabled=False)
    context.request.get(f"/?token={KEY}", max_redirects=0)
    page = context.new_page()
    for path in [path for paths in addresses(filled).values() for path in paths]:
        page.goto(path)
        shown = page.locator("main").inner_text()
        assert re.search(r"\w{3}", shown), path
    page.goto(f"/runs/{filled.run}")
    assert HOSTILE in page.locator("main").inner_text()
    context.close()
