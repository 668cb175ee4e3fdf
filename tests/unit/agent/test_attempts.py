"""The table of a worker's attempts: how many slots they take."""

from __future__ import annotations

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity


def test_a_slot_that_is_not_free_is_not_taken_whatever_adopted_jobs_take() -> None:
    attempts = Attempts(slots=2, capacity=Capacity([], cpus=1, memory=1), most_grace_s=None)
    assert attempts.take_free_slot()
    # Two jobs of the worker before run on.
    attempts.take_slot()
    attempts.take_slot()
    assert (attempts.busy, attempts.free_slots) == (3, 0)
    assert not attempts.take_free_slot()
    assert attempts.busy == 3
    attempts.leave_slot()
    attempts.leave_slot()
    assert attempts.take_free_slot()
    assert (attempts.busy, attempts.free_slots) == (2, 0)
