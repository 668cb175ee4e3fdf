"""Outputs leave an attempt's folder in one step, and one worker of the machine has them at a time."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from launch_worker.outputs.outgoing import (
    Outgoing,
    delete_sent,
    has_outputs,
    leave_outputs,
    make_outputs,
    outgoing_folder,
    outgoing_names,
    waiting,
)

NAME = "01hq2mzk8q00000.2.77"


@pytest.fixture
def attempt(tmp_path: Path) -> str:
    folder = tmp_path / "workers/me/runs" / NAME
    folder.mkdir(parents=True)
    return str(folder)


def left(tmp_path: Path, attempt: str, *patterns: str) -> Outgoing:
    """Outputs of one file, which wait to be sent."""
    (Path(make_outputs(attempt, patterns)) / "a").write_text("1")
    assert leave_outputs(tmp_path, attempt)
    return Outgoing(tmp_path, NAME)


def test_what_a_job_left_is_moved_and_the_move_can_be_repeated(tmp_path: Path, attempt: str) -> None:
    folder = Path(make_outputs(attempt, ()))
    assert not has_outputs(attempt)
    (folder / "a").write_text("1")
    assert has_outputs(attempt)
    for _ in range(2):
        assert leave_outputs(tmp_path, attempt)
    assert outgoing_names(tmp_path) == [NAME]
    assert os.listdir(attempt) == []
    outgoing = Outgoing(tmp_path, NAME)
    assert (outgoing.run_id, outgoing.attempt, outgoing.token) == ("01hq2mzk8q00000", 2, 77)
    assert (outgoing.files / "a").read_text() == "1"
    assert waiting(tmp_path).attempts == 1


def test_a_job_that_left_nothing_leaves_no_folder(tmp_path: Path, attempt: str) -> None:
    assert not leave_outputs(tmp_path, attempt), "it had no folder of outputs"
    make_outputs(attempt, ("*.pt",))
    for _ in range(2):
        assert not leave_outputs(tmp_path, attempt)
    assert (os.listdir(attempt), outgoing_names(tmp_path), waiting(tmp_path).attempts) == ([], [], 0)
    assert not outgoing_folder(tmp_path).exists()


@pytest.mark.parametrize("script", ["chmod 0 o/files o", "chmod 500 o/files; chmod 500 o"])
def test_what_a_job_did_to_permissions_keeps_nothing_from_being_moved(
    tmp_path: Path, attempt: str, script: str
) -> None:
    (Path(make_outputs(attempt, ())) / "a").write_text("1")
    assert os.system(f"cd {attempt} && ln -s outputs o && {script}; rm -f o") == 0
    assert leave_outputs(tmp_path, attempt)
    assert outgoing_names(tmp_path) == [NAME]


@pytest.mark.parametrize(
    "script", ["rm -r outputs/files", "rm -r outputs", "rm -r outputs/files; ln -s ../../x outputs/files"]
)
def test_a_job_that_deleted_or_replaced_its_folder_left_nothing(tmp_path: Path, attempt: str, script: str) -> None:
    other = tmp_path / "workers/me/runs/x"
    other.mkdir()
    (other / "secret").touch()
    make_outputs(attempt, ())
    assert os.system(f"cd {attempt} && {script}") == 0
    assert not leave_outputs(tmp_path, attempt)
    assert os.listdir(attempt) == []
    assert os.listdir(other) == ["secret"]


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path, attempt: str) -> None:
    other = tmp_path / "other"
    (other / "files").mkdir(parents=True)
    os.symlink(other, f"{attempt}/outputs")
    assert not leave_outputs(tmp_path, attempt)
    assert (other / "files").exists()
    assert os.listdir(attempt) == []


def test_patterns_come_along_and_those_that_a_job_made_up_are_none(tmp_path: Path, attempt: str) -> None:
    outgoing = left(tmp_path, attempt, "*.pt", "!tmp/")
    assert outgoing.take()
    assert outgoing.patterns() == ("*.pt", "!tmp/")
    for hostile in (
        "",
        "no JSON",
        "[]",
        '{"patterns": 7}',
        '{"patterns": [""]}',
        '{"patterns": ["' + "x" * 600 + '"]}',
    ):
        (outgoing.folder / "about.json").write_text(hostile)
        assert outgoing.patterns() == ()


@pytest.mark.parametrize("script", ["mkdir -p $0/x", "ln -s /etc/passwd $0", "mkfifo $0", "ln -s nowhere $0"])
def test_what_a_job_puts_in_the_place_of_the_patterns_keeps_nothing_from_being_sent(
    tmp_path: Path, attempt: str, script: str
) -> None:
    outgoing = left(tmp_path, attempt)
    about = outgoing.folder / "about.json"
    about.unlink(missing_ok=True)
    subprocess.run(["sh", "-c", script, str(about)], check=True)
    assert outgoing.take()
    assert outgoing.patterns() == ()
    assert stat.S_ISREG(about.lstat().st_mode)


def test_a_link_in_the_place_of_what_waits_is_not_followed(tmp_path: Path, attempt: str) -> None:
    other = tmp_path / "other"
    (other / "files").mkdir(parents=True)
    outgoing_folder(tmp_path).mkdir()
    (outgoing_folder(tmp_path) / NAME).symlink_to(other)
    assert not Outgoing(tmp_path, NAME).take()
    assert os.listdir(other) == ["files"]
    assert os.listdir(outgoing_folder(tmp_path)) == []


def test_one_worker_has_them_at_a_time_and_nobody_has_what_is_sent(tmp_path: Path, attempt: str) -> None:
    mine, other, late = left(tmp_path, attempt), Outgoing(tmp_path, NAME), Outgoing(tmp_path, NAME)
    assert mine.take()
    assert not other.take()
    mine.release()
    assert other.take()
    other.delete()
    other.release()
    assert not late.take()
    assert os.listdir(outgoing_folder(tmp_path)) == []


def test_what_a_worker_that_died_was_deleting_is_deleted(tmp_path: Path, attempt: str) -> None:
    outgoing = left(tmp_path, attempt)
    outgoing.folder.rename(outgoing.folder.with_name(f".sent.{NAME}"))
    assert outgoing_names(tmp_path) == []
    delete_sent(tmp_path)
    assert os.listdir(outgoing_folder(tmp_path)) == []


def test_other_names_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    for name in ("x", ".1.2.3", "a.1", "a.b.c", "a.1.2.3"):
        (outgoing_folder(tmp_path) / name).mkdir(parents=True)
        with pytest.raises(ValueError, match="is no attempt"):
            Outgoing(tmp_path, name)
    assert outgoing_names(tmp_path) == []
