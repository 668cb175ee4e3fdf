"""A folder goes into a store and comes back: links, races and strange names included, whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch_worker.errors import DamagedError, InputError, LaunchError
from launch_worker.outputs import content
from launch_worker.outputs.content import (
    IS_LINK,
    Bounds,
    ChangedError,
    Found,
    Hashes,
    fetch_folder,
    store_folder,
)
from launch_worker.outputs.manifest import LeftOut, Link, Manifest
from launch_worker.outputs.stored import StoredOutputs

RUN = "01hq2mzk8q00000"
CHANGED = "it changed while it was read"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


@pytest.fixture
def stored(tmp_path: Path) -> StoredOutputs:
    return StoredOutputs(f"file://{tmp_path}/store")


@pytest.fixture
def objects(tmp_path: Path) -> Callable[[], dict[str, Path]]:
    """The objects with content, by hash."""
    return lambda: {path.name: path for path in (tmp_path / "store").rglob("*") if path.is_file()}


def store(folder: Path, stored: StoredOutputs, **more: Any) -> Manifest:
    return store_folder(folder, stored, run_id=RUN, attempt=1, **more)


def write(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_mtime_ns // 1000)
        for path in folder.rglob("*")
        if path.is_file()
    }


def paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


def test_what_comes_back_is_what_was_there(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/model").write_bytes(os.urandom(3 << 20))
    (folder / "a/run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "a/run.sh").chmod(0o750)
    (folder / "empty").touch()
    (folder / "ü \x1b[31m\n").write_bytes(b"red")
    os.utime(folder / "empty", ns=(0, 1_600_000_000_123_456_789))
    manifest = Manifest.from_json(store(folder, stored).to_json())
    fetch_folder(stored, manifest.files, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(folder)
    assert not manifest.left_out
    assert os.listdir(tmp_path / "back") == os.listdir(folder) or set(os.listdir(tmp_path / "back")) == set(
        os.listdir(folder)
    )


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "é", ".x"]), min_size=1, max_size=3).map(tuple), st.binary(max_size=9)
    )
)
def test_any_folder_comes_back(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]) -> None:
    base = tmp_path_factory.mktemp("any")
    (base / "job").mkdir()
    for parts, data in files.items():
        path = base / "job" / "/".join(parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    stored = StoredOutputs(f"file://{base}/store")
    fetch_folder(stored, store(base / "job", stored).files, base / "back")
    assert tree(base / "back") == tree(base / "job")


def test_what_is_no_plain_file_is_left_out_and_named(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    write(secret, key=b"hunter2")
    write(folder, good=b"1")
    (folder / "link").symlink_to(secret / "key")
    (folder / "folder").symlink_to(secret)
    (folder / "absolute").symlink_to(folder / "good")
    (folder / "nowhere").symlink_to("pipe")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    os.mkdir(os.fsencode(folder) + b"/\xff")
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff")) / "x").touch()
    manifest = store(folder, stored)
    assert paths(manifest) == ["good"]
    assert manifest.left_out == (
        LeftOut("absolute", IS_LINK),
        LeftOut("folder", IS_LINK),
        LeftOut("link", IS_LINK),
        LeftOut("pipe", "it is no plain file"),
        LeftOut("\\udcff/x", "its name is no UTF-8"),
        LeftOut("circle", "it is a link to something that is not kept"),
        LeftOut("nowhere", "it is a link to something that is not kept"),
    )
    Manifest.from_json(manifest.to_json())


def test_links_to_something_that_is_kept_come_back(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    (folder / "step-3").mkdir()
    write(folder / "step-3", **{"model.pt": b"3"})
    (folder / "last").symlink_to("step-3")
    (folder / "step-3/top").symlink_to("..")
    (folder / "best.pt").symlink_to("last/model.pt")
    manifest = store(folder, stored)
    assert (paths(manifest), manifest.left_out_count) == (["step-3/model.pt"], 0)
    assert Manifest.from_json(manifest.to_json()) == manifest
    fetch_folder(stored, manifest.files, tmp_path / "back", links=manifest.links)
    assert {path: os.readlink(tmp_path / "back" / path) for path in ("last", "step-3/top", "best.pt")} == {
        "last": "step-3",
        "step-3/top": "..",
        "best.pt": "last/model.pt",
    }
    assert (tmp_path / "back/best.pt").read_bytes() == b"3"
    chosen = store(folder, stored, wanted=lambda path: path != "step-3/model.pt")
    assert (paths(chosen), chosen.links, chosen.left_out_count) == ([], (), 3)
    some = store(folder, stored, bounds=Bounds(max_files=1))
    assert (len(some.files), some.links, some.left_out_count) == (1, (), 3)
    for target in ("../outside", "/etc", "a/../../outside"):
        with pytest.raises(DamagedError):
            fetch_folder(stored, manifest.files, tmp_path / "no", links=[Link("evil", target)])
    assert not (tmp_path / "no").exists()


def test_a_folder_that_is_a_link_is_not_stored(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(NotADirectoryError):
        store(tmp_path / "link", stored)


def test_what_is_over_the_bounds_is_left_out_and_named(folder: Path, stored: StoredOutputs) -> None:
    write(folder, a=b"1" * 60, b=b"1" * 60, c=b"1" * 30)
    manifest = store(folder, stored, bounds=Bounds(max_bytes=100))
    assert (paths(manifest), manifest.left_out) == (["a", "c"], (LeftOut("b", "the files have more than 100 bytes"),))
    manifest = store(folder, stored, bounds=Bounds(max_files=2))
    assert (paths(manifest), manifest.left_out) == (["a", "b"], (LeftOut("c", "there are more than 2 files"),))


def test_a_flood_of_files_is_neither_looked_at_nor_named_whole(folder: Path, stored: StoredOutputs) -> None:
    for number in range(1500):
        (folder / f"{number:05}").touch()
    manifest = store(folder, stored, bounds=Bounds(max_files=100))
    assert len(manifest.files) == 100
    assert (len(manifest.left_out), manifest.left_out_count) == (901, 901)
    assert LeftOut(".", "there are too many files, and not all were looked at") in manifest.left_out
    manifest = store(folder, stored, bounds=Bounds(max_files=150))
    assert (len(manifest.left_out), manifest.left_out_count) == (1000, 1350)


def test_folders_that_are_too_deep_are_left_out(folder: Path, stored: StoredOutputs) -> None:
    deep = folder / "/".join("d" * 70)
    deep.mkdir(parents=True)
    (deep / "x").touch()
    manifest = store(folder, stored)
    assert [one.why for one in manifest.left_out] == ["it is more than 64 folders deep"]


def test_only_wanted_files_are_kept_and_others_not_named(folder: Path, stored: StoredOutputs) -> None:
    write(folder, a=b"1", b=b"2")
    manifest = store(folder, stored, wanted=lambda path: path == "a")
    assert (paths(manifest), manifest.left_out_count) == (["a"], 0)


# -- what is there is not sent again -----------------------------------------------------------------------------------


def test_content_is_sent_once(folder: Path, stored: StoredOutputs, objects: Callable[[], dict[str, Path]]) -> None:
    write(folder, a=b"same", b=b"same", c=b"other")
    manifest = store(folder, stored)
    before = {name: path.stat().st_ino for name, path in objects().items()}
    assert len(before) == 2
    write(folder, d=b"third")
    again = store(folder, stored)
    after = {name: path.stat().st_ino for name, path in objects().items()}
    assert after.items() > before.items()
    assert len(after) == 3
    assert set(manifest.contents) == set(before)
    assert set(again.contents) == set(after)


def test_content_that_may_soon_be_collected_is_sent_again(
    folder: Path, stored: StoredOutputs, objects: Callable[[], dict[str, Path]]
) -> None:
    write(folder, a=b"1")
    manifest = store(folder, stored)
    (path,) = objects().values()
    old = time.time() - 13 * 3600
    os.utime(path, (old, old))
    store(folder, stored, earlier=manifest.contents)
    assert path.stat().st_mtime == pytest.approx(old, abs=1), "the run's own manifest keeps it"
    store(folder, stored)
    assert path.stat().st_mtime > old + 3600


def test_content_of_another_size_is_sent_again(
    folder: Path, stored: StoredOutputs, objects: Callable[[], dict[str, Path]]
) -> None:
    write(folder, a=b"12345")
    store(folder, stored)
    (path,) = objects().values()
    path.write_bytes(b"123")
    store(folder, stored)
    assert path.read_bytes() == b"12345"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of files that were read."""
    seen: list[str] = []
    read = content.read_file

    def counted(folder: int, file: Found) -> Iterator[bytes]:
        seen.append(file.path)
        return read(folder, file)

    monkeypatch.setattr(content, "read_file", counted)
    return seen


def test_an_unchanged_file_is_hashed_once(
    folder: Path, stored: StoredOutputs, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, a=b"1", b=b"2")
    monkeypatch.setattr(content, "_RACY_S", -1.0)
    hashes = Hashes()
    first = store(folder, stored, hashes=hashes)
    assert sorted(reads) == ["a", "a", "b", "b"], "hashed, then sent"
    reads.clear()
    write(folder, b=b"3")
    second = store(folder, stored, hashes=hashes, earlier=first.contents)
    assert reads == ["b", "b"]
    assert second.file("a") == first.file("a")
    assert second.file("b") != first.file("b")
    folder.rename(folder.with_name("moved"))
    reads.clear()
    store(folder.with_name("moved"), stored, hashes=hashes, earlier=second.contents)
    assert reads == []


def test_a_file_that_has_just_changed_is_hashed_again(folder: Path, stored: StoredOutputs, reads: list[str]) -> None:
    write(folder, a=b"1")
    hashes = Hashes()
    first = store(folder, stored, hashes=hashes)
    reads.clear()
    store(folder, stored, hashes=hashes, earlier=first.contents)
    assert reads == ["a"], "it could have changed again in the same tick of the file system's clock"


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Has something done once, just before a file with this name is read for the second time: when it is sent."""

    def arrange(name: str, act: Callable[[], object], at: int = 2) -> None:
        read = content.read_file
        seen: list[str] = []

        def disturbed(folder: int, file: Found) -> Iterator[bytes]:
            seen.append(file.path)
            if file.path == name and seen.count(name) == at:
                act()
            return read(folder, file)

        monkeypatch.setattr(content, "read_file", disturbed)

    return arrange


@pytest.mark.parametrize("at", [1, 2])
def test_a_file_that_changes_is_left_out_and_nothing_wrong_is_stored(
    folder: Path, stored: StoredOutputs, meanwhile: Any, objects: Callable[[], dict[str, Path]], at: int
) -> None:
    write(folder, a=b"first", b=b"other")
    meanwhile("a", lambda: write(folder, a=b"FIRST"), at=at)
    manifest = store(folder, stored)
    assert (paths(manifest), manifest.left_out) == (["b"], (LeftOut("a", CHANGED),))
    assert len(objects()) == 1


def test_a_copy_stands_in_for_a_file_that_changes(folder: Path, stored: StoredOutputs, meanwhile: Any) -> None:
    write(folder, a=b"same", b=b"same")
    meanwhile("a", lambda: os.unlink(folder / "a"))
    manifest = store(folder, stored)
    assert (paths(manifest), manifest.left_out) == (["b"], (LeftOut("a", CHANGED),))
    assert b"".join(stored.pieces(manifest.files[0])) == b"same"


@pytest.mark.parametrize("at", [1, 2])
def test_a_state_of_which_a_file_changes_is_no_state(
    folder: Path, stored: StoredOutputs, meanwhile: Any, at: int
) -> None:
    write(folder, a=b"first")
    meanwhile("a", lambda: write(folder, a=b"FIRST"), at=at)
    with pytest.raises(ChangedError):
        store(folder, stored, is_strict=True)


def test_a_folder_that_becomes_a_link_is_not_followed(
    folder: Path, stored: StoredOutputs, meanwhile: Any, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret", key=b"hunter2")
    (folder / "sub").mkdir()
    write(folder / "sub", key=b"1234567")

    def replace() -> None:
        (folder / "sub").rename(tmp_path / "away")
        (folder / "sub").symlink_to(tmp_path / "secret")

    meanwhile("sub/key", replace, at=1)
    manifest = store(folder, stored)
    assert (manifest.files, manifest.left_out) == ((), (LeftOut("sub/key", CHANGED),))


def test_a_file_that_becomes_a_pipe_blocks_nothing(folder: Path, stored: StoredOutputs, meanwhile: Any) -> None:
    write(folder, a=b"1")

    def replace() -> None:
        (folder / "a").unlink()
        os.mkfifo(folder / "a")

    meanwhile("a", replace)
    assert store(folder, stored).left_out == (LeftOut("a", CHANGED),)


def test_a_check_that_raises_ends_the_sending(folder: Path, stored: StoredOutputs) -> None:
    write(folder, **{f"f{number}": os.urandom(100) for number in range(20)})
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise LaunchError("the worker ends")

    with pytest.raises(LaunchError, match="the worker ends"):
        store(folder, stored, check=check)


def test_a_store_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    write(folder, a=b"1", b=b"2")
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"cannot .* the outputs at file://.* \(LAUNCH_OUTPUT_URL\)"):
        store(folder, StoredOutputs(f"file://{tmp_path}/file"))


# -- fetching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["other", "short", "gone"])
def test_damaged_content_leaves_nothing_behind(
    folder: Path, stored: StoredOutputs, tmp_path: Path, objects: Callable[[], dict[str, Path]], fault: str
) -> None:
    write(folder, a=b"1" * 100, b=b"2" * 100)
    manifest = store(folder, stored)
    path = objects()[manifest.files[1].sha256]
    match fault:
        case "other":
            path.write_bytes(b"3" * 100)
        case "short":
            path.write_bytes(b"2" * 50)
        case "gone":
            path.unlink()
    before = set(tmp_path.iterdir())
    with pytest.raises(DamagedError, match="'b'"):
        fetch_folder(stored, manifest.files, tmp_path / "back")
    assert set(tmp_path.iterdir()) == before


def test_an_empty_folder_is_taken_and_another_one_is_not(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    write(folder, a=b"1")
    manifest = store(folder, stored)
    (tmp_path / "empty").mkdir()
    fetch_folder(stored, manifest.files, tmp_path / "empty")
    assert tree(tmp_path / "empty") == tree(folder)
    with pytest.raises(InputError, match="is not empty"):
        fetch_folder(stored, manifest.files, tmp_path / "empty")
    fetch_folder(stored, [], tmp_path / "nothing")
    assert list((tmp_path / "nothing").iterdir()) == []


def test_a_manifest_made_by_hand_leads_nowhere(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    write(folder, a=b"1")
    (file,) = store(folder, stored).files
    for bad in ([file._replace(path="../x")], [file, file], [file, file._replace(path="a/b")]):
        with pytest.raises(DamagedError, match="the manifest cannot be a folder"):
            fetch_folder(stored, bad, tmp_path / "back")


def test_a_part_of_a_file_is_read(folder: Path, stored: StoredOutputs) -> None:
    write(folder, a=b"0123456789", empty=b"")
    a, empty = store(folder, stored).files
    assert (stored.part(a, 3, 5), stored.part(empty, 0, 0)) == (b"34", b"")
    with pytest.raises(DamagedError):
        stored.part(a, 5, 11)


def test_manifests_are_found_and_deleted_with_their_run(folder: Path, stored: StoredOutputs) -> None:
    write(folder, a=b"1")
    assert (stored.attempts(RUN), stored.manifest(RUN, 1)) == ([], None)
    for attempt in (1, 12):
        stored.put_manifest(store_folder(folder, stored, run_id=RUN, attempt=attempt))
    assert stored.attempts(RUN) == [1, 12]
    found = stored.manifest(RUN, 12)
    assert found is not None
    assert found.file("a") is not None
    stored.delete_run(RUN)
    assert (stored.attempts(RUN), stored.manifest(RUN, 1)) == ([], None)
    assert b"".join(stored.pieces(found.files[0])) == b"1", "another run may have the same content"
