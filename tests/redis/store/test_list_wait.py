"""A worker's wait for its lists: what it pops, what ends it, and that it goes on after a loss."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from launch_worker.errors import BrokerUnavailableError, DamagedError
from launch_worker.store import keys
from launch_worker.store.redis.list_wait import ListWait
from launch_worker.store.store import Store
from tests.conftest import wait_until

LISTS = ["a", "b"]
#: Seconds: longer than a test.
LONG_S = 60.0


@pytest.fixture
def wait(store: Store) -> Iterator[ListWait]:
    made = store.list_wait("w")
    yield made
    made.close()


class Popping(threading.Thread):
    """A thread that pops once."""

    def __init__(self, wait: ListWait, redis_client: Any) -> None:
        super().__init__(daemon=True)
        self._wait = wait
        self.found: Any = "nothing yet"
        self.start()
        wait_until(lambda: redis_client.info("clients")["blocked_clients"] == 1)

    def run(self) -> None:
        try:
            self.found = self._wait.pop(LISTS, timeout_s=LONG_S)
        except BrokerUnavailableError as error:
            self.found = error


def test_the_first_list_that_is_not_empty_gives_its_oldest_element(wait: ListWait, redis_client: Any) -> None:
    redis_client.lpush("b", "third", "fourth")
    redis_client.lpush("a", "first", "second")
    found = [wait.pop(LISTS, timeout_s=LONG_S) for _ in range(3)]
    assert found == [("a", b"first"), ("a", b"second"), ("b", b"third")]


def test_an_element_that_comes_ends_the_wait(wait: ListWait, redis_client: Any) -> None:
    popping = Popping(wait, redis_client)
    redis_client.lpush("b", "one")
    popping.join(5)
    assert popping.found == ("b", b"one")


def test_a_wait_ends_after_its_time(wait: ListWait) -> None:
    assert wait.pop(LISTS, timeout_s=0.01) is None


def test_a_wait_can_be_woken_also_before_it_has_begun(wait: ListWait, redis_client: Any) -> None:
    popping = Popping(wait, redis_client)
    wait.wake()
    popping.join(5)
    assert popping.found is None
    wait.wake()
    assert wait.pop(LISTS, timeout_s=LONG_S) is None
    # One that comes too late is forgotten by Redis.
    wait.wake()
    assert redis_client.ttl(keys.wake_list("w")) > 0


def test_a_wait_that_is_dropped_ends_and_the_next_one_connects_anew(wait: ListWait, redis_client: Any) -> None:
    popping = Popping(wait, redis_client)
    wait.drop()
    popping.join(5)
    assert isinstance(popping.found, BrokerUnavailableError)
    wait_until(lambda: redis_client.info("clients")["blocked_clients"] == 0)
    redis_client.lpush("a", "one")
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"one")


def test_a_wait_whose_connection_is_killed_ends_and_the_next_one_connects_anew(
    wait: ListWait, redis_client: Any
) -> None:
    popping = Popping(wait, redis_client)
    for client in redis_client.client_list():
        if client["cmd"] == "brpop":
            redis_client.client_kill_filter(_id=client["id"])
    popping.join(5)
    assert isinstance(popping.found, BrokerUnavailableError)
    redis_client.lpush("a", "one")
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"one")


def test_a_key_that_is_no_list_is_said_and_costs_no_connection(wait: ListWait, redis_client: Any) -> None:
    redis_client.set("a", "damaged")
    with pytest.raises(DamagedError, match="no list"):
        wait.pop(LISTS, timeout_s=LONG_S)
    before = redis_client.info("stats")["total_connections_received"]
    redis_client.delete("a")
    redis_client.lpush("a", "one")
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"one")
    assert redis_client.info("stats")["total_connections_received"] == before


def test_a_refusal_of_the_server_is_an_outage(wait: ListWait, redis_client: Any) -> None:
    popping = Popping(wait, redis_client)
    for client in redis_client.client_list():
        if client["cmd"] == "brpop":
            # As a master does to all that wait when it becomes a replica.
            redis_client.execute_command("CLIENT", "UNBLOCK", client["id"], "ERROR")
    popping.join(5)
    assert isinstance(popping.found, BrokerUnavailableError)


def test_a_server_that_takes_no_more_connections_is_an_outage(wait: ListWait, redis_client: Any) -> None:
    redis_client.lpush("a", "one")
    most = redis_client.config_get("maxclients")["maxclients"]
    redis_client.config_set("maxclients", redis_client.info("clients")["connected_clients"])
    try:
        with pytest.raises(BrokerUnavailableError, match="maxclients"):
            wait.pop(LISTS, timeout_s=LONG_S)
    finally:
        redis_client.config_set("maxclients", most)
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"one")


def test_a_password_that_was_changed_meanwhile_is_an_outage(wait: ListWait, store: Store, redis_client: Any) -> None:
    redis_client.lpush("a", "one", "two")
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"one")
    password = urlsplit(store.url).password
    redis_client.config_set("requirepass", "another")
    try:
        wait.drop()
        for _ in range(2):
            with pytest.raises(BrokerUnavailableError):
                wait.pop(LISTS, timeout_s=LONG_S)
    finally:
        redis_client.config_set("requirepass", password)
    assert wait.pop(LISTS, timeout_s=LONG_S) == ("a", b"two")
