"""Workers as a plain user, whom the kernel refuses what root may do. Run as root, the tests make themselves one."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Run
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.system.conftest import Cluster, states, wait_for_output, wait_for_pid, waits_for
from tests.system.test_failures import guard_of

#: Nobody has these.
UID, OTHER_UID = 47_011, 47_012

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes processes of several users")


@pytest.fixture
def plain(redis_url: str) -> Iterator[Cluster]:
    """A cluster whose parts are no root's."""
    # Not pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="launch-plain-"))
    folder.chmod(0o755)
    give_to(folder, UID)
    made = Cluster(redis_url, folder)
    made.env |= {"HOME": str(folder), "HUB_TOKEN": "a secret"}
    yield made
    made.close()
    shutil.rmtree(folder)


def give_to(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def by_user(*argv: str) -> list[str]:
    if os.geteuid() != 0:
        return list(argv)
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    if not is_python_open():
        # What it needs to get at this Python, which lies in a folder of root's.
        user += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*user, *argv]


#: A job, as one of a worker that has no rights beyond those of its user.
PLAIN_SH = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "sh", "-c"]


@functools.cache
def is_python_open() -> bool:
    """Whether other users may execute it."""
    program = [sys.executable, "-c", "import subprocess, sys; subprocess.check_call([sys.executable, '-V'])"]
    user: dict[str, Any] = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        return subprocess.run(program, check=False, capture_output=True, **user).returncode == 0
    except PermissionError:
        return False


def test_a_job_of_the_same_user_reads_nothing_of_worker_guard_and_beat(plain: Cluster) -> None:
    worker = plain.worker(by=by_user)
    beat = plain.celery("beat", "--loglevel", "INFO", name="beat", by=by_user)
    wait_until(lambda: "beat: Starting" in beat.log, what="beat has started")
    pids = f"{worker.pid} {guard_of(worker.pid)} {beat.pid}"
    script = f"""
    for pid in {pids}; do
        for file in environ maps; do cat /proc/$pid/$file; done
        head -c 1 /proc/$pid/mem; ls /proc/$pid/fd/
    done
    echo read $(cat /proc/$$/environ | wc -c) bytes of its own
    """
    run = submit([*PLAIN_SH, script], api=plain.api)
    assert run.wait(20) is RunState.FINISHED
    output = run.logs().decode()
    assert output.count("Permission denied") == 4 * 3, output
    assert "LAUNCH_REDIS_URL" not in output
    assert "read 0 bytes" not in output


def test_a_guard_s_environment_has_no_secrets_of_its_worker(plain: Cluster) -> None:
    """Not even for those who may read it, nor in the moment before it hides its memory."""
    worker = plain.worker(by=by_user)
    entries = tree.environ(guard_of(worker.pid)) if os.geteuid() == 0 else set()
    names = {entry.partition(b"=")[0].decode() for entry in entries}
    assert not names & {"LAUNCH_REDIS_URL", "HUB_TOKEN"}
    if os.geteuid() == 0:
        assert {"PATH", "HOME", "LAUNCH_WORK_DIR"} <= names


@needs_root
def test_a_worker_that_changes_its_user_itself_is_as_closed(plain: Cluster) -> None:
    """With `--uid`, after which the kernel goes by `fs.suid_dumpable`."""
    if not is_python_open():
        pytest.skip("other users may not execute this Python")
    nobody = pwd.getpwnam("nobody")
    give_to(plain.folder, nobody.pw_uid)
    worker = plain.worker(
        arguments=("--uid", str(nobody.pw_uid)),
    )
    assert f"\nUid:\t{nobody.pw_uid}\t" in Path(f"/proc/{worker.pid}/status").read_text()
    assert submit(["true"], api=plain.api).wait(20) is RunState.FINISHED, "its guard has started for certain"
    for pid in (worker.pid, guard_of(worker.pid)):
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "the kernel gives to its user what that may read"


def test_what_a_plain_user_s_worker_sees_of_its_jobs_is_all_there(plain: Cluster) -> None:
    """Ends of the jobs of a guard that was killed, leftovers, cancels: all of that goes by /proc."""
    worker = plain.worker(slots=3, by=by_user)
    ends = submit(["sh", "-c", f"echo up; {waits_for(plain.folder / 'end')}; exit 7"], api=plain.api)
    daemon = "exec setsid sleep 600 >/dev/null 2>&1"
    leaves = submit(["sh", "-c", f"env -i sh -c '{daemon}' & echo up; sleep 0.3"], api=plain.api)
    stays = submit(["sh", "-c", "echo up; exec sleep 600"], api=plain.api)
    for run in (ends, stays):
        wait_for_output(run, b"up")
    os.kill(guard_of(worker.pid), signal.SIGKILL)
    (plain.folder / "end").touch()
    assert leaves.wait(20) is RunState.FINISHED
    assert ends.wait(20) is RunState.FAILED
    assert ends.exit_code == 7
    pid = wait_for_pid(stays)
    stays.cancel()
    assert stays.wait(20) is RunState.KILLED
    assert tree.look_up(pid) is None
    assert states(stays) == ["Pending", "Running", "Killed"]


@needs_root
def test_a_job_of_another_user_s_processes_is_waited_for_and_its_run_says_why(plain: Cluster) -> None:
    """A setuid program, as `sudo`: a worker that is not root cannot signal what that runs."""
    plain.worker(slots=3, by=by_user)
    with roots_process(plain.folder) as waits:
        limited = submit(waits.split(), timeout="1s", grace="0.5s", api=plain.api)
        cancelled = submit(waits.split(), grace="0.5s", api=plain.api)
        leaves = submit(["sh", "-c", f"{waits} & exit 0"], api=plain.api)
        wait_for_pid(cancelled)
        cancelled.cancel(reason="no more")
        told = "(tail) belongs to another user and cannot be ended by this worker"
        ends = ((limited, "time limit of 1 s reached; process "), (cancelled, "no more; process "), (leaves, ""))
        for run, why in ends:
            wait_for_reason(run, told)
            assert run.refresh().reason.removeprefix("stopping: ").startswith(why)
            assert run.state is RunState.RUNNING
    assert limited.wait(20) is RunState.FAILED
    assert cancelled.wait(20) is RunState.KILLED
    assert leaves.wait(20) is RunState.FINISHED
    for run, why in ends:
        assert run.refresh().reason.startswith(why)
        assert told in run.refresh().reason


@needs_root
def test_what_cannot_be_ended_is_looked_at_once_a_second(plain: Cluster) -> None:
    worker = plain.worker(by=by_user)
    with roots_process(plain.folder) as waits:
        run = submit(["sh", "-c", f"{waits} & exit 0"], api=plain.api)
        wait_for_reason(run, "cannot be ended")
        guard = guard_of(worker.pid)
        # It has begun to look seldom when it waits for so long.
        wait_until(lambda: waits_in(guard, 1.5) <= 4, timeout_s=15, what="the guard looks seldom")
    assert run.wait(20) is RunState.FINISHED


def wait_for_reason(run: Run, text: str) -> None:
    wait_until(lambda: text in run.refresh().reason, what=f"{text!r} is in the reason of a run that runs")


def waits_in(pid: int, seconds: float) -> int:
    """How often the process has waited for something meanwhile."""

    def waits() -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    before = waits()
    time.sleep(seconds)
    return waits() - before


@contextlib.contextmanager
def roots_process(folder: Path) -> Iterator[str]:
    """A command that runs as root, whoever starts it, until this context ends.

    What is only setuid may still be signalled by its user.
    """
    program = folder / "rooted"
    shutil.copy(shutil.which("setpriv") or "", program)
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    command = [str(program), "--reuid=0"]
    if subprocess.run([*by_user(*command, "true")], check=False).returncode:
        pytest.skip("no program is setuid here")
    lives = subprocess.Popen(["sleep", "120"])
    try:
        yield " ".join([*command, "tail", f"--pid={lives.pid}", "--follow", "/dev/null"])
    finally:
        lives.kill()
        lives.wait()
