"""What attempts used, in Redis: by the report of an end, for each attempt, with the run deleted; and as of now."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from launch_worker.model.usage import KeptUsage
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import CRASHED, FAILED_AGAIN, FINISHED, claim, crash, create, running

BRIEF = KeptUsage('{"cpu_s":1}', "")
LONG = KeptUsage('{"cpu_s":2}', '{"cpu_s":2,"samples":{"every_s":5}}')


def test_a_brief_attempt_has_one_field_of_the_record(store: Store, redis_client: Any) -> None:
    record = running(store)
    assert store.finish(record, FINISHED, used=BRIEF)
    assert store.get(record.id).usage == BRIEF.figures
    assert not redis_client.exists(keys.usage(record.id))
    assert store.usage_of(store.get(record.id), 1) == BRIEF.figures
    assert store.usage_of(store.get(record.id), 2) == ""


def test_nothing_is_written_where_nothing_is_known(store: Store, redis_client: Any) -> None:
    record = running(store)
    assert store.finish(record, FINISHED)
    assert not redis_client.hexists(keys.run(record.id), "usage")


def test_samples_are_beside_the_record(store: Store) -> None:
    record = running(store)
    assert store.finish(record, FINISHED, used=LONG)
    assert store.get(record.id).usage == LONG.figures
    assert store.usages(record.id) == {1: LONG.samples}
    assert store.usage_of(store.get(record.id), 1) == LONG.samples


@pytest.mark.parametrize("used", [BRIEF, LONG])
@pytest.mark.parametrize("how", ["by its policy", "by a person"])
def test_an_earlier_attempt_keeps_its_figures(store: Store, used: KeptUsage, how: str) -> None:
    run_id = create(store)
    assert store.finish(claim(store, run_id), FAILED_AGAIN if how == "by its policy" else FINISHED, used=used)
    if how == "by a person":
        assert not store.requeue(run_id, reason="")
    assert store.get(run_id).usage == used.figures, "until the next attempt begins"
    second = claim(store, run_id)
    assert store.get(run_id).usage == "", "of the new attempt nothing is known"
    assert store.usage_of(store.get(run_id), 1) == (used.samples or used.figures)
    assert store.finish(second, FINISHED, used=KeptUsage('{"cpu_s":7}'))
    assert store.usage_of(store.get(run_id), 2) == '{"cpu_s":7}'


def test_a_later_report_of_the_same_end_may_know_more(store: Store) -> None:
    record = running(store)
    assert store.finish(record, FINISHED, used=BRIEF)
    assert store.finish(record, FINISHED, used=LONG)
    assert store.get(record.id).usage == LONG.figures
    assert store.finish(record, FINISHED)
    assert store.get(record.id).usage == LONG.figures, "and one that knows nothing takes nothing away"


def test_a_run_that_a_pass_has_crashed_gets_its_figures_later(store: Store) -> None:
    record = running(store)
    crash(store, record, CRASHED)
    assert store.get(record.id).usage == ""
    assert store.finish(record, CRASHED, used=LONG)
    assert store.get(record.id).usage == LONG.figures


def test_a_superseded_attempt_writes_nothing(store: Store) -> None:
    run_id = create(store)
    first = claim(store, run_id)
    assert store.finish(first, FAILED_AGAIN)
    claim(store, run_id)
    assert not store.finish(first, FINISHED, used=LONG)
    assert store.get(run_id).usage == ""
    assert store.usages(run_id) == {}


def test_all_goes_with_the_run(store: Store, redis_client: Any) -> None:
    record = running(store)
    assert store.finish(record, FINISHED, used=LONG)
    assert store.delete(record.id, who="me", keep_s=60)
    assert not redis_client.keys(f"launch:run:{record.id}:usage*")


# -- as of now ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_listens_is_asked_and_answers(store: Store) -> None:
    record = running(store)
    heard: list[str] = []
    stopped = threading.Event()

    def answer(_: str, message: str) -> None:
        heard.append(message)
        store.answer_usage(record, LONG)
        stopped.set()

    def listen() -> None:
        store.listen([keys.orders_channel(record.owner)], on_message=answer, stopped=stopped.is_set)

    worker = threading.Thread(target=listen)
    worker.start()
    try:
        assert wait_until(lambda: store.ask_usage(record, timeout_s=1.0)) == LONG.samples
    finally:
        stopped.set()
        store.answer_usage(record, BRIEF)
        worker.join(40)
    assert f'"{record.id}"' in heard[0]


def test_a_worker_that_is_gone_is_not_waited_for(store: Store) -> None:
    assert store.ask_usage(running(store), timeout_s=60.0) == ""


def test_an_answer_of_another_attempt_is_none(store: Store, redis_client: Any) -> None:
    run_id = create(store)
    first = claim(store, run_id)
    store.answer_usage(first, LONG)
    assert 0 < redis_client.pttl(keys.usage_now(run_id)) <= 10_000
    assert store.finish(first, FAILED_AGAIN)
    second = claim(store, run_id)
    pubsub = redis_client.pubsub()
    pubsub.subscribe(keys.orders_channel(second.owner))
    wait_until(lambda: pubsub.get_message(timeout=1))
    assert store.ask_usage(second, timeout_s=0.2) == ""
    pubsub.close()
