"""Computes the leases of jobs, as their guards must enforce them."""

from __future__ import annotations

from collections.abc import Iterable

from launch_worker.attempt.attempt import Attempt
from launch_worker.model.retry import has_retries_left
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.runners.job import Lease


def lease_of(record: Record, spec: RunSpec, *, renewed_at: float, lease_s: float) -> Lease:
    """The lease of a job, renewed at a boot time; None where no other worker is given the run.

    A run with retries left is given to another worker once its lease ran out, so its job must be gone by then.
    """
    is_retried = has_retries_left(record, spec, after=RunState.CRASHED)
    # A run that called itself preempted is given to another worker too.
    if not (is_retried or record.yields):
        return None
    return _limited(spec, renewed_at=renewed_at, lease_s=lease_s)


def leases_without_worker(attempts: Iterable[Attempt], *, renewed_at: float, lease_s: float) -> dict[str, Lease]:
    """The leases, by job, of jobs that are left to the next worker; renewed at a boot time."""
    leases: dict[str, Lease] = {}
    for attempt in attempts:
        lease = lease_of(attempt.record, attempt.spec, renewed_at=renewed_at, lease_s=lease_s)
        if lease is None and not attempt.folder.is_container:
            # No other machine is given the run, but no job may run for ever without a worker.
            lease = _limited(attempt.spec, renewed_at=renewed_at, lease_s=lease_s)
        leases[attempt.key] = lease
    return leases


def held_until(*, renewed_at: float, lease_s: float) -> float:
    """The boot time at which an attempt, renewed at a boot time, may begin to be another's."""
    return renewed_at + lease_s - min(1.0, lease_s / 10)


def _limited(spec: RunSpec, *, renewed_at: float, lease_s: float) -> Lease:
    """The boot times of SIGTERM and SIGKILL for a job whose lease was renewed at a boot time."""
    kill_at = held_until(renewed_at=renewed_at, lease_s=lease_s)
    return kill_at - min(spec.grace_s, lease_s / 4), kill_at
