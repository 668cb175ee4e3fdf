"""A manifest reads what it wrote, and refuses what would lead out of a folder or to another object."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.outputs.manifest import LeftOut, Link, Manifest, StoredFile, why_no_path

SHA = "ab" * 32
RUN = "01hq2mzk8q00000"


def stored(path: str = "a/b.txt", **other: Any) -> StoredFile:
    return StoredFile(path, 3, SHA, 0o644, 1_700_000_000_000_000, f"content/ab/{SHA}")._replace(**other)


def manifest(*files: StoredFile) -> Manifest:
    return Manifest(RUN, 2, files, (LeftOut("link", "it is a link"),), 7)


def changed(**facts: Any) -> bytes:
    """A manifest with one file of which some facts are others."""
    known = json.loads(manifest(stored()).to_json())
    known["files"][0] |= facts
    return json.dumps(known).encode()


def test_it_reads_what_it_wrote() -> None:
    wrote = manifest(stored(), stored("a/ü\n\x1b[31m", mode=0o755, content=f"checkpoints/{RUN}/1/{SHA}"))
    assert Manifest.from_json(wrote.to_json()) == wrote
    assert Manifest.from_json(replace(wrote, executed=SHA).to_json()) == replace(wrote, executed=SHA)
    assert (wrote.total_bytes, wrote.file("a/b.txt"), wrote.file("a")) == (6, stored(), None)


@pytest.mark.parametrize(
    ("path", "target", "is_good"),
    [
        ("last", "model", True),
        ("last", "a/b", True),
        ("a/last", "../model", True),
        ("a/b/up", "..", True),
        ("a/b/root", "../..", True),
        ("last", "../model", False),
        ("a/last", "../../x", False),
        ("a/last", "b/../../../x", False),
        ("last", "/etc/passwd", False),
        ("last", "", False),
        ("last", "a//b", False),
        ("last", "a\0b", False),
        ("last", "\udc80", False),
        ("last", 1, False),
        ("../last", "model", False),
        (None, "model", False),
        ("a/b.txt", "model", False),
    ],
)
def test_a_link_leads_to_something_in_the_folder(path: Any, target: Any, is_good: bool) -> None:
    known = json.loads(manifest(stored()).to_json()) | {"links": [{"path": path, "target": target}]}
    with contextlib.nullcontext() if is_good else pytest.raises(ValueError, match=r"link|two files"):
        found = Manifest.from_json(json.dumps(known).encode())
        assert found.links == (Link(path, target),)
        assert Manifest.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "x" * 256, "a/" * 2048 + "a", "\udc80", 1, None],
)
def test_a_path_out_of_the_folder_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match="no file is called"):
        Manifest.from_json(changed(path=path))


@pytest.mark.parametrize(
    "facts",
    [
        {"content": f"content/ab/{'cd' * 32}"},
        {"content": f"outputs/{SHA}"},
        {"content": f"content/ab/../{SHA}"},
        {"content": f"checkpoints/../1/{SHA}"},
        {"sha256": "../../x"},
        {"size": -1},
        {"size": 1.5},
        {"mode": "0644"},
        {"mtime": "now"},
        {"mtime": 1 << 60},
        {"mtime": -(1 << 60)},
    ],
)
def test_another_object_or_no_number_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is no|is called"):
        Manifest.from_json(changed(**facts))


def test_no_manifest_sets_a_user_id() -> None:
    assert Manifest.from_json(changed(mode=0o6755)).files[0].mode == 0o755


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b/c/d", "a/b"]])
def test_paths_that_no_folder_can_have_together_are_refused(paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"two files|a file and a folder"):
        Manifest.from_json(manifest(*map(stored, paths)).to_json())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_a_manifest_or_a_value_error(value: Any) -> None:
    for known in (value, {"run": RUN, "attempt": 1, "files": value}, {"run": RUN, "attempt": 1, "files": [value]}):
        with contextlib.suppress(ValueError):
            Manifest.from_json(json.dumps(known).encode())


@given(st.text(max_size=20))
def test_a_path_that_is_taken_stays_below_its_folder(path: str) -> None:
    if not why_no_path(path):
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
