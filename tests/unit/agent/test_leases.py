"""The leases that guards enforce: whose job must be gone when, and whose may go on."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from launch_worker.agent.leases import lease_of, leases_without_worker
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec

FIRST = Record(id="r", attempt=1, token=7, first_attempt=1)
LAST = Record(id="r", attempt=3, token=7, first_attempt=1)
RETRIED = RunSpec(("true",), retries=2, grace_s=2.0)
ONCE = RunSpec(("true",), grace_s=2.0)


def test_a_job_whose_run_another_worker_gets_is_gone_before_its_lease_is_over() -> None:
    assert lease_of(FIRST, RETRIED, renewed_at=100.0, lease_s=30.0) == (127.0, 129.0)


def test_a_job_has_at_most_a_quarter_of_its_lease_to_end() -> None:
    patient = RunSpec(("true",), retries=2, grace_s=600.0)
    lease = lease_of(FIRST, patient, renewed_at=100.0, lease_s=4.0)
    assert lease is not None
    assert list(lease) == pytest.approx([102.6, 103.6])


@pytest.mark.parametrize(("record", "spec"), [(FIRST, ONCE), (LAST, RETRIED)])
def test_a_job_whose_run_nobody_else_gets_may_go_on(record: Record, spec: RunSpec) -> None:
    assert lease_of(record, spec, renewed_at=100.0, lease_s=30.0) is None


def test_a_run_that_called_itself_preempted_is_given_to_another_worker() -> None:
    yielding = Record(id="r", attempt=1, token=7, first_attempt=1, yields=True)
    assert lease_of(yielding, ONCE, renewed_at=100.0, lease_s=30.0) == (127.0, 129.0)


def test_no_process_goes_on_for_ever_without_a_worker_but_a_container_may(tmp_path: Path) -> None:
    in_process, in_container = (
        Attempt(Record(id=name, attempt=1, token=7, first_attempt=1), ONCE, folder, queue.SimpleQueue(), None)
        for name, folder in (("p", AttemptFolder(tmp_path / "p.1.7")), ("c", AttemptFolder(tmp_path / "c.1.7")))
    )
    in_container.folder.path.mkdir()
    in_container.folder.mark_container(in_container.record)
    leases = leases_without_worker([in_process, in_container], renewed_at=100.0, lease_s=30.0)
    assert leases == {"p.1": (127.0, 129.0), "c.1": None}
