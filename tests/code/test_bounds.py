"""Foreign code that is made to hold up or fill its worker: it is refused, in a child that may die of it."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch_worker.code import repository as repository_module
from launch_worker.code import unpack as unpack_module
from launch_worker.code.patience import Patience
from launch_worker.code.unpack import unpack
from launch_worker.errors import CodeError, StartGivenUpError
from launch_worker.runners.process import child, orphans, tree
from launch_worker.runners.process.child import Bounds
from tests.code.conftest import Fetch
from tests.conftest import wait_until
from tests.support.githost import Repository

MARKS = {"LAUNCH_RUN_ID": "r", "LAUNCH_TOKEN": "1"}


def pax_header(size: int) -> bytes:
    """The description of an entry that is nothing but digits: a Python with CVE-2024-6232 searches it by the square."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf() + b"1" * size + bytes(-size % 512)


def unpacked(tmp_path: Path, data: bytes, *, unwanted: Callable[[], bool] = lambda: False, limit_s: float = 60) -> Path:
    archive, folder = tmp_path / "a.tar.gz", tmp_path / "in"
    tmp_path.mkdir(exist_ok=True)
    archive.write_bytes(data)
    folder.mkdir()
    with archive.open("rb") as file:
        unpack(file, folder, limit_bytes=1 << 20, patience=Patience.of(limit_s, unwanted=unwanted), marks=MARKS)
    return folder


# -- uploads -------------------------------------------------------------------------------------------------------


def test_an_archive_is_unpacked_and_a_refusal_is_one_sentence(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("ü")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert (unpacked(tmp_path, gzip.compress(raw.getvalue())) / "ü").read_text() == "abc"
    with pytest.raises(CodeError, match="not an archive that launch-submit made"):
        unpacked(tmp_path / "other", b"nonsense")


def test_a_header_that_is_longer_than_any_is_refused_before_it_is_searched(tmp_path: Path) -> None:
    data = gzip.compress(pax_header(200_000))
    assert len(data) < 1000
    since = time.monotonic()
    with pytest.raises(CodeError, match="larger than any that is needed"):
        unpacked(tmp_path, data)
    assert time.monotonic() - since < 5


def test_unpacking_that_takes_too_long_ends_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "_CPU_S", 1)
    monkeypatch.setattr(unpack_module, "_PROGRAM", "while True: pass")
    with pytest.raises(CodeError, match="more than 1 s of processor time"):
        unpacked(tmp_path, b"")


def test_unpacking_that_takes_too_much_memory_ends_at_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack_module, "_PROGRAM", "bytearray(1 << 30)")
    with pytest.raises(CodeError, match="could not be unpacked: MemoryError"):
        unpacked(tmp_path, b"")


def test_unpacking_ends_when_it_is_no_longer_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "_PROGRAM", "import time; time.sleep(60)")
    with pytest.raises(StartGivenUpError):
        unpacked(tmp_path, b"", unwanted=lambda: True)
    with pytest.raises(CodeError, match="start timeout"):
        unpacked(tmp_path / "other", b"", limit_s=0.3)


def test_a_full_disk_is_the_workers_fault(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x" * 256))
    with pytest.raises(OSError, match="File name too long"):
        unpacked(tmp_path, gzip.compress(raw.getvalue()))


# -- git -----------------------------------------------------------------------------------------------------------


def tree_bomb(repository: Repository, *, levels: int, wide: int = 10) -> None:
    """A commit of wide ** levels files, in as many objects as there are levels."""
    blob = repository.git_with_input("x", "hash-object", "-w", "--stdin")
    entries = "".join(f"100644 blob {blob}\t{n}\n" for n in range(wide))
    for _ in range(levels - 1):
        inner = repository.git_with_input(entries, "mktree")
        entries = "".join(f"040000 tree {inner}\t{n}\n" for n in range(wide))
    root = repository.git_with_input(entries, "mktree")
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "bomb", root))


def test_a_commit_of_more_files_than_any_has_is_refused_before_it_is_checked_out(
    repository: Repository, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "MAX_ENTRIES", 100_000)
    tree_bomb(repository, levels=8)
    since = time.monotonic()
    with pytest.raises(CodeError, match="more than 100,000 files and folders"):
        fetch(repository.url)
    assert time.monotonic() - since < 20
    assert not list(tmp_path.glob("code0/*")), "nothing of it was written"


def test_folders_without_files_count_too(repository: Repository, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "MAX_ENTRIES", 1000)
    empty = repository.git_with_input("", "mktree")
    entries = "".join(f"040000 tree {empty}\t{n}\n" for n in range(1001))
    root = repository.git_with_input(entries, "mktree")
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "bomb", root))
    with pytest.raises(CodeError, match="more than 1,000 files"):
        fetch(repository.url)


def test_a_commit_with_too_many_bytes_is_refused(repository: Repository, fetch: Fetch) -> None:
    commit = repository.commit({"a": "x" * 600_000, "b": "y" * 600_000})
    assert fetch(repository.url, limit_bytes=1_200_000)[0] == commit
    for uri in (repository.url, f"{repository.url}@{commit}"):
        with pytest.raises(CodeError, match="more than 1,000,000 bytes of files") as error:
            fetch(uri, limit_bytes=1_000_000)
        assert "LAUNCH_UPLOAD_BYTES" in str(error.value)


def test_a_pack_with_too_many_bytes_is_cut_off_while_it_comes(repository: Repository, fetch: Fetch) -> None:
    repository.folder.joinpath("a").write_bytes(os.urandom(3 << 20))
    repository.commit({})
    with pytest.raises(CodeError, match="LAUNCH_UPLOAD_BYTES"):
        fetch(repository.url, limit_bytes=1 << 20)


def test_submodules_share_the_bounds_of_their_run(host: object, repository: Repository, fetch: Fetch) -> None:
    inner = repository.commit({"a": "x" * 600_000})
    repository.git("checkout", "--quiet", "--orphan", "outer")
    repository.git("rm", "--quiet", "-rf", ".")
    repository.commit({"b": "x" * 600_000})
    repository.add_submodule("sub", repository.url, inner)
    assert fetch(f"{repository.url}@outer", limit_bytes=1_300_000)
    with pytest.raises(CodeError, match="more than 1,000,000 bytes"):
        fetch(f"{repository.url}@outer", limit_bytes=1_000_000)


def test_git_gets_no_more_memory_than_its_bound(tmp_path: Path) -> None:
    ended = child.run(
        ["sh", "-c", "head -c 100m /dev/zero | tail -c 90m >/dev/null; echo $?"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        check=lambda: None,
        bounds=Bounds(memory_bytes=40 << 20),
    )
    assert ended.out.strip() not in (b"", b"0"), ended


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nonesuch"):
        child.run(["nonesuch"], cwd=tmp_path, env={}, check=lambda: None, bounds=Bounds())


# -- what they leave behind ----------------------------------------------------------------------------------------


ORPHANS = """
import sys, time
from pathlib import Path
from launch_worker.runners.process import child, orphans, tree
from launch_worker.runners.process.child import Bounds
from launch_worker.runners.process.own_process import become_subreaper
import os, subprocess

become_subreaper()
env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": "r", "LAUNCH_TOKEN": "1"}
script = "(sleep 0.3) >/dev/null 2>&1 & setsid sleep 0.3 >/dev/null 2>&1 & exit 3"
ours = subprocess.Popen(["sh", "-c", "exit 7"], start_new_session=True)
ended = child.run(["sh", "-c", script], cwd=Path("/"), env=env, check=lambda: None, bounds=Bounds())
assert ended.status == 3, ended
until = time.monotonic() + 10
while set(tree.children(os.getpid())) - {ours.pid} and time.monotonic() < until:
    orphans.reap()
    time.sleep(0.01)
left = [tree.look_up(pid) for pid in tree.children(os.getpid()) if pid != ours.pid]
assert not left, left
assert ours.wait() == 7, "who started a process is the one to wait for it"
"""


def test_what_a_child_leaves_behind_is_reaped_and_nobody_elses_children_are() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_a_child_that_is_ended_takes_all_that_it_started_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_GRACE_S", 0.2)
    started: list[bytes] = []

    def hear(data: bytes) -> None:
        started.append(data)
        raise CodeError("enough")

    with pytest.raises(CodeError, match="enough"):
        child.run(
            ["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            check=lambda: None,
            on_output=hear,
            bounds=Bounds(),
        )
    pid = int(b"".join(started))
    wait_until(lambda: tree.look_up(pid) is None or orphans.reap(), what="nothing of it is left")  # type: ignore[func-returns-value]
