"""Which user groups may submit to a queue or a pool, and up to which priority."""

from __future__ import annotations

import pytest

from launch_worker.api.client import Api
from launch_worker.errors import InputError
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.queues.admits import admits_text, read_admits
from launch_worker.store.store import Store


def submit(store: Store, priority: str = "medium", *, groups: tuple[str, ...] = (), user: str = "ada") -> str:
    """Submit a run to the queue gpu; returns why it was refused, '' for a run that was made."""
    spec = RunSpec(command=("true",), queue="gpu", priority=priority)
    try:
        store.create(new_run_id(), spec, user=user, user_groups=groups)
    except InputError as error:
        return str(error)
    return ""


def test_a_queue_that_says_nothing_admits_all(api: Api, store: Store) -> None:
    api.create_queue("gpu")
    assert submit(store, "critical") == ""


def test_a_queue_admits_its_groups_up_to_their_priority(api: Api, store: Store) -> None:
    api.create_queue("gpu", admits={"ml": "high", "oncall": "critical"})
    assert submit(store, groups=("ops",)) == "queue gpu takes runs of these groups only: ml, oncall; ask an admin"
    assert submit(store, "low", groups=("ml",)) == submit(store, "high", groups=("ops", "ml")) == ""
    assert submit(store, "critical", groups=("ml",)) == "the highest priority that you may give in queue gpu is high"
    assert submit(store, "critical", groups=("ml", "oncall")) == "", "the best of the groups counts"


def test_everybody_may_be_admitted_up_to_a_priority(api: Api, store: Store) -> None:
    api.create_queue("gpu", admits={"*": "medium", "oncall": "critical"})
    assert submit(store) == ""
    assert submit(store, "high") == "the highest priority that you may give in queue gpu is medium"
    assert submit(store, "critical", groups=("oncall",)) == ""


def test_a_pool_says_it_for_all_its_queues(api: Api, store: Store) -> None:
    api.create_pool("lab", admits={"ml": "medium"})
    api.create_queue("gpu", pool="lab", admits={"*": "critical"})
    assert "pool lab takes runs of these groups only: ml" in submit(store)
    assert submit(store, groups=("ml",)) == ""
    assert submit(store, "high", groups=("ml",)) == "the highest priority that you may give in pool lab is medium"


def test_who_reaches_redis_is_not_asked(api: Api, store: Store) -> None:
    api.create_queue("gpu", admits={"ml": "low"})
    assert submit(store, "critical", user="") == ""


def test_groups_are_changed_one_by_one(api: Api) -> None:
    api.create_queue("gpu", admits={"ml": "high"})
    assert api.set_queue("gpu", admits={"*": "low"}).admits == {"*": "low", "ml": "high"}
    assert api.set_queue("gpu", limit=3).admits == {"*": "low", "ml": "high"}
    assert api.set_queue("gpu", admits={"ml": None}).as_json()["admits"] == {"*": "low"}
    assert api.set_queue("gpu", admits=None).admits == {}
    api.create_pool("lab")
    assert api.set_pool("lab", admits={"ml": "high"}).admits == {"ml": "high"}


@pytest.mark.parametrize("admits", [{"a b": "high"}, {"ml": "urgent"}, {"": "high"}, {"a=b": "low"}])
def test_what_makes_no_sense_is_refused(api: Api, admits: dict[str, str]) -> None:
    with pytest.raises(InputError):
        api.create_queue("gpu", admits=admits)


def test_the_kept_text_is_read_back() -> None:
    admits = {"*": "low", "ml": "critical", "a.b@c": "medium"}
    assert read_admits(admits_text(admits)) == admits
    assert read_admits("x ml=7 =3 ops=6 y=") == {"ops": "medium"}
