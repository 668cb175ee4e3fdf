"""A folder that a job has had is deleted, whatever the job did to it, and nothing outside of it is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch_worker.attempt.folder import AttemptFolder, undeleted_folder
from launch_worker.attempt.worker_folder import delete_undeleted
from launch_worker.untrusted.removal import remove_tree
from tests.unit.untrusted.test_ownership import STRANGER


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that an account without privileges owns: root may delete everything."""
    path = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def without_privileges(call: Callable[[], object]) -> None:
    """Call it in a child of another account, where this is root."""
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(STRANGER)
                os.setuid(STRANGER)
            call()
        except BaseException as error:  # noqa: BLE001 (told by the exit code)
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_folders_without_permissions_are_deleted(folder: Path) -> None:
    def made_and_deleted() -> None:
        inner = folder / "attempt" / "mod" / "pkg" / "deep"
        inner.mkdir(parents=True)
        (inner / "file").write_text("x")
        (folder / "attempt" / "none").mkdir()
        (folder / "attempt" / "none" / "file").touch()
        (inner / "file").chmod(0o400)
        for path, mode in (
            (inner, 0o555),
            (inner.parent, 0o555),
            (folder / "attempt" / "none", 0),
            (inner.parent.parent, 0),
        ):
            path.chmod(mode)
        (folder / "attempt").chmod(0o500)
        assert remove_tree(str(folder / "attempt")) is None
        assert not (folder / "attempt").exists()

    without_privileges(made_and_deleted)


def test_what_links_lead_to_is_left_as_it_is(folder: Path) -> None:
    def made_and_deleted() -> None:
        outside = folder / "outside"
        outside.mkdir()
        (outside / "file").write_text("x")
        outside.chmod(0o500)
        attempt = folder / "attempt"
        (attempt / "d").mkdir(parents=True)
        (attempt / "link").symlink_to(outside)
        (attempt / "d" / "link").symlink_to(outside)
        (attempt / "d").chmod(0o500)
        assert remove_tree(str(attempt)) is None
        assert not attempt.exists()
        assert (outside / "file").read_text() == "x"
        assert outside.stat().st_mode & 0o777 == 0o500
        outside.chmod(0o700)

    without_privileges(made_and_deleted)


def test_no_depth_is_too_large(tmp_path: Path) -> None:
    """Deeper than a path may be long, and than Python calls itself."""
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("nested", dir_fd=fd)
        inner = os.open("nested", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert remove_tree(str(top)) is None
    assert not top.exists()


def test_what_is_not_there_is_no_problem_and_a_link_is_not_followed(tmp_path: Path) -> None:
    assert remove_tree(str(tmp_path / "nothing")) is None
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert remove_tree(str(tmp_path / "link")) is not None
    assert (tmp_path / "real").is_dir()


def test_what_cannot_be_deleted_is_set_aside_and_tried_again(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make what another account cannot delete")
    attempt = folder / "workers" / "owner" / "runs" / "r.1.1"
    foreign = attempt / "work" / "foreign"
    foreign.mkdir(parents=True)
    (foreign / "file").touch()
    for path in (folder / "workers", folder / "workers" / "owner", attempt.parent, attempt, attempt / "work"):
        os.chown(path, STRANGER, STRANGER)
    without_privileges(AttemptFolder(attempt).remove)
    assert not attempt.exists()
    assert [path.name for path in undeleted_folder(folder).iterdir()] == ["r.1.1"]
    assert delete_undeleted(folder) == [], "root can"
    assert not list(undeleted_folder(folder).iterdir())
