"""The pages of sweeps: who sees and steers which, and what stands there without a script."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from launch_worker.api.client import Api
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

HTML = {"Accept": "text/html"}


def make_sweep(api: Api, project: str, *, name: str = "widths", workers: int = 2) -> str:
    said = {
        "method": "grid",
        "parameters": {"width": {"values": list(range(40))}, "act": {"values": ["<b>relu</b>", "gelu"]}},
        "metric": {"name": "loss"},
        "command": ["true"],
        "name": name,
    }
    return api.create_sweep(said, queue="nobodys", project=project, workers=workers).id


@pytest.fixture
def get(server: TestServer) -> Callable[[str, str], str]:
    tokens = tokens_of_everybody(server)

    def text(name: str, path: str) -> str:
        with server.client(tokens[name]) as client:
            answer = client.get(path, headers=HTML)
        return answer.text if answer.status_code == 200 else str(answer.status_code)

    return text


def test_sweeps_are_shown_to_who_sees_their_project_and_acts_to_who_may(
    get: Callable[[str, str], str], api: Api
) -> None:
    made, hidden = make_sweep(api, OPEN), make_sweep(api, PRIVATE, name="secret")
    assert "secret" not in get("viewer", "/sweeps")
    assert "secret" in get("insider", "/sweeps")
    assert [get("viewer", f"/sweeps/{hidden}{end}") for end in ("", "/points")] == ["404", "404"]
    assert "/pause" not in get("viewer", f"/sweeps/{made}")
    assert "/pause" in get("operator", f"/sweeps/{made}")
    assert get("viewer", "/sweeps?state=PAUSED").count("<tr data-row") == 0


def test_a_sweep_is_steered_by_forms(server: TestServer, api: Api) -> None:
    made = make_sweep(api, OPEN, workers=21)
    site = {"Origin": server.url} | HTML
    tokens = tokens_of_everybody(server)
    with server.client(tokens["viewer"]) as viewer:
        assert viewer.post(f"/sweeps/{made}/pause", headers=site).status_code == 403
    with server.client(tokens["operator"]) as operator:
        answer = operator.post(f"/sweeps/{made}/pause", headers=site)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sweeps/{made}")
        assert "/resume" in operator.get(f"/sweeps/{made}", headers=HTML).text
        # More than twenty runs are killed with their number typed.
        refused = operator.post(f"/sweeps/{made}/cancel", headers=site, data={"shown": "21", "count": "2"})
        assert (refused.status_code, "type the number" in refused.text) == (422, True)
        operator.post(f"/sweeps/{made}/cancel", headers=site, data={"shown": "21", "count": "21"})
        wait_until(lambda: api.sweep(made).record.state == "CANCELED")
        refused = operator.post(f"/sweeps/{made}/resume", headers=site)
        assert (refused.status_code, "nothing was changed" in refused.text) == (409, True)


def test_the_table_of_runs_is_picked_sorted_and_paged_without_a_script(
    get: Callable[[str, str], str], api: Api, store: Store
) -> None:
    made = make_sweep(api, OPEN, workers=70)
    results = {str(place): f'{{"state": "Finished", "value": "{abs(place - 20) + 0.5}"}}' for place in range(60)}
    store._redis.hset(keys.sweep_part(made, "results"), mapping=results)
    store._redis.delete(keys.sweep_part(made, "live"))

    def places(query: str = "") -> list[int]:
        return [int(place) for place in re.findall(r'data-place="(\d+)"', get("viewer", f"/sweeps/{made}{query}"))]

    page = get("viewer", f"/sweeps/{made}")
    assert "Best run" in page
    assert "&lt;b&gt;relu&lt;/b&gt;" in page
    assert "<b>relu" not in page
    assert " style=" not in page
    assert places()[:3] == [20, 19, 21]
    assert places("?sort=-loss")[0] == 59
    assert places("?from:loss=&to:loss=1.5") == [20, 19, 21]
    assert places("?in:act=gelu&to:loss=1.5") == [19, 21]
    assert len(places()) == 70
    assert places("?page=2") == []
    # The picture has the same values.
    assert '"columns"' in get("viewer", f"/sweeps/{made}/points")
