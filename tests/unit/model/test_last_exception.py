"""A program of Python that fails says by which exception; nothing else of its output is taken for one."""

from __future__ import annotations

import pytest

from launch_worker.model.last_exception import last_exception
from launch_worker.model.outcome import Outcome, exception_of, outcome_of_exit, with_exception
from launch_worker.model.states import RunState

TRACE = """Traceback (most recent call last):
  File "train.py", line 88, in <module>
    loader = make_loader(cache=True)
KeyError: 'label'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "train.py", line 90, in <module>
    raise RuntimeError("no data: see above")
torch.Broken: no data: see above
done
"""


def trace(line: str) -> str:
    return f'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    f()\n{line}\n'


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (TRACE, "torch.Broken: no data: see above"),
        (trace("KeyError: 1  "), "KeyError: 1"),
        # A traceback whose first line was before the last lines of an output.
        ('  File "x", line 3, in f\n    f()\nKeyboardInterrupt\n', "KeyboardInterrupt"),
        (trace("KeyError: 1").replace("\n", "\r\n"), "KeyError: 1"),
        ("".join(f"[rank0]: {line}\n" for line in trace("KeyError: 1").splitlines()), "KeyError: 1"),
        (trace("\x1b[1;35mKeyError\x1b[0m: \x1b[35m'a'\x1b[0m\x07"), "KeyError: 'a'\N{SYMBOL FOR BELL}"),
        (trace("pydantic.ValidationError: 2 errors\n  a\n  b"), "pydantic.ValidationError: 2 errors"),
        (trace("KeyError: 1") + "bye\n" * 19, "KeyError: 1"),
        # The program caught it, and went on.
        (trace("KeyError: 1") + "step\n" * 30, ""),
        ("Traceback is a word\nKeyError: 1", ""),
        (trace("and 3 more"), ""),
        ("", ""),
        ("KeyError: 1", ""),
    ],
)
def test_the_exception_at_the_end_of_an_output_is_found(output: str, found: str) -> None:
    assert last_exception(output) == found


def test_an_exception_is_one_short_line_without_secrets() -> None:
    assert len(last_exception(trace("KeyError: " + 1000 * "x"))) == 300
    said = last_exception(
        trace("URLError: https://me:hunter22@host/x with hunter2 and token-1 or 1"), secrets=["hunter2", "token-1", "1"]
    )
    assert said == "URLError: https://***@host/x with *** and *** or 1"
    key = "-----BEGIN-----\nMIIEvQ\n"
    assert last_exception(trace(f"ValueError: {key!r} is bad"), secrets=[key]) == "ValueError: '***' is bad"
    assert last_exception(trace("ValueError: MIIEvQ is bad"), secrets=[key]) == "ValueError: *** is bad"


def test_the_reason_keeps_the_exit_code_and_other_reasons_stay() -> None:
    ended = with_exception(outcome_of_exit(3), "KeyError: 'a'")
    assert (ended.reason, ended.exit_code, ended.phase) == ("KeyError: 'a' (exit code 3)", 3, "run")
    assert exception_of(ended.reason) == "KeyError: 'a'"
    assert exception_of(f"{ended.reason}; it ran in an empty folder") == "KeyError: 'a'"
    for other in (
        outcome_of_exit(0),
        outcome_of_exit(85),
        outcome_of_exit(-9),
        Outcome(RunState.FAILED, reason="time limit of 3 s reached", phase="run", exit_code=1),
        Outcome(RunState.KILLED, reason="exit code 1", exit_code=1),
    ):
        assert with_exception(other, "KeyError: 1") == other
        assert exception_of(other.reason) == ""
