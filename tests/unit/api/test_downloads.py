"""Files are fetched into a folder, verified, not twice, and nowhere else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launch_worker.api import patience
from launch_worker.api.downloads import fetch
from launch_worker.api.run import Files
from launch_worker.errors import DamagedError, InputError, LaunchError, ServerUnavailableError
from launch_worker.model.run_files import SAVED, KeptFile, RunFiles

AT = 1_700_000_000_000_000


class Store:
    """Contents by path, and the bytes that were asked for."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.files = [
            KeptFile(path, len(data), AT, attempt=1, sha256=hashlib.sha256(data).hexdigest())
            for path, data in contents.items()
        ]
        self.asked: list[tuple[str, int]] = []
        #: Bytes after which the connection breaks, once.
        self.breaks_after: int | None = None

    def read(self, file: KeptFile, start: int) -> Iterator[bytes]:
        self.asked.append((file.path, start))
        data = self.contents[file.path][start:]
        if self.breaks_after is not None:
            end, self.breaks_after = self.breaks_after, None
            yield data[:end]
            raise LaunchError("the server went away")
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    def begun_and_cut(self, path: str) -> Iterator[bytes]:
        yield self.contents[path][:1000]
        raise ServerUnavailableError("the server went away")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store() -> Store:
    return Store({"model.pt": os.urandom(5000), "logs/a.txt": b"a", "logs/deep/empty": b""})


def test_files_are_fetched_with_their_times_and_once_only(store: Store, tmp_path: Path) -> None:
    come: list[int] = []
    folder = tmp_path / "new" / "out"
    assert fetch(store.files, folder, store.read, on_bytes=come.append) == (3, 5001, 0)
    assert (files_of(folder), sum(come)) == (store.contents, 5001)
    assert (folder / "model.pt").stat().st_mtime_ns == AT * 1000
    asked, store.asked = store.asked, []
    assert fetch(store.files, folder, store.read) == (3, 5001, 3)
    # An empty file needs no reading.
    assert (len(asked), store.asked) == (2, [])


def test_a_program_stays_one_and_gets_no_other_right(store: Store, tmp_path: Path) -> None:
    fetch([store.files[0]._replace(mode=0o6755), store.files[1]._replace(mode=0o666)], tmp_path, store.read)
    assert (tmp_path / "model.pt").stat().st_mode & 0o6100 == 0o100
    assert (tmp_path / "logs/a.txt").stat().st_mode & 0o100 == 0


def test_another_try_goes_on_where_one_was_ended(store: Store, tmp_path: Path) -> None:
    store.breaks_after = 3000
    with pytest.raises(LaunchError, match="went away"):
        fetch(store.files[:1], tmp_path, store.read)
    fetch(store.files[:1], tmp_path, store.read)
    assert store.asked == [("model.pt", 0), ("model.pt", 3000)]
    assert files_of(tmp_path) == {"model.pt": store.contents["model.pt"]}


def test_an_unfinished_file_that_is_no_beginning_of_it_is_fetched_anew(store: Store, tmp_path: Path) -> None:
    store.breaks_after = 3000
    with pytest.raises(LaunchError):
        fetch(store.files[:1], tmp_path, store.read)
    [partial] = tmp_path.iterdir()
    partial.write_bytes(b"x" * 4000)
    fetch(store.files[:1], tmp_path, store.read)
    assert files_of(tmp_path) == {"model.pt": store.contents["model.pt"]}


def small(count: int) -> Store:
    return Store({f"part-{number}": os.urandom(2500) for number in range(count)})


def test_small_files_come_together_and_a_large_one_alone(tmp_path: Path) -> None:
    store, together = small(300), []
    store.contents["model.pt"] = data = os.urandom(300_000)
    store.files.append(KeptFile("model.pt", len(data), AT, attempt=1, sha256=hashlib.sha256(data).hexdigest()))

    def read_some(files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        together.append(len(files))
        return ((file, iter([store.contents[file.path]])) for file in files)

    come: list[int] = []
    assert fetch(store.files, tmp_path / "out", store.read, read_some, on_bytes=come.append).files == 301
    assert (files_of(tmp_path / "out"), sum(come)) == (store.contents, 300 * 2500 + 300_000)
    assert (sum(together), len(together)) == (300, 2)
    assert store.asked == [("model.pt", 0)]


@pytest.mark.parametrize("wrong", [False, True])
def test_what_is_cut_off_or_wrong_among_several_files_goes_on_file_by_file(tmp_path: Path, wrong: bool) -> None:
    store, come = small(4), list[int]()

    def read_some(files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        yield files[0], iter([store.contents["part-0"]])
        yield files[1], iter([b"x" * 2500] if wrong else store.begun_and_cut("part-1"))
        raise AssertionError("the rest is not asked for together")

    fetch(store.files, tmp_path / "out", store.read, read_some, on_bytes=come.append)
    assert (files_of(tmp_path / "out"), sum(come)) == (store.contents, 4 * 2500)
    assert store.asked == [("part-1", 0 if wrong else 1000), ("part-2", 0), ("part-3", 0)]


def test_a_content_that_is_not_what_was_listed_is_refused(store: Store, tmp_path: Path) -> None:
    store.contents["logs/a.txt"] = b"b"
    with pytest.raises(DamagedError, match="not what its list says"):
        fetch(store.files, tmp_path, store.read)
    assert "logs/a.txt" not in files_of(tmp_path)


def test_what_is_there_with_another_content_stays_unless_it_shall_go(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"has model\.pt already"):
        fetch(store.files, tmp_path, store.read)
    assert (store.asked, files_of(tmp_path)) == ([], {"model.pt": b"mine"})
    fetch(store.files, tmp_path, store.read, replace=True)
    assert files_of(tmp_path) == store.contents


@pytest.mark.parametrize("name", ["x" * 255, "\u6f22" * 85, "\U0001f600" * 63])
def test_a_name_may_be_as_long_as_linux_has_them(tmp_path: Path, name: str) -> None:
    made = Store({name: b"1"})
    assert fetch(made.files, tmp_path, made.read).files == 1
    assert files_of(tmp_path) == made.contents


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", ".", "a\0b", "x" * 300])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(DamagedError, match="list of files is damaged"):
        fetch([KeptFile(path, 1, AT, sha256="0" * 64)], tmp_path / "out", lambda *_: iter((b"x",)))
    assert files_of(tmp_path) == {}


def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "logs").symlink_to(elsewhere)
    with pytest.raises(InputError, match="logs is a link"):
        fetch(store.files, folder, store.read, replace=True)
    (folder / "logs").unlink()
    (elsewhere / "mine").write_bytes(b"mine")
    (folder / "model.pt").symlink_to(elsewhere / "mine")
    fetch(store.files, folder, store.read, replace=True)
    assert files_of(elsewhere) == {"mine": b"mine"}
    assert not (folder / "model.pt").is_symlink()


def test_a_saved_file_has_no_hash_and_is_compared_as_it_is(tmp_path: Path) -> None:
    store = Store({"build.log": b"text"})
    files = [store.files[0]._replace(sha256="", kind=SAVED, attempt=None)]
    assert fetch(files, tmp_path, store.read).were_there == 0
    assert fetch(files, tmp_path, store.read).were_there == 1
    store.contents["build.log"] = b"TEXT"
    with pytest.raises(InputError, match=r"build\.log already"):
        fetch(files, tmp_path, store.read)


def test_an_outage_amid_a_file_is_outlasted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Transport:
        cuts = 2

        def read_file(self, run_id: str, file: KeptFile, start: int) -> Iterator[bytes]:
            pieces = store.read(file, start)
            yield next(pieces)
            if self.cuts:
                self.cuts -= 1
                raise ServerUnavailableError("the server is away")
            yield from pieces

    monkeypatch.setattr(patience, "_PAUSE_S", 0.0)
    connection = cast("Any", SimpleNamespace(transport=Transport()))
    assert Files(connection, "run", RunFiles(tuple(store.files[:1]))).download(tmp_path).files == 1
    assert store.asked == [("model.pt", 0), ("model.pt", 1000), ("model.pt", 2000)]
    assert files_of(tmp_path) == {"model.pt": store.contents["model.pt"]}
