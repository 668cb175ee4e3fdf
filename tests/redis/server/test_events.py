"""The stream of all that changes: what is told to whom, where it goes on, and what becomes of it in outages."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from launch_worker.people.registry import Registry
from launch_worker.server import events
from launch_worker.server.routes import events as routes
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim, create
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody
from tests.support.redis_client import redis_of

PATH = "/api/v1/events"
Event = tuple[str, str, dict[str, Any]]
As = Callable[..., "Stream"]


class Stream:
    """A client that has read a stream's beginning. It takes one event after the other: id, kind, data."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        self._lines = answer.iter_lines()
        #: What a browser would send as Last-Event-ID.
        self.last_id = ""

    def next(self) -> Event:
        fields: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
                continue
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                return fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}
        raise EOFError

    def until(self, thing: str) -> list[Event]:
        """All events up to the first of this thing."""
        found = [self.next()]
        while found[-1][2].get("id") != thing:
            found.append(self.next())
        return found


@contextmanager
def opened(client: httpx.Client, last_id: str = "", **wanted: Any) -> Iterator[Stream]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with client.stream("GET", PATH, headers=headers, params=wanted) as answer:
        yield Stream(answer)


@pytest.fixture
def follow(server: TestServer) -> Iterator[As]:
    """Begins a stream: of whoever has the key of loopback, or a token."""
    with ExitStack() as parts:

        def begin(last_id: str = "", *, token: str = KEY, **wanted: Any) -> Stream:
            client = parts.enter_context(server.client(token))
            return parts.enter_context(opened(client, last_id, **wanted))

        yield begin


def mark(store: Store, name: str) -> str:
    """A change that everybody is told of who sees the system."""
    store.configure("queue", name, {"limit": "1"})
    return name


def finish(store: Store, run_id: str) -> None:
    record = claim(store, run_id)
    store.finish(record, FINISHED)


def test_a_run_is_told_from_its_creation_to_its_deletion(follow: As, store: Store) -> None:
    stream = follow()
    run_id = create(store, name="train", queue="gpu", project=OPEN, env={"PASSWORD": "secret"})
    finish(store, run_id)
    store.delete(run_id, who="ann", keep_s=60)
    told = [stream.next() for _ in range(4)]
    assert [(kind, data.get("state")) for _, kind, data in told] == [
        ("run", "Pending"),
        ("run", "Running"),
        ("run", "Finished"),
        ("gone", None),
    ]
    assert all((data["id"], data["project"], data["queue"]) == (run_id, OPEN, "gpu") for _, _, data in told)
    created, _, ended, gone = (data for _, _, data in told)
    assert (created["name"], created["n"]) == ("train", 0)
    assert (ended["exit_code"], ended["attempt"]) == (0, 1)
    assert ended["at"].endswith("+00:00")
    assert gone["actor"] == "ann"
    assert "secret" not in str(told)


def test_a_stream_goes_on_where_it_was_and_begins_with_what_comes(follow: As, store: Store) -> None:
    stream = follow()
    first = create(store)
    last_id, _, _ = stream.next()
    missed = [create(store) for _ in range(3)]
    assert follow(last_id).next()[2]["id"] == missed[0]
    again = follow(last_id)
    assert [again.next()[2]["id"] for _ in missed] == missed
    fresh = follow()
    newer = create(store)
    assert fresh.next()[2]["id"] == again.next()[2]["id"] == newer
    assert first not in (newer, *missed)


def test_a_client_that_saw_no_event_yet_goes_on_from_its_beginning(server: TestServer, store: Store) -> None:
    with server.client() as client:
        with opened(client, kind="queue") as stream:
            create(store)
            mark(store, "q1")
            stream.next()
        with opened(client) as stream:
            create(store)
            stream.next()
        missed = create(store)
        with opened(client, stream.last_id) as stream:
            assert stream.next()[2]["id"] == missed


def test_a_stream_goes_on_over_a_restart_of_the_server(redis_url: str, tmp_path: Path, store: Store) -> None:
    with serving(redis_url, tmp_path) as server, server.client() as client, opened(client) as stream:
        create(store)
        stream.next()
    missed = [create(store) for _ in range(5)]
    with serving(redis_url, tmp_path) as server, server.client() as client, opened(client, stream.last_id) as stream:
        assert [stream.next()[2]["id"] for _ in missed] == missed


def test_more_than_is_held_is_read_from_the_feed_without_loss(follow: As, store: Store) -> None:
    # A page is less than what is held, as it is in truth: who has taken all before it is then not too slow for it.
    with mock.patch.object(events, "_MOST_EVENTS", 5), mock.patch.object(events, "_PAGE", 3):
        stream = follow()
        create(store)
        last_id, _, _ = stream.next()
        made = [create(store) for _ in range(40)]
        again = follow(last_id)
        made.append(create(store))
        assert [again.next()[2]["id"] for _ in made] == made


def test_only_what_is_asked_for_is_told(follow: As, store: Store) -> None:
    streams = {
        "kind": follow(kind=["queue"]),
        "queue": follow(queue=["gpu"]),
        "project": follow(project=[OPEN]),
    }
    wanted = create(store, queue="gpu", project=OPEN)
    run = follow(run=[wanted])
    other = create(store)
    mark(store, "gpu")
    finish(store, other)
    finish(store, wanted)
    last = mark(store, "cpu")
    assert [data["id"] for _, _, data in streams["kind"].until(last)] == ["gpu", last]
    told = [streams["queue"].next()[2] for _ in range(4)]
    assert [(data["id"], data.get("state")) for data in told] == [
        (wanted, "Pending"),
        ("gpu", None),
        (wanted, "Running"),
        (wanted, "Finished"),
    ]
    assert {streams["project"].next()[2]["id"] for _ in range(3)} == {wanted}
    assert {run.next()[2]["id"] for _ in range(2)} == {wanted}


def things_of(store: Store, project: str) -> list[str]:
    """One of each kind of thing that belongs to a project, with all that becomes of it; returns their ids."""
    run_id = create(store, project=project, name="hush")
    record = claim(store, run_id)
    store.cancel(run_id, reason="r", actor="ann")
    store.finish(record, FINISHED)
    store.delete(run_id, who="ann", keep_s=60)
    sweep = f"sweep-{project.replace('/', '-')}"
    store.create_sweep(sweep, {"given": json.dumps({"project": project}), "config": "{}", "workers": 1})
    store.steer_sweep(sweep, "pause", reason="r")
    name = f"nightly-{project.replace('/', '-')}"
    store.keep_schedule(name, json.dumps({"given": {"project": project}}), 1)
    store.keep_schedule(name, json.dumps({"given": {"project": project}}), 2)
    store.delete_schedule(name, actor="ann")
    return [run_id, sweep, name]


def test_of_a_hidden_project_nothing_is_told_not_even_that_there_was_something(
    server: TestServer, follow: As, store: Store
) -> None:
    tokens = tokens_of_everybody(server)
    streams = {name: follow(token=token) for name, token in tokens.items()}
    hidden = things_of(store, PRIVATE)
    seen = things_of(store, OPEN)
    last = mark(store, "q1")
    told = {name: stream.until(last) for name, stream in streams.items()}
    by_thing = {name: [data.get("id") for _, _, data in events_] for name, events_ in told.items()}
    counts = {thing: by_thing["admin"].count(thing) for thing in (*hidden, *seen)}
    assert set(counts.values()) == {5, 2, 3}
    for name in ("admin", "insider"):
        assert {thing: by_thing[name].count(thing) for thing in counts} == counts
    for name in ("viewer", "member", "operator"):
        assert {thing: by_thing[name].count(thing) for thing in counts} == counts | dict.fromkeys(hidden, 0)
        assert PRIVATE not in str(told[name])
        # Else the numbers within a millisecond would tell how much else happened.
        numbers = [tuple(map(int, place.split("-"))) for place, _, _ in told[name]]
        for (ms, number), (ms_before, before) in zip(numbers[1:], numbers, strict=False):
            assert number == (before + 1 if ms == ms_before else 0)
    assert by_thing["outsider"] == [last]


def test_who_sees_some_projects_goes_on_without_loss_or_repetition(
    server: TestServer, follow: As, store: Store
) -> None:
    token = tokens_of_everybody(server)["viewer"]
    stream = follow(token=token)
    made = [create(store, project=OPEN) for _ in range(3) if create(store, project=PRIVATE)]
    # In one millisecond: what is told, and what is not.
    pipe = redis_of(store.url).pipeline()
    for number in range(6):
        made.append(f"p{number}")
        pipe.xadd(keys.CHANGES, {"kind": "allowance", "id": "user:ann"})
        pipe.xadd(keys.CHANGES, {"kind": "pool", "id": made[-1]})
    pipe.execute()
    last = mark(store, "q1")
    everything = stream.until(last)
    assert [data["id"] for _, _, data in everything] == [*made, last]
    for at, (place, _, _) in enumerate(everything[:-1]):
        assert follow(place, token=token).until(last) == everything[at + 1 :]


def test_workers_are_told_as_a_list_shows_them_and_actors_to_admins(
    server: TestServer, follow: As, store: Store
) -> None:
    tokens = tokens_of_everybody(server)
    streams = {name: follow(token=tokens[name]) for name in ("admin", "insider", "viewer")}
    description = {
        "worker": "w@h",
        "owner": "o1",
        "host": "h",
        "pid": 7,
        "queues": ["a"],
        "slots": 2,
        "state": "running",
    }
    for state in ("running", "quarantined"):
        store.heartbeat(
            [],
            owner="o1",
            worker="w@h",
            lease_s=30,
            gone_s=60,
            description=description | {"state": state, "problem": "hush"},
            queues=[],
        )
    store.configure("queue", "q1", {"limit": "1"}, create=True, actor="ann")
    appeared, quarantined, queue = (dict(data) for _, _, data in streams["admin"].until("q1"))
    assert (appeared["what"], appeared["id"], appeared["detail"]["pid"]) == ("appeared", "o1", 7)
    assert quarantined["detail"] == {"problem": "hush"}
    assert queue["actor"] == "ann"
    told = [data for _, _, data in streams["insider"].until("q1")]
    assert told[:2] == [appeared, quarantined]
    assert "actor" not in told[2]
    told = [data for _, _, data in streams["viewer"].until("q1")]
    assert [(data.get("id"), data.get("name")) for data in told] == [(None, "w@h"), (None, "w@h"), ("q1", None)]
    assert told[0]["detail"] == {"host": "h", "queues": ["a"], "slots": 2, "state": "running"}
    assert told[1]["detail"] == {}


def test_a_project_that_becomes_private_is_told_no_more(server: TestServer, follow: As, store: Store) -> None:
    token = tokens_of_everybody(server)["viewer"]
    stream = follow(token=token)
    run_id = create(store, project=OPEN)
    assert stream.next()[2]["id"] == run_id
    Registry(server.shared.database, actor="t", changed=server.shared.directory.changed).set_project(
        OPEN, is_private=True
    )
    finish(store, run_id)
    last = mark(store, "q1")
    assert [data["id"] for _, _, data in stream.until(last)] == [last]


def test_a_login_that_ends_ends_its_stream(server: TestServer, follow: As, store: Store) -> None:
    token = tokens_of_everybody(server)["viewer"]
    stream = follow(token=token)
    registry = Registry(server.shared.database, actor="t", changed=server.shared.directory.changed)
    registry.set_user("viewer", is_disabled=True)
    mark(store, "q1")
    _, kind, data = stream.next()
    assert (kind, data["status"], data["code"]) == ("problem", 401, "LoginError")
    with pytest.raises(EOFError):
        stream.next()


def test_a_project_that_becomes_private_ends_who_follows_a_run_of_it(server: TestServer, store: Store) -> None:
    token = tokens_of_everybody(server)["viewer"]
    run_id = create(store, project=OPEN)
    with server.client(token) as client, client.stream("GET", f"/api/v1/runs/{run_id}/logs/tail") as answer:
        tail = Stream(answer)
        assert tail.next()[2]["state"] == "Pending"
        registry = Registry(server.shared.database, actor="t", changed=server.shared.directory.changed)
        registry.set_project(OPEN, is_private=True)
        finish(store, run_id)
        told = [tail.next()]
        while told[-1][1] != "problem":
            told.append(tail.next())
    assert told[-1][2]["code"] == "UnknownRunError"
    # What had been read before may have been on its way.
    assert {data["run"]["state"] for _, _, data in told[:-1]} <= {"Pending"}


@pytest.mark.parametrize("place", ["1-0", "0-0", "99999999999999-0"])
def test_a_place_that_the_feed_has_no_more_is_a_gap(follow: As, store: Store, place: str) -> None:
    follow()
    create(store)
    stream = follow(place)
    place, kind, data = stream.next()
    assert kind == "gap"
    assert "read anew" in data["detail"]
    newer = create(store)
    assert stream.next()[2]["id"] == newer
    # From the gap on nothing is lost.
    assert follow(place).next()[2]["id"] == newer


def test_a_feed_that_began_anew_is_a_gap_for_those_who_follow(follow: As, store: Store) -> None:
    stream = follow(kind=["queue"])
    mark(store, "q1")
    stream.next()
    redis_of(store.url).delete(keys.CHANGES)
    store.want_changes()
    _, kind, _ = stream.next()
    assert kind == "gap"
    assert stream.until(mark(store, "q2"))[-1][1] == "queue"


def test_a_feed_that_lost_its_newest_entries_is_a_gap(follow: As, store: Store) -> None:
    """As after a failover to a server that had not got them."""
    with mock.patch.object(events, "_RENEW_S", 0.2):
        stream = follow()
        create(store)
        stream.next()
        lost = redis_of(store.url).xadd(keys.CHANGES, {"kind": "queue", "id": "ghost"})
        assert stream.next()[2]["id"] == "ghost"
        redis_of(store.url).xdel(keys.CHANGES, lost)
        assert stream.next()[1] == "gap"
        last = mark(store, "q1")
        assert stream.next()[2]["id"] == last


def test_a_connection_that_is_cut_loses_nothing(follow: As, store: Store) -> None:
    stream = follow()
    made = []
    for _ in range(5):
        made.append(create(store))
        redis_of(store.url).client_kill_filter(skipme=True)
        made.append(create(store))
    assert [stream.next()[2]["id"] for _ in made] == made


def test_a_wrong_place_is_refused_with_a_sentence(client: httpx.Client) -> None:
    for wrong in ("x", "1", "-", "1-", "1-x", "9" * 30 + "-0"):
        answer = client.get(PATH, headers={"Last-Event-ID": wrong})
        assert answer.status_code == 422
        assert "Last-Event-ID" in answer.json()["detail"]


def test_without_redis_there_is_no_stream(tmp_path: Path) -> None:
    with serving("redis://127.0.0.1:1/0", tmp_path) as server, server.client() as client:
        answer = client.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (503, "BrokerUnavailableError")


def test_a_client_that_does_not_read_is_cut_with_a_sentence_and_others_are_not(
    server: TestServer, follow: As, store: Store
) -> None:
    with socket.socket() as slow, mock.patch.object(events, "_MOST_EVENTS", 50):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((server.address.host, server.address.port))
        slow.sendall(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert b"200 OK" in slow.recv(1000)
        stream = follow()
        sent = 0
        detail = json.dumps({"text": "x" * 4000})
        # Until its buffers are full, and those of the server and of the system too.
        for _ in range(80):
            pipe = redis_of(store.url).pipeline(transaction=False)
            for _ in range(40):
                pipe.xadd(keys.CHANGES, {"kind": "queue", "id": f"q{sent}", "detail": detail})
                sent += 1
            pipe.execute()
            assert stream.until(f"q{sent - 1}")
        got = b""
        slow.settimeout(30)
        while part := slow.recv(1 << 20):
            got += part
    assert b"more slowly than they come" in got
    assert b"event: problem" in got
    assert got.count(b"event: queue") < sent


def test_a_silent_stream_sends_comments(server: TestServer, client: httpx.Client) -> None:
    with (
        mock.patch.object(routes, "COMMENT_S", 0.1),
        mock.patch.object(events, "_TURN_S", 0.1),
        client.stream("GET", PATH) as answer,
    ):
        assert any(line == ":" for line in answer.iter_lines())


def test_streams_end_with_the_server(server: TestServer, follow: As) -> None:
    stream = follow()
    server.stop()
    with pytest.raises(EOFError):
        stream.next()


def test_one_reader_serves_all_and_ends_when_nobody_follows(server: TestServer, client: httpx.Client) -> None:
    def readers() -> int:
        return sum(thread.name == "events" for thread in threading.enumerate())

    with mock.patch.object(events, "_LINGER_S", 1.0):
        assert readers() == 0
        with opened(client), server.client() as other, opened(other):
            assert readers() == 1
        wait_until(lambda: readers() == 0, what="the reader ends")
        with opened(client):
            assert readers() == 1
