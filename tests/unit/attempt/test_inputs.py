"""What a run takes of other runs' outputs is there whole, verified, where it was asked for, or its start fails."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launch_worker.attempt.inputs import fetch_inputs
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError, StartGivenUpError
from launch_worker.model.run import Record
from launch_worker.outputs.content import store_folder
from launch_worker.outputs.stored import StoredOutputs

TRAIN, OTHER = "1m83cyvtfq1tc69", "1m83cyvtfq1tc70"
FILES = {"best/model.pt": b"weights", "best/deep/x": b"x", "log.txt": b"text"}


class Runs:
    """Runs and what they have left, for those who ask the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"file://{folder}/store"
        self.records: dict[str, Record] = {}

    def peek(self, run_id: str) -> Record | None:
        return self.records.get(run_id)

    def leave(
        self, run_id: str, files: dict[str, bytes], attempt: int = 1, links: Mapping[str, str] | None = None
    ) -> None:
        left = self.folder / f"{run_id}.{attempt}"
        for path, data in files.items():
            (left / path).parent.mkdir(parents=True, exist_ok=True)
            (left / path).write_bytes(data)
        for path, target in (links or {}).items():
            (left / path).symlink_to(target)
        stored = StoredOutputs(self.url)
        stored.put_manifest(store_folder(left, stored, run_id=run_id, attempt=attempt))
        self.tell(run_id, {str(attempt): {"files": len(files), "bytes": 1, "at": 1, "left_out": 0}})

    def tell(self, run_id: str, outputs: dict[str, Any]) -> None:
        self.records[run_id] = Record(id=run_id, outputs=json.dumps(outputs))

    def fetch(self, inputs: list[str], patience: Patience | None = None, *, has_url: bool = True) -> dict[str, bytes]:
        folder = self.folder / "attempt"
        folder.mkdir(exist_ok=True)
        settings = SimpleNamespace(output_url=self.url if has_url else "")
        attempt = SimpleNamespace(spec=SimpleNamespace(inputs=inputs), folder=SimpleNamespace(path=folder))
        context = SimpleNamespace(settings=settings, store=self)
        fetched = fetch_inputs(cast("Any", attempt), cast("Any", context), patience or Patience.of(30.0))
        return {str(path.relative_to(fetched)): path.read_bytes() for path in fetched.rglob("*") if path.is_file()}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    made = Runs(tmp_path)
    made.leave(TRAIN, FILES)
    return made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("log.txt", {"log.txt": b"text"}),
        ("log.txt:a/b", {"a/b": b"text"}),
        ("best/model.pt:.", {"model.pt": b"weights"}),
        ("best", {"best/model.pt": b"weights", "best/deep/x": b"x"}),
        ("best:m", {"m/model.pt": b"weights", "m/deep/x": b"x"}),
        ("best:.", {"model.pt": b"weights", "deep/x": b"x"}),
        (".", FILES),
        (".:all", {f"all/{path}": data for path, data in FILES.items()}),
    ],
)
def test_a_file_a_folder_or_all_is_where_it_was_asked_for(runs: Runs, text: str, found: dict[str, bytes]) -> None:
    assert runs.fetch([f"{TRAIN}:{text}"]) == found


@pytest.mark.parametrize(
    ("text", "found", "links"),
    [
        (".", FILES, {"here": "best/model.pt", "last": "best"}),
        ("last:now", {"now/model.pt": b"weights", "now/deep/x": b"x"}, {}),
        ("last/model.pt", {"last/model.pt": b"weights"}, {}),
        ("here:a/b", {"a/b": b"weights"}, {}),
    ],
)
def test_an_input_leads_through_links(
    runs: Runs, text: str, found: dict[str, bytes], links: dict[str, str], tmp_path: Path
) -> None:
    runs.leave(OTHER, FILES, links={"last": "best", "here": "last/model.pt"})
    there = runs.fetch([f"{OTHER}:{text}"])
    for path, target in links.items():
        assert os.path.realpath(tmp_path / "attempt/inputs" / path) == str(tmp_path / "attempt/inputs" / target)
        there.pop(path, None)
    assert there == found


def test_a_link_to_a_file_elsewhere_comes_as_that_file_and_once(runs: Runs, tmp_path: Path) -> None:
    files = {"big/file": b"large", "many/x": b"x"}
    links = {f"many/{number}": "../big/file" for number in range(3)}
    runs.leave(OTHER, files, links=links | {"many/no": "../big"})
    assert runs.fetch([f"{OTHER}:many:data"]) == {"data/x": b"x"} | {f"data/{n}": b"large" for n in range(3)}
    inputs = tmp_path / "attempt/inputs/data"
    assert [os.readlink(inputs / name) for name in ("1", "2")] == ["0", "0"]
    assert not (inputs / "0").is_symlink()


def test_inputs_of_several_runs_are_in_one_folder(runs: Runs) -> None:
    runs.leave(OTHER, {"data": b"1"})
    runs.leave(OTHER, {"data": b"2"}, attempt=2)
    assert runs.fetch([f"{TRAIN}:log.txt", f"{OTHER}:data:best/data"]) == {"log.txt": b"text", "best/data": b"2"}


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([f"{TRAIN}:bes"], r"has no output 'bes'; its attempt 1 left: best/deep/x, best/model\.pt, log\.txt"),
        ([f"{OTHER}:."], f"run {OTHER} left no outputs"),
        ([f"{TRAIN}:log.txt", f"{TRAIN}:best/model.pt:log.txt"], "do not go together: it has two files 'log.txt'"),
        ([f"{TRAIN}:log.txt", f"{TRAIN}:best:log.txt"], "do not go together: 'log.txt' is a file and a folder"),
    ],
)
def test_what_is_not_there_or_does_not_fit_fails_with_a_sentence(runs: Runs, inputs: list[str], why: str) -> None:
    with pytest.raises(CodeError, match=why):
        runs.fetch(inputs)


def test_outputs_of_a_run_that_redis_has_forgotten_are_found(runs: Runs) -> None:
    del runs.records[TRAIN]
    assert runs.fetch([f"{TRAIN}:log.txt"]) == {"log.txt": b"text"}


def test_a_worker_without_a_place_of_outputs_says_what_to_set(runs: Runs) -> None:
    with pytest.raises(CodeError, match="set LAUNCH_OUTPUT_URL") as failed:
        runs.fetch([f"{TRAIN}:."], has_url=False)
    assert not failed.value.worker_fault


def test_a_content_that_the_store_has_lost_leaves_no_half_folder(runs: Runs) -> None:
    for path in (runs.folder / "store/content").rglob("*"):
        if path.is_file() and path.read_bytes() == b"text":
            path.write_bytes(b"TEXT")
    with pytest.raises(CodeError, match=r"'log\.txt' .* the store lost it"):
        runs.fetch([f"{TRAIN}:."])
    assert list((runs.folder / "attempt").iterdir()) == []


def test_a_start_that_nobody_wants_any_more_is_given_up_in_the_middle_of_its_inputs(runs: Runs) -> None:
    """And not called a fault of the worker, which would put a cancelled run back into its queue."""
    with pytest.raises(StartGivenUpError):
        runs.fetch([f"{TRAIN}:."], Patience.of(30.0, unwanted=lambda: True))


def test_outputs_that_are_on_their_way_are_waited_for_as_long_as_the_start_may_take(runs: Runs) -> None:
    there = runs.records[TRAIN].outputs
    runs.tell(TRAIN, {"1": {"sending": True}})
    with pytest.raises(CodeError, match="the input was not there within the start timeout"):
        runs.fetch([f"{TRAIN}:."], Patience.of(0.01))
    with pytest.raises(StartGivenUpError):
        runs.fetch([f"{TRAIN}:."], Patience.of(30.0, unwanted=lambda: True))
    looked = threading.Event()

    def sent() -> None:
        looked.wait()
        runs.tell(TRAIN, json.loads(there))

    sender = threading.Thread(target=sent)
    sender.start()
    before = runs.peek

    def peek(run_id: str) -> Record | None:
        found = before(run_id)
        looked.set()
        return found

    runs.peek = peek  # type: ignore[method-assign]
    assert runs.fetch([f"{TRAIN}:log.txt"], Patience(time.monotonic() + 30.0, 30.0)) == {"log.txt": b"text"}
    sender.join()
