"""A run that ended badly, or waits, is explained from its record alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.model.hints import hint_of_end, hint_of_wait
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

GIB = 1 << 30


def failed(**values: Any) -> Record:
    return Record(state=RunState.FAILED, phase=values.pop("phase", "run"), **values)


@pytest.mark.parametrize(
    ("record", "what", "text"),
    [
        (failed(exit_code=126), "could not be executed", "chmod"),
        (failed(exit_code=127), "was not found", "PATH"),
        (failed(signal="SIGSEGV"), "native code (SIGSEGV)", "PYTHONFAULTHANDLER"),
        (failed(exit_code=139), "exit code 139, SIGSEGV", "PYTHONFAULTHANDLER"),
        (failed(exit_code=143), "asked to end", "--retries"),
        (failed(exit_code=135), "mapped", "--shm-size"),
        (failed(reason="time limit of 2 h reached"), "Time limit of 2 h reached.", "--timeout"),
        (failed(reason="no output for 5 m"), "No output for 5 m.", "--stall-timeout"),
        (failed(phase="build", reason="no such branch"), "No such branch.", "URL"),
        (
            failed(phase="build", reason="the environment of r.txt could not be made: x"),
            "The environment",
            "what uv said",
        ),
        (failed(phase="start", reason="command 'x' was not found on this worker"), "Command 'x'", "--image"),
        (
            failed(phase="start", reason="image r/a:1 could not be pulled from registry r without a login: denied"),
            "Image r/a:1 could not be pulled",
            "credential",
        ),
        (failed(exit_code=3, reason="exit code 3"), "Exit code 3.", "last lines"),
        (Record(state=RunState.CRASHED, reason="worker w died"), "worker was lost", "--retries"),
        (Record(state=RunState.KILLED, reason="cancelled by ada"), "Cancelled by ada.", ""),
    ],
)
def test_an_end_says_what_it_means_and_what_to_do(record: Record, what: str, text: str) -> None:
    hint = hint_of_end(record)
    assert hint is not None
    assert what in hint.what
    assert text in hint.text


def test_a_run_that_went_well_has_no_hint() -> None:
    assert hint_of_end(Record(state=RunState.FINISHED)) is None


@pytest.mark.parametrize("how", [{"signal": "SIGKILL"}, {"exit_code": 137}])
def test_a_kill_tells_the_memory_that_was_used_and_what_to_ask_for(how: dict[str, Any]) -> None:
    usage = json.dumps({"wall_s": 60, "peak_memory": 16 * GIB})
    hint = hint_of_end(failed(usage=usage, needs=f"0:0:{16 * GIB}", **how))
    assert hint is not None
    assert "It used 16 GiB of memory at most, and had asked for 16 GiB." in hint.text
    assert hint.ask == {"memory": "20G"}
    killed = hint_of_end(failed(usage=usage, reason="ended by SIGKILL: out of memory (the kernel says so)", **how))
    assert killed is not None
    assert killed.what == "Out of memory."
    assert killed.ask == {"memory": "30G"}
    assert "--memory 30G..60G has it tried again with twice as much" in killed.text
    grown = hint_of_end(
        failed(reason="ended by SIGKILL: out of memory (the kernel says so)", spec='{"memory": "8G..16G"}', **how)
    )
    assert grown is not None
    assert "after twice as much each time (--memory 8G..16G)" in grown.text


def test_a_time_limit_is_doubled_in_what_to_ask_for() -> None:
    hint = hint_of_end(failed(reason="time limit of 90 m reached", spec='{"timeout_s": 5400}'))
    assert hint is not None
    assert hint.ask == {"timeout": "3h"}


@pytest.mark.parametrize(
    "reason", ["exit code 1", "KeyError: 'label' (exit code 1)", "KeyError: 'label' (exit code 1); it ran in …"]
)
def test_an_exception_is_what_happened_be_it_in_the_record_or_in_the_output(reason: str) -> None:
    hint = hint_of_end(failed(exit_code=1, reason=reason), "Traceback (most recent call last):\nKeyError: 'label'")
    assert hint is not None
    assert (hint.what, hint.text) == ("KeyError: 'label'", "Exit code 1.")


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "GPU"),
        ("RuntimeError: CUDA error: out of memory (the GPU)", ""),
        ("MemoryError", "--memory"),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3 GiB", "--memory"),
        ("ModuleNotFoundError: No module named 'torch'", "--image"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'a.csv'", "--upload"),
    ],
)
def test_some_exceptions_say_what_to_do(exception: str, text: str) -> None:
    hint = hint_of_end(failed(exit_code=1, reason=f"{exception} (exit code 1)"))
    assert hint is not None
    assert hint.what == exception
    assert text in hint.text


WORKER: dict[str, Any] = {
    "worker": "w@host",
    "queues": ["gpu"],
    "devices": [{}],
    "cpus": {"total": 4},
    "memory": {"total": 8 * GIB},
}


@pytest.mark.parametrize(
    ("record", "why", "said"),
    [
        (Record(queue="gpu"), "", "about to start"),
        (Record(queue="night"), "no worker consumes queue night", "celery -A launch_worker worker -Q night"),
        (Record(queue="gpu"), "queue paused", "launch-worker queues resume gpu"),
        (Record(queue="gpu"), "pool lab paused", "launch-worker pools resume lab"),
        (Record(queue="gpu"), "limit 2 of queue gpu reached", "launch-worker queues set gpu --limit 4"),
        (Record(queue="gpu"), "limit 1 of key db reached", "one of those"),
        (Record(queue="gpu"), "user ada may have 3 running runs", "this user"),
        (Record(queue="gpu", needs="8:0:0"), "waiting for 8 GPUs", "8 GPUs, and its workers have at most 1"),
        (Record(queue="gpu", needs="1:0:0"), "waiting for 1 GPU", "runs that hold them"),
        (Record(queue="gpu"), "all slots of the worker of queue gpu are taken", "another worker"),
        (Record(queue="gpu", due_at=1), "scheduled for …", "by itself"),
        (Record(queue="gpu", waits_for={"x": "ok"}), "after run x (ok)", "ended so"),
    ],
)
def test_a_run_that_waits_says_what_would_help(record: Record, why: str, said: str) -> None:
    hint = hint_of_wait(record, why, [WORKER])
    assert said in f"{hint.what} {hint.text} {hint.command}"
