"""Hostile queue elements as data: what a producer may push into a queue's list beside what is ours."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Iterator
from typing import Any

#: kombu's own JSON makes Python objects of such maps, or raises.
TYPED: tuple[Any, ...] = (
    {"__type__": "n", "__value__": 1},
    {"__type__": "decimal", "__value__": "x"},
    {"__type__": "uuid", "__value__": {"hex": "x"}},
    {"__type__": "datetime", "__value__": "yesterday"},
    {"__type__": ["unhashable"], "__value__": 1},
    {"__type__": "base64", "__value__": "%"},
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 2**53 + 1, 10**40, "", "x", "\ud800", "\x00\x1b[31m\nforged line", "x" * 2000),
    *([], [[]], {}, {"a": 1}, *TYPED),
)
#: In each of these places each of `VALUES` is tried.
PLACES = (
    *(("body",), ("content-type",), ("content-encoding",), ("headers",), ("properties",), ("x",)),
    *(("headers", "id"), ("headers", "task"), ("headers", "eta"), ("headers", "expires"), ("headers", "x")),
    *(("headers", "stamped_headers"), ("headers", "stamps"), ("headers", "timelimit"), ("headers", "retries")),
    *(("headers", "shadow"), ("headers", "kwargsrepr"), ("headers", "argsrepr"), ("headers", "root_id")),
    *(("headers", "group"), ("headers", "compression"), ("headers", "launch_dispatched_at"), ("headers", "lang")),
    *(("properties", "delivery_tag"), ("properties", "delivery_info"), ("properties", "body_encoding")),
    *(("properties", "priority"), ("properties", "reply_to"), ("properties", "correlation_id")),
    *(("properties", "delivery_info", "routing_key"), ("properties", "delivery_info", "exchange")),
)
TASKS = (
    *("celery.chord_unlock", "celery.starmap", "celery.map", "celery.chain", "celery.group", "celery.chunks"),
    *("celery.accumulate", "celery.backend_cleanup", "celery.ping", "no.such.task", "\x1b]0;PWN\x07"),
)


def sound(run_id: str, seq: Any = 1, *, queue: str = "default", embed: Any = None) -> dict[str, Any]:
    """An element as a stock Celery publishes it, with plain text for its body."""
    return {
        "body": json.dumps([[run_id, seq], {}, embed or {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "launch_worker.run", "id": run_id, "root_id": run_id, "retries": 0},
        "properties": {
            "delivery_tag": "tag",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 6,
        },
    }


def mutated(run_id: str) -> Iterator[bytes]:
    """A sound element with one thing changed. Many of them still are a request, of a run that is there or is not."""
    for place in PLACES:
        for value in VALUES:
            element = sound(run_id)
            part: Any = element
            for name in place[:-1]:
                part = part[name]
            part[place[-1]] = value
            yield encoded(element)


def refused(run_id: str) -> Iterator[tuple[str, bytes]]:
    """What no producer of ours writes, each with its name: nothing of these may be executed, and each is kept aside."""
    for typed in TYPED:
        yield f"{typed} as argument", encoded(sound(run_id, typed))
        yield f"{typed} as element", encoded(typed)
    for task in TASKS:
        element = sound(run_id)
        element["headers"]["task"] = task
        element["body"] = json.dumps([[], {"max_retries": None, "interval": 0.001}, {}])
        yield f"task {task!r}", encoded(element)
    for embed in (
        {"callbacks": [{"task": "launch_worker.run", "args": ["x", 1], "options": {"queue": "gpuX"}}]},
        {"errbacks": [{"task": "launch_worker.run"}]},
        {"chain": [{"task": "launch_worker.run"}]},
        {"chord": {"task": "launch_worker.run"}},
    ):
        yield f"embedded {next(iter(embed))}", encoded(sound(run_id, embed=embed))
    for name, argument in (
        ("lone surrogate", "\ud800"),
        ("escapes", "\x00\x1b[31m\nworker.forged line"),
        ("long", "a" * 1000),
        ("path", "../../etc/x"),
        ("other case", run_id.upper()),
        ("digits of another script", "\u0661" * 15),
    ):
        yield f"run id: {name}", encoded(sound(argument))
    numbers: tuple[Any, ...] = (-1, 2**53 + 1, 10**30, 1.0, True, None, "1", [1])
    for number in numbers:
        yield f"number {number!r}", encoded(sound(run_id, number))
    yield "number of 5000 digits", encoded(sound(run_id)).replace(b", 1]", b", " + b"1" * 5000 + b"]")
    yield "more than 64 KiB", encoded(sound(run_id) | {"x": "y" * 65536})
    yield "nested deeply", b'{"headers":' + b"[" * 30000
    for name, junk in (
        ("empty", b""),
        ("no JSON", b"\x80\x04K\x01."),
        ("not UTF-8", b'{"a": "\xff"}'),
        ("a list", b"[]"),
        ("UTF-16", json.dumps(sound(run_id)).encode("utf-16")),
        ("NaN", b"NaN"),
    ):
        yield name, junk
    pickled = sound(run_id) | {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    yield "pickle", encoded(pickled)
    bomb = copy.deepcopy(sound(run_id))
    bomb["headers"]["compression"] = "application/x-gzip"
    bomb["body"] = base64.b64encode(zlib.compress(b"[" * 1_000_000)).decode()
    bomb["properties"]["body_encoding"] = "base64"
    yield "compressed body", encoded(bomb)


def encoded(element: Any) -> bytes:
    return json.dumps(element).encode()
