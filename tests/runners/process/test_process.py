"""Jobs through the process runner: how they start, what they see, how their ends are told; also without the guard."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.errors import LeaseLostError, StartError
from launch_worker.runners.job import Exited
from launch_worker.runners.process import tree
from tests.support.processes import Jobs, end_of, guard_of, pid_in


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    made.close()


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_job_whose_lease_is_over_by_then_is_not_started(jobs: Jobs) -> None:
    """Another worker may have the run: not even an instant of it may be executed here."""
    now = boot_time_s()
    with pytest.raises(LeaseLostError, match="could not renew the lease"):
        jobs.shell("touch begun", lease=(now - 0.1, now + 5.0))
    assert jobs.shell("exit 3", lease=(now + 60.0, now + 61.0)).events.get(timeout=20).status == 3
    assert not (jobs.folder / "begun").exists()


@pytest.mark.parametrize("is_frozen_after_its_look", [False, True], ids=["before", "after the look"])
def test_a_job_without_a_lease_is_not_started_once_its_run_may_be_anothers(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, is_frozen_after_its_look: bool
) -> None:
    start_by = boot_time_s()
    with monkeypatch.context() as frozen:
        if is_frozen_after_its_look:
            frozen.setattr("launch_worker.runners.process.runner.boot_time_s", lambda: start_by - 1.0)
        with pytest.raises(LeaseLostError, match="could not renew the lease"):
            jobs.shell("touch begun", start_by=start_by)
    assert end_of(jobs.shell("exit 3", start_by=boot_time_s() + 60.0)) == Exited(3, "")
    assert not (jobs.folder / "begun").exists()


@pytest.mark.parametrize("code", [0, 1, 3, 143, 255])
def test_an_exit_code_is_told(jobs: Jobs, code: int) -> None:
    """P35."""
    assert end_of(jobs.shell(f"exit {code}")) == Exited(code, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_a_death_by_signal_is_told(jobs: Jobs, number: signal.Signals) -> None:
    """P29, P35."""
    assert end_of(jobs.shell(f"ulimit -c 0; kill -{int(number)} $$")) == Exited(-number, "")


def test_a_kill_from_outside_is_told_at_once_and_is_not_ours(jobs: Jobs) -> None:
    """P29."""
    handle = jobs.start("sleep", "600")
    os.kill(handle.pid, signal.SIGKILL)
    assert end_of(handle) == Exited(-signal.SIGKILL, "")


def test_many_short_jobs_are_each_told_their_own_end(jobs: Jobs) -> None:
    handles = [jobs.shell(f"exit {number}") for number in range(40)]
    assert [end_of(handle).status for handle in handles] == list(range(40))


def test_an_empty_command_is_refused_at_once(jobs: Jobs) -> None:
    with pytest.raises(StartError, match="it is empty"):
        jobs.start(timeout_s=10.0)


# -- what a job sees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["", " ", "a b", "'", '"', ";", "$HOME", "`id`", "a\nb", "é", "--", "x" * 100_000])
def test_an_argument_arrives_as_it_is(jobs: Jobs, argument: str) -> None:
    """W8."""
    handle = jobs.start("printf", "%s|", argument, "last")
    assert end_of(handle).status == 0
    assert jobs.log(handle) == f"{argument}|last|".encode()


def test_the_environment_is_the_given_one_and_no_more(jobs: Jobs) -> None:
    """W9."""
    handle = jobs.start("env", "-0", env={"A": "x y\n'"})
    assert end_of(handle).status == 0
    assert set(jobs.log(handle).decode().split("\0")[:-1]) == {f"{k}={v}" for k, v in jobs.envs[handle.key].items()}


def test_the_job_starts_in_its_folder(jobs: Jobs, tmp_path: Path) -> None:
    """W9."""
    (tmp_path / "a b").mkdir()
    handle = jobs.start("pwd", cwd=tmp_path / "a b")
    end_of(handle)
    assert jobs.log(handle).decode().strip() == str(tmp_path / "a b")


def test_the_job_leads_a_session_and_a_group_of_its_own(jobs: Jobs) -> None:
    """Section 6."""
    handle = jobs.start("sleep", "60")
    assert os.getsid(handle.pid) == os.getpgid(handle.pid) == handle.pid
    handle.stop(grace_s=0)
    end_of(handle)


def test_standard_input_is_at_its_end(jobs: Jobs) -> None:
    """Section 6."""
    handle = jobs.shell("cat; echo read")
    assert end_of(handle).status == 0
    assert jobs.log(handle) == b"read\n"


def test_both_outputs_are_appended_to_the_file_in_order(jobs: Jobs, tmp_path: Path) -> None:
    handle = jobs.shell("while [ ! -e go ]; do sleep 0.01; done; echo one; echo two >&2; printf 'three\\377\\0'")
    with (tmp_path / f"{handle.key}.log").open("ab") as log:
        log.write(b"zero\n")
    (tmp_path / "go").touch()
    end_of(handle)
    assert jobs.log(handle) == b"zero\none\ntwo\nthree\xff\x00"


def test_signals_have_their_usual_meaning_in_a_job(jobs: Jobs) -> None:
    """The guard ignores signals; its jobs must not inherit that."""
    handle = jobs.shell("grep -E '^Sig(Ign|Blk)' /proc/self/status")
    end_of(handle)
    ignored = {line.split()[0]: int(line.split()[1], 16) for line in jobs.log(handle).decode().splitlines()}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE):
        assert not ignored["SigIgn:"] & 1 << (number - 1), number
        assert not ignored["SigBlk:"] & 1 << (number - 1), number


def test_no_descriptor_but_the_three_is_inherited(jobs: Jobs) -> None:
    handle = jobs.shell("ls /proc/$$/fd; true")
    end_of(handle)
    assert set(jobs.log(handle).split()) <= {b"0", b"1", b"2", b"255"}, "255 is bash's own"


# -- start errors ------------------------------------------------------------------------------------------------------


def refused(jobs: Jobs, *argv: str, **options: Any) -> str:
    begun = time.monotonic()
    with pytest.raises(StartError) as error:
        jobs.start(*argv, **options)
    assert time.monotonic() - begun < 10.0, "at once, and not when the time for a start is over"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_command_that_does_not_exist_is_refused_by_name(jobs: Jobs) -> None:
    """P9."""
    assert "'no-such-command' was not found" in refused(jobs, "no-such-command", "x")
    assert "'/no/such/command' was not found" in refused(jobs, "/no/such/command")
    assert "'./nothing' was not found" in refused(jobs, "./nothing")


def test_a_file_that_is_not_executable_is_refused_by_name(jobs: Jobs, tmp_path: Path) -> None:
    """P9."""
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "plain").chmod(0o644)
    assert "is not executable" in refused(jobs, str(tmp_path / "plain"))
    assert str(tmp_path / "plain") in refused(jobs, str(tmp_path / "plain"))
    assert "'./plain' is not executable" in refused(jobs, "./plain")


def test_a_folder_as_the_command_is_refused(jobs: Jobs, tmp_path: Path) -> None:
    """P9."""
    assert str(tmp_path) in refused(jobs, str(tmp_path))


def test_a_missing_working_folder_is_refused_by_name(jobs: Jobs, tmp_path: Path) -> None:
    assert f"'{tmp_path}/gone' does not exist" in refused(jobs, "true", cwd=tmp_path / "gone")
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file" in refused(jobs, "true", cwd=tmp_path / "file")


@pytest.mark.parametrize("program", ["{folder}/script", "./script"])
def test_a_missing_interpreter_is_not_called_a_missing_command(jobs: Jobs, tmp_path: Path, program: str) -> None:
    """P9."""
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    assert "interpreter" in refused(jobs, program.format(folder=tmp_path))


def test_a_file_that_is_no_program_is_refused_by_name(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\x7fELF garbage")
    (tmp_path / "garbage").chmod(0o755)
    assert f"{tmp_path}/garbage" in refused(jobs, str(tmp_path / "garbage"))


def test_the_runner_goes_on_after_a_start_error(jobs: Jobs) -> None:
    """W1, P41."""
    refused(jobs, "no-such-command")
    assert end_of(jobs.start("true")).status == 0


# -- a guard that dies -------------------------------------------------------------------------------------------------


def test_jobs_outlive_their_guard_and_their_exit_codes_are_still_told(jobs: Jobs, tmp_path: Path) -> None:
    codes = (0, 7, 41)
    handles = [jobs.shell(f"while [ ! -e go{code} ]; do sleep 0.01; done; exit {code}") for code in codes]
    jobs.kill_guard()
    for code, handle in zip(codes, handles, strict=True):
        assert handle.events.empty()
        (tmp_path / f"go{code}").touch()
        assert end_of(handle) == Exited(code, "")


def test_a_signal_death_after_the_guards_death_is_told(jobs: Jobs) -> None:
    handle = jobs.start("sleep", "60")
    jobs.kill_guard()
    os.kill(handle.pid, signal.SIGKILL)
    assert end_of(handle) == Exited(-signal.SIGKILL, "")


def test_stop_works_after_the_guards_death(jobs: Jobs) -> None:
    handle = jobs.shell("trap '' TERM; setsid sleep 600 & touch ready; while :; do sleep 1; done")
    jobs.wait_for("ready")
    jobs.kill_guard()
    handle.stop(grace_s=0.2)
    assert end_of(handle) == Exited(-signal.SIGKILL, "asked")
    assert jobs.members(handle) == []


def test_jobs_are_started_after_the_guards_death(jobs: Jobs) -> None:
    for _ in range(3):
        jobs.kill_guard()
        assert end_of(jobs.shell("exit 5")) == Exited(5, "")


def test_a_job_that_ends_while_there_is_no_guard_is_told(jobs: Jobs) -> None:
    """The exit falls into the moment between two guards."""
    handle = jobs.start("sleep", "60")
    os.kill(guard_of(jobs.runner), signal.SIGKILL)
    os.kill(handle.pid, signal.SIGTERM)
    exited = end_of(handle)
    assert exited.status in (-signal.SIGTERM, None), "lost at worst, never wrong"


def test_leftovers_of_a_job_are_ended_by_the_second_guard(jobs: Jobs, tmp_path: Path) -> None:
    handle = jobs.shell(
        "setsid bash -c 'echo $$ > pid; exec sleep 600' & while [ ! -e go ]; do sleep 0.01; done; exit 3"
    )
    left = pid_in(tmp_path / "pid")
    jobs.kill_guard()
    (tmp_path / "go").touch()
    assert end_of(handle) == Exited(3, "")
    assert not tree.is_alive(left)
