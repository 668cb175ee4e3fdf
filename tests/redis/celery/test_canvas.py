"""Celery's canvas of calls of the run task: what works, and what is refused where it is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from launch_worker.celery.message import rebuilt
from launch_worker.store.store import Store

#: In a process of its own: an app's Redis is read when it is imported.
_SEND = """
from celery import chain, chord, group
from launch_worker.celery.tasks import run

a, b = "0" * 15, "1" * 15
try:
    {call}
except Exception as error:
    print(type(error).__name__, error)
"""


def send(redis_url: str, call: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SEND.format(call=call)],
        env={"LAUNCH_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    "call",
    [
        "chain(run.si(a, 1), run.si(b, 1)).apply_async()",
        "(run.si(a, 1) | run.si(b, 1)).delay()",
        "run.apply_async((a, 1), link=run.si(b, 1))",
        "run.apply_async((a, 1), link_error=run.si(b, 1))",
    ],
)
def test_what_shall_follow_a_run_is_refused_where_it_is_sent(
    store: Store, redis_client: Any, redis_url: str, call: str
) -> None:
    said = send(redis_url, call)
    assert said.startswith("InputError a run cannot have a Celery ")
    assert "launch-submit --after" in said
    assert redis_client.llen("default") == 0


def test_a_chord_is_refused_by_celery(store: Store, redis_client: Any, redis_url: str) -> None:
    assert "chord" in send(redis_url, "chord([run.si(a, 1)])(run.si(b, 1))")
    assert redis_client.llen("default") == 0


def test_a_group_sends_each_of_its_calls(store: Store, redis_client: Any, redis_url: str) -> None:
    assert send(redis_url, "group(run.si(a, 1), run.si(b, 1)).apply_async()") == ""
    messages = [rebuilt("default", element) for element in redis_client.lrange("default", 0, -1)]
    assert {why for _, why in messages} == {""}
    assert {json.loads(message or b"")["headers"]["id"] for message, _ in messages} == {"0" * 15, "1" * 15}
