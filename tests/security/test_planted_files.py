"""What a job puts in the place of its worker's own files: pipes, links, holes, leases. Nobody waits for it or reads it.

A job that nothing confines can do that: it is its worker's user.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.talk import Talk, read_words
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.code.cache import HELD
from launch_worker.code.environments import Environments
from launch_worker.code.fetch import _open_kept
from launch_worker.code.repository import _CONFIG, _restore_config
from launch_worker.model.states import RunState
from launch_worker.runners.process.exits import EXITS, Exit, ExitFile, keep_exit, read_exits
from launch_worker.settings import Settings
from launch_worker.untrusted.plain_files import open_plain, read_plain
from tests.conftest import wait_until
from tests.system.conftest import Cluster, cluster, wait_for_output, wait_for_pid, waits_for

__all__ = ["cluster"]


@pytest.fixture(autouse=True)
def no_reminders() -> Iterator[None]:
    """The kernel asks for a lease by SIGIO."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def leased() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def pipe(path: Path, _: list[int]) -> None:
    os.mkfifo(path)


def folder(path: Path, _: list[int]) -> None:
    path.mkdir()


def link(path: Path, _: list[int]) -> None:
    path.symlink_to("/dev/zero")


def hole(path: Path, _: list[int]) -> None:
    """As large as the file system takes: who reads it whole has no memory left."""
    with path.open("wb") as file:
        file.truncate(8 << 40)


def lease(path: Path, leased: list[int]) -> None:
    path.write_text("{}")
    fd = os.open(path, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    leased.append(fd)


PLANTS = [pipe, folder, link, hole, lease]
Plant = Callable[[Path, list[int]], None]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerFolder]:
    made = WorkerFolder.create(tmp_path, "o1", worker="w")
    yield made
    made.release()


def plant_at(path: Path, plant: Plant, leased: list[int]) -> None:
    path.unlink(missing_ok=True)
    plant(path, leased)


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_what_is_kept_of_an_attempt_it_is_read_as_nothing(
    worker: WorkerFolder, plant: Plant, leased: list[int]
) -> None:
    root = worker.path / "runs" / "r1.1.7"
    (root / "talk").mkdir(parents=True)
    for name in ("record.json", "report.json", "usage.json", "holding.json", "exit-status", "words.json", "output"):
        plant(root / name, leased)
    attempt = AttemptFolder(root)
    assert (attempt.read_record(), attempt.read_report(), attempt.read_usage()) == (None, None, None)
    assert (attempt.read_holding(), attempt.read_exit_status()) == (((), ""), None)
    assert read_words(root / "talk").finish is None
    Talk("r1", 7, root / "talk", on_word=lambda _: None).add_results(root / "output")


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_what_says_whose_a_folder_is_it_holds_up_no_worker(
    tmp_path: Path, worker: WorkerFolder, plant: Plant, leased: list[int]
) -> None:
    for name in ("host", "worker"):
        plant_at(worker.path / name, plant, leased)
    assert (worker.worker, worker.is_of_this_host()) in (("", True), ("{}", False))
    left = tmp_path / "workers" / "o2"
    left.mkdir()
    plant(left / "lock", leased)
    found = list(WorkerFolder.abandoned(tmp_path))
    for each in found:
        each.release()
    # A hole can be locked as any file.
    assert [each.owner for each in found] == (["o2"] if plant is hole else [])


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_the_file_of_exits_it_holds_up_neither_guard_nor_worker(
    tmp_path: Path, plant: Plant, leased: list[int]
) -> None:
    plant(tmp_path / EXITS, leased)
    assert read_exits(str(tmp_path)) == {}
    if plant is hole:
        return  # it is written to as any file
    with pytest.raises(OSError, match="exits"):
        ExitFile(str(tmp_path))
    assert not keep_exit(str(tmp_path), "r1.1.7", Exit(0, "", 1.0))


def test_a_lock_that_a_job_keeps_on_the_file_of_exits_holds_up_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.runners.process.exits._LOCK_S", 0.05)
    with (tmp_path / EXITS).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not keep_exit(str(tmp_path), "r1.1.7", Exit(0, "", 1.0))
    assert keep_exit(str(tmp_path), "r1.1.7", Exit(0, "", 1.0))


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_a_kept_archive_it_is_removed_and_the_archive_is_fetched_anew(
    tmp_path: Path, plant: Plant, leased: list[int]
) -> None:
    kept = tmp_path / "kept.tar.gz"
    plant(kept, leased)
    assert _open_kept(kept, "0" * 64, limit_bytes=1 << 20) is None
    assert not os.path.lexists(kept)


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_a_repositorys_configuration_it_is_replaced(
    tmp_path: Path, plant: Plant, leased: list[int]
) -> None:
    for name in ("config", "commondir"):
        plant(tmp_path / name, leased)
    _restore_config(tmp_path)
    assert (tmp_path / "config").read_text() == _CONFIG
    assert not os.path.lexists(tmp_path / "commondir")


def test_a_link_to_a_folder_in_a_cache_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    (tmp_path / "commondir").symlink_to(tmp_path / "target")
    _restore_config(tmp_path)
    assert not os.path.lexists(tmp_path / "commondir")
    assert (tmp_path / "target" / "file").exists()


@pytest.mark.parametrize("plant", PLANTS)
def test_in_the_place_of_the_name_of_an_environment_it_holds_up_no_sweep(
    tmp_path: Path, plant: Plant, leased: list[int]
) -> None:
    settings = Settings.from_env({"LAUNCH_WORK_DIR": str(tmp_path)})
    root = tmp_path / "workers" / "o1" / "runs" / "r1.1.7"
    root.mkdir(parents=True)
    plant(root / HELD, leased)
    assert Environments(settings, worker_env={})._held() <= {"{}"}


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_plain(tmp_path / "file", most_bytes=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_plain(tmp_path / "file", most_bytes=4)
    with pytest.raises(OSError, match="no plain file"):
        open_plain("/dev/null")


def test_pipes_in_the_place_of_all_that_a_dead_worker_left_hold_up_no_run_of_the_next(cluster: Cluster) -> None:
    flag = cluster.folder / "end"
    worker = cluster.worker(slots=2)
    neighbour = submit(["sh", "-c", waits_for(flag)], api=cluster.api, retries=1)
    wait_for_pid(neighbour)
    attacker = submit(
        [
            "bash",
            "-c",
            """cd "$LAUNCH_RUN_DIR"/..; for file in {record,report,usage,holding,words}.json exit-status \
            ../../{host,worker,lock,exits}; do rm -f "$file"; mkfifo "$file"; done; echo planted; sleep 600""",
        ],
        api=cluster.api,
    )
    wait_for_output(attacker, b"planted")
    worker.kill()
    cluster.worker(slots=2)
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    wait_until(lambda: neighbour.refresh().attempt == 2, what="the neighbour is tried again")
    flag.touch()
    assert [neighbour.wait(30), attacker.wait(30)] == [RunState.FINISHED, RunState.CRASHED]
