"""Reads an element of a queue, and makes what Celery sees of it anew from the few things that it trusts.

An element is written by any producer. Of one that asks for a run, five things are read: the task, the run's id, its
dispatch number, and two texts for Flower. Nothing else of it reaches kombu or Celery.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple

from launch_worker.ids import RUN_ID
from launch_worker.maintenance.passes import PASSES
from launch_worker.untrusted.text import read_json

RUN_TASK = "launch_worker.run"
#: Actor of what is asked for through Celery's remote control, which does not say by whom.
SOMEBODY = "somebody, through Celery"
_PASS_TASKS = frozenset(f"launch_worker.{name}" for name in PASSES)

#: Bytes of an element that is read, at most; a message of ours has less than 2 KiB.
MAX_BYTES = 1 << 16
#: Dispatch number, at most: Lua counts exactly up to here.
MAX_NUMBER = 1 << 53
#: Characters of a text that is only shown, at most.
_MAX_TEXT = 1000
#: What kombu puts between a queue's name and a priority step.
_STEP = re.compile(r"\x06\x16(\d{1,3})")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_TASK_ID = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)


class RunItem(NamedTuple):
    """An element that asks for a look at a run."""

    run_id: str
    #: Dispatch number.
    seq: int
    queue: str
    #: Step of the priority; None where that is not known.
    priority: int | None
    #: Headers for those who watch Celery's events, and the time of the dispatch.
    shown: dict[str, Any]

    def message(self) -> bytes:
        """The message for Celery."""
        # As the scripts write the body: by this text they find the run of a message that kombu has put back.
        body = f'[["{self.run_id}",{self.seq}],{{}},{{}}]'
        tag = f"{self.run_id}.{self.seq}"
        return _message(RUN_TASK, self.run_id, tag, body, self.queue, self.priority, self.shown)


class PassItem(NamedTuple):
    """An element that asks for a pass, as a scheduler other than ours sends it."""

    task: str
    task_id: str
    queue: str
    priority: int

    def message(self) -> bytes:
        """The message for Celery."""
        headers = {"ignore_result": True}
        return _message(self.task, self.task_id, self.task_id, "[[],{},{}]", self.queue, self.priority, headers)


def read_element(key: str, element: bytes) -> RunItem | PassItem | str:
    """What an element asks for that was in the list `key`; or why it is refused."""
    if len(element) > MAX_BYTES:
        return f"it has {len(element):,} bytes; at most {MAX_BYTES:,} are read"
    try:
        given = read_json(element.decode("utf-8", "surrogatepass"))
    except ValueError:
        return "it is not JSON in UTF-8"
    headers, properties = (given.get("headers"), given.get("properties")) if isinstance(given, dict) else (None, None)
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return "it is not a message with headers and properties"
    if given.get("content-type") != "application/json":
        return "its content type is not application/json"
    call = _call(given.get("body"), properties.get("body_encoding"))
    if call is None:
        return "its body is not [args, kwargs, embed] in JSON"
    args, embed = call
    if any(embed.values()):
        return "it has callbacks, a chain or a chord: a run that waits for another one is submitted with --after"
    task = headers.get("task")
    queue, _, _ = key.partition("\x06")
    step = _STEP.search(key)
    priority = int(step[1]) if step else 0
    if task == RUN_TASK:
        if not (len(args) == 2 and _is_run_id(args[0]) and _is_number(args[1])):
            return "its arguments are not a run's id and a dispatch number"
        return RunItem(args[0], args[1], queue, priority, _shown_of(headers, args[0]))
    if isinstance(task, str) and task in _PASS_TASKS:
        given_id = headers.get("id")
        task_id = given_id if isinstance(given_id, str) and _TASK_ID.fullmatch(given_id) else task
        return PassItem(task, task_id, queue, priority)
    return "its task is none of a launch worker's"


def rebuilt(key: str, element: bytes) -> tuple[bytes | None, str]:
    """The message for an element that was in the list `key`, and ''; or None, and why the element is refused."""
    item = read_element(key, element)
    return (None, item) if isinstance(item, str) else (item.message(), "")


def is_reply(element: bytes) -> bool:
    """Whether an element has the form of an answer to `celery inspect`, which also comes by a list."""
    try:
        given = read_json(element.decode("utf-8", "surrogatepass"))
    except ValueError:
        return False
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("headers"), dict)
        or not isinstance(given.get("body"), str)
    ):
        return False
    properties = given.get("properties")
    return isinstance(properties, dict) and isinstance(properties.get("delivery_tag"), str)


def _call(body: Any, encoding: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """The positional arguments, and what shall follow the call."""
    if not isinstance(body, str) or encoding not in (None, "base64", "utf-8"):
        return None
    try:
        content = read_json(base64.b64decode(body, validate=True) if encoding == "base64" else body)
    except (ValueError, binascii.Error):
        return None
    if not (isinstance(content, list) and len(content) == 3):
        return None
    args, kwargs, embed = content
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(embed, (dict, type(None))):
        return None
    return args, embed or {}


def _is_run_id(value: Any) -> bool:
    return isinstance(value, str) and RUN_ID.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _shown(value: Any, default: str) -> str:
    if not isinstance(value, str):
        return default
    shown = value[:_MAX_TEXT]
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)


def _shown_of(headers: dict[str, Any], run_id: str) -> dict[str, Any]:
    """The headers that Celery may have of a run's element."""
    shown: dict[str, Any] = {
        "shadow": _shown(headers.get("shadow"), ""),
        "argsrepr": f"('{run_id}',)",
        "kwargsrepr": _shown(headers.get("kwargsrepr"), "{}"),
        "root_id": run_id,
    }
    # The age of a list's oldest message is asked for, also after kombu has put one back.
    dispatched_at = headers.get("launch_dispatched_at")
    if type(dispatched_at) is int and 0 <= dispatched_at <= MAX_NUMBER:
        shown["launch_dispatched_at"] = dispatched_at
    return shown


def _message(
    task: str, task_id: str, tag: str, body: str, queue: str, priority: int | None, headers: dict[str, Any]
) -> bytes:
    return _ENCODE(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": task, "id": task_id, **headers},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": priority,
                "delivery_tag": tag,
            },
        }
    ).encode()
