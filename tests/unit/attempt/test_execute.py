"""What an error at an attempt's start makes of its run: back to its queue where the worker is to blame, else Failed."""

from __future__ import annotations

import errno
import os

import pytest

from launch_worker.attempt.execute import outcome_of_error
from launch_worker.errors import CodeError, EngineAwayError, InputError, NoContainerError, StartError
from launch_worker.model.retry import next_step
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec

RECORD = Record(id="r", attempt=1, worker="w@a")
SPEC = RunSpec(command=("true",))


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        # A full disk, a work folder that is gone or cannot be written to, no more descriptors.
        *((OSError(number, os.strerror(number)), "agent") for number in (errno.ENOSPC, errno.EROFS, errno.EMFILE)),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/work/runs/r.1.2"), "agent"),
        (EngineAwayError("the container engine does not answer"), "start"),
        (StartError("fork: no more processes", worker_fault=True), "start"),
        (CodeError("the worker's disk is full", worker_fault=True), "build"),
        (CodeError("no environment can be made", worker_fault=True), "start"),
    ],
)
def test_a_start_that_failed_through_the_worker_goes_to_another_and_uses_no_retry_up(
    error: Exception, phase: str
) -> None:
    step = next_step(RECORD, outcome_of_error(error, phase), SPEC)
    assert (step.is_misstart, step.counts_as, step.avoid) == (True, 3, "w@a")


@pytest.mark.parametrize(
    "error",
    [
        StartError("no such program"),
        NoContainerError("there is no such container"),
        CodeError("there is no repository"),
        InputError("the queue does not allow it"),
        ValueError("odd"),
    ],
)
def test_a_start_that_failed_through_the_run_has_failed(error: Exception) -> None:
    outcome = outcome_of_error(error, "start")
    assert next_step(RECORD, outcome, SPEC).retry_delay_s is None
    assert outcome.phase in ("build", "start")


def test_an_error_beside_a_job_that_runs_gives_its_run_to_nobody_else() -> None:
    outcome = outcome_of_error(OSError(errno.ENOSPC, "No space left on device"), "run")
    assert next_step(RECORD, outcome, SPEC).retry_delay_s is None
