"""A worker that is root gives a job's folder to the job's account, while another job of that account is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch_worker.attempt.folder import give_away
from launch_worker.runners.process.accounts import Account
from tests.security.site import STRANGER_UID, is_root

ACCOUNT = Account("stranger", STRANGER_UID, STRANGER_UID, (STRANGER_UID,), "/", "/bin/sh")


@pytest.mark.skipif(not is_root, reason="only root gives files away")
def test_nothing_outside_of_a_folder_is_given_with_it(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for each in (outside, folder / "below"):
        each.mkdir(parents=True)
    (outside / "shadow").write_text("root's")
    (folder / "below" / "mine").write_text("x")
    (folder / "to_file").symlink_to(outside / "shadow")
    (folder / "below" / "to_folder").symlink_to(outside)
    os.link(outside / "shadow", folder / "below" / "second_name")
    os.mkfifo(folder / "pipe")
    give_away(str(folder), ACCOUNT)
    given = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.lstat().st_uid == STRANGER_UID}
    assert given == {"folder", "folder/below", "folder/below/mine"}
    (tmp_path / "link").symlink_to(outside)
    give_away(str(tmp_path / "link"), ACCOUNT)
    assert outside.stat().st_uid == (outside / "shadow").stat().st_uid == 0
