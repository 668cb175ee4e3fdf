"""Whatever fails and dies while an output is stored: each byte is stored as it was printed, or counted as missing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from launch_worker.errors import LaunchError
from launch_worker.logs.output import Output
from launch_worker.logs.parts import stored_parts
from launch_worker.logs.whole import Bounds, Mark
from launch_worker.runners.output import OutputFile
from tests.unit.logs.test_whole import Place

KIB = 1 << 10

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("print"), st.integers(1, 200_000)),
        st.tuples(st.just("turn"), st.sampled_from([0.0, 1.0, 11.0, 31.0])),
        st.tuples(st.just("fail"), st.integers(1, 4)),
        st.tuples(st.just("die"), st.just(0)),
        st.tuples(st.just("lose"), st.integers(1, 400)),
        st.tuples(st.just("mark"), st.just(0)),
    ),
    max_size=25,
)


class Fuzzed(Place):
    """A place whose store fails at a given call, before or after the call has done its work."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        super().__init__(folder, bounds)
        self.marks: list[Mark] = []
        self._fails_in = 0
        self._put = self.stored.objects.put
        self.stored.objects.put = self._or_fail  # type: ignore[method-assign]

    def _or_fail(self, name: str, pieces: Iterable[bytes], *, size: int = 0, on_disk: bool = False) -> None:
        self._fails_in -= 1
        if self._fails_in == 1:
            raise LaunchError("before")
        self._put(name, pieces)
        if self._fails_in == 0:
            raise LaunchError("after")

    def step(self, kind: str, value: float) -> None:
        if kind == "print":
            first = self.printed.count(b"\n") + 1
            self.print(b"".join(b"%d, a line\n" % number for number in range(first, first + int(value) // 14)))
        elif kind == "turn":
            self.turn(after_s=value, marks=tuple(self.marks))
        elif kind == "fail":
            self._fails_in = int(value)
        elif kind == "mark":
            self.marks.append(Mark(len(self.printed), self.printed.count(b"\n"), 1))
        elif kind == "lose":
            before = min(len(self.printed), int(value) * KIB) // (64 * KIB) * 64 * KIB
            file = OutputFile(self.output)
            if before:
                file.free_before(before)
            file.close()
        else:
            self.log.close()
            self.log = self.another()


@settings(max_examples=40)
@given(STEPS, st.sampled_from([64 << 20, 256 * KIB]))
def test_each_byte_is_stored_as_it_was_or_counted(steps: list[tuple[str, float]], keep_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Fuzzed(Path(folder), Bounds(keep_bytes=keep_bytes, redis_bytes=16 * KIB))
        for kind, value in steps:
            try:
                place.step(kind, value)
            except LaunchError:
                continue
        place.log.is_ended = True
        for _ in range(10):
            try:
                place.turn()
                break
            except LaunchError:
                continue
        assert place.log.is_done
        manifest = place.manifest
        assert (manifest.is_complete, manifest.end) == (True, len(place.printed))
        assert len(place.objects()) == min(1, len(manifest.segments))
        output = Output(stored_parts(manifest), stored=place.stored, end=manifest.end)
        end, missing = 0, 0
        for piece in output.all():
            begin = end + (piece.gap.bytes if piece.gap else 0)
            missing += begin - end
            end = begin + len(piece.data)
            assert piece.data == place.printed[begin:end]
        assert end == len(place.printed)
        for segment in manifest.segments:
            if not any(each.is_line_unsure for each in manifest.segments):
                assert segment.line == place.printed.count(b"\n", 0, segment.offset)
        lost = any(kind == "lose" for kind, _ in steps)
        assert missing == 0 or lost or keep_bytes < len(place.printed)
