"""The file by which a container's job talks, as an engine gives it: copied within bounds."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.current import TO_WORKER
from launch_worker.runners.container import talk
from launch_worker.runners.container.engine import FileInContainer
from launch_worker.runners.container.talk import ContainerTalks


class Engine:
    """An engine that has one container with one file."""

    def __init__(self) -> None:
        self.content = b""
        #: Length that it says the file has, where that is another one.
        self.said: int | None = None
        self.fetched = 0
        self._asked = 0

    def stat(self, container: str, path: str) -> FileInContainer:
        self._asked += 1
        size = len(self.content) if self.said is None else self.said
        return FileInContainer(size, str(self._asked), is_file=True, is_folder=False)

    @contextlib.contextmanager
    def stream(self, path: str, options: Any) -> Iterator[Iterator[bytes]]:
        self.fetched += 1
        with io.BytesIO() as buffer:
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                entry = tarfile.TarInfo(TO_WORKER)
                entry.size = len(self.content)
                archive.addfile(entry, io.BytesIO(self.content))
            yield iter([buffer.getvalue()])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    # No thread: a test copies by itself, as is done at a container's end.
    monkeypatch.setattr(ContainerTalks, "_run", lambda self: None)
    return Engine()


def copy(engine: Engine, folder: Path) -> bytes:
    """Copy what is new, as another worker that goes on with the copy."""
    talks = ContainerTalks(engine)  # type: ignore[arg-type]
    talks.add("container", folder)
    talks.finish("container")
    return (folder / TO_WORKER).read_bytes()


def test_what_is_new_is_appended(engine: Engine, tmp_path: Path) -> None:
    engine.content = b"one\n"
    assert copy(engine, tmp_path) == b"one\n"
    engine.content += b"two\n"
    assert copy(engine, tmp_path) == b"one\ntwo\n"


def test_of_a_flood_the_newest_is_copied_and_the_rest_is_a_hole(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "MOST_NEW_BYTES", 4)
    engine.content = b"old\n"
    copy(engine, tmp_path)
    engine.content += b"x" * (1 << 20) + b"new\n"
    found = copy(engine, tmp_path)
    assert (found[:4], found[-4:], found.count(b"x"), len(found)) == (b"old\n", b"new\n", 0, len(engine.content))
    assert (tmp_path / TO_WORKER).stat().st_blocks * 512 < 1 << 16


def test_a_file_of_terabytes_is_not_asked_for(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine.said = 4 << 40
    assert copy(engine, tmp_path) == b""
    assert engine.fetched == 0
    assert "talk.too_large" in caplog.text


def test_a_file_that_grew_to_terabytes_since_it_was_looked_at_is_not_copied(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "MOST_BYTES", 100)
    engine.content, engine.said = b"x" * 1000, 10
    assert copy(engine, tmp_path) == b""
