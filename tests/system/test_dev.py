"""The embedded default: one command, no server installed, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch_worker.runners import tree
from tests.conftest import wait_until

REPO = Path(__file__).parents[2]
LAUNCH_WORKER = str(Path(sys.executable).parent / "launch-worker")


def _environment(folder: Path) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LAUNCH_", "CELERY_"))}
    return env | {"TMPDIR": str(folder)}


def _left(folder: Path) -> list[int]:
    """Processes that were started with this TMPDIR: all parts of one stack."""
    mark = (f"TMPDIR={folder}".encode(),)
    return [p.id.pid for p in tree.table() if not p.zombie and tree.has_environ(p.id.pid, mark)]


def test_dev_runs_one_job_through_everything_and_leaves_nothing(tmp_path: Path) -> None:
    job = [LAUNCH_WORKER, "dev", "--", sys.executable, "examples/train_iris.py", "--epochs", "3", "--pause", "0"]
    done = subprocess.run(job, cwd=REPO, env=_environment(tmp_path), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode()
    assert "epoch 3/3" in out
    assert "accuracy=" in out
    assert [word for word in ("Pending", "Running", "Finished") if word in out] == ["Pending", "Running", "Finished"]
    assert not _left(tmp_path)
    assert not list(tmp_path.iterdir())


def test_dev_exits_with_the_jobs_code(tmp_path: Path) -> None:
    job = [LAUNCH_WORKER, "dev", "--no-web", "--json", "--", "sh", "-c", "exit 7"]
    done = subprocess.run(job, cwd=REPO, env=_environment(tmp_path), capture_output=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)["state"] == "Failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_serves_until_it_is_stopped(tmp_path: Path, number: int) -> None:
    dev = subprocess.Popen(
        [LAUNCH_WORKER, "dev", "--json"],
        cwd=REPO,
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert dev.stdout is not None
    url = json.loads(dev.stdout.readline())["redis_url"]
    submit = str(Path(sys.executable).parent / "launch-submit")
    env = _environment(tmp_path) | {"LAUNCH_REDIS_URL": url}
    done = subprocess.run(
        [submit, "--follow", "--", "echo", "hi"], env=env, capture_output=True, timeout=30, check=False
    )
    assert done.stdout == b"hi\n", done.stderr
    subprocess.run([submit, "--", "sleep", "600"], env=env, capture_output=True, timeout=30, check=True)
    time.sleep(0.3)
    begun = time.monotonic()
    dev.send_signal(number)
    _, err = dev.communicate(timeout=40)
    assert dev.returncode == 0, err
    assert time.monotonic() - begun < 20
    wait_until(lambda: not _left(tmp_path), timeout_s=5, what="nothing is left running")
    assert b"Traceback" not in err
