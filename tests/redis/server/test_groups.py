"""What a person may do to a group of somebody else: see it, and not come into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from launch_worker.ids import new_run_id
from launch_worker.store.store import Store
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

V1 = "/api/v1"


@pytest.fixture
def clients(server: TestServer) -> Iterator[dict[str, httpx.Client]]:
    with ExitStack() as opened:
        tokens = tokens_of_everybody(server)
        yield {name: opened.enter_context(server.client(token)) for name, token in tokens.items()}


def bulk(client: httpx.Client, *items: dict[str, Any]) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps({"command": ["true"], "project": OPEN} | item) for item in items)
    return [json.loads(line) for line in client.post(f"{V1}/runs/bulk", content=lines).text.splitlines()]


def group(client: httpx.Client, group_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{V1}/run-groups/{group_id}").raise_for_status().json()
    return found


def test_nobody_comes_into_an_array_or_a_bulk_submission_of_somebody_else(clients: dict[str, httpx.Client]) -> None:
    # Both see all projects, and so may choose the ids of their runs.
    ada, eve = clients["admin"], clients["insider"]
    array = bulk(ada, {"array": "0-1", "max_fails": 1})
    several = bulk(ada, {}, {})
    before = [group(ada, array[0]["group"]), group(ada, several[0]["group"])]
    refusals = [
        bulk(eve, {"id": array[0]["id"], "array": "0-5"})[-1],
        bulk(eve, {"id": several[0]["id"]}, {}, {})[-1],
    ]
    for refusal in refusals:
        assert "is there already, and not yours; choose another id" in refusal["problem"]["detail"]
    assert [group(ada, array[0]["group"]), group(ada, several[0]["group"])] == before
    assert ada.post(f"{V1}/run-groups/{array[0]['group']}/cancel", json={}).json() == {"killed": 2, "requested": 0}
    # One's own may grow.
    assert len(bulk(ada, {"id": several[0]["id"]}, {}, {})) == 3
    assert group(ada, several[0]["group"])["size"] == 4


def test_a_run_of_a_hidden_project_hides_the_counts_of_the_group_that_it_comes_into(
    clients: dict[str, httpx.Client],
) -> None:
    array = bulk(clients["insider"], {"array": "0-1"})
    assert group(clients["viewer"], array[0]["group"])["size"] == 2
    bulk(clients["insider"], {"id": array[0]["id"], "array": "0-5", "project": PRIVATE})
    assert clients["viewer"].get(f"{V1}/run-groups/{array[0]['group']}").status_code == 404


@pytest.mark.parametrize("more", [{"array": "X"}, {"array_index": 1}, {"array_limit": 1}, {"sweep": "X"}])
def test_a_sweep_makes_its_runs_in_no_other_group(
    clients: dict[str, httpx.Client], server: TestServer, more: dict[str, Any]
) -> None:
    array = bulk(clients["admin"], {"array": "0-1"})
    store: Store = server.shared.acting.store
    wanted = {name: array[0]["id"] if value == "X" else value for name, value in more.items()}
    config = {"command": ["true"], "project": OPEN, "method": "grid", "parameters": {"x": {"values": [1]}}}
    answer = clients["member"].post(f"{V1}/sweeps", json={"id": new_run_id(), "config": config, "given": wanted})
    assert answer.status_code == 422
    assert next(iter(more)) in answer.json()["detail"]
    assert store.sweep_ids() == []
    assert group(clients["admin"], array[0]["group"])["size"] == 2
