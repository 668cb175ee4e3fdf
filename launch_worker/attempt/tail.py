"""Reads what a job prints from its output file, as the file grows."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from launch_worker.errors import UnknownRunError
from launch_worker.logs.output_reader import OutputReader
from launch_worker.logs.recorder import Recorder
from launch_worker.logs.whole import Mark
from launch_worker.model.last_exception import last_exception
from launch_worker.model.masking import secrets_in
from launch_worker.model.outcome import Outcome, wants_exception, with_exception
from launch_worker.model.spec import RunSpec
from launch_worker.runners.output import OutputFile, OutputWriter
from launch_worker.store.store import Store

_CHUNK = 64 * 1024
#: Bytes of skipped output that are read at once, to count their lines.
_COUNTED = 256 * 1024
#: Number of marks kept; bytes, and milliseconds, from one to the next.
_MARKS, _MARK_BYTES, _MARK_MS = 1024, 256 * 1024, 1000
#: Bytes of an output's end in which the exception of its program is looked for.
_END_BYTES = 16 * 1024


class Growing(Protocol):
    """A file that a job writes to: its output, or its talk. Nothing is done with the file before `open`."""

    run_id: str
    #: Monotonic time at which the job last wrote.
    last_output_s: float

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""

    def open(self) -> Path:
        """Prepare the file to be watched; returns the path to watch, the file or its folder. Raises OSError."""

    def size(self) -> int:
        """The number of bytes that the job has written by now. Raises OSError."""

    def look(self) -> None:
        """Act on what cannot wait for Redis; never raises."""

    def ship(self, store: Store) -> int:
        """Send what is new; returns the number of bytes. Can be repeated.

        Raises BrokerUnavailableError, and UnknownRunError where Redis has no record, or has lost it.
        """

    def close(self) -> None:
        """Ship no more of the file."""


class Tail:
    """One attempt's output file, and how far it was shipped."""

    def __init__(
        self, run_id: str, attempt: int, path: Path, *, keep_bytes: int, recorder: Recorder | None = None
    ) -> None:
        """`recorder` stores the whole output once it has more than `keep_bytes`."""
        self.run_id = run_id
        self.attempt = attempt
        self.path = path
        self._reader: OutputReader | None = None
        #: Writer that bounds the file; None where another process bounds it.
        self._bound: OutputWriter | None = None
        self._closed = False
        self._keep_bytes = keep_bytes
        self._recorder = recorder
        #: Bytes of the output that were shipped or skipped.
        self._offset = 0
        #: Number of line breaks in them; None when it is not known.
        self._line: int | None = 0
        #: Entry ids, sizes and line breaks of the chunks that Redis keeps, oldest first.
        self._kept: deque[tuple[str, int, int]] = deque()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        #: Places that were passed, the newest last; only for the recorder.
        self._marks: deque[Mark] = deque(maxlen=_MARKS)
        self._marking = threading.Lock()
        #: Milliseconds by which Redis' clock is ahead of this machine's.
        self.ahead_ms = 0
        #: Whether the output is more than Redis keeps of it.
        self.is_outgrown = False
        #: Monotonic time at which output last arrived.
        self.last_output_s = time.monotonic()

    @property
    def base(self) -> int:
        """Bytes of the output that are in the file no more, because it began anew."""
        return 0 if self._reader is None else self._reader.base

    def marks(self) -> Sequence[Mark]:
        """Places that were passed, the newest last."""
        with self._marking:
            return tuple(self._marks)

    def open(self) -> Path:
        """Keep the file open from now on; it is made if it is not there. Raises OSError."""
        with self._lock:
            if not self._closed:
                self._reader = self._reader or OutputReader(self.path)
        return self.path

    def bound(self, file_bytes: int) -> None:
        """Bound the file here: the job's processes have it open, and no guard bounds it. Raises OSError."""
        self._bound = OutputWriter(self.path, limit_bytes=file_bytes)

    def size(self) -> int:
        """The number of bytes in an open file."""
        with self._lock:
            return 0 if self._reader is None or self._closed else self._reader.file.size()

    def resume(self, store: Store) -> None:
        """Go on where another worker's tail of the same attempt stopped; call it before `ship`."""
        chunks = store.log(self.run_id, self.attempt)
        self._kept = deque((chunk.entry, len(chunk.data), chunk.data.count(b"\n")) for chunk in chunks)
        self._kept_bytes = sum(len(chunk.data) for chunk in chunks)
        if chunks:
            last = chunks[-1]
            self._offset = last.offset + len(last.data)
            self._line = None if last.line is None else last.line + last.data.count(b"\n")

    def look(self) -> None:
        """Have the recorder know that a large output has grown, whether or not Redis answers."""
        if self._recorder is not None:
            self._tell_recorder()

    def ship(self, store: Store) -> int:
        """Send what is new; returns the number of bytes. Can be repeated.

        Raises BrokerUnavailableError, and UnknownRunError where Redis has no record, or has lost it.
        A file that was not opened is opened if there is something in it. Raises OSError then.
        """
        shipped = 0
        with self._lock:
            reader = self._found()
            if reader is None:
                return 0
            if self._bound is not None:
                self._bound.follow()
            end = reader.end(self._offset)
            if end > self._keep_bytes:
                self.is_outgrown = True
            self._skip(reader, end - self._keep_bytes)
            while self._offset < end:
                before = self._offset
                data = self._read(reader, min(_CHUNK, self._keep_bytes, end - self._offset))
                if data:
                    self._append(store, data)
                    shipped += len(data)
                elif self._offset == before:
                    break
        return shipped

    def _tell_recorder(self) -> None:
        assert self._recorder is not None
        if not self.is_outgrown:
            try:
                self.is_outgrown = self.size() > self._keep_bytes
            except OSError:
                return  # `ship` logs it
        if self.is_outgrown:
            self._recorder.note(self)

    def _found(self) -> OutputReader | None:
        """The file, if there is something in it. Raises OSError."""
        if self._closed or self._reader is not None:
            return None if self._closed else self._reader
        try:
            if not os.stat(self.path).st_size:
                return None
            self._reader = OutputReader(self.path, make=False)
        except FileNotFoundError:
            return None
        return self._reader

    def _skip(self, reader: OutputReader, until: int) -> None:
        """Pass output that is too much for Redis, and count its lines."""
        while self._offset < until:
            data = self._read(reader, min(_COUNTED, until - self._offset))
            if not data and self._offset < until:
                self._offset, self._line = until, None
            self._offset += len(data)
            if self._line is not None:
                self._line += data.count(b"\n")
            self._mark()

    def _read(self, reader: OutputReader, length: int) -> bytes:
        """The next bytes; none where they were freed on the disk before they were read, which moves the offset."""
        position, data = reader.read(self._offset, length)
        if position > self._offset:
            self._offset, self._line = position, None
        return data

    def _append(self, store: Store, data: bytes) -> None:
        had_some = bool(self._kept)
        while self._kept and self._kept_bytes + len(data) > self._keep_bytes:
            self._kept_bytes -= self._kept.popleft()[1]
        keep_from = self._kept[0][0] if self._kept else "*" * had_some
        missing = self._offset - self._kept_bytes
        kept_lines = sum(lines for _, _, lines in self._kept) if missing and self._line is not None else 0
        try:
            entry = store.append_log(
                self.run_id,
                self.attempt,
                data,
                offset=self._offset,
                line=self._line,
                keep_from=keep_from,
                missing=missing,
                missing_lines=None if self._line is None else self._line - kept_lines,
                stored_at="" if self._recorder is None else self._recorder.shown,
            )
        except UnknownRunError:
            # Redis was rolled back: all is sent again, for it has lost what it had of this output too.
            self._offset, self._line, self._kept_bytes = 0, 0, 0
            self._kept.clear()
            raise
        lines = data.count(b"\n")
        self._kept.append((entry, len(data), lines))
        self._kept_bytes += len(data)
        self._offset += len(data)
        if self._line is not None:
            self._line += lines
        if self._recorder is not None:
            self.ahead_ms = int(entry.partition("-")[0]) - int(time.time() * 1000)
            self._mark()

    def _mark(self) -> None:
        """Remember the place, for the times and lines of what the recorder stores."""
        if self._recorder is None or self._line is None:
            return
        now_ms = int(time.time() * 1000) + self.ahead_ms
        last = self._marks[-1] if self._marks else None
        if last is None or self._offset - last.offset >= _MARK_BYTES or now_ms - last.at_ms >= _MARK_MS:
            with self._marking:
                self._marks.append(Mark(self._offset, self._line, now_ms))

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return  # the descriptors' numbers may be in other use by now
            self._closed = True
            for file in (self._reader, self._bound):
                if file is not None:
                    file.close()


def explained(outcome: Outcome, output: Path, spec: RunSpec | None, *, hidden: Sequence[str] = ()) -> Outcome:
    """The outcome of a job that failed with the exception that its output ends with, if that is all that is known.

    What the submitter or the worker gave it as a secret, and what is `hidden`, is not repeated; without a spec that is
    not known. Of a job whose sealed secrets nobody has opened here, nothing is repeated.
    """
    if not wants_exception(outcome) or (spec is not None and spec.secrets and not hidden):
        return outcome
    try:
        file = OutputFile(output, make=False)
    except OSError:
        return outcome
    try:
        text = file.read(max(0, file.size() - _END_BYTES), _END_BYTES).decode(errors="replace")
    except OSError:
        return outcome
    finally:
        file.close()
    given = {} if spec is None else spec.env
    names = () if spec is None else spec.env_from
    secrets = [*hidden, *secrets_in(given), *(os.environ.get(name, "") for name in names)]
    return with_exception(outcome, last_exception(text, secrets=secrets))
