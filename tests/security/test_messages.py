"""Messages as whoever may write to Redis can forge them: what the record does not say does not happen."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import redis

from launch_worker.celery.message import rebuilt
from launch_worker.ids import new_run_id
from launch_worker.model.states import RunState
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.security import elements
from tests.security.site import Site
from tests.system.conftest import states


def test_times_in_an_element_are_not_heard(store: Any) -> None:
    """Celery keeps what has a time for later in its own memory, without a bound."""
    for header in ("eta", "expires"):
        element = elements.sound(new_run_id())
        element["headers"][header] = "2099-01-01T00:00:00+00:00"
        message, why = rebuilt("default", elements.encoded(element))
        assert why == ""
        assert "2099" not in str(message)


def test_an_item_that_comes_again_starts_nothing(site: Site) -> None:
    over = site.submit("true")
    assert over.wait(20) is RunState.FINISHED
    waits = site.submit("true", delay=600)
    producer = site.client("producer")
    numbers = (*range(12), 2**53, 2**40)
    for run in (over, waits):
        producer.lpush("default", *(elements.encoded(elements.sound(run.id, number)) for number in numbers))
    wait_until(lambda: not producer.llen("default"), what="the worker has taken them")
    run = site.submit("true")
    assert run.wait(20) is RunState.FINISHED
    producer.lpush("default", *[elements.encoded(elements.sound(run.id, 1))] * 20)
    wait_until(lambda: not producer.llen("default"), what="the worker has taken them")
    assert states(over) == states(run) == ["Pending", "Running", "Finished"]
    assert waits.refresh().state is RunState.PENDING
    waits.cancel()


def test_a_forged_order_ends_a_run_only_for_who_may_cancel_it_anyway(site: Site) -> None:
    run = site.submit("sleep", "600")
    wait_until(lambda: run.refresh().state is RunState.RUNNING, what="it runs")
    channel, token = keys.orders_channel(run.record.owner), run.record.token
    cancel = {"order": "cancel", "id": run.id, "token": str(token), "reason": "forged", "grace_us": "0"}
    for user in ("viewer", "archive", "server-reader", "scaler"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            site.client(user).publish(channel, json.dumps(cancel))
    for wrong in ({"token": str(token - 1)}, {"token": token}, {"id": run.id.upper()}, {"order": "stop"}):
        assert site.client("producer").publish(channel, json.dumps(cancel | wrong)) == 1
    assert site.submit("true").wait(20) is RunState.FINISHED, "its worker has heard them by now"
    assert run.refresh().state is RunState.RUNNING
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    assert "forged" not in run.record.reason


class _Touch:
    """What Python executes when it reads this from a pickle."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize("channel", ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat"])
def test_a_pickle_in_celerys_own_channels_is_not_read(site: Site, channel: str) -> None:
    """Published with all rights: a producer may not publish there."""
    mark = site.home / "unpickled"
    body = elements.sound("x") | {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    body["body"] = pickle.dumps(_Touch(str(mark)), protocol=0).decode()
    site.may_say = "ContentDisallowed"
    listeners = site.client("admin").publish(channel, json.dumps(body))
    assert listeners or "celeryev" in channel
    assert site.submit("true").wait(20) is RunState.FINISHED
    assert not mark.exists()
