"""The list of runs as a page: choices, text, groups in one row, rows that stay, acts on many, runs side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from launch_worker.api.client import Api, submit_many
from launch_worker.dev.redis_server import RedisServer
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import with_exception
from launch_worker.model.retry import NextStep
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FAILED, FINISHED, claim, create
from tests.support.html import text_of
from tests.support.http_servers import TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

HTML = {"Accept": "text/html"}
#: How many of the runs are in each state.
STATES = {"Pending": 58 + 3, "Running": 1, "Finished": 2, "Failed": 3}
PART = HTML | {"HX-Request": "true"}
BROKEN = NextStep(with_exception(FAILED.outcome, "KeyError: '<i>label</i>'"))
HOSTILE = '<b>bold</b> & "name" <script>alert(1)</script>'


class World(NamedTuple):
    """A server with runs of all kinds."""

    server: TestServer
    store: Store
    tokens: Mapping[str, str]
    #: Ids by what the run is for.
    ids: Mapping[str, str]
    #: Id of an array of 60 runs, of which two have failed.
    array: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # Of its own: other tests, which may come between these, empty the one that all share.
    redis_server = RedisServer()
    redis_server.start()
    store = Store(redis_server.url)
    with serving(redis_server.url, tmp_path_factory.mktemp("server"), with_archive=True) as server:
        tokens = tokens_of_everybody(server)
        ids = {}
        with server.client(tokens["member"]) as client:
            lines = [{"command": ["true"], "name": "oldest", "project": OPEN, "tags": ["night"]}]
            answer = client.post("/api/v1/runs", json=lines[0])
            answer.raise_for_status()
            ids["members"] = answer.json()["id"]
        first = submit_many([{"command": ["true"], "name": "part", "array": "0-59"}], api=Api(redis_server.url))[0].id
        ids["finished"] = end_by(store, FINISHED, name="iris", author="ada@box", config={"lr": 0.1, "opt": "adam"})
        ids["other"] = end_by(store, FINISHED, name="iris", author="ada@box", config={"lr": 0.2, "opt": "adam"})
        ids["failed"] = end_by(store, BROKEN, name=HOSTILE, queue="gpu")
        ids["private"] = create(store, name="secret-run", project=PRIVATE)
        ids["running"] = claim(store, create(store, name="busy", queue="gpu", timeout_s=3600.0), lease_s=600.0).id
        ids["pending"] = create(store, name="waits", queue="nobody")
        members = store.group_runs(store.groups([f"a{first}"])[f"a{first}"])
        for run_id in members[:2]:
            store.finish(claim(store, run_id), FAILED)
        world = World(server, store, tokens, ids, f"a{first}")
        with server.client() as client:
            wait_until(lambda: counted(client) == STATES, what="the archive has all runs as they are")
        yield world
    store.close()
    redis_server.stop()


def end_by(store: Store, step: Any, **options: Any) -> str:
    record = claim(store, create(store, **options))
    store.finish(record, step)
    return record.id


def counted(client: httpx.Client) -> dict[str, int]:
    counts = client.get("/api/v1/runs/counts", params={"by": "state"}).json()
    return {str(one["values"][0]): one["count"] for one in counts.get("counts", ())}


class _Rows(HTMLParser):
    """The rows of the table of runs: the text of each by the id of its element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._row = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._row = dict(attrs).get("id") or ""
            if self._row:
                self.found[self._row.removeprefix("row-")] = ""

    def handle_data(self, data: str) -> None:
        if self._row:
            self.found[self._row.removeprefix("row-")] += f"{data} "

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self._row = ""


def rows(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {name: " ".join(text.split()) for name, text in _Rows(answer.text).found.items()}


def facet(text: str, word: str) -> int:
    """The number beside a choice."""
    found = re.search(rf">{re.escape(word)}</span>\s*<span class=\"n\">([\d,]*)", text)
    assert found, word
    return int(found[1].replace(",", ""))


def get(world: World, path: str, who: str = "admin", **params: Any) -> httpx.Response:
    def ask() -> httpx.Response | None:
        answer = client.get(path, params=params or None, headers=HTML)
        # While the archive is busy Redis alone is asked.
        return None if "only Redis" in answer.text else answer

    with world.server.client(world.tokens[who]) as client:
        return wait_until(ask)


def test_a_group_is_one_row_with_the_counts_of_its_runs(world: World) -> None:
    found = rows(get(world, "/runs"))
    assert len(found) == 8
    assert "60 runs" in found[world.array]
    assert "2 failed, 58 waiting" in found[world.array]
    each = get(world, "/runs", each="1")
    assert len(rows(each)) == 50
    of_group = rows(get(world, "/runs", group=world.array))
    assert len(of_group) == 50
    assert all("part" in text for text in of_group.values())
    assert "Array part of 60 runs, goes on: 2 failed, 58 waiting." in get(world, "/runs", group=world.array).text


def test_a_row_says_why_it_waits_or_failed_and_how_far_it_is(world: World) -> None:
    answer = get(world, "/runs")
    found = rows(answer)
    assert "no worker consumes queue nobody" in found[world.ids["pending"]]
    assert "KeyError: '<i>label</i>' (exit code 3)" in found[world.ids["failed"]]
    assert "<i>label" not in answer.text
    assert "on h" in found[world.ids["running"]]
    assert "% of its time limit of 1 h" in answer.text
    for run_id in world.ids.values():
        assert f'href="/runs/{run_id}"' in answer.text


def test_choices_count_what_would_fit_and_narrow_the_list(world: World) -> None:
    # A page may show the counts of a moment ago, with runs that tests before this one have deleted.
    text = wait_until(lambda: text if facet(text := get(world, "/runs").text, "Pending") == STATES["Pending"] else None)
    assert facet(text, "Finished") == 2
    assert facet(text, "gpu") == 2
    chosen = get(world, "/runs", state="Failed", queue="gpu")
    assert set(rows(chosen)) == {world.ids["failed"]}
    # A choice is counted as if nothing were chosen in its own facet.
    assert facet(chosen.text, "Running") == 1
    assert facet(chosen.text, "default") == 2
    wait_until(lambda: "1 match · 67 in all" in text_of(get(world, "/runs", state="Failed", queue="gpu").text))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=iris", {"finished", "other"}),
        ("q=exit+code&queue=gpu", {"failed"}),
        ("q=night", {"members"}),
        ("tag=night", {"members"}),
        ("author=ada@box", {"finished", "other"}),
        ("state=running", {"running"}),
        ("project=team/open", {"members"}),
        ("q=iris&q=zzz", set()),
        ("since=1d&q=busy", {"running"}),
    ],
)
def test_the_address_says_which_runs_are_shown(world: World, query: str, expected: set[str]) -> None:
    assert set(rows(get(world, f"/runs?{query}"))) == {world.ids[name] for name in expected}


def test_an_id_or_its_beginning_finds_the_run(world: World) -> None:
    run_id = world.ids["failed"]
    assert run_id in rows(get(world, "/runs", q=run_id))
    assert run_id in rows(get(world, "/runs", q=run_id[:14]))


def test_mine_are_those_that_i_submitted(world: World) -> None:
    assert set(rows(get(world, "/runs", "member", mine="1"))) == {world.ids["members"]}
    assert rows(get(world, "/runs", "operator", mine="1")) == {}


@pytest.mark.parametrize("query", ["state=odd", "since=never", "sort=-nothing", "q=" + "x" * 400, "after=!!", "sort=-"])
def test_a_wrong_address_gets_a_sentence(world: World, query: str) -> None:
    answer = get(world, f"/runs?{query}")
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text or 'class="say bad"' in answer.text


def test_runs_of_private_projects_are_not_shown_nor_counted(world: World) -> None:
    text = get(world, "/runs", "member").text
    assert "secret-run" not in text
    assert facet(text, "Pending") == 58 + 2
    assert world.ids["private"] in rows(get(world, "/runs", "insider"))
    assert set(rows(get(world, "/runs", "outsider"))) == set()


def test_pages_go_on_where_the_one_before_ended(world: World) -> None:
    seen: list[str] = []
    path = "/runs?each=1&sort=name"
    for _ in range(3):
        answer = get(world, path)
        seen += rows(answer)
        following = re.search(r'href="([^"]+)" rel="next"', answer.text)
        if following is None:
            break
        path = unescape(following[1])
    assert len(seen) == len(set(seen)) == 67


def test_a_group_of_a_page_is_not_shown_again_on_the_next_one(world: World) -> None:
    answer = get(world, "/runs", sort="created_at")
    assert list(rows(answer))[:2] == [world.ids["members"], world.array]
    after = re.search(r"rows=([^&\"]+)", answer.text)
    assert after
    with world.server.client() as client:
        listed = client.get("/api/v1/runs", params={"limit": 5, "order": "created_at"}).json()
    # In the midst of the array.
    following = get(world, f"/runs?sort=created_at&after={listed['next']}&past={world.array}")
    assert world.array not in rows(following)
    assert world.ids["finished"] in rows(following)


def test_an_open_page_keeps_its_rows_and_counts_newer_ones(world: World) -> None:
    with world.server.client() as client:
        page = client.get("/runs", params={"queue": "default", "project": OPEN}, headers=HTML)
        again = re.search(r'hx-get="([^"]+)"', page.text)
        assert again
        path = unescape(again[1])
        assert parse_qs(urlsplit(path).query)["rows"] == [world.ids["members"]]
        fresh = create(world.store, name="fresh", project=OPEN)
        try:

            def part() -> httpx.Response:
                return client.get(path, headers=PART)

            wait_until(lambda: "1 newer" in part().text)
            assert set(rows(part())) == {world.ids["members"]}
            assert "<nav" not in part().text
            assert set(rows(client.get("/runs", params={"q": "fresh"}, headers=HTML))) == {fresh}
        finally:
            client.delete(f"/api/v1/runs/{fresh}").raise_for_status()


def test_what_comes_from_jobs_is_text(world: World) -> None:
    text = get(world, "/runs").text
    assert "<b>bold" not in text
    assert "<script>alert" not in text
    assert "&lt;b&gt;bold" in text


def test_who_may_not_act_sees_no_buttons(world: World) -> None:
    viewer = get(world, "/runs", "viewer").text
    assert 'type="checkbox"' not in viewer
    assert "Cancel…" not in viewer
    assert "Cancel…" in get(world, "/runs", "member").text
    assert get(world, "/runs/acts?act=cancel&all=1", "viewer").status_code == 403


def act(world: World, word: str, fields: list[tuple[str, str]], who: str = "admin") -> httpx.Response:
    body = "&".join(f"{name}={value}" for name, value in fields)
    headers = HTML | {"Content-Type": "application/x-www-form-urlencoded"}
    with world.server.client(world.tokens[who]) as client:
        return client.post(f"/runs/acts/{word}", content=body, headers=headers)


def test_an_act_says_first_what_would_become_of_which_runs(world: World) -> None:
    chosen = [("act", "cancel"), *(("id", world.ids[name]) for name in ("members", "pending", "finished"))]
    text = get(world, "/runs/acts?" + "&".join(f"{name}={value}" for name, value in chosen), "member").text
    assert "Cancel 1 run?" in text
    assert "not yours" in text
    assert "has ended already" in text
    assert 'name="number"' not in text
    assert get(world, "/runs/acts?act=cancel").status_code == 422
    assert get(world, "/runs/acts?act=burn&all=1").status_code == 422


def test_an_act_is_done_to_those_that_may_be_and_is_audited(world: World) -> None:
    mine = create(world.store, name="mine-to-cancel", project=OPEN)
    try:
        answer = act(world, "cancel", [("id", mine), ("id", world.ids["finished"]), ("count", "1")])
        assert "1 run is cancelled" in answer.text
        assert world.store.get(mine).state == "Killed"
        assert world.store.get(mine).reason == "cancelled by admin"
        refused = act(world, "cancel", [("id", world.ids["pending"])], "member")
        assert "1 run was left out" in refused.text
        assert world.store.get(world.ids["pending"]).state == "Pending"
        assert act(world, "cancel", [("id", mine)], "viewer").status_code == 403
        with world.server.client() as client:
            acts = client.get("/api/v1/audit", params={"what": "cancel"}).json()["acts"]
        assert any(one["kind"] == "runs" and mine in one["target"] for one in acts)
    finally:
        act(world, "delete", [("id", mine)])
    assert mine not in rows(get(world, "/runs"))


def test_for_more_than_twenty_runs_the_number_is_typed(world: World) -> None:
    text = get(world, "/runs/acts", act="cancel", all="1", q="many").text
    assert "Nothing to cancel" in text
    run_ids = [create(world.store, name="many", project=OPEN) for _ in range(22)]
    try:
        wait_until(lambda: "Cancel 22 runs?" in get(world, "/runs/acts", act="cancel", all="1", q="many").text)
        fields = [("all", "1"), ("q", "many"), ("count", "22")]
        assert act(world, "cancel", fields).status_code == 409
        assert act(world, "cancel", [*fields, ("number", "21")]).status_code == 409
        assert {world.store.get(run_id).state.value for run_id in run_ids} == {"Pending"}
        assert "22 runs are cancelled" in act(world, "cancel", [*fields, ("number", "22")]).text
        assert {world.store.get(run_id).state.value for run_id in run_ids} == {"Killed"}
        # What came after the confirmation page was made was not seen by who confirms.
        until = str(world.store.now_us() // 1000 - 3_600_000)
        assert "0 runs are deleted" in act(world, "delete", [*fields, ("until", until)]).text
    finally:
        assert "22 runs are deleted" in act(world, "delete", [*fields, ("number", "22")]).text


def test_an_act_on_another_site_s_word_is_refused(world: World) -> None:
    headers = HTML | {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"}
    with world.server.client() as client:
        answer = client.post("/runs/acts/cancel", content=f"id={world.ids['pending']}", headers=headers)
    assert answer.status_code == 403
    assert world.store.get(world.ids["pending"]).state == "Pending"


def test_runs_are_compared_by_what_differs(world: World) -> None:
    chosen = f"id={world.ids['finished']}&id={world.ids['other']}"
    text = get(world, f"/runs/compare?{chosen}").text
    assert ">lr<" in text
    assert ">opt<" not in text
    assert ">opt<" in get(world, f"/runs/compare?{chosen}&every=1").text
    assert "secret-run" not in get(world, f"/runs/compare?{chosen}&id={world.ids['private']}", "member").text
    many = "&".join(f"id={new_run_id()}" for _ in range(21))
    assert get(world, f"/runs/compare?{many}").status_code == 422
    assert get(world, "/runs/compare").status_code == 200


def test_the_overview_says_what_runs_what_waits_longest_and_what_ended(world: World) -> None:
    text = get(world, "/").text
    assert text.index("no worker consumes queue nobody") < text.index("Runs by state")
    assert f'href="/runs/{world.ids["running"]}"' in text
    waits = text[text.index("Waits, the longest first") :]
    assert waits.index(world.ids["members"]) < waits.index(world.array) < waits.index(world.ids["pending"])
    assert "secret-run" in waits
    assert "secret-run" not in get(world, "/", "member").text

    def ended() -> bool:
        return "5 runs, 3 of them not Finished" in get(world, "/").text

    # The picture is kept for some seconds.
    wait_until(ended)
    assert '<svg class="ended"' in get(world, "/").text
