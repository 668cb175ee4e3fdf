"""Output that is joined as it comes has the lines and times of what it was joined of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.logs.numbered import Line, Numbered
from launch_worker.logs.output import Output
from launch_worker.logs.parts import with_live_parts
from launch_worker.model.run import Record
from launch_worker.server import live_logs
from launch_worker.server.live_logs import LiveLogs
from launch_worker.store.logs import LogChunk
from launch_worker.store.store import Store
from tests.unit.logs.test_output import RUN, TEXTS, cut

RECORD = cast(Record, type("Known", (), {"id": RUN, "attempt": 1, "token": 7}))


class Log:
    """What Redis has of an attempt's output, as far as `Store.log` is concerned."""

    def __init__(self, chunks: Sequence[LogChunk]) -> None:
        self.chunks = list(chunks)
        self.read: list[int] = []

    def log(self, run_id: str, attempt: int, *, after: str = "-") -> list[LogChunk]:
        seen = 0 if after == "-" else int(after.partition("-")[0])
        found = [chunk for chunk in self.chunks if chunk.at_ms > seen]
        self.read.append(len(found))
        return found


def lines(chunks: Sequence[LogChunk]) -> list[Line]:
    return Numbered(Output(with_live_parts([], chunks))).lines(1, 10**6)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8), st.data())
def test_joined_output_has_the_same_lines_and_times(data: bytes, places: list[int], draw: Any) -> None:
    kept = [piece for piece in cut(data, places) if draw.draw(st.booleans())]
    chunks = [
        LogChunk(f"{at}-0", offset, text, data[:offset].count(b"\n")) for at, (offset, text) in enumerate(kept, 1)
    ]
    half = draw.draw(st.integers(0, len(chunks)))
    log, made = Log(chunks[:half]), LiveLogs()
    store = cast(Store, log)
    assert lines(made.read(store, RECORD, 1).chunks) == lines(chunks[:half])
    log.chunks = chunks
    joined = made.read(store, RECORD, 1)
    assert lines(joined.chunks) == lines(chunks)
    assert made.read(store, RECORD, 1) == joined
    assert log.read == [half, len(chunks) - half, 0]


def test_what_was_seen_already_is_not_joined_twice() -> None:
    chunks = [LogChunk("1-0", 0, b"a\nb", 0), LogChunk("2-0", 1, b"\nbc\n", 0), LogChunk("3-0", 2, b"b", 1)]
    [joined] = LiveLogs().read(cast(Store, Log(chunks)), RECORD, 1).chunks
    assert joined.data == b"a\nbc\n"


def test_a_log_that_has_grown_much_is_read_anew_and_another_attempt_is_another_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_logs, "_SPARE_BYTES", 4)
    log, made = Log([LogChunk("1-0", 0, b"a\n", 0)]), LiveLogs()
    store = cast(Store, log)
    made.read(store, RECORD, 1)
    log.chunks = [LogChunk("2-0", 2, b"12345678\n", 1)]
    assert made.read(store, RECORD, 1).size == 11
    # Redis has dropped the first.
    assert made.read(store, RECORD, 1).size == 9
    assert made.read(store, RECORD, 2).size == 9
    assert log.read == [1, 1, 1, 1]
