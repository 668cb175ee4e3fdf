"""Puts all findings into one list, the most basic first, for `status`, `doctor` and Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launch_worker.api.doctor import fleet, losses, redis_server
from launch_worker.api.overview import overview
from launch_worker.errors import LaunchError
from launch_worker.model.finding import Finding
from launch_worker.settings import Settings
from launch_worker.store.store import Store

#: Findings that keep workers and passes from writing that they are well.
_NO_WRITES = frozenset({"redis.replica", "redis.full", "redis.not-saved"})


def problems(store: Store, settings: Settings, seen: Mapping[str, Any]) -> list[Finding]:
    """The warnings and errors that an `overview` (`seen`) and a few reads show."""
    return [finding for finding in _at_a_glance(store, settings, seen) if finding.level != "ok"]


def check(store: Store, settings: Settings) -> Iterator[Finding]:
    """Every check, the most basic first. Raises BrokerUnavailableError when there is nothing to check."""
    # Imported here: `status` does without.
    from launch_worker.api.doctor import kept, keys, machine

    yield from _at_a_glance(store, settings, overview(store))
    for name, look in (
        ("records", kept.records),
        ("work-dir", machine.work_dir),
        ("environments", machine.environments),
        ("logs", kept.logs),
        ("outputs", kept.outputs),
        ("archive", kept.archive),
        ("engine", machine.container_engine),
        ("registry", machine.registries),
        ("sandboxes", machine.sandboxes),
        ("signers", keys.signers),
        ("keys", keys.keys_of_workers),
    ):
        try:
            yield from look(store, settings)
        except LaunchError as error:
            yield Finding("error", name, f"this could not be looked at: {error}", "mend what is above, and try again")


def _at_a_glance(store: Store, settings: Settings, seen: Mapping[str, Any]) -> Iterator[Finding]:
    blocked = False
    for finding in (*redis_server.server(store), *redis_server.login(store, settings), *redis_server.clock(store)):
        blocked = blocked or finding.name in _NO_WRITES
        yield finding
    yield from fleet.workers_and_passes(settings, seen, blocked=blocked)
    if not blocked:
        yield from fleet.refusals(seen)
        yield from fleet.unserved_queues(seen)
    yield from fleet.too_big(store, seen["workers"])
    yield from fleet.held(store)
    yield from losses.refused(store)
    yield from losses.unarchived(store)
    yield from losses.notices(store)
