"""Makes the archive's rows of what Redis says: entries of the change feed, records, lines of a history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch_worker.model.history import Transition
from launch_worker.model.kept_outputs import read_outputs
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.usage import MAX_BYTES, Usage
from launch_worker.untrusted.text import read_json, read_map

Row = dict[str, Any]

#: Characters of a value that is indexed, of a command and of a search text at most: PostgreSQL refuses longer keys, and
#: an index of substrings grows with its text.
MAX_INDEXED = 255
MAX_COMMAND = 2000
MAX_SEARCH = 8000
#: Values of a row whose run has just been created.
NEW: Row = {
    "reason": "",
    "attempt": 0,
    "worker": "",
    "host": "",
    "exit_code": None,
    "signal": "",
    "phase": "",
    "message": "",
    "started_at": None,
    "ended_at": None,
    "record": "",
    "sealed": None,
    "packed": None,
    "forgotten_at": None,
    "deleted_at": None,
    "deleted_by": "",
}
#: Fields of a record that have columns of their own, or that say nothing of a run that has ended.
_APART = ("spec", "nonce", "owner", "seq", "lined_at", "list", "closed", "collector")
#: Columns of the usage table that are numbers, as the worker names them too.
_USAGE = (
    *("cpu_s", "gpu_s", "wall_s", "peak_memory", "mean_memory", "memory_gb_h", "peak_gpu_memory", "disk_bytes"),
    *("asked_cpus", "asked_memory", "asked_gpus"),
)


def plain(value: str, limit: int = 0) -> str:
    """A text that every database takes: no NUL, no half of a surrogate pair, and not longer than the limit."""
    if not value:
        return value
    if limit and len(value) > limit:
        value = value[:limit]
    if value.isascii():
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def number(value: str | None) -> int | None:
    """A number in a field; None for a missing or damaged one, and for one that no column takes."""
    if not value:
        return None
    digits = value[1:] if value[0] == "-" else value
    return int(value) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None


def created(fields: Mapping[str, str]) -> tuple[Row, list[str]]:
    """The row and the tags of a run that the feed says was created."""
    return _described(
        fields["id"],
        name=fields.get("name", ""),
        project=fields.get("project", ""),
        queue=fields.get("queue", ""),
        priority=number(fields.get("priority")) or 0,
        created_at=number(fields.get("created_at")) or 0,
        array=fields.get("array", ""),
        sweep=fields.get("sweep", ""),
        reason=fields.get("reason", ""),
        spec=fields.get("spec", ""),
        user=fields.get("user", ""),
    )


def whole(record: Record, seq: int) -> tuple[Row, list[str]]:
    """The row and the tags of a run as its record is now; without the record's JSON."""
    row, tags = _described(
        record.id,
        name=record.name,
        project=record.project,
        queue=record.queue,
        priority=record.priority,
        created_at=record.created_at,
        array=record.array or record.bulk,
        sweep=record.sweep,
        reason=record.reason,
        spec=record.spec,
        user=record.user,
    )
    return row | state_of(record) | {"seq": seq}, tags


def state_of(record: Record) -> Row:
    """The columns of a row that change in a run's life."""
    return {
        "state": record.state.value,
        "reason": plain(record.reason),
        "attempt": record.attempt,
        "worker": plain(record.worker),
        "host": plain(record.host),
        "exit_code": record.exit_code,
        "signal": plain(record.signal),
        "phase": plain(record.phase),
        "message": plain(record.message),
        "started_at": record.started_at,
        "ended_at": record.ended_at if record.state not in (RunState.PENDING, RunState.RUNNING) else None,
    }


def record_text(fields: Mapping[str, str]) -> str:
    """The JSON of an ended run's record, of which `restored_record` makes the record again."""
    return plain(json.dumps({name: text for name, text in fields.items() if name not in _APART}))


def restored_record(row: Mapping[str, Any], read: Any) -> Record:
    """The record of an archived run; `read` makes a record of an id and the fields of a hash."""
    fields: dict[str, str] = read_map(row["record"])
    if not fields:
        described = ("name", "project", "queue", "priority", "created_at", "array", "sweep", "user")
        moved = ("state", "reason", "attempt", "worker", "host", "exit_code", "signal", "phase", "message")
        names = (*described, *moved, "started_at", "ended_at")
        fields = {name: str(row[name]) for name in names if row[name] is not None}
        fields["tags"] = json.dumps(_tags(read_map(row["spec"])))
    fields["spec"] = row["spec"]
    record: Record = read(row["id"], fields)
    return record


def transition(run_id: str, seq: int, step: Transition, actor: str = "") -> Row:
    return {
        "run_id": run_id,
        "seq": seq,
        "state": step.state.value,
        "at": step.at,
        "attempt": step.attempt,
        "worker": plain(step.worker),
        "reason": plain(step.reason),
        "actor": plain(actor),
    }


def attempts_of(record: Record, lines: Sequence[tuple[int, Transition, Mapping[str, Any]]]) -> list[Row]:
    """The attempts that a history tells of, the newest one with what its record says."""
    found: dict[int, Row] = {}
    for _, step, more in lines:
        if step.state is RunState.RUNNING and step.attempt:
            row = found.setdefault(step.attempt, attempt(record.id, step.attempt) | {"started_at": step.at})
            row |= {"worker": plain(step.worker), "state": step.state.value, "ended_at": None, "reason": ""}
        elif step.state is not RunState.PENDING and step.attempt in found:
            row = found[step.attempt]
            if row["state"] not in (RunState.RUNNING.value, RunState.CRASHED.value):
                continue
            row |= {"state": step.state.value, "ended_at": step.at, "reason": plain(step.reason)}
            row |= {name: plain(str(more.get(name, ""))) for name in ("signal", "phase")}
            row["exit_code"] = number(str(more.get("exit_code", "")))
    newest = found.get(record.attempt)
    if newest is not None:
        newest |= {"host": plain(record.host), "gpus": json.dumps(record.gpus), "started_at": record.started_at}
        now = state_of(record)
        if record.state.value == newest["state"]:
            newest["ended_at"] = now["ended_at"]
        if record.state.value == newest["state"] or record.state is RunState.PENDING:
            # A run that waits for its next attempt has the words of the last one yet.
            newest |= {name: now[name] for name in ("exit_code", "signal", "phase", "message")}
    for number_of, kept in read_outputs(record.outputs).items() if record.outputs else ():
        if number_of in found:
            found[number_of]["output_bytes"] = kept.bytes
    return list(found.values())


def attempt(run_id: str, number_of: int) -> Row:
    """An attempt of which nothing is known yet."""
    texts = dict.fromkeys(("worker", "host", "gpus", "state", "signal", "phase", "reason", "message"), "")
    unknown = dict.fromkeys(("started_at", "ended_at", "exit_code"))
    return {"run_id": run_id, "attempt": number_of, "output_bytes": 0} | unknown | texts


def usage(run_id: str, number_of: int, text: str) -> Row | None:
    """What an attempt used, from the worker's JSON; None for none."""
    # Most runs of a walk have none, and a walk is as quick as this.
    used = Usage.of(text) if text else None
    if not used:
        return None
    row = {name: getattr(used, name) for name in _USAGE} | {"memory_gb_h": used.held_gb_h}
    samples = read_map(text).get("samples")
    kept = json.dumps(samples, separators=(",", ":")) if isinstance(samples, dict) else ""
    return {"run_id": run_id, "attempt": number_of, **row, "samples": kept if len(kept) <= MAX_BYTES else ""}


def usages(run_id: str, number_of: int, figures: str, by_attempt: Mapping[int, str]) -> list[Row]:
    """What each attempt of a run used: the record's figures of the latest, and what is kept beside the record."""
    known = {number_of: figures, **by_attempt}
    return [row for attempt, text in sorted(known.items()) if (row := usage(run_id, attempt, text)) is not None]


def with_reason(search: str, reason: str) -> str:
    """The search text with this reason in place of the earlier one."""
    return plain(f"{search.rpartition(chr(10))[0]}\n{_one_line(reason)[:1000]}")


def search_text(record: Record) -> str:
    """The search text of a run's row."""
    text: str = whole(record, 0)[0]["search"]
    return text


def search_term(term: str) -> str:
    """A text as it is looked for in search texts, in which it is a part of one line."""
    return plain(_one_line(term))


def history_lines(texts: Iterable[str], created_at: int) -> list[tuple[int, Transition, Mapping[str, Any]]]:
    """The transitions of a history, each with its place and all that its line says; the creation is always there."""
    found: list[tuple[int, Transition, Mapping[str, Any]]] = []
    for place, text in enumerate(texts, 1):
        line = read_map(text)
        try:
            step = Transition(
                state=RunState(line["state"]),
                at=int(line["at"]),
                attempt=int(line.get("attempt", 0)),
                worker=str(line.get("worker", "")),
                reason=str(line.get("reason", "")),
            )
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        if abs(step.at) < 1 << 62 and 0 <= step.attempt < 1 << 62:
            found.append((place, step, line))
    # The scripts write the first transition only where it has a reason.
    if created_at and (not found or (found[0][1].state, found[0][1].at) != (RunState.PENDING, created_at)):
        found.insert(0, (0, Transition(RunState.PENDING, created_at, 0, "", ""), {}))
    return found


def _described(
    run_id: str,
    *,
    name: str,
    project: str,
    queue: str,
    priority: int,
    created_at: int,
    array: str,
    sweep: str,
    reason: str,
    spec: str,
    user: str,
) -> tuple[Row, list[str]]:
    given = read_map(spec)
    command = given.get("command")
    line = " ".join(map(str, command)) if isinstance(command, list) else ""
    config = {**_map(given.get("values")), **_map(given.get("config"))}
    config_text = json.dumps(config, ensure_ascii=False) if config else ""
    tags = [plain(tag, MAX_INDEXED) for tag in _tags(given)]
    lines = (name, line[:MAX_COMMAND], " ".join(tags), config_text)
    searched = "\n".join(map(_one_line, lines))[:MAX_SEARCH]
    row = NEW | {
        "id": run_id,
        "name": plain(name, MAX_INDEXED),
        "project": plain(project, MAX_INDEXED),
        "queue": plain(queue, MAX_INDEXED),
        "author": plain(str(given.get("author", "")), MAX_INDEXED),
        "user": plain(user, MAX_INDEXED),
        "priority": priority,
        "command": plain(line, MAX_COMMAND),
        "image": plain(str(given.get("image", ""))),
        "config": plain(config_text),
        "spec": plain(spec),
        "state": RunState.PENDING.value,
        "reason": plain(reason),
        "created_at": created_at,
        "array": plain(array, MAX_INDEXED),
        "sweep": plain(sweep, MAX_INDEXED),
        "search": with_reason(f"{searched}\n", reason),
    }
    return row, list(dict.fromkeys(tags))


def _tags(spec: Mapping[str, Any]) -> list[str]:
    tags = spec.get("tags")
    return [str(tag) for tag in tags] if isinstance(tags, list) else []


def _one_line(text: str) -> str:
    return text.replace("\n", " ").lower()


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _amount(value: Any) -> float | int | None:
    is_amount = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_amount and abs(value) < 1 << 62 else None


def gpus_text(text: str) -> str:
    """The GPUs of a feed's entry as JSON of a list."""
    try:
        found = read_json(text) if text else []
    except ValueError:
        return "[]"
    return json.dumps(found) if isinstance(found, list) else "[]"
