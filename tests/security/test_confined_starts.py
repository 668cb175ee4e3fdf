"""What a confined job could take along from its worker, or do to it, while it is being started."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.attempt.folder import AttemptFolder
from launch_worker.errors import StartError
from launch_worker.queues.confinement import Demands
from launch_worker.runners.job import Exited
from launch_worker.runners.process.accounts import Account, find_account, why_no_other_user
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.hidden import Hidden
from launch_worker.runners.process.landlock import LEAST_ABI, abi
from launch_worker.runners.process.layers import Layers
from launch_worker.settings import Settings
from tests.support.keys import LOOK, put_key
from tests.support.processes import Jobs, end_of
from tests.support.sandboxes import in_bubblewrap, needs_bubblewrap

needs_landlock = pytest.mark.skipif(abi() < LEAST_ABI, reason="the kernel has no Landlock with scoped signals")
needs_root = pytest.mark.skipif(bool(why_no_other_user()), reason="this user may not start processes as others")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder to which each account may come."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o711)
        yield Path(made)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("none", "seen"),
        pytest.param("bubblewrap", "not seen", marks=needs_bubblewrap),
        pytest.param("landlock", "not seen", marks=needs_landlock),
        pytest.param("run_as", "not seen", marks=needs_root),
    ],
)
def test_a_key_of_the_workers_login_is_not_a_confined_jobs(folder: Path, layer: str, said: str) -> None:
    if not put_key():
        pytest.skip("this kernel, or its container, keeps no keys")
    python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python is there for other accounts")
    confinement = {
        "bubblewrap": in_bubblewrap(folder),
        "landlock": Confinement("private", writable=(str(folder),)),
        "run_as": Confinement(account=find_account("nobody")) if layer == "run_as" else None,
    }.get(layer)
    jobs = Jobs(folder, confinement=confinement)
    handle = jobs.start(python, "-I", "-S", "-c", LOOK)
    assert end_of(handle) == Exited(0, "")
    assert jobs.log(handle).decode() == f"{said}\n"
    jobs.close()


@needs_bubblewrap
def test_a_variable_brings_bubblewrap_no_option(folder: Path) -> None:
    jobs = Jobs(folder, confinement=in_bubblewrap(folder))
    for variables in ({"A": "x\0--bind\0/\0/"}, {"A\0--bind\0/\0/": "x"}):
        with pytest.raises(StartError, match="null byte"):
            jobs.start("true", env=variables)
    jobs.close()


@needs_bubblewrap
def test_a_pipe_for_a_program_holds_up_no_thread_of_the_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "program", 0o777)
    jobs = Jobs(folder, confinement=in_bubblewrap(folder))
    with pytest.raises(StartError, match="not executable"):
        jobs.start("./program")
    # One that takes the place of a file which was just looked at.
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    with pytest.raises(StartError, match="Exec format error"):
        jobs.start("./program")
    jobs.close()


def test_what_is_hidden_is_made_before_a_job_could_see_it_come(folder: Path) -> None:
    store = folder / "shared" / "outputs"
    settings = Settings(work_dir=folder / "work", output_url=f"file://{store}")
    hidden = Hidden.of(settings, {"HOME": str(folder / "home"), "DOCKER_HOST": "unix:///somewhere/engine"})
    assert not store.exists()
    Layers(settings.work_dir, hidden=hidden).why_not(Demands("private"))
    assert store.is_dir()
    assert (folder / "home" / ".config" / "launch-worker").is_dir()
    assert str(store) in hidden.paths
    assert "/somewhere/engine" in hidden.paths


@pytest.mark.parametrize(
    ("writable", "said"),
    [
        ("shared", "jobs could move the folder in"),
        ("home", "jobs could move the folder in"),
        ("shared/deep/outputs/more", "lies in"),
        ("work", "lies in"),
        ("other", ""),
        ("shared/deep", ""),
    ],
)
def test_no_folder_that_jobs_may_write_to_leads_to_what_is_hidden(folder: Path, writable: str, said: str) -> None:
    settings = Settings(work_dir=folder / "work", output_url=f"file://{folder}/shared/deep/outputs")
    hidden = Hidden.of(settings, {"HOME": str(folder / "home")})
    why = Layers(settings.work_dir, hidden=hidden).why_not(Demands("private", writable=(str(folder / writable),)))
    assert said in why
    assert bool(said) == (str(folder / writable) in why)


@needs_root
def test_another_account_of_the_same_group_cannot_come_into_a_jobs_folders(folder: Path) -> None:
    old = os.umask(0o022)
    try:
        attempt = AttemptFolder(folder / "workers" / "o" / "runs" / "1m83cyvtfq1tc69.1.7")
        os.makedirs(attempt.path.parent)
        attempt.make(account=Account("jobs", 4321, 100, (100,), "/", "/bin/sh"))
        made = [attempt.make_work(), attempt.make_outputs(()), attempt.make_checkpoint(), f"{attempt.root}/talk"]
    finally:
        os.umask(old)
    for path in made:
        assert os.stat(path).st_mode & 0o077 == 0, path
