"""The kernel's counter of processes that it killed for memory, as each control group's version writes it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from launch_worker.model.outcome import Outcome, outcome_of_exit, with_out_of_memory
from launch_worker.model.states import RunState
from launch_worker.runners.process import oom
from launch_worker.runners.process.oom import Counter, own_counter

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 3\nmax 5\noom 4\noom_kill {}\noom_group_kill 9\n"


@pytest.mark.parametrize("text", [V1, V2])
def test_kills_are_counted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counter"
    path.write_text(text.format(9))
    counter = Counter([str(tmp_path / "none"), str(path)])
    assert counter.kills() == 9
    path.write_text(text.format(10))
    assert counter.kills() == 10
    counter.close()
    assert counter.kills() is None


def test_a_file_without_the_count_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("oom_kill_disable 0\nunder_oom 0\n")
    (tmp_path / "new").write_text(V2.format(1))
    assert Counter([str(tmp_path / "old"), str(tmp_path / "new")]).kills() == 1
    assert Counter([str(tmp_path / "none"), str(tmp_path / "old")]).kills() is None
    assert own_counter() is own_counter()


@pytest.mark.parametrize(
    ("status", "before", "said", "is_oom"),
    [
        (-signal.SIGKILL, 3, True, True),
        (-signal.SIGKILL, 3, False, False),
        (-signal.SIGKILL, 2, None, True),
        (-signal.SIGKILL, 3, None, False),
        (-signal.SIGKILL, None, None, False),
        # A shell whose child was killed: the kernel's log names the child.
        (137, 2, False, True),
        (137, 3, True, False),
        (1, 2, True, False),
        (-signal.SIGTERM, 2, True, False),
    ],
)
def test_a_sigkill_alone_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, before: int | None, said: bool | None, is_oom: bool
) -> None:
    (tmp_path / "counter").write_text(V2.format(3))
    monkeypatch.setattr(oom, "_counter_files", lambda: [str(tmp_path / "counter")])
    monkeypatch.setattr(oom, "kernel_says", lambda pid: said)
    assert oom.has_ended(1, status, kills_before=before) is is_oom


def test_the_end_of_a_job_that_the_kernel_has_killed_says_so() -> None:
    killed, by_shell = with_out_of_memory(outcome_of_exit(-signal.SIGKILL)), with_out_of_memory(outcome_of_exit(137))
    text = "out of memory (the kernel's OOM killer ended it)"
    assert (killed.reason, killed.message, killed.cause) == (f"ended by SIGKILL: {text}",) * 2 + ("oom",)
    assert (by_shell.reason, by_shell.cause) == (f"exit code 137: {text}", "oom")
    said = Outcome(RunState.FINISHED, signal="SIGKILL")
    assert with_out_of_memory(said) is said, "a job that had called itself finished"
