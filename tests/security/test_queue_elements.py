"""Whatever a producer pushes into a queue's list: the worker goes on, and so do its jobs."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch_worker import submit
from launch_worker.ids import new_run_id
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.security import elements
from tests.security.fuzz import examples
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, cluster, wait_for_pid

__all__ = ["cluster"]

LIST = "default"


class Victim:
    """A worker with a neighbour's job on it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.worker = cluster.worker(slots=3)
        self.neighbour = submit(["sleep", "600"], api=cluster.api)
        wait_for_pid(self.neighbour)
        self.redis = redis_of(cluster.redis_url)

    def push(self, *pushed: bytes) -> None:
        self.redis.lpush(LIST, *pushed)
        wait_until(lambda: not self.redis.llen(LIST) or not self.lives(), what="the worker has taken them")
        self.check()

    def lives(self) -> bool:
        return self.worker.process.poll() is None

    def num_refused(self) -> int:
        return int(self.redis.hget("launch:counters", "refused_items") or 0)

    def check(self) -> None:
        assert self.lives(), self.worker.log[-3000:]
        assert self.neighbour.refresh().state is RunState.RUNNING

    def close(self) -> None:
        """It answers, takes runs, nothing was forged into its log, and its neighbour ends as it should."""
        assert submit(["true"], api=self.cluster.api).wait(20) is RunState.FINISHED, self.worker.log[-3000:]
        answer = self.cluster.run("python", "-m", "celery", "-A", "launch_worker", "inspect", "ping", "-j")
        assert "pong" in answer.out, answer
        log = self.worker.log
        assert "Unrecoverable" not in log
        assert "\x1b" not in log
        assert not any(line.startswith(("forged", "worker.forged")) for line in log.splitlines())
        assert max(map(len, log.splitlines())) < 5000
        self.check()
        self.neighbour.cancel(grace_s=0)
        assert self.neighbour.wait(20) is RunState.KILLED


def test_what_is_not_ours_is_refused_and_kept_aside(cluster: Cluster) -> None:
    victim = Victim(cluster)
    run_id = submit(["true"], queue="elsewhere", api=cluster.api).id
    for count, (name, element) in enumerate(elements.refused(run_id), start=1):
        victim.push(element)
        wait_until(lambda count=count: victim.num_refused() == count, what=f"refused: {name}")  # type: ignore[misc]
    assert all(entry["reason"] for entry in cluster.api.store.refused())
    assert cluster.api.run(run_id).state is RunState.PENDING
    victim.close()


def test_an_element_with_anything_changed_in_it_ends_nothing(cluster: Cluster) -> None:
    victim = Victim(cluster)
    mutated = list(elements.mutated(new_run_id()))
    for start in range(0, len(mutated), 50):
        victim.push(*mutated[start : start + 50])
    victim.close()


def trees() -> st.SearchStrategy[Any]:
    texts = st.text(st.characters(exclude_categories=()), max_size=8)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    kinds = st.sampled_from(["n", "decimal", "uuid", "datetime", "date", "time", "bytes", "base64"]) | texts
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(texts, inner, max_size=4)
            | st.fixed_dictionaries({"__type__": kinds | inner, "__value__": inner})
        ),
        max_leaves=8,
    )


def test_no_json_tree_in_any_place_of_an_element_ends_anything(cluster: Cluster) -> None:
    victim = Victim(cluster)
    place = st.sampled_from((*elements.PLACES, ("args",), ("kwargs",), ("embed",), ()))

    @settings(max_examples=examples(80), database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(place, trees()), min_size=1, max_size=10))
    def pushed(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        victim.push(*(_changed(where, value) for where, value in changes))

    pushed()
    victim.close()


def _changed(place: tuple[str, ...], value: Any) -> bytes:
    element: Any = elements.sound(new_run_id())
    if not place:
        return elements.encoded(value)
    parts = {"args": 0, "kwargs": 1, "embed": 2}
    if place[0] in parts:
        body = json.loads(element["body"])
        body[parts[place[0]]] = value
        element["body"] = json.dumps(body)
        return elements.encoded(element)
    part = element
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    return elements.encoded(element)
