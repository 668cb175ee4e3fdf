"""Content goes once no manifest names it, and never before, nor while somebody may be about to name it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from launch_worker.errors import DamagedError
from launch_worker.outputs import garbage
from launch_worker.outputs.content import store_folder
from launch_worker.outputs.garbage import Collected, collect, is_due
from launch_worker.outputs.stored import GRACE_S, StoredOutputs

DAY_S = 24 * 3600.0


@pytest.fixture
def stored(tmp_path: Path) -> StoredOutputs:
    return StoredOutputs(f"file://{tmp_path}/store")


def keep(stored: StoredOutputs, tmp_path: Path, run_id: str, *contents: bytes) -> None:
    folder = tmp_path / run_id
    folder.mkdir()
    for number, data in enumerate(contents):
        (folder / str(number)).write_bytes(data)
    stored.put_manifest(store_folder(folder, stored, run_id=run_id, attempt=1))


def age(tmp_path: Path, days: float, *, of: str = "") -> None:
    """Have the objects be as old as this."""
    for path in (tmp_path / "store").rglob(of or "*"):
        then = time.time() - days * DAY_S
        os.utime(path, (then, then))


def contents(tmp_path: Path) -> set[bytes]:
    return {path.read_bytes() for path in (tmp_path / "store/content").rglob("*") if path.is_file()}


def run_collection(stored: StoredOutputs) -> Collected:
    return collect(stored, stopping=threading.Event())


A, B = "01hq2mzk8q00000", "01hq2mzk8q00001"


def test_content_that_only_a_deleted_run_had_goes_and_shared_content_stays(
    stored: StoredOutputs, tmp_path: Path
) -> None:
    keep(stored, tmp_path, A, b"mine", b"shared")
    keep(stored, tmp_path, B, b"shared", b"other")
    age(tmp_path, 2)
    assert run_collection(stored) == Collected()
    stored.delete_run(A)
    assert run_collection(stored) == Collected(1, 4)
    assert contents(tmp_path) == {b"shared", b"other"}
    stored.delete_run(B)
    assert run_collection(stored).objects == 2
    assert contents(tmp_path) == set()


def test_young_content_stays_for_whoever_is_about_to_name_it(stored: StoredOutputs, tmp_path: Path) -> None:
    keep(stored, tmp_path, A, b"old", b"young")
    stored.delete_run(A)
    age(tmp_path, 2)
    age(
        tmp_path,
        0.9,
        of=next(
            path.name for path in (tmp_path / "store").rglob("*") if path.is_file() and path.read_bytes() == b"young"
        ),
    )
    assert run_collection(stored) == Collected(1, 3)
    assert contents(tmp_path) == {b"young"}


def test_content_that_is_sent_again_meanwhile_stays(
    stored: StoredOutputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(stored, tmp_path, A, b"1")
    stored.delete_run(A)
    age(tmp_path, 2)
    listed = stored.objects.all_facts

    def then_again(prefix: str) -> object:
        found = listed(prefix)
        if found:
            keep(stored, tmp_path, B, b"1")
        return found

    monkeypatch.setattr(stored.objects, "all_facts", then_again)
    assert run_collection(stored) == Collected()
    assert contents(tmp_path) == {b"1"}


def test_a_manifest_that_cannot_be_read_keeps_all_content(stored: StoredOutputs, tmp_path: Path) -> None:
    keep(stored, tmp_path, A, b"1")
    keep(stored, tmp_path, B, b"2")
    stored.delete_run(B)
    (tmp_path / f"store/outputs/{A}/1.json").write_bytes(b"{")
    age(tmp_path, 2)
    with pytest.raises(DamagedError, match=f"outputs/{A}/1.json"):
        run_collection(stored)
    assert contents(tmp_path) == {b"1", b"2"}


def test_what_is_not_ours_is_left_alone(stored: StoredOutputs, tmp_path: Path) -> None:
    keep(stored, tmp_path, A, b"1")
    stored.delete_run(A)
    (folder,) = (tmp_path / "store/content").iterdir()
    for name in ("README", f".{'ab' * 32}.12345678.partial"):
        (folder / name).write_bytes(b"mine")
    age(tmp_path, 2)
    assert run_collection(stored) == Collected(1, 1)
    assert contents(tmp_path) == {b"mine"}


def test_it_is_due_a_day_after_the_last_one_where_runs_were_deleted_and_else_once_a_month(
    stored: StoredOutputs, tmp_path: Path
) -> None:
    keep(stored, tmp_path, A, b"1")
    assert not is_due(stored), "nothing was deleted"
    stored.delete_run(A)
    assert is_due(stored)
    run_collection(stored)
    assert not is_due(stored)
    age(tmp_path, 1.1)
    assert is_due(stored)
    run_collection(stored)
    age(tmp_path, 1.1)
    assert not is_due(stored), "all is collected"
    age(tmp_path, 31)
    assert is_due(stored), "dead machines may have left something"


def test_a_collection_that_is_stopped_leaves_the_rest_to_the_next_one(
    stored: StoredOutputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(stored, tmp_path, A, b"1", b"2", b"3")
    stored.delete_run(A)
    age(tmp_path, 2)
    stopping = threading.Event()
    stopping.set()
    assert collect(stored, stopping=stopping) == Collected()
    assert garbage.is_due(stored)


def test_a_collection_of_which_nobody_says_the_end_is_due_again_and_holds_nobody_up_for_ever(
    stored: StoredOutputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(stored, tmp_path, A, b"1")
    before = stored.collection()
    assert stored.is_untouched_since(before)
    begin = stored.objects.put

    def first_only(name: str, pieces: list[bytes], **_: object) -> None:
        if not stored.collection():
            begin(name, pieces)

    with monkeypatch.context() as dying:
        dying.setattr(stored.objects, "put", first_only)
        run_collection(stored)
    amid = stored.collection()
    assert amid.startswith(b"under way")
    assert not stored.is_untouched_since(before)
    assert not stored.is_untouched_since(amid)
    assert is_due(stored)
    age(tmp_path, 1.1, of="collected")
    assert GRACE_S == DAY_S
    assert stored.is_untouched_since(amid)
    run_collection(stored)
    assert not stored.is_untouched_since(amid)
    assert stored.is_untouched_since(stored.collection())


def test_a_collection_ends_when_another_process_has_begun_one(
    stored: StoredOutputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(stored, tmp_path, A, b"1")
    stored.delete_run(A)
    age(tmp_path, 2)
    mark = garbage._mark

    def then_another(*args: object) -> set[bytes]:
        found = mark(*args)  # type: ignore[arg-type]
        stored.objects.put("collected", [b"under way elsewhere"])
        return found

    monkeypatch.setattr(garbage, "_mark", then_another)
    assert run_collection(stored) == Collected()
    assert (contents(tmp_path), stored.collection()) == ({b"1"}, b"under way elsewhere")
