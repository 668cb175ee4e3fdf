"""Whose a file or folder is, by everything that leads to it: with a second account of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch_worker.untrusted.ownership import make_ours, read_ours, why_not_ours

#: An account that is not in use.
STRANGER = 54321


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "CI runs these as root"
        pytest.skip("only root can give a file to another account")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a" / "b"
    assert make_ours(made) == ""
    return made


def test_a_folder_that_is_made_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert make_ours(tmp_path / "x" / "y") == ""
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o700


def test_what_others_may_write_to_is_named_with_what_to_do(folder: Path) -> None:
    for path, mode, said in (
        (folder, 0o777, f"{folder} can be written to by everybody; take that away with: chmod o-w {folder}"),
        (folder.parent, 0o777, f"{folder.parent} can be written to by everybody"),
    ):
        path.chmod(mode)
        assert why_not_ours(folder).startswith(said)
        path.chmod(0o700)
    assert why_not_ours(folder) == ""


def test_a_sticky_folder_may_lead_to_it_but_may_not_be_it(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    assert why_not_ours(folder) == ""
    folder.chmod(0o1777)
    assert "by everybody" in why_not_ours(folder)


def test_a_group_of_its_owner_alone_may_write(folder: Path) -> None:
    folder.chmod(0o770)
    assert why_not_ours(folder) == ""
    give_away(folder)
    os.chown(folder, 0, STRANGER)
    assert f"by group {STRANGER}" in why_not_ours(folder)


def test_what_belongs_to_another_account_is_refused_wherever_it_is_on_the_way(folder: Path, tmp_path: Path) -> None:
    for path in (folder, folder.parent):
        give_away(path)
        assert f"{path} belongs to user {STRANGER}" in why_not_ours(folder)
        os.chown(path, 0, 0)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert why_not_ours(link) == ""
    give_away(link)
    assert f"{link} belongs to" in why_not_ours(link), "it may lead elsewhere tomorrow"
    os.chown(link, 0, 0, follow_symlinks=False)
    give_away(folder)
    assert f"{folder} belongs to" in why_not_ours(link)


def test_a_file_is_read_only_if_others_could_not_have_written_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert read_ours(file) == (b"x", "")
    file.chmod(0o666)
    assert read_ours(file)[0] == b""
    file.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_ours(link) == (b"x", "")
    give_away(link)
    assert "belongs to" in read_ours(link)[1]
    os.chown(link, 0, 0, follow_symlinks=False)
    give_away(file)
    assert "belongs to" in read_ours(link)[1]
