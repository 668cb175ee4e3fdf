"""Reads what a running job says to its worker: lines of JSON that the job appends to a file, within bounds.

The protocol is in docs/reference/jobs.md; `launch_worker.current` is one way to write it. Words that matter to the
attempt's end go to its supervisor; metrics and the summary go to Redis. While Redis is away they wait, and the
file is kept.

Redis knows how much of the talk was read, so that the next worker goes on there and no row is kept twice. The words are
kept in the attempt's folder (`words.json`) before Redis gets that number, so that none is lost with a worker.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch_worker.current import TO_WORKER
from launch_worker.model.job_words import CheckpointReady, Finish, HeedsStop, Preempting, Word, Words
from launch_worker.runners.output import OutputFile
from launch_worker.runners.talk_folder import opened_talk, replace
from launch_worker.store.store import Store
from launch_worker.store.talk import MAX_SUMMARY_BYTES
from launch_worker.untrusted.plain_files import open_plain, read_plain
from launch_worker.untrusted.text import read_json

log = logging.getLogger("launch_worker.told")

#: Name of the file, in the attempt's folder, of the words that were read.
_WORDS = "words.json"
MAX_LINE_BYTES = 64 << 10
MAX_ROW_BYTES = 4 << 10
MAX_ROWS = 1000
#: Number by which a job may name a checkpoint, at most.
MAX_LABEL = (1 << 63) - 1
_MAX_MESSAGE = 1000
#: Bytes of unread talk kept on disk; older lines are dropped.
_BACKLOG_BYTES = 16 << 20
_CHUNK = 1 << 20
#: Lines read from one chunk at most, the newest; plus as many older ones that can change an outcome.
_LINES = 1000
_MATTERS = re.compile(rb'"(?:finish|preempting|summary|heeds_stop|checkpoint)"')
#: Bytes of talk that was sent before their disk space is freed.
_FREE_BYTES = 1 << 20
#: Bytes and lines at the end of an output in which the result of a sweep's run is looked for.
_LAST_BYTES = 64 << 10
_LAST_LINES = 20


def read_words(folder: Path) -> Words:
    """The words of the job with this talk that a worker kept; it may have died before it had read the last ones."""
    # Workers of the release before kept them in the talk itself.
    for path in (folder.parent / _WORDS, folder / _WORDS):
        try:
            kept = read_json(read_plain(path, most_bytes=MAX_LINE_BYTES))
            is_preempting, heeds_stop = bool(kept["preempting"]), bool(kept["heeds_stop"])
            return Words(kept["finish"], is_preempting, heeds_stop, int(kept.get("checkpoint", 0)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            break
    return Words()


@dataclass
class _Batch:
    """The content of one call, which is repeated unchanged until it was answered."""

    summary: dict[str, Any] = field(default_factory=dict)
    rows: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_ROWS))
    message: str = ""
    preempting: bool = False
    #: Bytes of the talk that were read with this batch.
    end: int = 0
    bytes_of_summary: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.summary or self.rows or self.message or self.preempting)


class Talk:
    """One attempt's file, and how far it was read. Thread-safe.

    `on_word` gets each word once, in the thread that reads it; `is_copy`: the file is a copy that only grows, made by
    this worker.
    """

    def __init__(
        self, run_id: str, token: int, folder: str | Path, *, on_word: Callable[[Word], None], is_copy: bool = False
    ) -> None:
        self.run_id = run_id
        #: Monotonic time at which the job last wrote.
        self.last_output_s = time.monotonic()
        self._name = f"{folder}/{TO_WORKER}"
        self._token = token
        self._on_word = on_word
        self._is_copy = is_copy
        #: None before the file is found: most jobs write nothing, and make none.
        self._file: OutputFile | None = None
        self._closed = False
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._position = 0
        #: Bytes read since the attempt began, whatever became of the file.
        self._count = 0
        self._rest = b""
        self._skips_line = False
        self._freed = 0
        self._batch = _Batch()
        self._unsent: _Batch | None = None
        self._names: set[str] = set()
        self._step = -1
        self._unreadable = 0
        #: Troubles with the file that this worker's log has.
        self._said: set[str] = set()
        self.words = Words()

    @property
    def path(self) -> Path:
        """The file to which the job appends."""
        return Path(self._name)

    @property
    def _folder(self) -> Path:
        return self.path.parent

    def open(self) -> Path:
        """The folder, in which the job makes the file if it ever writes anything. Raises OSError."""
        folder = self._folder
        if not os.access(folder, os.F_OK):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def size(self) -> int:
        """The number of bytes in the file. Raises OSError."""
        with self._reading:
            file = self._found()
            return 0 if file is None else file.size()

    def resume(self, store: Store) -> None:
        """Go on where another worker stopped reading the same talk. Raises BrokerUnavailableError, OSError."""
        so_far = store.talk_so_far(self.run_id, self._token)
        size = self.size()
        with self._reading:
            self._count, self._names, self._step = so_far.end, set(so_far.summary), so_far.step
            # All is new in a file that was cut short or made anew.
            self._position = so_far.end if size >= so_far.end or self._is_copy else 0
            kept = read_words(self._folder)
            self.words = kept
        for word in kept.each():
            self._on_word(word)

    # -- reading ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read what is new. Needs no Redis, and never raises."""
        try:
            with self._reading:
                words = self._read()
        except OSError as error:
            if self._is_news(str(error.strerror)):
                log.warning("talk.unreadable run=%s: %s", self.run_id, error)
            return
        for word in words:
            self._on_word(word)

    def look_last(self) -> None:
        """Read the rest, once nothing of the job is left."""
        self.look()
        if self._file is None:
            self.close()

    def _read(self) -> list[Word]:
        words: list[Word] = []
        file = self._found()
        if file is None:
            return words
        size = file.size()
        if size < self._position and not self._is_copy:
            # The job wrote it anew instead of appending.
            self._position, self._rest = 0, b""
        if size - self._position > _BACKLOG_BYTES:
            skipped = size - self._position - _BACKLOG_BYTES
            if self._is_news("flood"):
                log.warning("talk.flood run=%s: %d bytes were not read", self.run_id, skipped)
            self._position, self._count, self._rest = self._position + skipped, self._count + skipped, b""
            self._skips_line = True
            file.free_before(self._position)
        while self._position < size:
            data = file.read(self._position, min(_CHUNK, size - self._position))
            if not data:
                break
            self._position += len(data)
            self._count += len(data)
            words += self._take_lines(data)
        return words

    def _found(self) -> OutputFile | None:
        """The file, if the job has made it by now. Raises OSError."""
        if self._file is None and not self._closed and os.access(self._name, os.F_OK):
            with opened_talk(self._folder) as talk:
                self._file = OutputFile(f"/proc/self/fd/{talk}/{TO_WORKER}", make=False, other_names=False)
        return None if self._closed else self._file

    def _take_lines(self, data: bytes) -> list[Word]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skips_line and lines:
            self._skips_line = False
            lines = lines[1:]
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._skips_line = b"", True
            self._note_unreadable(1)
        if len(lines) > _LINES:
            older = [line for line in lines[:-_LINES] if _MATTERS.search(line)]
            self._note_unreadable(len(lines) - _LINES - len(older[-_LINES:]))
            lines = older[-_LINES:] + lines[-_LINES:]
        words: list[Word] = []
        known = self.words
        for line in lines:
            if line.strip(b"\0 \t\r") and not self._take(line, words):
                self._note_unreadable(1)
        if self.words != known:
            self._keep_words()
        self._batch.end = self._count - len(self._rest)
        return words

    def _take(self, line: bytes, words: list[Word]) -> bool:
        """Take one line; returns False when it is none of the protocol."""
        if len(line) > MAX_LINE_BYTES:
            return False
        try:
            # JSON has no NaN; W&B keeps a NaN as text too.
            said = read_json(line, parse_constant=str)
        except ValueError:
            return False
        if not isinstance(said, dict):
            return False
        understood = said.get("heartbeat") is not None
        if isinstance(said.get("summary"), dict):
            understood = self._take_summary(said["summary"])
        if isinstance(said.get("log"), dict):
            understood = self._take_row(said["log"], said.get("step"))
        if isinstance(said.get("message"), str):
            self._batch.message = _printable(said["message"])[:_MAX_MESSAGE]
            understood = True
        for word in _words(said):
            understood = True
            known, self.words = self.words, self.words.with_word(word)
            if self.words != known:
                words.append(word)
                self._batch.preempting = self._batch.preempting or isinstance(word, Preempting)
        return understood

    def _take_summary(self, summary: dict[str, Any]) -> bool:
        fine = True
        for name, value in summary.items():
            size = _size({name: value})
            grown = self._batch.bytes_of_summary + (size or 0) - self._batch.sizes.get(name, 0)
            if size is None or grown > MAX_SUMMARY_BYTES:
                fine = False
                continue
            self._batch.bytes_of_summary, self._batch.sizes[name] = grown, size
            self._batch.summary[name] = value
            self._names.add(name)
        return fine

    def _take_row(self, row: dict[str, Any], step: Any) -> bool:
        is_step = isinstance(step, (int, float)) and not isinstance(step, bool) and abs(step) < 1e15
        self._step = int(step) if is_step else self._step + 1
        kept = row | {"_step": self._step, "_timestamp": round(time.time(), 3)}
        size = _size(kept)
        if size is None or size > MAX_ROW_BYTES:
            return False
        self._batch.rows.append(json.dumps(kept))
        return self._take_summary(row)

    def _is_news(self, trouble: str) -> bool:
        """Whether this worker's log does not have it yet of this job, which could cause it again and again."""
        is_news = trouble not in self._said
        self._said.add(trouble)
        return is_news

    def _note_unreadable(self, lines: int) -> None:
        if not self._unreadable and lines:
            log.warning(
                "talk.not_understood run=%s: lines are left out; docs/reference/jobs.md has the protocol", self.run_id
            )
        self._unreadable += lines

    def _keep_words(self) -> None:
        kept = {
            "finish": self.words.finish,
            "preempting": self.words.preempting,
            "heeds_stop": self.words.heeds_stop,
            "checkpoint": self.words.checkpoint,
        }
        try:
            replace(self._folder.parent, _WORDS, json.dumps(kept))
        except OSError as error:
            log.error("words.not_kept run=%s: %s", self.run_id, error)

    def add_results(self, output: Path) -> None:
        """Add numbers in JSON of an output's last lines to a sweep run's summary, except names that its talk has."""
        try:
            with open(open_plain(output), "rb") as file:
                file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
                numbers = numbers_in(file.read())
        except FileNotFoundError:
            return  # the job has printed nothing
        except OSError as error:
            log.warning("results.unreadable run=%s: %s", self.run_id, error)
            return
        with self._reading:
            self._take_summary({name: value for name, value in numbers.items() if name not in self._names})

    # -- sending ---------------------------------------------------------------------------------------------------

    def ship(self, store: Store) -> int:
        """Read and send what is new; returns the number of bytes. Can be repeated.

        Raises BrokerUnavailableError, and UnknownRunError where Redis has no record, or has lost it.
        """
        before = self._count
        self.look()
        with self._sending:
            while True:
                with self._reading:
                    if self._unsent is None and self._batch:
                        self._unsent, self._batch = self._batch, _Batch(end=self._batch.end)
                batch = self._unsent
                if batch is None:
                    break
                store.tell(
                    self.run_id,
                    self._token,
                    batch.summary or None,
                    list(batch.rows),
                    batch.message,
                    end=batch.end,
                    preempting=batch.preempting,
                )
                self._unsent = None
                self._free(batch.end)
        return self._count - before

    def _free(self, end: int) -> None:
        with self._reading:
            if self._file is None or self._closed or end - self._freed < _FREE_BYTES:
                return
            self._freed = end
            try:
                self._file.free_before(self._position - (self._count - end))
            except OSError as error:
                log.debug("the disk of the talk of run %s could not be freed: %s", self.run_id, error)

    def close(self) -> None:
        with self._reading:
            self._closed = True
            if self._file is not None:
                self._file.close()


def numbers_in(output: bytes) -> dict[str, float]:
    """The numbers of the JSON objects among the last lines of an output, the last one of each name."""
    found: dict[str, float] = {}
    for line in output.splitlines()[-_LAST_LINES:]:
        if not line.lstrip().startswith(b"{"):
            continue
        try:
            said = read_json(line, parse_constant=str)
        except ValueError:
            continue
        found |= {
            name: value
            for name, value in said.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
    return found


def _words(said: dict[str, Any]) -> list[Word]:
    words: list[Word] = []
    if said.get("heeds_stop") is True:
        words.append(HeedsStop())
    if said.get("preempting") is True:
        words.append(Preempting())
    label = said.get("checkpoint")
    if label is True:
        words.append(CheckpointReady(time.time_ns()))
    elif type(label) is int and 0 < label <= MAX_LABEL:
        words.append(CheckpointReady(label))
    code = said.get("finish")
    if isinstance(code, int) and not isinstance(code, bool):
        words.append(Finish(code if 0 <= code <= 255 else 1))
    return words


def _size(value: Any) -> int | None:
    """The size of the value's JSON; None for a number that JSON cannot have."""
    try:
        return len(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError):
        return None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
