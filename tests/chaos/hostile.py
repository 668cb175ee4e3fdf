"""What nobody should find in a queue or in a record, and somebody will."""

from __future__ import annotations

import json
from typing import Any

#: All of it has this word in it, so that it is known again among what was refused.
MARK = "chaos-hostile"


def _message(args: Any, *, task: str = "launch_worker.run", headers: Any = None, **more: Any) -> bytes:
    body = json.dumps([args, {}, {}])
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": MARK, "task": task, **(headers or {})},
        "properties": {"delivery_tag": MARK, "delivery_info": {}, **more.pop("properties", {})},
        **more,
    }
    return json.dumps(message).encode()


ELEMENTS: tuple[bytes, ...] = (
    f"{MARK} is no JSON".encode(),
    f'"{MARK}'.encode() + b"\xff\x00",
    json.dumps([MARK]).encode(),
    _message([MARK, 1], headers={"x": {"__type__": "n", "__value__": 1}}),
    _message([MARK, {"__type__": "decimal", "__value__": "x"}]),
    _message([MARK, 1], headers={"eta": ""}),
    _message([MARK, 1], headers={"expires": []}),
    _message([MARK, 1], headers={"stamped_headers": 1, "stamps": 1}),
    _message(["\ud800", 1]),
    _message([f"../../../{MARK}", 1]),
    _message([MARK, -1]),
    _message([MARK, 1 << 70]),
    _message([MARK, "1"]),
    _message([MARK], task="celery.chord_unlock", headers={"retries": 0}),
    _message([MARK], task="celery.map"),
    _message([MARK, 1], properties={"body_encoding": "base64"}),
    _message([MARK, 1], properties={"delivery_info": 5}),
    _message([MARK * 20000, 1]),
)

#: Fields of a Pending run's record, and what is written there. With each of them the run cannot be executed.
DAMAGES: tuple[tuple[str, str], ...] = (
    ("token", "x"),
    ("attempt", "many"),
    ("attempt", "200000000"),
    ("id", "../../../planted"),
    ("id", "with\0nul"),
    ("spec", "[" * 3000),
    ("spec", "{}"),
)
