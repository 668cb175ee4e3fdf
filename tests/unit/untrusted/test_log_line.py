"""Lines of a log that others cannot forge."""

from __future__ import annotations

import io
import logging

from launch_worker.untrusted.log_line import OneLine, Seldom, one_line


def test_what_cannot_be_printed_is_escaped() -> None:
    assert one_line("a\nb\x1b[31m\u202e\ud800é") == "a\\nb\\x1b[31m\\u202e\\ud800é"


def test_a_long_text_is_cut_and_says_so() -> None:
    line = one_line("x" * 1_000_000)
    assert len(line) < 5000
    assert line.endswith("(1,000,000 characters)")


def test_every_message_of_a_handler_is_one_line_and_a_traceback_keeps_its_own() -> None:
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    handler.addFilter(OneLine())
    log = logging.Logger("a")
    log.addHandler(handler)
    log.warning("run.ended run=%s", "x\nworker.forged y")
    try:
        raise ValueError("bad\x1b[0m\nworker.forged z")
    except ValueError:
        log.exception("failed")
    lines = told.getvalue().splitlines()
    assert lines[:3] == ["run.ended run=x\\nworker.forged y", "failed", "  Traceback (most recent call last):"]
    assert lines[-2:] == ["  ValueError: bad\\x1b[0m", "  worker.forged z"]


def test_what_comes_often_is_said_seldom_with_how_often_it_came() -> None:
    now, said = [0.0], []
    seldom = Seldom(lambda message, *args: said.append(message % args), clock=lambda: now[0])
    for moment in (0.0, 1.0, 29.0, 31.0, 32.0):
        now[0] = moment
        seldom("it is %s", moment)
    assert said == ["it is 0.0", "it is 31.0 (2 more since the last such line)"]
