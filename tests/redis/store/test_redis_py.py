"""The store's own connections: as patient as redis-py's, and whole after a silence, a restart or a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import BrokerUnavailableError
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store.redis import connection
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import enlist_for
from tests.support.losing import Losing
from tests.support.redis_client import redis_of


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    made.start()
    yield made
    made.stop()


def test_a_connection_is_used_again_and_again(store: Store, redis_client: Any) -> None:
    store.put_back("none", 1)
    before = redis_client.info("stats")["total_connections_received"]
    for _ in range(20):
        store.put_back("none", 1)
    assert redis_client.info("stats")["total_connections_received"] == before


def test_connections_that_a_burst_has_left_are_closed_and_those_that_are_needed_stay(store: Store) -> None:
    with redis_of(store.url) as client:
        store.close()
        before = client.info("clients")["connected_clients"]
        answers = []
        for _ in range(6):
            store.put_back("none", 1)
            # Until its answer is read the connection is in use.
            answers.append(store.send_claim("none", 1, nonce="n", owner="w", worker="w", host="h", lease_s=30.0))
        for answer in answers:
            assert answer is not None
            answer()
        store.trim()
        assert client.info("clients")["connected_clients"] >= before + 6, "all were needed since the last trim"
        store.put_back("none", 1)
        store.trim()
        wait_until(lambda: client.info("clients")["connected_clients"] == before + 2)
        made = client.info("stats")["total_connections_received"]
        for _ in range(3):
            store.put_back("none", 1)
            store.trim()
        assert client.info("stats")["total_connections_received"] == made


def test_one_that_the_server_closed_meanwhile_is_made_anew(store: Store, redis_client: Any) -> None:
    store.put_back("none", 1)
    for client in redis_client.client_list():
        if client["name"].startswith("launch"):
            redis_client.client_kill_filter(_id=client["id"], skipme=True)
    assert store.put_back("none", 1) is False


def test_a_server_that_was_restarted_in_no_time_is_spoken_to_anew(server: RedisServer) -> None:
    store = Store(server.url)
    store.put_back("none", 1)
    server.kill()
    server.start()
    assert store.put_back("none", 1) is False
    store.close()


def test_a_master_that_became_a_replica_is_left_for_the_server_to_which_its_name_leads_now(
    server: RedisServer, store: Store, redis_client: Any
) -> None:
    proxy = Losing(server.url)
    follower = Store(proxy.url)
    try:
        follower.put_back("none", 1)
        with redis_of(server.url) as client:
            client.replicaof("127.0.0.1", 1)
            # The new master of this name, with the password of the old one.
            redis_client.config_set("requirepass", urlsplit(server.url).password)
            proxy.target = urlsplit(store.url).port
            with pytest.raises(BrokerUnavailableError, match="replica"):
                follower.put_back("none", 1)
        assert follower.put_back("none", 1) is False
    finally:
        redis_client.config_set("requirepass", urlsplit(store.url).password)
        follower.close()
        proxy.close()


def test_however_many_connections_were_lost_or_refused_the_next_one_is_made(server: RedisServer) -> None:
    store = Store(server.url)
    with redis_of(server.url) as client:
        for _ in range(120):
            store.put_back("none", 1)
            for other in client.client_list():
                if other["name"].startswith("launch"):
                    client.client_kill_filter(_id=other["id"], skipme=True)
    server.kill()
    for _ in range(120):
        with pytest.raises(BrokerUnavailableError):
            store.put_back("none", 1)
    server.start()
    assert store.put_back("none", 1) is False
    store.close()


def test_a_claim_is_sent_only_where_that_needs_no_waiting(store: Store) -> None:
    who: dict[str, Any] = {"owner": "w", "worker": "w", "host": "h", "lease_s": 30.0}
    assert store.send_claim("none", 1, nonce="n", **who) is None, "there is no connection yet"
    store.put_back("none", 1)
    # The server does not know the script yet: it is the answer's to load it.
    answer = store.send_claim("none", 1, nonce="n", **who)
    assert answer is not None
    assert answer() == (None, "there is no such run")
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",)))
    enlist_for(store, "w", run_id)
    answer = store.send_claim(run_id, 1, nonce="n", **who)
    assert answer is not None
    record, _ = answer()
    assert record is not None
    assert record.state is RunState.RUNNING
    # Its answer was lost: the repeated call gets it.
    assert store.claim(run_id, 1, nonce="n", plain=True, **who) == (record, "")


def test_a_server_that_does_not_answer_is_given_up_in_time(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.3)
    store = Store(server.url)
    store.put_back("none", 1)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(BrokerUnavailableError, match="did not answer in time"):
            store.put_back("none", 1)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert 0.2 < time.monotonic() - began < 20, "a server that is stopped never answers"
    # The late answer is nobody's.
    assert store.put_back("none", 1) is False
    assert store.renew_upload("0" * 64, keep_s=1) == 0
    store.close()


def test_a_forked_child_has_its_own(store: Store, redis_client: Any) -> None:
    store.put_back("none", 1)
    before = {client["id"] for client in redis_client.client_list()}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.put_back("none", 1)
            os.write(writing, b"fine")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"fine"
    os.close(reading)
    os.waitpid(child, 0)
    assert store.put_back("none", 1) is False
    assert {client["id"] for client in redis_client.client_list()} >= before


def test_threads_do_not_share_one_at_a_time(store: Store) -> None:
    found: list[bool] = []

    def ask() -> None:
        for _ in range(50):
            found.append(store.put_back("none", 1))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [False] * 400
