"""Compares what a record says beside its spec with the spec: whoever can write records can make them differ."""

from __future__ import annotations

from launch_worker.errors import InputError
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.needs import memory_range, parse_needs
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec


def check_derived(record: Record, spec: RunSpec) -> None:
    """Raise InputError, which names the field, for a record that is not that of its spec.

    Compared are the fields that decide what is executed, where, and under which name. The memory may be more than at
    first, within the range that the spec gives.
    """
    needs, asked = parse_needs(record.needs), parse_needs(spec.needs)
    least, most = memory_range(spec.memory)
    same = {
        "queue": record.queue == spec.queue,
        "name": record.name == spec.name,
        "project": record.project == spec.project,
        "tags": record.tags == spec.tags,
        "priority": record.priority == PRIORITIES[spec.priority],
        "array": record.array == spec.array,
        "sweep": record.sweep == spec.sweep,
        "concurrency key": record.concurrency_key == spec.concurrency_key,
        "limit of its key": (record.limit_key or "1") == str(spec.limit_key),
        "limit of its array": record.array_limit == str(spec.array_limit or ""),
        "bound of failures": record.max_fails == str(spec.max_fails or ""),
        "kind": record.is_scheduler == spec.scheduler,
        "needs": needs.gpus == asked.gpus and needs.millicores == asked.millicores and least <= needs.memory <= most,
    }
    for name, is_same in same.items():
        if not is_same:
            raise InputError(f"the run's record was changed: its {name} is not the one that was submitted")
