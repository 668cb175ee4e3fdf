"""The file of the exits: each line is kept, whatever dies and however full the disk is, and the file stays short."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.runners.process.exits import EXITS, Exit, ExitFile, keep_exit, read_exits
from launch_worker.runners.process.reaped import Reaped


def test_what_is_kept_is_read_with_who_had_stopped_it(tmp_path: Path) -> None:
    assert read_exits(str(tmp_path)) == {}
    file = ExitFile(str(tmp_path))
    assert file.keep("r.1.7", Exit(0, ""))
    assert file.keep("r.2.8", Exit(-9, "lease", 12.345))
    assert file.keep("r.3.9", Exit(0, "", 3.25, Reaped(1.5, 4096), disk_was_full=True))
    assert keep_exit(str(tmp_path), "s.1.9", Exit(3, ""))
    file.close()
    again = ExitFile(str(tmp_path))
    assert again.keep("t.1.1", Exit(255, "asked"))
    assert again.keep("u.1.2", Exit(-9, "", disk_was_full=True, is_out_of_memory=True))
    again.close()
    assert read_exits(str(tmp_path)) == {
        "r.1.7": Exit(0, ""),
        "r.2.8": Exit(-9, "lease", 12.345),
        "r.3.9": Exit(0, "", 3.25, Reaped(1.5, 4096), disk_was_full=True),
        "s.1.9": Exit(3, ""),
        "t.1.1": Exit(255, "asked"),
        "u.1.2": Exit(-9, "", disk_was_full=True, is_out_of_memory=True),
    }


def test_a_line_that_is_damaged_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / EXITS).write_bytes(b"r.1.7 0 - 1.5\nr.2.8 x - 1.5\n\xff\xff\n\nr.3.9 1 - 2.5\nr.4.1 1 -")
    assert read_exits(str(tmp_path)) == {"r.1.7": Exit(0, "", 1.5), "r.3.9": Exit(1, "", 2.5)}


def test_it_stays_short_and_forgets_only_what_was_reported(tmp_path: Path) -> None:
    file = ExitFile(str(tmp_path))
    left = []
    for number in range(20_000):
        name = f"run-{number}.1.{number}"
        if number % 500 == 0:
            (tmp_path / "runs" / name).mkdir(parents=True)
            left.append(name)
        assert file.keep(name, Exit(number % 256, ""))
    file.close()
    assert (tmp_path / EXITS).stat().st_size < 150_000
    kept = read_exits(str(tmp_path))
    assert all(kept[name] == Exit(int(name.rpartition(".")[2]) % 256, "") for name in left)


def test_what_a_worker_keeps_while_the_guard_shortens_the_file_is_not_lost(tmp_path: Path) -> None:
    file = ExitFile(str(tmp_path))
    names = []
    for number in range(6000):
        file.keep(f"reported-{number}.1.1", Exit(0, ""))
        if number % 100 == 0:
            names.append(f"mine-{number}.1.1")
            (tmp_path / "runs" / names[-1]).mkdir(parents=True)
            assert keep_exit(str(tmp_path), names[-1], Exit(7, ""))
    file.close()
    assert names == [name for name in read_exits(str(tmp_path)) if name.startswith("mine")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "launch-test", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here: that takes root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> None:
    command = ["dd", "if=/dev/zero", f"of={disk}/filler", "bs=4k", "count=1000"]
    assert b"No space" in subprocess.run(command, capture_output=True, check=False).stderr


def test_a_full_disk_loses_none(disk: Path) -> None:
    file = ExitFile(str(disk))
    fill(disk)
    (disk / "runs").mkdir()
    for number in range(300):
        assert file.keep(f"r.{number}.1", Exit(1, ""))
    file.close()
    assert len(read_exits(str(disk))) == 300


def test_room_is_reserved_as_soon_as_a_full_disk_has_some_again(disk: Path) -> None:
    fill(disk)
    file = ExitFile(str(disk))
    assert not file.keep("r.0.1", Exit(1, ""))
    (disk / "filler").unlink()
    assert file.keep("r.1.1", Exit(1, ""))
    fill(disk)
    assert all(file.keep(f"r.{number}.1", Exit(1, "")) for number in range(2, 300))
    file.close()
