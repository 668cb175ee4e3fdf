"""Reads the files of runs: those that Redis has, and the outputs below LAUNCH_OUTPUT_URL."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from launch_worker.api.redis_runs import RedisRuns
from launch_worker.api.shown import attempt_of
from launch_worker.errors import DamagedError, DeletedRunError, InputError, UnknownRunError
from launch_worker.humane import plural, size
from launch_worker.model.kept_outputs import KeptOutputs, read_outputs
from launch_worker.model.links import resolved
from launch_worker.model.run import Record
from launch_worker.model.run_files import SAVED, KeptFile, LeftOut, RunFiles, joined, saved_files
from launch_worker.model.states import RunState

if TYPE_CHECKING:
    from launch_worker.outputs.manifest import Manifest, StoredFile
    from launch_worker.outputs.stored import StoredOutputs

#: Bytes of an object that are read at once.
_PIECE_BYTES = 8 << 20


class RedisFiles(RedisRuns):
    """The part of the transport for the files of runs."""

    def files(self, run_id: str, attempt: int | None) -> RunFiles:
        record, is_past = self._record_of_files(run_id)
        attempt_of(record, attempt)
        kept = read_outputs(record.outputs)
        notices: list[str] = []
        number = _ready(kept, attempt)
        sending = [one for one, outputs in kept.items() if outputs.is_sending and attempt in (None, one)]
        if not is_past:
            notices += self._on_their_way(record, attempt, kept, sending)
        if record.state is RunState.RUNNING and attempt in (None, record.attempt):
            notices.append(f"attempt {record.attempt} runs; what it leaves is listed once it has ended")
        saved = saved_files(record) if attempt is None else []
        if is_past and saved:
            notices.append(f"{plural(len(saved), 'saved file')} went with the run's record in Redis")
            saved = []
        outputs = None if number is None else self._outputs(run_id, number, kept[number], notices)
        if outputs is None:
            return RunFiles(joined(saved, ()), notices=tuple(notices), is_sending=bool(sending))
        left_out = tuple(LeftOut(one.path, one.why) for one in outputs.manifest.left_out)
        return RunFiles(
            joined(saved, outputs.files.values()),
            number,
            left_out,
            outputs.manifest.left_out_count,
            tuple(notices),
            is_sending=bool(sending),
        )

    def file(self, run_id: str, attempt: int | None, path: str) -> KeptFile:
        """The file at a path of that list, which need not be made for an output. Raises as `files`; NotFoundError."""
        record, _ = self._record_of_files(run_id)
        kept = read_outputs(record.outputs)
        number = _ready(kept, attempt)
        outputs = None if number is None else self._outputs(run_id, number, kept[number], [])
        if outputs is not None and (found := outputs.stored_at(path)) is not None:
            return outputs.files[found.path]._replace(path=path)
        return self.files(run_id, attempt).file(run_id, path)

    def read_file(self, run_id: str, file: KeptFile, start: int, end: int | None = None) -> Iterator[bytes]:
        if file.kind == SAVED:
            data = self.store.read_file(run_id, file.path.rpartition("/")[2])
            if data is None:
                raise _gone(run_id, file)
            return iter((data[start:end],))
        url = self.settings.output_url
        try:
            found = _outputs_of(url, run_id, file.attempt or 0).stored_at(file.path) if url else None
        except FileNotFoundError:
            found = None
        # What was listed may have been deleted since.
        if found is None or found.sha256 != file.sha256:
            raise _gone(run_id, file)
        return _content(_store(url), found, start, end)

    def read_files(self, run_id: str, files: Sequence[KeptFile]) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
        return ((file, self.read_file(run_id, file, 0)) for file in files)

    def _on_their_way(
        self, record: Record, attempt: int | None, kept: Mapping[int, KeptOutputs], sending: Collection[int]
    ) -> Iterator[str]:
        """Say of outputs that are not in the store who sends them."""
        newest = record.attempt
        # A worker that died has said nothing of what its job left.
        is_lost = record.state is RunState.CRASHED and attempt in (None, newest) and newest not in kept
        if not sending and not (is_lost and self.settings.output_url):
            return
        hosts = {said.get("host") for said in self.store.workers()} if record.host else set()
        where = f"{record.host}, and its worker {record.worker} is gone: the next one that starts there sends them"
        for one in sending:
            if one == newest and record.host and record.host not in hosts:
                yield f"the outputs of attempt {one} wait on {where}"
            else:
                sender = record.worker if one == newest and record.worker else "a worker"
                yield f"the outputs of attempt {one} are on their way: {sender} sends them"
        if is_lost and self.settings.output_url and record.host and record.host not in hosts:
            yield f"if attempt {newest} left outputs, they are on {where}"

    def _record_of_files(self, run_id: str) -> tuple[Record, bool]:
        """The record, and whether only the archive has it."""
        try:
            return self.find(run_id), False
        except DeletedRunError:
            raise
        except UnknownRunError:
            return Record.from_json(self.shown(run_id)), True

    def _outputs(self, run_id: str, attempt: int, kept: KeptOutputs, notices: list[str]) -> _Outputs | None:
        """The outputs of an attempt; None where they cannot be read, with a notice."""
        url = self.settings.output_url
        if not url:
            notices.append(
                f"attempt {attempt} left {plural(kept.files, 'file')} ({size(kept.bytes)}), which are where "
                "LAUNCH_OUTPUT_URL of its worker says; set it here too, or go through the server"
            )
            return None
        try:
            return _outputs_of(url, run_id, attempt)
        except FileNotFoundError:
            notices.append(f"the list of the outputs of attempt {attempt} is gone from {_store(url).objects.shown}")
            return None


class _Outputs(NamedTuple):
    """The outputs of one attempt, as the store has them, and as they are listed, by path."""

    manifest: Manifest
    stored: dict[str, StoredFile]
    files: dict[str, KeptFile]
    links: dict[str, str]

    def stored_at(self, path: str) -> StoredFile | None:
        """The file at a path, which may lead through links; None for none."""
        try:
            return self.stored.get(resolved(path, self.links)) if self.links else self.stored.get(path)
        except ValueError:
            return None


def _ready(kept: Mapping[int, KeptOutputs], attempt: int | None) -> int | None:
    """The attempt (None: the latest) whose outputs are there; None for none."""
    there = [number for number, one in kept.items() if not one.is_sending and attempt in (None, number)]
    return max(there, default=None)


def _gone(run_id: str, file: KeptFile) -> InputError:
    return InputError(f"file {file.path!r} of run {run_id} is gone")


@lru_cache(maxsize=4)
def _store(url: str) -> StoredOutputs:
    # Few commands need it: start-up time.
    from launch_worker.outputs.stored import StoredOutputs

    return StoredOutputs(url)


#: Lists that were read, the latest last; and the number of their files at most, each of about 600 bytes. A list counts
#: as a thousand more.
_listed: dict[tuple[str, str, int], _Outputs] = {}
_MOST_LISTED = 250_000
_listing = threading.Lock()


def _outputs_of(url: str, run_id: str, attempt: int) -> _Outputs:
    """The outputs of an attempt; a list that is there does not change. Raises FileNotFoundError for none."""
    key = (url, run_id, attempt)
    with _listing:
        found = _listed.pop(key, None)
    if found is None:
        found = _read_outputs(url, run_id, attempt)
    with _listing:
        _listed[key] = found
        while len(_listed) > 1 and sum(len(one.files) + 1000 for one in _listed.values()) > _MOST_LISTED:
            del _listed[next(iter(_listed))]
    return found


def _read_outputs(url: str, run_id: str, attempt: int) -> _Outputs:
    try:
        manifest = _store(url).manifest(run_id, attempt)
    except ValueError as error:
        raise DamagedError(f"the list of the outputs of run {run_id}, attempt {attempt}, is damaged: {error}") from None
    if manifest is None:
        raise FileNotFoundError
    stored = {file.path: file for file in manifest.files}
    files = {
        path: KeptFile(path, file.size, file.mtime_us, attempt=attempt, sha256=file.sha256, mode=file.mode)
        for path, file in stored.items()
    }
    found = _Outputs(manifest, stored, files, {link.path: link.target for link in manifest.links})
    for path, target in found.links.items():
        file = found.stored_at(path)
        shown = KeptFile(path, 0, 0, attempt=attempt) if file is None else files[file.path]._replace(path=path)
        files[path] = shown._replace(link=target)
    return found


def _content(stored: StoredOutputs, file: StoredFile, start: int, end: int | None) -> Iterator[bytes]:
    if start == 0 and end is None:
        # All of it is compared with its hash.
        yield from stored.pieces(file)
        return
    last = file.size if end is None else min(end, file.size)
    while start < last:
        until = min(start + _PIECE_BYTES, last)
        yield stored.part(file, start, until)
        start = until
