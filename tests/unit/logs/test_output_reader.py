"""Output is read while its file loses its beginning: what was lost is passed over, and never read as zeros."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch_worker.logs.output_reader import OutputReader

BLOCK = 64 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "output"
    made.write_bytes(b"".join(b"%063d\n" % at for at in range(8 * BLOCK // 64)))
    return made


def test_what_was_freed_before_is_passed_over(path: Path) -> None:
    printed, reader = path.read_bytes(), OutputReader(path)
    reader.file.free_before(2 * BLOCK)
    at, data = reader.read(0, 4 * BLOCK)
    assert at in (0, 2 * BLOCK)  # 0 where the file system has no holes, and the file begins anew
    assert data in (b"", printed[2 * BLOCK : 4 * BLOCK])
    reader.close()


def test_what_is_freed_in_the_middle_of_a_read_is_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, reader = path.read_bytes(), OutputReader(path)
    read = reader.file.read

    def slow(position: int, length: int) -> bytes:
        """The kernel copies page by page; others may free what has not been copied."""
        first = read(position, BLOCK)
        reader.file.free_before(3 * BLOCK)
        return first + read(position + BLOCK, length - BLOCK)

    monkeypatch.setattr(reader.file, "read", slow)
    at, data = reader.read(0, 6 * BLOCK)
    assert data == printed[at : at + len(data)]
    assert at == 3 * BLOCK
    reader.close()


def test_what_is_freed_after_a_read_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, reader = path.read_bytes(), OutputReader(path)
    read = reader.file.read

    def quick(position: int, length: int) -> bytes:
        data = read(position, length)
        reader.file.free_before(3 * BLOCK)
        return data

    monkeypatch.setattr(reader.file, "read", quick)
    assert reader.read(0, 6 * BLOCK) == (0, printed[: 6 * BLOCK])
    reader.close()
