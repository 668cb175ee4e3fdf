"""Queues, pools, workers, schedules, sweeps, status, audit and usage over HTTP; and what is hidden from whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from launch_worker.api.client import Api
from launch_worker.maintenance.schedules import fire_due
from launch_worker.model.run import Record
from launch_worker.people.registry import Registry
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import create
from tests.support.http_servers import TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of
from tests.support.workers import Worker

V1 = "/api/v1"
As = Callable[[str], httpx.Client]


#: Mark of a test whose server has its archive, which counts for people who do not see everything.
with_archive = pytest.mark.parametrize("server", [True], indirect=True, ids=["archive"])


@pytest.fixture
def server(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path, with_archive=getattr(request, "param", False)) as running:
        yield running


@pytest.fixture
def person(server: TestServer) -> Iterator[As]:
    """A client for each of tests/support/people.py."""
    tokens = tokens_of_everybody(server)
    with ExitStack() as clients:
        yield lambda name: clients.enter_context(server.client(tokens[name]))


def test_a_queue_lives_as_on_the_command_line(person: As, api: Api) -> None:
    admin = person("admin")
    made = admin.post(f"{V1}/queues", json={"name": "gpu", "limit": 4, "description": "fast"})
    assert made.status_code == 201
    assert made.json() == api.queue("gpu").as_json()
    assert admin.post(f"{V1}/queues", json={"name": "gpu"}).status_code == 422
    changed = admin.patch(f"{V1}/queues/gpu", json={"limit": None}).json()
    assert (changed["limit"], changed["description"]) == (None, "fast")
    assert admin.post(f"{V1}/queues/gpu/pause").json()["paused"]
    assert not admin.post(f"{V1}/queues/gpu/resume").json()["paused"]
    assert admin.get(f"{V1}/queues").json() == {"queues": [api.queue("gpu").as_json()]}
    assert admin.delete(f"{V1}/queues/gpu").status_code == 204
    gone = admin.get(f"{V1}/queues/gpu")
    assert gone.status_code == 404
    assert "launch-worker queues" in gone.json()["detail"]


def test_a_pool_lives_as_on_the_command_line(person: As, api: Api) -> None:
    admin = person("admin")
    assert admin.post(f"{V1}/pools", json={"name": "all", "limit": 2}).status_code == 201
    assert admin.post(f"{V1}/queues", json={"name": "gpu", "pool": "all", "rank": 1}).json()["pool"] == "all"
    assert admin.get(f"{V1}/pools/all").json() == api.pool("all").as_json()
    assert admin.patch(f"{V1}/pools/all", json={"limit": 3}).json()["limit"] == 3
    assert admin.post(f"{V1}/pools/all/pause").json()["paused"]
    assert admin.post(f"{V1}/pools/all/resume").status_code == 200
    refused = admin.delete(f"{V1}/pools/all")
    assert (refused.status_code, refused.json()["code"]) == (409, "RefusedError")
    assert admin.get(f"{V1}/pools/nope").status_code == 404


@pytest.mark.parametrize(
    "body", [{"nme": "x"}, {"name": "x", "limit_": 1}, {"name": "../x"}, {"name": "x", "limit": -1}, []]
)
def test_wrong_settings_get_a_sentence(person: As, body: Any) -> None:
    answer = person("admin").post(f"{V1}/queues", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_an_order_reaches_a_worker_by_its_name(person: As, store: Store) -> None:
    assert person("admin").post(f"{V1}/workers/nobody/drain").status_code == 404
    heartbeat(store, "celery@gpu1", [])
    shown = person("admin").get(f"{V1}/workers").json()["workers"]
    assert [one["worker"] for one in shown] == ["celery@gpu1"]
    unheard = person("admin").post(f"{V1}/workers/celery@gpu1/drain")
    assert unheard.status_code == 422
    assert "does not listen" in unheard.json()["detail"]


def heartbeat(store: Store, name: str, runs: list[str]) -> None:
    """A worker that is listed, and holds these runs' devices."""
    store.heartbeat(
        [],
        owner=name,
        worker=name,
        lease_s=30.0,
        gone_s=60.0,
        description={
            "worker": name,
            "owner": name,
            "host": "gpu1",
            "pid": 1,
            "queues": ["default"],
            "slots": 2,
            "running": len(runs),
            "devices": [{"id": "0", "name": "H200", "memory": 1, "runs": runs, "use": None}],
            "cpus": {"total": 4.0, "free": 2.0},
            "memory": {"total": 8, "free": 4},
            "state": "running",
            "problem": "",
        },
        queues=["default"],
        free=Worker(store, "default", owner=name).free(2),
    )


def run(store: Store, project: str, **more: Any) -> str:
    return create(store, project=project, **more)


@with_archive
def test_who_does_not_see_a_project_does_not_count_its_runs(server: TestServer, person: As, store: Store) -> None:
    for number in range(3):
        run(store, PRIVATE, name=f"secret-{number}")
    seen = run(store, OPEN)
    worker = Worker(store, "default", owner="w1", slots=2)
    worker.work()
    states = {record.id: record.state.value for record in store.runs()}
    assert sorted(states.values()) == ["Pending", "Pending", "Running", "Running"]

    def counts(name: str) -> tuple[int, int, int, int]:
        client = person(name)
        [queue] = client.get(f"{V1}/queues").json()["queues"]
        status = client.get(f"{V1}/status").json()
        return queue["waiting"], queue["running"], sum(status["runs"].values()), status["queues"][0]["running"]

    everything = (2, 2, 4, 2)
    assert counts("insider") == everything
    assert counts("admin") == everything
    is_running = states[seen] == "Running"
    expected = (int(not is_running), int(is_running), 1, int(is_running))
    wait_until(lambda: counts("viewer") == expected, what="the archive counts what is seen")
    assert counts("member") == counts("operator") == expected
    assert counts("outsider") == (0, 0, 0, 0)
    heartbeat(store, "celery@gpu1", list(states))
    [shown] = person("viewer").get(f"{V1}/workers").json()["workers"]
    assert shown["devices"][0]["runs"] == [seen] * is_running
    assert shown["running"] == 0
    [shown] = person("insider").get(f"{V1}/workers").json()["workers"]
    assert shown["devices"][0]["runs"] == list(states)


def test_schedules_are_their_owners(person: As, api: Api) -> None:
    wanted = {"cron": "0 3 * * *", "given": {"command": ["true"], "project": OPEN, "env": {"API_TOKEN": "hush"}}}
    insider = person("insider")
    kept = insider.put(f"{V1}/schedules/nightly", json=wanted)
    assert kept.status_code == 200, kept.text
    assert "hush" not in kept.text
    assert kept.json()["next_us"] > 0
    assert insider.put(f"{V1}/schedules/nightly", json=wanted).status_code == 422
    assert person("member").delete(f"{V1}/schedules/nightly").status_code == 403
    assert person("viewer").get(f"{V1}/schedules").json()["schedules"][0]["name"] == "nightly"
    assert "hush" not in person("viewer").get(f"{V1}/schedules").text
    assert insider.delete(f"{V1}/schedules/nightly").status_code == 204
    assert insider.get(f"{V1}/schedules/nightly").status_code == 404
    for wrong in ({"cron": "* * *"}, {"cron": "@daily", "timezone": "../../etc/passwd"}):
        assert insider.put(f"{V1}/schedules/x", json=wanted | wrong).status_code == 422
    assert insider.put(f"{V1}/schedules/x", json={"cron": "@daily", "given": {"kommando": ["x"]}}).status_code == 422


def test_runs_of_a_schedule_have_their_makers_groups(server: TestServer, person: As, store: Store) -> None:
    Registry(server.shared.database, actor="test").set_user("insider", joins=["ml"])
    server.shared.directory.changed()
    given = {"command": ["true"], "queue": "gpu"}
    assert person("admin").post(f"{V1}/queues", json={"name": "gpu", "admits": {"ml": "high"}}).status_code == 201
    kept = person("insider").put(f"{V1}/schedules/nightly", json={"cron": "@daily", "given": given})
    assert kept.status_code == 200, kept.text
    assert "ml" not in kept.text
    [(name, text, _)] = store.schedules()
    assert store.change_schedule(name, text, store.now_us() - 1, was=text.encode())
    assert fire_due(store, server.shared.settings) == 1
    [made] = store.runs()
    assert made.user == "insider"
    assert redis_of(store.url).hget(keys.run(made.id), "user_groups") == b"ml"


@pytest.mark.parametrize("act", ["pause", "delete"])
def test_a_schedule_that_takes_the_place_of_ones_own_meanwhile_is_not_changed(
    server: TestServer, person: As, store: Store, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Between the look at whose it is and the change; names are free for who sees all projects."""
    wanted = {"cron": "@daily", "given": {"command": ["true"], "project": OPEN}}
    assert person("insider").put(f"{V1}/schedules/nightly", json=wanted).status_code == 200
    [(_, mine, next_us)] = store.schedules()
    other = mine.replace('"insider"', '"admin"')
    assert other != mine
    script = Store._call

    def first_replaced(self: Store, name: str, *args: Any) -> Any:
        if name == "keep_schedule" and args[-1] != other:
            monkeypatch.setattr(Store, "_call", script)
            store.keep_schedule("nightly", other, next_us)
        return script(self, name, *args)

    monkeypatch.setattr(Store, "_call", first_replaced)
    path = f"{V1}/schedules/nightly"
    refused = person("insider").delete(path) if act == "delete" else person("insider").post(f"{path}/pause")
    assert refused.status_code == 403, refused.text
    assert store.schedules() == [("nightly", other, next_us)]


def test_a_change_of_a_schedule_while_it_is_paused_is_kept(store: Store) -> None:
    store.keep_schedule("nightly", "{}", 5)
    assert not store.change_schedule("nightly", '{"paused": true}', 6, was=b'{"cron": "@daily"}')
    assert store.schedules() == [("nightly", "{}", 5)]
    for _ in range(2):  # a call whose answer was lost is made again
        assert store.change_schedule("nightly", '{"paused": true}', 6, was=b"{}")
    assert not store.delete_schedule("nightly", was=b"{}")
    assert store.schedules() == [("nightly", '{"paused": true}', 6)]
    assert store.delete_schedule("nightly", was=b'{"paused": true}')
    assert not store.delete_schedule("nightly", was=b'{"paused": true}')


def test_a_schedule_that_is_not_even_text_is_deleted(person: As, store: Store) -> None:
    store.keep_schedule("nightly", "{}", 5)
    redis_of(store.url).set(keys.schedule("nightly"), b'{"user": "\xff"}')
    assert person("admin").delete(f"{V1}/schedules/nightly").status_code == 204
    assert store.schedules() == []


def test_of_two_schedules_of_one_name_the_first_stays(person: As) -> None:
    # Both see all projects, and choose names as they like.
    makers = {name: person(name) for name in ("insider", "admin")}
    wanted = {"cron": "@daily", "given": {"command": ["true"], "project": OPEN}}

    def make(name: str) -> tuple[int, str]:
        return makers[name].put(f"{V1}/schedules/nightly", json=wanted).status_code, name

    with ThreadPoolExecutor(2) as threads:
        answers = sorted(threads.map(make, makers))
    assert [status for status, _ in answers] == [200, 422]
    assert makers["admin"].get(f"{V1}/schedules/nightly").json()["schedule"]["user"] == answers[0][1]


def test_a_schedule_of_a_hidden_project_is_not_there(person: As) -> None:
    wanted = {"cron": "@daily", "given": {"command": ["true"], "project": PRIVATE}}
    assert person("member").put(f"{V1}/schedules/secret", json=wanted).status_code == 403
    assert person("insider").put(f"{V1}/schedules/secret", json=wanted).status_code == 200
    for name in ("viewer", "member", "operator", "outsider"):
        assert person(name).get(f"{V1}/schedules").json()["schedules"] == []
        assert person(name).get(f"{V1}/schedules/secret").status_code == 404
    assert person("operator").delete(f"{V1}/schedules/secret").status_code == 404
    assert person("admin").delete(f"{V1}/schedules/secret").status_code == 204


def sweep(api: Api, project: str) -> str:
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"], "project": project}
    return api.create_sweep(config, queue="nobodys").id


def test_sweeps_are_seen_with_their_project_and_steered_by_operators(person: As, api: Api) -> None:
    made, hidden = sweep(api, OPEN), sweep(api, PRIVATE)
    viewer, operator = person("viewer"), person("operator")
    assert [one["id"] for one in viewer.get(f"{V1}/sweeps").json()["sweeps"]] == [made]
    assert viewer.get(f"{V1}/sweeps/{hidden}").status_code == 404
    assert viewer.get(f"{V1}/sweeps/{hidden}/trials").status_code == 404
    assert len(viewer.get(f"{V1}/sweeps/{made}/trials").json()["trials"]) == 1
    assert viewer.post(f"{V1}/sweeps/{made}/pause").status_code == 403
    assert person("member").post(f"{V1}/sweeps/{made}/pause").status_code == 403
    assert operator.post(f"{V1}/sweeps/{made}/pause").json() == {"done": True, "state": "PAUSED"}
    assert operator.post(f"{V1}/sweeps/{made}/resume").json()["state"] == "RUNNING"
    assert operator.post(f"{V1}/sweeps/{made}/cancel", json={"reason": "it is too slow"}).json()["done"]
    [trial] = api.transport.trials(made)
    record: Record = api.transport.record(trial.run_id)
    assert "cancelled by operator: it is too slow" in record.reason
    assert operator.post(f"{V1}/sweeps/{hidden}/cancel").status_code == 404


def test_status_and_problems_are_those_of_the_command_line(person: As, api: Api) -> None:
    admin = person("admin")
    assert admin.get(f"{V1}/status").json().keys() == api.transport.status().keys()
    names = {finding["name"] for finding in admin.get(f"{V1}/problems").json()["findings"]}
    assert names >= {finding.name for finding in api.transport.findings()}
    assert person("viewer").get(f"{V1}/problems").status_code == 403
    # It tells of all projects.
    assert person("operator").get(f"{V1}/problems").status_code == 403


@with_archive
def test_the_audit_is_for_admins_and_has_each_act_once(server: TestServer, person: As) -> None:
    admin = person("admin")
    admin.post(f"{V1}/queues", json={"name": "gpu"})
    admin.post(f"{V1}/queues/gpu/pause")
    assert person("operator").post(f"{V1}/queues/gpu/pause").status_code == 403
    assert person("operator").get(f"{V1}/audit").status_code == 403
    # A change of the feed that comes later: the archive has read all before it.
    Store(server.shared.settings.redis_url).configure("queue", "last", {"limit": "1"}, actor="eve@host")
    wait_until(lambda: admin.get(f"{V1}/audit", params={"target": "last"}).json()["acts"])

    def of_gpu() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = admin.get(f"{V1}/audit", params={"target": "gpu"}).json()["acts"]
        return found

    # A result is written when the answer has been sent.
    wait_until(lambda: all(act["result"] for act in of_gpu()))
    acts = of_gpu()
    assert [(act["actor"], act["what"], act["address"]) for act in acts] == [
        ("operator", "pause", "127.0.0.1"),
        ("admin", "pause", "127.0.0.1"),
        ("admin", "create", "127.0.0.1"),
    ]
    assert [act["result"] for act in acts][1:] == ["done", "done"]
    assert "role operator" in acts[0]["result"]


@with_archive
def test_a_submission_is_one_line_of_the_audit(server: TestServer, person: As, api: Api) -> None:
    run = {"command": ["true"], "project": OPEN}
    lines = f"{json.dumps(run)}\n" * 3
    admin, member = person("admin"), person("member")
    alone = member.post(f"{V1}/runs", json=run).json()["id"]
    assert member.post(f"{V1}/runs/bulk", content=lines, params={"check": "true"}).text == ""
    group = json.loads(member.post(f"{V1}/runs/bulk", content=lines).text.splitlines()[0])["group"]
    assert member.post(f"{V1}/runs", json={"kommando": 1}).status_code == 422
    # The archive has read all before it.
    direct = api.submit({"command": ["true"], "author": "eve@host"}).id
    wait_until(lambda: direct in {act["target"] for act in submissions(admin)})
    wait_until(lambda: len([act for act in submissions(admin) if act["result"]]) == 3)
    assert sorted((act["actor"], act["target"], act["detail"], act["result"]) for act in submissions(admin)) == sorted(
        [
            ("member", alone, {}, "done"),
            ("member", group, {"runs": 3}, "done"),
            ("member", "", {}, "'kommando' is not an option of a run; do you mean 'command'?"),
            ("eve@host", direct, {}, None),
        ]
    )


def submissions(admin: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get(f"{V1}/audit", params={"what": "submit"}).json()["acts"]
    return found


def test_usage_is_summed_for_projects_that_are_seen(person: As) -> None:
    assert person("admin").get(f"{V1}/usage", params={"by": "project"}).json() == {"sums": []}
    viewer = person("viewer")
    assert viewer.get(f"{V1}/usage", params={"by": "project"}).status_code == 403
    assert viewer.get(f"{V1}/usage", params={"by": "user", "project": OPEN}).status_code == 200
    assert viewer.get(f"{V1}/usage", params={"by": "user", "project": PRIVATE}).status_code == 403
    assert viewer.get(f"{V1}/usage", params={"by": "shoe"}).status_code == 422
    assert (
        viewer.get(f"{V1}/usage", params={"by": "user", "since": "yesterday-ish", "project": OPEN}).status_code == 422
    )
