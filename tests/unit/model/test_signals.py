"""Signals are read by the names and numbers that they have on Linux, whatever the submitter's machine is."""

from __future__ import annotations

import signal

import pytest

from launch_worker.errors import InputError
from launch_worker.model.checks import REQUEUES, parse_on_timeout
from launch_worker.model.signals import Ahead, number_of, parse_ahead, parse_signal
from launch_worker.model.spec import RunSpec


@pytest.mark.parametrize("text", ["USR1", "sigusr1", " SIGUSR1 ", "10"])
def test_a_signal_is_read_by_each_of_its_names(text: str) -> None:
    assert parse_signal(text) == "SIGUSR1"


def test_names_have_linux_numbers() -> None:
    for each in signal.Signals:
        if each < 32 and each not in (signal.SIGKILL, signal.SIGSTOP):
            assert number_of(parse_signal(str(int(each)))) == each


@pytest.mark.parametrize("text", ["", "USR3", "0", "32", "-1", "KILL", "9", "SIGSTOP", "RTMIN", "10.0", "\u0661\u0660"])
def test_what_no_program_can_be_sent_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_signal(text)


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("USR1", Ahead("SIGUSR1", 60.0)),
        ("USR1@120", Ahead("SIGUSR1", 120.0)),
        ("10@2m", Ahead("SIGUSR1", 120.0)),
        ("INT@0.5", Ahead("SIGINT", 0.5)),
    ],
)
def test_a_signal_ahead_has_its_time(text: str, ahead: Ahead) -> None:
    assert parse_ahead(text) == ahead
    assert parse_ahead(str(ahead)) == ahead


@pytest.mark.parametrize("text", ["", "@5", "USR1@", "USR1@0", "B:USR1@5", "USR1@-5", "USR1@x", "KILL@5"])
def test_what_is_no_signal_ahead_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_ahead(text)


def test_a_signal_must_come_after_the_job_has_begun() -> None:
    RunSpec(command=("true",), signal="SIGUSR1@60", timeout_s=61.0)
    with pytest.raises(InputError, match="would come before the job begins"):
        RunSpec(command=("true",), signal="SIGUSR1@60", timeout_s=60.0)


def test_a_run_goes_on_after_its_time_limit_as_often_as_it_says() -> None:
    assert [parse_on_timeout(text) for text in ("fail", "requeue", "requeue:1", "requeue:1000")] == [
        0,
        REQUEUES,
        1,
        1000,
    ]
    for text in ("", "requeue:", "requeue:0", "requeue:1001", "fail:1", "again"):
        with pytest.raises(InputError):
            parse_on_timeout(text)
