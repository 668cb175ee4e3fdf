"""A project that uses the public names gets their types: `py.typed` is shipped, and mypy --strict reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import launch_worker

GOOD = """
from typing import assert_type

from launch_worker import Api, LaunchAgent, Run, __version__, current_run, submit, submit_many
from launch_worker.errors import InputError, LaunchError
from launch_worker.ids import new_run_id


def train(api: Api) -> int | None:
    run = submit(["python", "train.py"], queue="gpu", gpus=1, run_id=new_run_id(), api=api)
    assert_type(run, Run)
    assert_type(run.exit_code, int | None)
    assert_type(submit_many([{"command": ["true"]}], api=api), list[Run])
    assert_type(__version__, str)
    assert_type(new_run_id(), str)
    return run.exit_code


def serve(api: Api) -> None:
    with LaunchAgent(api, {"queues": ["gpu"]}) as agent:
        assert_type(agent.num_running_jobs, int)


def job() -> None:
    current_run().log({"loss": 0.5})


def why(error: InputError) -> str:
    return str(error) if isinstance(error, LaunchError) else ""
"""
#: One mistake a line, each of which a checker must find.
BAD = """
import launch_worker
from launch_worker import no_such_name

launch_worker.submit(7)
launch_worker.submit(["true"], no_such_option=1)
launch_worker.Api().run("id").no_such_attribute
launch_worker.current_run().log({1: 2}, step="three")
"""


@pytest.mark.timeout(300)
def test_a_project_that_uses_the_public_names_is_checked_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    # Not the settings of this repository: what is installed is what a user has.
    options = ["--strict", "--config-file=", f"--cache-dir={os.devnull}"]
    command = [sys.executable, "-m", "mypy", *options, "good.py", "bad.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    wrong = {(line.split(":")[0], int(line.split(":")[1])) for line in done.stdout.splitlines() if ": error: " in line}
    assert wrong == {("bad.py", line) for line in (3, 5, 6, 7, 8)}, done.stdout + done.stderr


def test_every_public_name_is_there() -> None:
    assert all(hasattr(launch_worker, name) for name in [*launch_worker.__all__, "__version__"])
