"""Runs are submitted, listed, read and steered through a server as through Redis, as far as a person may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.archive.query import records
from launch_worker.errors import InputError, LoginError, NotAllowedError, ServerUnavailableError, UnknownRunError
from launch_worker.ids import new_run_id, unique_run_id
from launch_worker.model.run_files import KeptFile
from launch_worker.model.states import RunState
from launch_worker.model.usage import KeptUsage, Usage
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.submission.sent import me
from tests.conftest import wait_until
from tests.support.arrows import FAILED, FINISHED, claim, create
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of


def api_of(server: TestServer, token: str) -> Api:
    return Api(settings=Settings(api_url=server.url, api_token=token))


@pytest.fixture
def api(server: TestServer) -> Api:
    return api_of(server, KEY)


@pytest.fixture
def people(server: TestServer) -> dict[str, Api]:
    return {name: api_of(server, token) for name, token in tokens_of_everybody(server).items()}


def test_a_run_is_the_same_through_both_doors(api: Api, store: Store) -> None:
    run = submit(["python", "-c", "1"], config={"lr": 0.1}, tags=["a"], gpus=1, env={"KEY": "x"}, api=api)
    direct = Api(store.url).run(run.id)
    # Times have milliseconds through a server.
    assert run.as_json(history=True) == direct.as_json(history=True)
    assert run.record.needs == direct.record.needs
    assert run.state is RunState.PENDING


def test_a_page_of_a_list_begins_where_the_last_one_ended(api: Api) -> None:
    ids = [run.id for run in submit_many([{"command": ["true"], "name": f"n{at % 3}"} for at in range(7)], api=api)]
    assert [run.id for run in api.runs(order="+created_at", per_page=2)] == ids
    assert [run.id for run in api.runs(per_page=3)] == ids[::-1]
    assert len(api.runs(filters={"state": "pending"})) == 7
    assert [run.name for run in api.runs(order="+name", per_page=2)] == ["n0"] * 3 + ["n1"] * 2 + ["n2"] * 2


@pytest.mark.parametrize("order", ["-created_at", "+created_at", "+name", "-name"])
def test_each_run_is_on_one_page(client: httpx.Client, api: Api, order: str) -> None:
    ids = {run.id for run in submit_many([{"command": ["true"], "name": f"n{at % 2}"} for at in range(5)], api=api)}
    seen: list[str] = []
    after = None
    while True:
        query: dict[str, str | int] = {"order": order, "limit": 2}
        if after:
            query["after"] = after
        page = client.get("/api/v1/runs", params=query).json()
        seen += [run["id"] for run in page["runs"]]
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 5
    assert set(seen) == ids


def test_a_bookmark_of_nowhere_is_refused(client: httpx.Client) -> None:
    for text in ("x", "W10", "!!", "WzEsMiwzXQ"):
        assert client.get("/api/v1/runs", params={"after": text, "order": "+name"}).status_code == 422


def test_a_key_names_one_run_of_a_person(client: httpx.Client, people: dict[str, Api], server: TestServer) -> None:
    first, again = (
        client.post("/api/v1/runs", json={"command": ["true"]}, headers={"Idempotency-Key": "k"}).json()
        for _ in range(2)
    )
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["id"] == again["id"]
    timed = {"command": ["true"], "unique": "t:for 1h"}
    made, there = (client.post("/api/v1/runs", json=timed) for _ in range(2))
    assert (made.status_code, there.status_code) == (201, 200)
    assert (made.json()["is_new"], there.json()["is_new"], there.json()["id"]) == (True, False, made.json()["id"])
    with server.client(people["member"].settings.api_token) as member:
        other = member.post("/api/v1/runs", json={"command": ["true"]}, headers={"Idempotency-Key": "k"}).json()
    assert other["id"] == unique_run_id("k", user="member", project="") != first["id"]


def test_a_wrong_line_of_many_is_named_and_those_before_it_are_told(client: httpx.Client) -> None:
    lines = b'{"command": ["true"]}\n{"command": "true"}\n{"command": ["true"]}\n'
    answer = client.post("/api/v1/runs/bulk", content=lines)
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert told[-1]["item"] == 1
    assert "must be a list" in told[-1]["problem"]["detail"]
    assert [line["item"] for line in told[:-1]] in ([], [0])


def test_ids_of_an_array_sort_by_time_as_all_do(api: Api) -> None:
    before = new_run_id()
    ids = [run.id for run in submit_many([{"command": ["true"], "array": "0-9"}], api=api)]
    assert len(ids) == 10
    assert before < min(ids) <= max(ids) < new_run_id()
    assert ids == sorted(ids)


def test_an_error_through_a_server_is_the_same_error(api: Api) -> None:
    with pytest.raises(UnknownRunError, match="there is no run"):
        api.run(new_run_id())
    with pytest.raises(InputError, match="retries"):
        submit(["true"], retries=-1, api=api)


def test_a_server_that_is_away_and_a_login_that_is_wrong_say_so(server: TestServer) -> None:
    with pytest.raises(ServerUnavailableError, match="cannot be used") as away:
        Api(settings=Settings(api_url="http://127.0.0.1:1")).run(new_run_id())
    assert away.value.exit_code == 69
    with pytest.raises(LoginError) as wrong:
        api_of(server, "wrong").run(new_run_id())
    assert wrong.value.exit_code == 77


def test_priority_critical_is_for_operators_where_no_admin_says_who_may_give_it(people: dict[str, Api]) -> None:
    for queue in ("default", "nobody-has-made"):
        with pytest.raises(NotAllowedError, match="priority critical is for operators"):
            submit(["true"], queue=queue, project=OPEN, priority="critical", api=people["member"])
        assert submit(["true"], queue=queue, priority="critical", api=people["operator"]).record.priority == 0
    people["admin"].create_queue("urgent", admits={"*": "critical"})
    assert submit(["true"], queue="urgent", priority="critical", api=people["member"]).record.priority == 0


def test_a_member_acts_on_own_runs_and_an_operator_on_all(people: dict[str, Api]) -> None:
    own = submit(["true"], project=OPEN, api=people["member"])
    other = submit(["true"], project=OPEN, api=people["insider"])
    assert own.record.user == "member"
    assert own.cancel() == "killed"
    assert own.transitions[-1].reason == "cancelled by member"
    with pytest.raises(NotAllowedError) as refused:
        people["member"].run(other.id).cancel()
    assert refused.value.exit_code == 77
    assert people["operator"].run(other.id).cancel() == "killed"
    with pytest.raises(NotAllowedError):
        submit(["true"], project=OPEN, api=people["viewer"])


def test_a_run_of_a_private_project_is_not_there_for_others(people: dict[str, Api]) -> None:
    hidden = submit(["true"], project=PRIVATE, api=people["insider"])
    seen = submit(["true"], project=OPEN, api=people["insider"])
    assert {run.id for run in people["insider"].runs()} == {hidden.id, seen.id}
    member = people["member"]
    assert {run.id for run in member.runs()} == {seen.id}
    assert len(member.runs(filters={"state": "pending"})) == 1
    transport = member.transport
    for look in (
        lambda: member.run(hidden.id),
        lambda: member.shown(hidden.id),
        lambda: transport.transitions(hidden.id),
        lambda: transport.metrics(hidden.id),
        lambda: transport.measured(hidden.id, None, timeout_s=0),
        lambda: transport.files(hidden.id, None),
        lambda: list(transport.read_file(hidden.id, KeptFile("a", 1, 0), 0)),
        lambda: transport.output(hidden.id, {}),
        lambda: transport.newest_output(hidden.id, 1),
        lambda: list(transport.follow(hidden.id, None, logs=True, attempt=None, deadline=None)),
        lambda: transport.cancel(hidden.id, reason="", grace_s=None),
        lambda: transport.delete(hidden.id),
    ):
        with pytest.raises(UnknownRunError, match="there is no run"):
            look()
    assert transport.records([hidden.id]) == []


def test_a_group_with_a_run_that_is_not_seen_is_not_seen(people: dict[str, Api]) -> None:
    items = [{"command": ["true"], "project": project} for project in (OPEN, PRIVATE)]
    runs = submit_many(items, api=people["insider"])
    group = people["insider"].transport.group(f"b{runs[0].id}")
    assert group is not None
    assert group.size == 2
    assert people["member"].transport.group(f"b{runs[0].id}") is None
    assert people["insider"].transport.cancel_group(group, reason="", grace_s=None) == (2, 0)


def test_output_that_is_no_text_comes_byte_by_byte(api: Api, store: Store) -> None:
    run = submit(["true"], api=api)
    record = claim(store, run.id)
    data = b"\xff\x00a\n" + "ä".encode() + b"\n"
    store.append_log(record.id, 1, data, offset=0)
    assert run.logs() == data
    assert run.output().data == data
    assert run.logs(tail=1) == "ä\n".encode()


def test_the_page_of_a_run_that_only_the_archive_has(redis_url: str, store: Store, tmp_path: Path) -> None:
    with serving(redis_url, tmp_path, with_archive=True) as server, server.client() as client:
        record = claim(store, create(store, name="long ago", config={"lr": 0.1}))
        assert store.finish(record, FAILED)
        client.headers["Accept"] = "text/html"

        def is_kept() -> bool:
            """Whether the archive has its end: lists and counts are of Redis too, where that is newer."""
            found = records(server.shared.database, [record.id])
            return bool(found) and found[record.id].record.state is RunState.FAILED

        wait_until(is_kept, timeout_s=30)
        redis_of(store.url).delete(keys.run(record.id))
        for tab in ("", "/timeline", "/metrics", "/resources", "/details", "/files"):
            page = client.get(f"/runs/{record.id}{tab}")
            assert page.status_code == 200, page.text
            assert "Exit code 3." in page.text
            # What acts on Redis' record is not there.
            assert "/retry" not in page.text
        assert f'href="/submit?from={record.id}"' in page.text
        assert client.get("/submit", params={"from": record.id}).status_code == 200


def test_who_submits_is_told_what_earlier_runs_of_the_name_used(redis_url: str, store: Store, tmp_path: Path) -> None:
    whose: dict[str, Any] = {"name": "train", "project": "ada/tries"}
    with serving(redis_url, tmp_path, with_archive=True) as server:
        for _ in range(3):
            record = claim(store, create(store, author=me(), **whose))
            used = KeptUsage(Usage(wall_s=100, peak_memory=11 << 30).to_text(), "")
            assert store.finish(record, FINISHED, used=used)
        environment = os.environ | {"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": KEY}

        def submit_by_command(*more: str) -> subprocess.CompletedProcess[str]:
            command = str(Path(sys.executable).with_name("launch-submit"))
            words = [command, "--project", "ada/tries", *more, "--", "true"]
            return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)

        said = "launch-submit: the last 3 runs named train peaked at 11G of memory, and 64G are asked for; --memory 14G"
        # The archive follows within moments.
        wait_until(lambda: said in submit_by_command("--name", "train", "--memory", "64G").stderr, timeout_s=30)
        assert "peaked" not in submit_by_command("--name", "train").stderr
        assert "peaked" not in submit_by_command("--name", "train", "--memory", "64G", "--quiet").stderr
