"""Makes the JSON that a webhook gets: docs/notice-1.schema.json says what is in it."""

from __future__ import annotations

import math
from typing import Any

from launch_worker.model.hints import hint_of_end
from launch_worker.model.run import Record
from launch_worker.model.units import isoformat
from launch_worker.notifications.message import Ended, Message
from launch_worker.notifications.texts import MOST_PARTS, MOST_RUNS, counted, last_lines, page_of, text_of

#: Facts of a run that are texts of any length, and characters of each that are sent.
_MOST_CHARS = 2000


def payload(message: Message, *, server_url: str = "", has_output: bool = True) -> dict[str, Any]:
    """The message as the object of a webhook."""
    text = text_of(message, server_url=server_url, has_output=has_output)
    data: dict[str, Any] = {"text": text.sentence, "url": page_of(message, server_url) or None}
    if message.run is not None:
        data |= _run(message.run)
        hint = hint_of_end(message.run, message.output) if message.run.state.is_final else None
        data["hint"] = (" ".join(filter(None, (hint.what, hint.text))) or None) if hint else None
        data["output"] = list(last_lines(message.output)) if has_output else []
    if message.ended is not None:
        data |= _group(message.ended)
    if message.alarm is not None:
        alarm = message.alarm
        data |= {
            "rule": alarm.rule,
            "kind": alarm.kind,
            "subject": alarm.subject,
            "since": isoformat(alarm.since),
            "queue": alarm.queue or None,
            "project": alarm.project or None,
            "values": dict(alarm.values),
        }
    if message.parts:
        data["notices"] = [
            {"id": one.id, **payload(one, server_url=server_url, has_output=False)}
            for one in message.parts[:MOST_PARTS]
        ]
        data["left_out"] = max(0, len(message.parts) - MOST_PARTS)
    return {"type": message.type, "timestamp": isoformat(message.at), "data": data}


def _run(run: Record) -> dict[str, Any]:
    seconds = None
    if run.started_at is not None and run.ended_at is not None:
        seconds = max(0.0, (run.ended_at - run.started_at) / 1e6)
    return {
        "id": run.id,
        "name": run.name,
        "project": run.project or None,
        "queue": run.queue,
        "state": run.state.value,
        "reason": run.reason[:_MOST_CHARS] or None,
        "exit_code": run.exit_code,
        "signal": run.signal or None,
        "phase": run.phase or None,
        "attempt": run.attempt,
        "worker": run.worker or None,
        "host": run.host or None,
        "user": run.user or None,
        "author": run.author[:_MOST_CHARS] or None,
        "tags": list(run.tags),
        "group": run.group or None,
        "created_at": isoformat(run.created_at or None),
        "started_at": isoformat(run.started_at),
        "ended_at": isoformat(run.ended_at),
        "seconds": seconds,
    }


def _group(ended: Ended) -> dict[str, Any]:
    group, best = ended.group, ended.best
    is_number = best is not None and math.isfinite(best.value)
    return {
        "id": group.id,
        "kind": group.kind,
        "name": group.name,
        "project": group.project or None,
        "queue": group.queue or None,
        "size": group.size,
        "counts": dict(group.counts),
        "halted": group.halted or None,
        "said": counted(group),
        "created_at": isoformat(group.created_at or None),
        "ended_at": isoformat(group.ended_at),
        "failed": [
            {"id": one.id, "name": one.name, "state": one.state.value, "reason": one.reason[:_MOST_CHARS] or None}
            for one in ended.failed[:MOST_RUNS]
        ],
        "best": {"id": best.run.id, "name": best.run.name, "metric": best.metric, "value": best.value}
        if best is not None and is_number
        else None,
    }
