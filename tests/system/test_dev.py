"""The embedded default: one command, no server installed, and nothing left running, whatever ends it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.runners.process import tree
from tests.conftest import wait_until

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LAUNCH_WORKER = str(BIN / "launch-worker")
SUBMIT = str(BIN / "launch-submit")
#: A job that SIGTERM does not end.
STUBBORN = ("sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.1; done")


class User:
    """Somebody with a home of their own, and what they start."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "CELERY_"))}
        # The path of the guard's socket must be short.
        self.env |= {"TMPDIR": str(home), "XDG_STATE_HOME": str(home)}
        self.data = home / "launch-worker" / "dev"
        self._started: list[subprocess.Popen[str]] = []

    def dev(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [LAUNCH_WORKER, "dev", *arguments]
        process = subprocess.Popen(command, cwd=REPO, env=self.env, text=True, **{**pipes, **options})
        self._started.append(process)
        return process

    def dev_that_is_up(self, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        dev = self.dev("--no-web", "--json", *arguments)
        assert dev.stdout is not None
        line = dev.stdout.readline()
        assert line, dev.communicate()
        return dev, json.loads(line)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in another shell."""
        return subprocess.run(command, env=self.env, text=True, capture_output=True, timeout=60, check=False)

    def processes(self) -> list[int]:
        """All that was started with this TMPDIR: the parts, their guards, jobs."""
        mark = (f"TMPDIR={self.home}".encode(),)
        return [p.id.pid for p in tree.table() if not p.zombie and tree.has_environ(p.id.pid, mark)]

    def processes_of(self, words: str) -> list[int]:
        return [pid for pid in self.processes() if words in _command_line(pid)]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        try:
            wait_until(lambda: not self.processes(), timeout_s=30)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.close()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it says on standard error, up to the line with this word."""
    assert process.stderr is not None
    said = ""
    while word not in said:
        line = process.stderr.readline()
        assert line, f"it ended after: {said}"
        said += line
    return said


def test_dev_runs_one_job_through_everything_and_leaves_nothing(user: User) -> None:
    dev = user.dev("--temporary", "--", sys.executable, "examples/train_iris.py", "--epochs", "3", "--pause", "0")
    out, err = dev.communicate(timeout=60)
    assert dev.returncode == 0, err
    assert "epoch 3/3" in out
    assert "accuracy=" in out
    assert [word for word in ("Pending", "Running", "Finished") if word in out] == ["Pending", "Running", "Finished"]
    assert not user.processes()
    assert not list(user.home.iterdir())


def test_dev_exits_with_the_jobs_code(user: User) -> None:
    dev = user.dev("--no-web", "--json", "--", "sh", "-c", "exit 7")
    out, err = dev.communicate(timeout=60)
    assert dev.returncode == 7, err
    assert json.loads(out)["state"] == "Failed"


def test_runs_ports_and_password_are_kept_until_the_next_time_and_other_shells_find_it(user: User) -> None:
    dev, up = user.dev_that_is_up()
    assert up["data"] == str(user.data)
    done = user.run(SUBMIT, "--follow", "--name", "kept", "--", "echo", "hi")
    assert done.stdout == "hi\n", done.stderr
    user.run(SUBMIT, "--name", "stopped", "--", "sleep", "600")
    wait_until(lambda: user.processes_of("sleep 600"))
    dev.send_signal(signal.SIGINT)
    _, err = dev.communicate(timeout=40)
    assert dev.returncode == 0, err
    assert "1 running run may take 10 s to end; Ctrl-C again kills" in err
    assert "Traceback" not in err
    assert not user.processes()
    assert user.data.stat().st_mode & 0o077 == 0

    dev, again = user.dev_that_is_up()
    assert again["redis_url"].partition("@")[0] == up["redis_url"].partition("@")[0]
    listed = [json.loads(line) for line in user.run(LAUNCH_WORKER, "runs", "--json").stdout.splitlines()]
    assert {run["name"]: run["state"] for run in listed} == {"kept": "Finished", "stopped": "Killed"}
    dev.send_signal(signal.SIGTERM)
    _, err = dev.communicate(timeout=40)
    assert dev.returncode == 0, err


def test_other_shells_read_the_whole_of_a_large_output(user: User) -> None:
    user.dev_that_is_up()
    run_id = user.run(SUBMIT, "--wait", "--quiet", "--", "seq", "300000").stdout.strip()
    whole = "".join(f"{number}\n" for number in range(1, 300_001))
    # A moment after the run's end not all need be stored.
    wait_until(lambda: user.run(LAUNCH_WORKER, "logs", run_id).stdout == whole, what="all of it is read")
    assert user.run(LAUNCH_WORKER, "logs", run_id).stderr == ""


def test_a_second_dev_is_refused_with_the_address_of_the_first_and_a_temporary_one_is_not(user: User) -> None:
    first, up = user.dev_that_is_up()
    second = user.dev("--", "true")
    _, err = second.communicate(timeout=40)
    assert second.returncode == 1
    assert f"127.0.0.1:{up['redis_url'].rpartition(':')[2]}" in err
    password = up["redis_url"].partition("://:")[2].partition("@")[0]
    assert password not in err
    assert first.poll() is None
    beside = user.dev("--temporary", "--no-web", "--", "true")
    beside.communicate(timeout=40)
    assert beside.returncode == 0


def test_the_web_page_answers_once_its_address_is_told(user: User) -> None:
    import urllib.error
    import urllib.request

    dev = user.dev()
    assert dev.stdout is not None
    said = ""
    while "Ctrl-C" not in said:
        said += dev.stdout.readline()
    address = next(line.split()[-1] for line in said.splitlines() if line.startswith("web page"))
    # The key in the address becomes a cookie.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(address, timeout=30) as page:
        assert page.status == 200
        assert b"Overview" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address.partition('?')[0]}celery/", timeout=10)
    assert f"{user.data}, with no runs yet" in said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_all_parts_and_jobs_end_with_dev_whatever_signal_ended_it(user: User, number: signal.Signals) -> None:
    dev, _ = user.dev_that_is_up()
    user.run(SUBMIT, "--", "sh", "-c", "sleep 600 & sleep 601")
    wait_until(lambda: user.processes_of("sleep 601"))
    dev.send_signal(number)
    dev.wait(10)
    wait_until(lambda: not user.processes(), what="all have ended")
    # In their order: the worker could still tell.
    _, _ = user.dev_that_is_up()
    (run,) = (json.loads(line) for line in user.run(LAUNCH_WORKER, "runs", "--json").stdout.splitlines())
    assert run["state"] == "Killed"
    assert "the worker shut down" in run["reason"]


def test_dev_below_nohup_goes_on_after_a_hangup(user: User) -> None:
    dev = user.dev("--no-web", "--json", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert dev.stdout is not None
    assert dev.stdout.readline()
    dev.send_signal(signal.SIGHUP)
    done = user.run(SUBMIT, "--follow", "--", "echo", "hi")
    assert done.stdout == "hi\n", done.stderr
    dev.send_signal(signal.SIGTERM)
    _, err = dev.communicate(timeout=40)
    assert dev.returncode == 0, err


def test_all_parts_and_jobs_end_when_the_terminal_is_closed(user: User) -> None:
    main, side = pty.openpty()
    dev = user.dev(
        "--temporary", "--no-web", stdin=side, stdout=side, stderr=side, preexec_fn=lambda: _take_terminal(side)
    )
    os.close(side)
    said = b""
    while b"Ctrl-C stops it all" not in said:
        said += os.read(main, 1000)
    assert len(user.processes()) > 3
    os.close(main)
    dev.wait(10)
    wait_until(lambda: not user.processes(), what="all have ended")
    assert not list(user.home.iterdir())


def _take_terminal(side: int) -> None:
    os.setsid()
    import fcntl
    import termios

    fcntl.ioctl(side, termios.TIOCSCTTY, 0)


def test_all_parts_and_jobs_end_with_the_process_that_keeps_them_together(user: User) -> None:
    dev, _ = user.dev_that_is_up()
    user.run(SUBMIT, "--", "sleep", "600")
    wait_until(lambda: user.processes_of("sleep 600"))
    keeper = next(pid for pid in user.processes_of(" dev ") if pid != dev.pid)
    os.kill(keeper, signal.SIGKILL)
    _, err = dev.communicate(timeout=20)
    assert dev.returncode == 1
    assert "has ended" in err
    wait_until(lambda: not user.processes(), what="all have ended")


@pytest.mark.parametrize("arguments", [(), ("--", "sleep", "600")], ids=["alone", "with a job"])
def test_dev_ends_with_a_sentence_when_a_part_does(user: User, arguments: tuple[str, ...]) -> None:
    dev = user.dev("--temporary", "--no-web", *arguments)
    wait_until(lambda: user.processes_of("sleep 600") or not arguments)
    wait_until(lambda: user.processes_of("runners.process.guard"))
    # Not while it forks.
    (worker,) = wait_until(lambda: found if len(found := user.processes_of("launch_worker worker")) == 1 else None)
    os.kill(worker, signal.SIGKILL)
    _, err = dev.communicate(timeout=40)
    assert dev.returncode == 1, err
    assert "the worker ended with -9" in err
    assert "Traceback" not in err
    assert not user.processes()


def test_ctrl_c_cancels_the_job_of_dev_and_says_so(user: User) -> None:
    job = "trap 'echo saved; exit 3' TERM; echo begun >&2; echo begun; while :; do sleep 0.1; done"
    dev = user.dev("--temporary", "--no-web", "--", "sh", "-c", job)
    assert dev.stdout is not None
    wait_until(lambda: "begun" in (dev.stdout.readline() if dev.stdout else ""))
    dev.send_signal(signal.SIGINT)
    out, err = dev.communicate(timeout=40)
    assert "Ctrl-C again kills it" in err
    assert "saved" in out
    assert "cancelled by" in out
    assert "Killed" in out
    assert dev.returncode == 143, err
    assert "Traceback" not in err


def test_a_second_ctrl_c_kills_the_job_of_dev(user: User) -> None:
    # A grace for which nobody waits by mistake.
    dev, _ = user.dev_that_is_up()
    assert user.run(LAUNCH_WORKER, "queues", "create", "default", "--default", "grace=10m").returncode == 0
    dev.send_signal(signal.SIGINT)
    dev.communicate(timeout=40)
    dev = user.dev("--no-web", "--", *STUBBORN)
    assert dev.stdout is not None
    wait_until(lambda: "begun" in (dev.stdout.readline() if dev.stdout else ""))
    dev.send_signal(signal.SIGINT)
    _read_until(dev, "Ctrl-C again kills it")
    dev.send_signal(signal.SIGINT)
    out, err = dev.communicate(timeout=40)
    assert "killing run" in err
    assert "Killed" in out
    assert dev.returncode == 143


def test_a_second_ctrl_c_kills_what_does_not_stop(user: User) -> None:
    dev, _ = user.dev_that_is_up()
    user.run(SUBMIT, "--grace", "10m", "--", *STUBBORN)
    wait_until(lambda: user.processes_of("trap"))
    dev.send_signal(signal.SIGINT)
    assert "1 running run may take 600 s to end" in _read_until(dev, "Ctrl-C again kills")
    dev.send_signal(signal.SIGINT)
    _, err = dev.communicate(timeout=20)
    assert dev.returncode == 0, err
    assert not user.processes()
    user.dev_that_is_up()
    (run,) = (json.loads(line) for line in user.run(LAUNCH_WORKER, "runs", "--json").stdout.splitlines())
    assert run["state"] == "Killed"
    assert "Ctrl-C" in run["reason"]


def test_its_archive_is_found_by_commands_in_other_shells(user: User) -> None:
    dev, _ = user.dev_that_is_up()
    submitted = user.run(SUBMIT, "--wait", "--quiet", "--", "true")
    run_id = submitted.stdout.strip()
    assert submitted.returncode == 0, submitted

    def archived() -> dict[str, Any]:
        said = user.run(LAUNCH_WORKER, "archive", "status", "--json")
        return dict(json.loads(said.stdout)["runs"]) if said.returncode == 0 else {}

    wait_until(lambda: archived().get("Finished"), what="the run is archived")
    exported = user.run(LAUNCH_WORKER, "archive", "export")
    assert json.loads(exported.stdout)["id"] == run_id
    dev.send_signal(signal.SIGTERM)
    assert dev.wait(30) == 0
    assert (user.data / "archive.db").exists()
