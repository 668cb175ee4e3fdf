"""The kernel's counter of processes that it killed for memory, as each control group's version writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch_worker.runners.process.oom import Counter, own_counter

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 3\nmax 5\noom 4\noom_kill {}\noom_group_kill 9\n"


@pytest.mark.parametrize("text", [V1, V2])
def test_a_kill_since_then_is_seen(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counter"
    path.write_text(text.format(9))
    counter = Counter(iter([tmp_path / "none", path]))
    before = counter.read()
    assert not counter.has_risen(before)
    path.write_text(text.format(10))
    assert counter.has_risen(before)
    assert not counter.has_risen(counter.read())


def test_a_file_without_the_count_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("oom_kill_disable 0\nunder_oom 0\n")
    (tmp_path / "new").write_text(V2.format(1))
    assert Counter(iter([tmp_path / "old", tmp_path / "new"])).read() == V2.format(1).encode()


def test_where_nothing_is_counted_nothing_has_risen(tmp_path: Path) -> None:
    counter = Counter(iter([tmp_path / "none"]))
    assert counter.read() == b""
    assert not counter.has_risen(b"")
    assert own_counter() is own_counter()
