"""No answer tells a thing that a person may not see from one that is not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from launch_worker.api.bookmarks import bookmark
from launch_worker.api.filters import parse_order
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


def submit(client: httpx.Client, project: str, **more: Any) -> httpx.Response:
    return client.post(f"{V1}/runs", json={"command": ["true"], "project": project, **more})


def bulk(client: httpx.Client, *items: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps({"command": ["true"]} | item) for item in items)
    return [json.loads(line) for line in client.post(f"{V1}/runs/bulk", content=lines, params=query).text.splitlines()]


class Hidden:
    """What an insider has made in the private project."""

    def __init__(self, insider: httpx.Client) -> None:
        self.run: str = submit(insider, PRIVATE).json()["id"]
        self.deleted: str = submit(insider, PRIVATE).json()["id"]
        assert insider.delete(f"{V1}/runs/{self.deleted}").status_code == 200
        self.array: str = bulk(insider, {"project": PRIVATE, "array": "0-1"})[0]["group"]
        self.bulk: str = bulk(insider, {"project": OPEN}, {"project": PRIVATE})[0]["group"]
        given = {"command": ["true"], "project": PRIVATE, "method": "grid", "parameters": {"x": {"values": [1]}}}
        self.sweep = new_run_id()
        made = insider.post(f"{V1}/sweeps", json={"id": self.sweep, "config": given, "given": {"queue": "nobodys"}})
        assert made.status_code == 201, made.text
        self.archive = b"no archive, but bytes"
        self.upload = hashlib.sha256(self.archive).hexdigest()
        assert insider.put(f"{V1}/uploads/{self.upload}", content=self.archive).status_code == 201


def said(answer: httpx.Response, *ids: str) -> tuple[int, str]:
    """The answer, but for the ids that it was asked for."""
    text = answer.text
    for one in sorted(ids, key=len, reverse=True):
        text = text.replace(one, "IT")
    return answer.status_code, text


def test_what_is_hidden_answers_as_what_never_was(clients: dict[str, httpx.Client]) -> None:
    hidden, client, mine = Hidden(clients["insider"]), clients["member"], OPEN
    absent = new_run_id()

    def same(method: str, path: str, is_one: str, is_none: str, **more: Any) -> None:
        answers = [
            said(client.request(method, f"{V1}/{path.replace('IT', it)}", **more), it, it[1:])
            for it in (is_one, is_none)
        ]
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] in (404, 403), (method, path, answers)

    for run in (hidden.run, hidden.deleted):
        for path in (
            "",
            "?live=1",
            "/history",
            "/metrics",
            "/usage?attempt=7&timeout=0",
            "/advice",
            "/files",
            "/outputs",
        ):
            same("GET", f"runs/IT{path}", run, absent)
        for path in (
            "/files/a",
            "/files.tar",
            "/logs?attempt=7",
            "/logs?tail=1",
            "/logs/newest?attempt=1",
            "/logs/tail",
            "/wait",
        ):
            same("GET", f"runs/IT{path}", run, absent)
        for act in ("cancel", "preempt", "retry", "confirm"):
            same("POST", f"runs/IT/{act}", run, absent, json={})
        same("DELETE", "runs/IT", run, absent)
        for act in ("cancel", "retry", "delete"):
            answers = [said(client.post(f"{V1}/runs/acts/{act}", json={"ids": [it]}), it) for it in (run, absent)]
            assert answers[0] == answers[1]
            assert "there is no run IT" in answers[0][1]
    for group, none in ((hidden.array, f"a{absent}"), (hidden.bulk, f"b{absent}"), (hidden.sweep, absent)):
        for path in ("", "/runs", "/wait?timeout=0"):
            same("GET", f"run-groups/IT{path}", group, none)
        for act in ("cancel", "retry"):
            same("POST", f"run-groups/IT/{act}", group, none, json={})
    for path in ("", "/trials"):
        same("GET", f"sweeps/IT{path}", hidden.sweep, absent)
    for act in ("pause", "resume", "stop", "cancel"):
        same("POST", f"sweeps/IT/{act}", hidden.sweep, absent)

    # Who waits for it is refused in the same words, whatever else is wrong.
    for other in (hidden.run, hidden.deleted, hidden.array, hidden.bulk, hidden.sweep):
        none = other[: len(other) - 15] + absent
        for more in ({}, {"queue": "nowhere"}):  # type: dict[str, str]
            for path in ("runs?strict=1", "runs/bulk?strict=1", "runs/bulk?strict=1&check=1"):
                answers = []
                for it in (other, none):
                    wanted = json.dumps({"command": ["true"], "project": mine, "after": [it], **more})
                    headers = {"Content-Type": "application/json"}
                    answers.append(said(client.post(f"{V1}/{path}", content=wanted, headers=headers), it, it[-15:]))
                assert answers[0] == answers[1]
                assert ("there is no queue" if more else "to wait for") in answers[0][1]
        if len(other) == 15:
            # By an id as runs have them, its outputs may be asked for too.
            given = {"command": ["true"], "project": mine}
            asked = [client.post(f"{V1}/runs", json={**given, "inputs": [f"{it}:."]}) for it in (other, none)]
            assert said(asked[0], other) == said(asked[1], none)
            assert "to wait for" in asked[0].json()["detail"]
        answers = []
        for it in (other, none):
            given = {"command": ["true"], "project": mine, "after": [it]}
            kept = client.put(f"{V1}/schedules/x", json={"cron": "@daily", "given": given})
            assert kept.status_code == 422
            ending = kept.json()["detail"].rpartition("name it ")[2].strip("'")
            answers.append(
                said(client.put(f"{V1}/schedules/{ending}", json={"cron": "@daily", "given": given}), it, it[-15:])
            )
            config = {"command": ["true"], "project": mine, "method": "grid", "parameters": {"x": {"values": [1]}}}
            swept = client.post(f"{V1}/sweeps", json={"id": new_run_id(), "config": config, "given": {"after": [it]}})
            answers.append(said(swept, it, it[-15:]))
        assert answers[:2] == answers[2:]
        assert {status for status, _ in answers} == {422}

    # An id that a client chooses is taken by nobody else.
    for taken in (hidden.run, hidden.deleted, hidden.sweep, hidden.array[1:]):
        first, again = (submit(client, mine, id=taken) for _ in range(2))
        assert (first.status_code, first.json()["is_new"], again.json()["is_new"]) == (201, True, False)
        assert first.json()["id"] == again.json()["id"] != taken
    config = {"command": ["true"], "project": mine, "method": "grid", "parameters": {"x": {"values": [1]}}}
    for taken in (hidden.run, hidden.sweep):
        swept = client.post(f"{V1}/sweeps", json={"id": taken, "config": config, "given": {"queue": "nobodys"}})
        assert swept.status_code == 201
        assert swept.json()["id"] != taken

    # Nobody learns which folders others have sent, nor gets their content.
    for sha256 in (hidden.upload, "1" * 64):
        assert client.post(f"{V1}/uploads/{sha256}/renew").json() == {"is_there": False}
        assert submit(client, mine, upload=sha256).status_code == 422
    assert client.put(f"{V1}/uploads/{hidden.upload}", content=hidden.archive).status_code == 201
    assert client.post(f"{V1}/uploads/{hidden.upload}/renew").json() == {"is_there": True}
    assert submit(client, mine, upload=hidden.upload).status_code == 201


def test_a_name_of_a_schedule_is_nobody_elses(clients: dict[str, httpx.Client]) -> None:
    wanted: Any = {"cron": "@daily", "given": {"command": ["true"], "project": PRIVATE}}
    assert clients["insider"].put(f"{V1}/schedules/nightly", json=wanted).status_code == 200
    wanted["given"]["project"] = OPEN
    member = clients["member"]
    answers = [said(member.put(f"{V1}/schedules/{name}", json=wanted), name) for name in ("nightly", "weekly")]
    assert answers[0] == answers[1]
    assert answers[0][0] == 422
    told = member.put(f"{V1}/schedules/nightly", json=wanted).json()["detail"]
    name = told.rpartition("name it ")[2].strip("'")
    assert member.put(f"{V1}/schedules/{name}", json=wanted).status_code == 200
    assert member.get(f"{V1}/schedules/{name}").status_code == 200


def test_a_place_in_line_counts_what_is_seen(clients: dict[str, httpx.Client]) -> None:
    for _ in range(3):
        submit(clients["insider"], PRIVATE)
    mine = submit(clients["member"], OPEN).json()["id"]
    last = submit(clients["member"], OPEN, name="last").json()["id"]

    def line(name: str, **more: Any) -> list[tuple[str, int]]:
        told = clients[name].get(f"{V1}/runs/line", params=more).json()
        return [(one["run"]["id"], one["place"]) for one in told]

    assert line("insider")[-2:] == [(mine, 4), (last, 5)]
    assert line("member") == [(mine, 1), (last, 2)]
    assert line("member", filter='{"name": "last"}') == [(last, 2)]
    assert line("member", limit=1) == [(mine, 1)]


def test_a_bookmark_and_a_filter_tell_nothing_of_a_hidden_run(clients: dict[str, httpx.Client], store: Store) -> None:
    mine = [submit(clients["member"], OPEN, name="mine").json()["id"]]
    hidden = submit(clients["insider"], PRIVATE, name="secret").json()["id"]
    mine.append(submit(clients["member"], OPEN, name="mine").json()["id"])
    place = bookmark(parse_order("-created_at"), store.get(hidden))

    def ids(**query: Any) -> list[str]:
        return [run["id"] for run in clients["member"].get(f"{V1}/runs", params=query).json()["runs"]]

    # The place stands between the two, whether a run is there or not.
    assert ids(after=place) == mine[:1]
    store.delete(hidden, who="somebody", keep_s=60)
    assert ids(after=place) == mine[:1]
    for name in ("secret", "nothing"):
        assert ids(filter=json.dumps({"name": name})) == []
        counted = clients["member"].get(f"{V1}/runs/count", params={"filter": json.dumps({"name": name})}).json()
        assert not counted["count"]
    assert ids(ids=f"{hidden},{mine[0]}") == mine[:1]


def test_a_group_whose_runs_are_gone_stays_hidden(clients: dict[str, httpx.Client], store: Store) -> None:
    """Else who may see none of them would count them."""
    [first, second] = bulk(clients["insider"], {"project": PRIVATE, "array": "0-1"})
    mixed = bulk(clients["insider"], {"project": OPEN}, {"project": PRIVATE})
    for gone in (first, second, mixed[1]):
        # The last run of a group takes the group along, unless another run waits for it.
        submit(clients["insider"], PRIVATE, after=[f"{gone['group']}:any"])
        store.delete(gone["id"], who="somebody", keep_s=60)
    for group in (first["group"], mixed[0]["group"]):
        assert clients["member"].get(f"{V1}/run-groups/{group}").status_code == 404
    assert clients["insider"].get(f"{V1}/run-groups/{mixed[0]['group']}").status_code == 200


def test_a_project_that_a_queue_gives_hides_sweeps_and_schedules_as_it_hides_runs(
    clients: dict[str, httpx.Client],
) -> None:
    queue = {"name": "private", "defaults": {"project": PRIVATE}}
    clients["admin"].post(f"{V1}/queues", json=queue).raise_for_status()
    config = {"command": ["true"], "method": "grid", "parameters": {"x": {"values": [1]}}}
    sweep, schedule = new_run_id(), {"cron": "@daily", "given": {"command": ["true"], "queue": "private"}}
    insider, wanted = clients["insider"], {"id": sweep, "config": config, "given": {"queue": "private"}}
    insider.post(f"{V1}/sweeps", json=wanted).raise_for_status()
    made = insider.put(f"{V1}/schedules/nightly", json=schedule).raise_for_status().json()
    assert made["schedule"]["given"]["project"] == PRIVATE
    for name, is_seen in (("insider", True), ("viewer", False), ("operator", False)):
        client = clients[name]
        assert [bool(client.get(f"{V1}/{kind}").json()[kind]) for kind in ("sweeps", "schedules")] == [is_seen] * 2
        for path in (f"sweeps/{sweep}", "schedules/nightly"):
            assert client.get(f"{V1}/{path}").status_code == (200 if is_seen else 404), (name, path)
    assert clients["operator"].post(f"{V1}/sweeps/{sweep}/cancel").status_code == 404
    assert clients["operator"].delete(f"{V1}/schedules/nightly").status_code == 404
