"""Folders into which another account could put something: nothing of ours is kept there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch_worker.attempt.worker_folder import why_not_own
from launch_worker.database import open_database
from launch_worker.dev.folder import DataFolder
from launch_worker.errors import LaunchError, SettingsError
from launch_worker.saved_login import SavedLogin, save_login, saved_login
from launch_worker.settings import NO_WORK_DIR, Settings
from tests.unit.untrusted.test_ownership import give_away

LOGIN = SavedLogin("https://launch.example", "lw_x")


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


@pytest.mark.parametrize("how", [open_to_all, give_away])
@pytest.mark.parametrize("where", ["home", "home/.config", "home/.config/launch-worker"])
def test_a_login_is_not_kept_where_others_could_put_another_one(
    tmp_path: Path, how: Callable[[Path], None], where: str
) -> None:
    (tmp_path / "home/.config/launch-worker").mkdir(parents=True)
    env = {"HOME": str(tmp_path / "home")}
    assert save_login(env, LOGIN) is not None
    assert saved_login(env) == LOGIN
    how(tmp_path / where)
    with pytest.raises(SettingsError, match=r"the login is not kept in .*launch-worker: "):
        save_login(env, LOGIN)


@pytest.mark.parametrize("how", [open_to_all, give_away])
@pytest.mark.parametrize("where", ["state", "state/launch-worker", "state/launch-worker/dev"])
def test_dev_keeps_no_data_where_others_could_change_it(
    tmp_path: Path, how: Callable[[Path], None], where: str
) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    (tmp_path / "state/launch-worker/dev").mkdir(parents=True)
    how(tmp_path / where)
    mode = (tmp_path / where).stat().st_mode
    folder = DataFolder.of_user(env)
    with pytest.raises(LaunchError, match=r"is not used: .*; or use --temporary"):
        folder.take(waits=lambda: None, go_on=lambda: False)
    assert (tmp_path / where).stat().st_mode == mode, "nothing of another account is changed"


@pytest.mark.parametrize("how", [open_to_all, give_away])
@pytest.mark.parametrize("where", ["", "archive.db"])
def test_a_database_that_others_could_write_to_is_not_used_by_who_keeps_people_in_it(
    tmp_path: Path, how: Callable[[Path], None], where: str
) -> None:
    work_dir = tmp_path / "work"
    settings = Settings(work_dir=work_dir)
    open_database(settings, create=True).close()
    how(work_dir / where)
    with pytest.raises(SettingsError, match="for others could write to it"):
        open_database(settings, create=True)
    open_database(Settings(work_dir=work_dir, work_dir_trusted=True), create=True).close()


@pytest.mark.parametrize("how", [open_to_all, give_away])
@pytest.mark.parametrize(
    "name", ["workers", "code", "logs", "environments", "outgoing", "undeleted", "of-a-later-release"]
)
def test_a_worker_uses_no_folder_that_others_could_write_to(
    tmp_path: Path, how: Callable[[Path], None], name: str
) -> None:
    (tmp_path / "work" / name).mkdir(parents=True)
    assert why_not_own(tmp_path / "work") == ""
    how(tmp_path / "work" / name)
    assert str(tmp_path / "work" / name) in why_not_own(tmp_path / "work")


def test_no_home_is_no_reason_to_keep_anything_in_a_folder_of_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a user of no system, nor for one whose home is / or is not there."""

    def nobody(_: int) -> None:
        raise KeyError

    for found in (nobody, lambda _: SimpleNamespace(pw_dir="/")):
        monkeypatch.setattr("pwd.getpwuid", found)
        assert Settings.from_env({}).work_dir == NO_WORK_DIR
    with pytest.raises(LaunchError, match="HOME is not set"):
        DataFolder.of_user({})
    assert save_login({}, LOGIN) is None


def test_what_somebody_else_put_into_a_configuration_folder_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / ".config/launch-worker/login.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(LOGIN._asdict()))
    file.chmod(0o600)
    env = {"HOME": str(tmp_path)}
    assert saved_login(env) == LOGIN
    file.chmod(0o644)
    assert saved_login(env) is None
    file.chmod(0o600)
    give_away(file)
    assert saved_login(env) is None
