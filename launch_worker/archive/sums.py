"""Sums what attempts used, by user, project, queue, worker or GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from launch_worker.archive import schema
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.totals import By, Total
from launch_worker.untrusted.text import read_json

_GB_HOUR = (1 << 30) * 3600.0


def sums(
    database: Database, by: Sequence[By], *, since: int, until: int | None = None, project: str = ""
) -> list[tuple[tuple[str, ...], Total]]:
    """The totals of attempts that ended from `since` on (server microseconds), by groups, the largest first.

    An attempt counts where it ended, as a whole. One with several GPUs counts in equal parts for each of them.
    """
    check_version(database)
    totals: dict[tuple[str, ...], Total] = {}
    with database.reading() as connection:
        for row in connection.execute(_query(by, since, until, project)).mappings():
            total = Total(**{field.name: row[field.name] or 0 for field in fields(Total)})
            # PostgreSQL sums whole numbers as a decimal one.
            total.output_bytes = int(total.output_bytes)
            groups = list(_groups(by, row))
            for group in groups:
                totals.setdefault(group, Total()).add(total, 1 / len(groups))
    return sorted(totals.items(), key=lambda entry: (-entry[1].held_gpu_s, -entry[1].cpu_s, entry[0]))


def _query(by: Sequence[By], since: int, until: int | None, project: str) -> Any:
    runs, attempts, used = schema.runs.c, schema.attempts.c, schema.usage.c
    columns: dict[By, list[ColumnElement[Any]]] = {
        "user": [runs.user, runs.author],
        "project": [runs.project],
        "queue": [runs.queue],
        "worker": [attempts.worker],
        "gpu": [attempts.host, attempts.gpus],
    }
    wanted = [column for way in by for column in columns[way]]
    figures = [
        func.count().label("attempts"),
        (func.count() - func.count(used.run_id)).label("unknown"),
        func.sum(used.wall_s).label("wall_s"),
        func.sum(used.cpu_s).label("cpu_s"),
        func.sum(used.asked_cpus * used.wall_s).label("asked_cpu_s"),
        func.sum(used.memory_gb_h).label("memory_gb_h"),
        (func.sum(used.asked_memory * used.wall_s) / _GB_HOUR).label("asked_memory_gb_h"),
        func.sum(used.gpu_s).label("gpu_s"),
        func.sum(used.asked_gpus * used.wall_s).label("held_gpu_s"),
        func.sum(attempts.output_bytes).label("output_bytes"),
    ]
    both = (used.run_id == attempts.run_id) & (used.attempt == attempts.attempt)
    tables = schema.runs.join(schema.attempts, attempts.run_id == runs.id).outerjoin(schema.usage, both)
    query = select(*wanted, *figures).select_from(tables).where(attempts.ended_at >= since)
    # An attempt ends before its run does: an index finds these runs.
    query = query.where(or_(runs.ended_at >= since, runs.ended_at.is_(None)))
    if until is not None:
        query = query.where(attempts.ended_at < until)
    if project:
        query = query.where(runs.project == project)
    return query.group_by(*wanted)


def _groups(by: Sequence[By], row: Any) -> Iterator[tuple[str, ...]]:
    devices = _devices(row["gpus"]) if "gpu" in by else [""]
    for device in devices:
        yield tuple(_name(way, row, device) for way in by)


def _name(way: By, row: Any, device: str) -> str:
    if way == "gpu":
        return f"{row['host']}:{device}" if device else ""
    if way == "user":
        # The author is USER@HOST, and a person may have several machines; whom a server has proven has one name.
        return str(row["user"]) or str(row["author"]).rpartition("@")[0] or str(row["author"])
    return str(row[way])


def _devices(text: str) -> list[str]:
    try:
        found = read_json(text) if text else []
    except ValueError:
        found = []
    return [str(device) for device in found] if isinstance(found, list) and found else [""]
