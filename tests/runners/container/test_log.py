"""Copying an engine's log: in order, to the very byte, across breaks, mended, bounded by what the engine keeps."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from launch_worker.runners.container.log import ContainerLog, messages_of


def at(second: float) -> bytes:
    whole, part = divmod(round(second * 1e9), 1_000_000_000)
    return f"2026-01-02T03:04:{whole:02}.{part:09}Z".encode()


def message(second: float, data: bytes) -> bytes:
    return at(second) + b" " + data


def frames(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">BxxxL", 1, len(message)) + message for message in messages)


class Engine:
    """Holds the messages of one container and gives them from a time on, as an engine does."""

    def __init__(self, *messages: tuple[float, bytes]) -> None:
        self.messages = list(messages)

    def since(self, seconds: float) -> list[bytes]:
        base = 1767323040.0  # 2026-01-02T03:04:00Z
        return [message(second, data) for second, data in self.messages if base + second >= seconds]

    def copy_to(self, copy: ContainerLog, *, stop_after: int | None = None) -> None:
        for entry in self.since(copy.resume())[:stop_after]:
            copy.add(entry)
        if stop_after is None:
            copy.end()


@pytest.mark.parametrize("size", [1, 3, 8, 9, 1000])
def test_messages_are_found_however_the_stream_is_cut(size: int) -> None:
    stream = frames(b"one", b"", b"three" * 100, b"four")
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert list(messages_of(chunks)) == [b"one", b"", b"three" * 100, b"four"]


@pytest.mark.parametrize("break_after", range(7))
def test_a_new_worker_goes_on_with_the_next_byte_wherever_the_former_one_died(tmp_path: Path, break_after: int) -> None:
    """Two streams whose times are out of order, and a long line in pieces that share one."""
    engine = Engine(
        (1.0, b"a\n"),
        (3.0, b"b\n"),
        (2.9, b"c\n"),
        (4.0, b"x" * 16384),
        (4.0, b"x" * 16384),
        (4.0, b"x\n"),
        (4.1, b"d\n"),
    )
    output = tmp_path / "output"
    first = ContainerLog(output)
    engine.copy_to(first, stop_after=break_after)
    first.close()
    second = ContainerLog(output)
    engine.copy_to(second)
    assert output.read_bytes() == b"".join(data for _, data in engine.messages)
    # And once more in the same worker, as after a break of the connection.
    engine.messages.append((5.0, b"e\n"))
    engine.copy_to(second)
    assert output.read_bytes() == b"".join(data for _, data in engine.messages)
    second.close()


@pytest.mark.parametrize("cut", [1, 5000, 16384, 20000])
def test_a_message_that_was_half_written_is_completed(tmp_path: Path, cut: int) -> None:
    engine = Engine((1.0, b"a" * 16384), (1.0, b"b" * 16000 + b"\n"), (2.0, b"c\n"))
    whole = b"".join(data for _, data in engine.messages)
    output = tmp_path / "output"
    output.write_bytes(whole[:cut])
    copy = ContainerLog(output)
    engine.copy_to(copy)
    copy.close()
    assert output.read_bytes() == whole


def test_the_mark_keeps_what_is_read_again_small(tmp_path: Path) -> None:
    engine = Engine(*((1 + index * 10.0 / 400, b"%04d" % index + b"x" * 10_000 + b"\n") for index in range(400)))
    output = tmp_path / "output"
    first = ContainerLog(output)
    engine.copy_to(first)
    first.close()
    engine.messages.append((20.0, b"end\n"))
    second = ContainerLog(output)
    again = engine.since(second.resume())
    assert len(again) < 250, "of 401"
    for entry in again:
        second.add(entry)
    second.close()
    assert output.read_bytes() == b"".join(data for _, data in engine.messages)


def test_when_the_engine_has_dropped_its_older_log_what_it_still_has_is_taken(tmp_path: Path) -> None:
    engine = Engine((1.0, b"one\n"), (2.0, b"two\n"), (3.0, b"three\n"))
    output = tmp_path / "output"
    copy = ContainerLog(output)
    engine.copy_to(copy)
    engine.messages = [(30.0, b"later\n"), (31.0, b"last\n")]
    engine.copy_to(copy)
    copy.close()
    assert output.read_bytes() == b"one\ntwo\nthree\nlater\nlast\n"


def test_a_long_line_whose_newline_the_engine_dropped_gets_it_back_also_across_a_break(tmp_path: Path) -> None:
    engine = Engine((1.0, b"x" * 16384), (1.0, b"tail"), (2.0, b"next\n"), (3.0, b"end"))
    output = tmp_path / "output"
    for break_after in (2, 3, None):
        copy = ContainerLog(output, mends_lines=True)
        engine.copy_to(copy, stop_after=break_after)
        copy.close()
    assert output.read_bytes() == b"x" * 16384 + b"tail\nnext\nend"


def test_times_of_other_zones_are_understood(tmp_path: Path) -> None:
    output = tmp_path / "output"
    copy = ContainerLog(output)
    copy.resume()
    copy.add(b"2026-01-02T04:04:01+01:00 a\n")
    copy.add(b"2026-01-02T04:04:05.5+01:00 b\n")
    assert copy.resume() == 1767323041 - 2
    copy.close()


def test_a_full_disk_does_not_stop_the_copy(tmp_path: Path) -> None:
    """The job goes on: only its output may be missing, and that is known."""
    copy = ContainerLog(tmp_path / "output")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, copy._writer._fd)
    os.close(full)
    copy.resume()
    copy.add(message(1.0, b"lost\n"))
    copy.add(message(2.0, b"lost too\n"))
    assert copy.disk_was_full
    copy.close()
