"""Our queue item is what the installed Celery and kombu publish themselves, and a stock consumer takes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.worker.request import Request
from kombu import connection as kombu_connection
from kombu import entity as kombu_entity
from kombu import messaging as kombu_messaging

from launch_worker.ids import new_run_id
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from tests.support.redis_client import redis_of

# kombu has no annotations.
Connection: Any = kombu_connection.Connection
Consumer: Any = kombu_messaging.Consumer
Queue: Any = kombu_entity.Queue
#: By its class and not by the URL's scheme: launch_worker.celery gives the scheme another meaning.
STOCK = "kombu.transport.redis:Transport"
OPTIONS = {"priority_steps": list(keys.PRIORITY_STEPS)}
NAME = 'exp "1"; it\'s \\ é'


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """A stock Celery app, as somebody else would write it."""
    made = Celery("stock", set_as_current=False)
    made.conf.update(
        broker_url=redis_url,
        broker_transport=STOCK,
        broker_transport_options=OPTIONS,
        task_ignore_result=True,
        worker_enable_remote_control=False,
    )
    yield made
    made.close()


@pytest.fixture
def connection(redis_url: str) -> Iterator[Any]:
    with Connection(redis_url, transport=STOCK, transport_options=OPTIONS) as made:
        yield made


def elements(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Every queue list of the Redis and the messages in it."""
    names = [text(key) for key in redis_of(store.url).keys("*") if redis_of(store.url).type(key) == b"list"]
    lists = [name for name in names if not name.startswith("launch:")]
    return {name: [json.loads(element) for element in redis_of(store.url).lrange(name, 0, -1)] for name in lists}


def ours(store: Store, *, priority: str = "medium", queue: str = "gpu") -> tuple[str, dict[str, Any]]:
    """A run of ours, and its message as it lies in the list."""
    run_id = new_run_id()
    spec = RunSpec(command=("a", "hunter2"), name=NAME, queue=queue, priority=priority, project="me/iris")
    store.create(run_id, spec)
    [(_, [element])] = elements(store).items()
    return run_id, element


def theirs(app: Celery, store: Store, *, priority: str = "medium", queue: str = "gpu") -> dict[str, Any]:
    """The same, as Celery publishes it; takes the place of what was there."""
    run_id = new_run_id()
    redis_of(store.url).flushall()
    app.send_task("launch_worker.run", args=[run_id, 1], task_id=run_id, queue=queue, priority=PRIORITIES[priority])
    [(_, [element])] = elements(store).items()
    return dict(element)


def test_the_message_has_the_same_keys_as_celerys_own(app: Celery, store: Store) -> None:
    _, element = ours(store)
    stock = theirs(app, store)
    assert set(element) == set(stock)
    assert set(stock["headers"]) <= set(element["headers"])
    assert set(stock["properties"]) - {"body_encoding"} <= set(element["properties"])
    assert set(element["properties"]["delivery_info"]) == set(stock["properties"]["delivery_info"])
    for name in ("content-type", "content-encoding"):
        assert element[name] == stock[name]


def test_the_headers_have_the_same_values_where_they_do_not_tell_of_the_run(app: Celery, store: Store) -> None:
    _, element = ours(store)
    stock = theirs(app, store)
    own = {"id", "root_id", "shadow", "argsrepr", "kwargsrepr", "origin", "ignore_result"}
    for name in set(stock["headers"]) - own:
        assert element["headers"][name] == stock["headers"][name], name
    for name in ("delivery_mode", "priority"):
        assert element["properties"][name] == stock["properties"][name]
    assert element["properties"]["delivery_info"] == stock["properties"]["delivery_info"]


def test_the_headers_name_the_run(store: Store) -> None:
    """Section 4: a run shows in Flower as a task with the run's id, told by name."""
    run_id, element = ours(store)
    headers = element["headers"]
    assert (headers["id"], headers["root_id"], headers["task"]) == (run_id, run_id, "launch_worker.run")
    assert headers["shadow"] == NAME
    assert element["properties"]["correlation_id"] == run_id
    assert NAME in headers["kwargsrepr"]


def test_the_message_tells_no_more_than_flower_may_show(store: Store) -> None:
    """W6: the command is in the record only."""
    _, element = ours(store)
    assert "hunter2" not in json.dumps(element)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_message_lies_in_the_list_of_its_priority(app: Celery, store: Store, priority: str) -> None:
    """P14, W12."""
    ours(store, priority=priority)
    own_lists = set(elements(store))
    theirs(app, store, priority=priority)
    assert own_lists == set(elements(store))
    assert own_lists <= set(keys.queue_lists("gpu"))


def test_the_body_decodes_to_the_same_call(app: Celery, store: Store) -> None:
    run_id, element = ours(store)
    stock = theirs(app, store)
    args, kwargs, embed = json.loads(element["body"])
    assert (args, kwargs) == ([run_id, 1], {})
    assert stock["properties"]["body_encoding"] == "base64"
    _, stock_kwargs, stock_embed = json.loads(base64.b64decode(stock["body"]))
    assert (kwargs, embed) == (stock_kwargs, stock_embed)


def drain(connection: Any, queue: str) -> Any:
    """The next message, as a stock kombu consumer gets it."""
    taken: list[Any] = []
    with Consumer(connection, [Queue(queue)], accept=["json"], on_message=taken.append):
        connection.drain_events(timeout=10)
    return taken[0]


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_stock_consumer_takes_our_message(store: Store, connection: Any, priority: str) -> None:
    run_id, element = ours(store, priority=priority)
    message = drain(connection, "gpu")
    assert message.payload == [[run_id, 1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    assert message.headers == element["headers"]
    assert message.content_type == "application/json"
    assert message.properties["correlation_id"] == run_id
    assert message.delivery_info["routing_key"] == "gpu"
    message.ack()
    assert elements(store) == {}


def test_a_stock_consumer_takes_urgent_runs_first(store: Store, connection: Any) -> None:
    """P14."""
    ids = {}
    for priority in reversed(PRIORITIES):
        ids[priority] = new_run_id()
        store.create(ids[priority], RunSpec(command=("a",), priority=priority))
    taken: list[Any] = []
    with Consumer(connection, [Queue("default")], accept=["json"], on_message=taken.append):
        while len(taken) < 4:
            connection.drain_events(timeout=10)
    for message in taken:
        message.ack()
    assert [message.headers["id"] for message in taken] == [ids[priority] for priority in PRIORITIES]


def test_a_message_put_back_by_a_stock_consumer_is_still_one(store: Store, connection: Any) -> None:
    """A worker that stops before it took the task gives it back."""
    run_id, _ = ours(store)
    drain(connection, "gpu").requeue()
    [(name, [element])] = elements(store).items()
    assert name == f"gpu{keys.PRIORITY_SEP}6"
    assert json.loads(element["body"])[0] == [run_id, 1]
    message = drain(connection, "gpu")
    assert message.payload[0] == [run_id, 1]
    message.ack()


def test_a_stock_worker_calls_the_task_with_our_arguments(app: Celery, store: Store, connection: Any) -> None:
    """The message through Celery's own request: arguments, id and name arrive."""
    calls: list[tuple[Any, ...]] = []

    @app.task(name="launch_worker.run", bind=True)  # type: ignore[untyped-decorator]
    def task(self: Any, run_id: str, seq: int) -> None:
        calls.append((self.request.id, run_id, seq))

    run_id, _ = ours(store)
    message = drain(connection, "gpu")
    request = Request(message, app=app, hostname="h", task=app.tasks["launch_worker.run"])
    assert (request.id, request.name, request.argsrepr) == (run_id, NAME, f"('{run_id}',)")
    args, kwargs, embed = request._payload
    tracer = build_tracer(request.task.name, request.task, app=app)
    tracer(request.id, args, kwargs, {**request.request_dict, **embed})
    message.ack()
    assert calls == [(run_id, run_id, 1)]
