"""A run's output by its lines, through a server: stored, live or both, for those who see the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from launch_worker.api.transport import Place
from launch_worker.store.store import Store
from tests.support.arrows import FAILED_AGAIN, FINISHED, claim, create, running
from tests.support.http_servers import TestServer, serving
from tests.support.people import PRIVATE, tokens_of_everybody
from tests.support.whole_logs import store_log


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path, LAUNCH_LOG_URL=f"file://{tmp_path}/logs") as made:
        yield made


def lines_of(client: httpx.Client, run_id: str, **given: Any) -> dict[str, Any]:
    answer = client.get(f"/api/v1/runs/{run_id}/logs/lines", params=given)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(answer: dict[str, Any]) -> list[tuple[int, str]]:
    return [(line["number"], line["text"]) for line in answer["lines"]]


def test_lines_of_a_stored_and_a_live_part_have_their_numbers(
    client: httpx.Client, store: Store, tmp_path: Path
) -> None:
    record = running(store)
    store_log(f"file://{tmp_path}/logs", record, b"1\n2\n3\n", is_complete=False)
    store.append_log(record.id, 1, b"3\n4\n5", offset=4, line=2)
    answer = lines_of(client, record.id)
    assert texts(answer) == [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")]
    assert (answer["count"], answer["open"], answer["attempts"]) == (5, True, 1)
    assert answer["kept"] == [{"first": 1, "lines": 5, "missing": ""}]
    assert texts(lines_of(client, record.id, first=2, count=2)) == [(2, "2"), (3, "3")]
    assert texts(lines_of(client, record.id, count=1)) == [(5, "5")]
    found = client.get(f"/api/v1/runs/{record.id}/logs/search", params={"q": "3"}).json()
    assert found == {"count": 1, "before": 0, "lines": [3]}


def test_the_tail_goes_on_where_the_lines_end_and_joins_what_came_in_pieces(client: httpx.Client, store: Store) -> None:
    record = running(store)
    store.append_log(record.id, 1, b"a\nb", offset=0, line=0)
    place = lines_of(client, record.id)["place"]
    assert Place.of_text(place).end == 3
    for at, piece in enumerate((b"c", b"d", b"\ne\n")):
        store.append_log(record.id, 1, piece, offset=3 + at, line=1)
    assert store.finish(record, FINISHED)
    path = f"/api/v1/runs/{record.id}/logs/tail"
    said = [event.split("\n") for event in client.get(path, params={"after": place}).text.split("\n\n")]
    output = [json.loads(lines[-1][6:]) for lines in said if "event: output" in lines]
    assert output == [{"missing": 0, "text": "cd\ne\n"}]
    assert lines_of(client, record.id)["place"] is None
    refused = client.get(path, params={"after": "nowhere"})
    assert refused.status_code == 422


def test_each_attempt_has_its_lines(client: httpx.Client, store: Store) -> None:
    run_id = create(store)
    assert texts(lines_of(client, run_id)) == []
    for number in (1, 2):
        record = claim(store, run_id)
        store.append_log(run_id, number, b"attempt %d\n" % number, offset=0, line=0)
        if number == 1:
            assert store.finish(record, FAILED_AGAIN)
    first = lines_of(client, run_id, attempt=1)
    assert (texts(first), first["place"], first["attempts"]) == ([(1, "attempt 1")], None, 2)
    assert texts(lines_of(client, run_id)) == [(1, "attempt 2")]
    assert client.get(f"/api/v1/runs/{run_id}/logs/lines", params={"attempt": 3}).status_code == 422


def test_who_does_not_see_a_run_sees_no_line_of_it(server: TestServer, store: Store) -> None:
    tokens = tokens_of_everybody(server)
    record = running(store, project=PRIVATE)
    store.append_log(record.id, 1, b"secret\n", offset=0, line=0)
    for way in ("api/v1/runs/{}/logs/lines", "api/v1/runs/{}/logs/search?q=secret", "runs/{}/log"):
        for name, status in (("insider", 200), ("member", 404)):
            with server.client(tokens[name]) as client:
                answer = client.get(f"/{way.format(record.id)}")
            assert answer.status_code == status, (way, name)
            assert status == 200 or "secret\n" not in answer.text


def test_the_page_has_the_last_lines_without_a_script(client: httpx.Client, store: Store) -> None:
    record = running(store)
    store.append_log(record.id, 1, b"<b>\x1b[31mred\x1b[0m\x07\n" * 300, offset=0, line=0)
    page = client.get(f"/runs/{record.id}/log").text
    assert page.count("&lt;b&gt;red␇\n") == 200
    assert "The last 200 of 300 lines" in page
    assert f'href="/api/v1/runs/{record.id}/logs?attempt=1"' in page
