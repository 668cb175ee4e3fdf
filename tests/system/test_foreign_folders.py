"""Folders in which another account of the machine has put something: nothing of it is executed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.system.conftest import Cluster, Part
from tests.unit.untrusted.test_ownership import give_away

#: What is imported when a worker starts, and what is looked for and is not installed.
PLANTED = ("celery", "redis", "kombu", "click", "launch_worker", "flower", "brotli", "zstandard", "eventlet", "uvloop")
BIN = Path(sys.executable).parent


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with a trap for each way of importing from it."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'sprung')!r}, 'a').write('{name} ')\nraise SystemExit(66)\n"
        )
    return folder


def started(cluster: Cluster, folder: Path, *command: str) -> Part:
    log_path = cluster.folder / f"{len(cluster.parts)}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=cluster.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    part = Part(process, log_path)
    cluster.parts.append(part)
    return part


COMMANDS = {
    "start": (str(BIN / "launch-worker"), "start", "-q", "default"),
    "celery worker": (str(BIN / "celery"), "-A", "launch_worker", "worker", "-Q", "default", "--loglevel", "INFO"),
    "celery beat": (str(BIN / "celery"), "-A", "launch_worker", "beat", "--loglevel", "INFO"),
    "dev": (str(BIN / "launch-worker"), "dev", "--temporary", "--", "true"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_imported_from_the_folder_that_a_command_is_started_in(
    cluster: Cluster, planted: Path, command: str
) -> None:
    part = started(cluster, planted, *COMMANDS[command])
    said = {"celery beat": "beat: Starting", "dev": "Finished"}.get(command, " ready.")
    wait_until(lambda: said in part.log or part.process.poll() is not None, timeout_s=60, what=f"{said} in the log")
    assert said in part.log
    assert not (planted / "sprung").exists(), (planted / "sprung").read_text()


@pytest.mark.parametrize("command", ["start", "celery worker", "celery beat"])
def test_celery_settings_are_read_only_if_nobody_else_could_have_written_them(
    cluster: Cluster, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "celeryconfig.py"
    config.write_text("worker_concurrency = 3\n")
    part = started(cluster, tmp_path, *COMMANDS[command])
    wait_until(lambda: f"Celery settings of {config}" in part.log, what="its settings are named at the start")
    part.kill()
    config.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    give_away(config)
    part = started(cluster, tmp_path, *COMMANDS[command])
    assert part.wait() != 0
    assert f"{config} is not read, and nothing is started: {config} belongs to user" in part.log
    assert "Traceback" not in part.log
    assert not (tmp_path / "sprung").exists()


def test_celery_settings_may_be_another_file_by_name(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("worker_concurrency = 3\n")
    cluster.env["CELERY_CONFIG_MODULE"] = "mine"
    part = started(cluster, tmp_path, *COMMANDS["celery worker"])
    wait_until(lambda: " ready." in part.log or part.process.poll() is not None, what="the worker is ready")
    assert f"Celery settings of {tmp_path / 'mine.py'}" in part.log


@pytest.mark.parametrize("what", [".", "..", "workers"])
def test_a_work_folder_that_another_account_may_change_is_refused(cluster: Cluster, tmp_path: Path, what: str) -> None:
    work = tmp_path / "state" / "work"
    (work / "workers").mkdir(parents=True)
    give_away(work / what)
    cluster.env["LAUNCH_WORK_DIR"] = str(work)
    part = cluster.worker(wait=False)
    assert part.wait() != 0
    path = os.path.normpath(work / what)
    assert (
        f"the worker cannot use LAUNCH_WORK_DIR {work}, for others could harm its jobs: {path} belongs to" in part.log
    )
    assert "Traceback" not in part.log
    assert not list((work / "workers").iterdir()), "nothing of ours was put there"


def test_a_folder_for_everybody_is_refused_unless_it_is_said_that_nobody_else_is_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    part = cluster.worker(wait=False)
    assert part.wait() != 0
    assert f"take that away with: chmod o-w {work}" in part.log
    cluster.worker(env={"LAUNCH_WORK_DIR_TRUSTED": "1"})


def test_a_user_without_home_is_told_so(cluster: Cluster) -> None:
    code = """
import pwd, sys
def getpwuid(uid): raise KeyError(uid)
pwd.getpwuid = getpwuid
sys.argv = ["celery", "-A", "launch_worker", "worker", "-Q", "default"]
from celery.__main__ import main
main()
"""
    env = {name: value for name, value in cluster.env.items() if name not in ("HOME", "LAUNCH_WORK_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cluster.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "this user has no home, so there is no place for the worker's files; set LAUNCH_WORK_DIR" in done.stderr


def test_a_user_whose_inotify_instances_are_used_up_is_told_the_limit(cluster: Cluster) -> None:
    """Each worker takes one, and a user has 128 of them."""
    none_left = 'echo 0 >/proc/sys/user/max_inotify_instances; exec "$@"'
    worker = (*COMMANDS["celery worker"], "-c", "1")
    result = cluster.run("unshare", "--user", "--map-root-user", "sh", "-c", none_left, "sh", *worker)
    assert result.code != 0
    assert "fs.inotify.max_user_instances" in result.err
    assert "Traceback" not in result.err
