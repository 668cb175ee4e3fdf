"""Reads the files of runs: those that Redis has, and the outputs below LAUNCH_OUTPUT_URL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from launch_worker.api.redis_runs import RedisRuns
from launch_worker.api.shown import attempt_of
from launch_worker.errors import DamagedError, DeletedRunError, InputError, UnknownRunError
from launch_worker.humane import plural, size
from launch_worker.model.kept_outputs import KeptOutputs, read_outputs
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
        kept, notices = read_outputs(record.outputs), []
        ready = [number for number, one in kept.items() if not one.is_sending]
        number = attempt or max(ready, default=None)
        sending = [one for one, outputs in kept.items() if outputs.is_sending and attempt in (None, one)]
        for one in sending:
            notices.append(f"the outputs of attempt {one} are on their way: {record.worker or 'a worker'} sends them")
        if record.state is RunState.RUNNING and attempt in (None, record.attempt):
            notices.append(f"attempt {record.attempt} runs; what it leaves is listed once it has ended")
        saved = saved_files(record) if attempt is None else []
        if is_past and saved:
            notices.append(f"{plural(len(saved), 'saved file')} went with the run's record in Redis")
            saved = []
        manifest = None
        if number in kept and not kept[number].is_sending:
            manifest = self._manifest(run_id, number, kept[number], notices)
        if manifest is None:
            return RunFiles(joined(saved, ()), notices=tuple(notices), is_sending=bool(sending))
        outputs = [
            KeptFile(file.path, file.size, file.mtime_us, attempt=number, sha256=file.sha256, mode=file.mode)
            for file in manifest.files
        ]
        return RunFiles(
            joined(saved, outputs),
            number,
            tuple(LeftOut(one.path, one.why) for one in manifest.left_out),
            manifest.left_out_count,
            tuple(notices),
            is_sending=bool(sending),
        )

    def read_file(self, run_id: str, file: KeptFile, start: int) -> Iterator[bytes]:
        if file.kind == SAVED:
            data = self.store.read_file(run_id, file.path.rpartition("/")[2])
            if data is None:
                raise _gone(run_id, file)
            return iter((data[start:],))
        url = self.settings.output_url
        found = _stored_files(url, run_id, file.attempt or 0).get(file.path) if url else None
        # What was listed may have been deleted since.
        if found is None or found.sha256 != file.sha256:
            raise _gone(run_id, file)
        return _content(_stored(url), found, start)

    def _record_of_files(self, run_id: str) -> tuple[Record, bool]:
        """The record, and whether only the archive has it."""
        try:
            return self.find(run_id), False
        except DeletedRunError:
            raise
        except UnknownRunError:
            return Record.from_json(self.shown(run_id)), True

    def _manifest(self, run_id: str, attempt: int, kept: KeptOutputs, notices: list[str]) -> Manifest | None:
        url = self.settings.output_url
        if not url:
            notices.append(
                f"attempt {attempt} left {plural(kept.files, 'file')} ({size(kept.bytes)}), which are where "
                "LAUNCH_OUTPUT_URL of its worker says; set it here too, or go through the server"
            )
            return None
        manifest = _read_manifest(url, run_id, attempt)
        if manifest is None:
            notices.append(f"the list of the outputs of attempt {attempt} is gone from {_stored(url).objects.shown}")
        return manifest


def _gone(run_id: str, file: KeptFile) -> InputError:
    return InputError(f"file {file.path!r} of run {run_id} is gone")


@lru_cache(maxsize=4)
def _stored(url: str) -> StoredOutputs:
    # Few commands need it: start-up time.
    from launch_worker.outputs.stored import StoredOutputs

    return StoredOutputs(url)


def _read_manifest(url: str, run_id: str, attempt: int) -> Manifest | None:
    try:
        return _stored(url).manifest(run_id, attempt)
    except ValueError as error:
        raise DamagedError(f"the list of the outputs of run {run_id}, attempt {attempt}, is damaged: {error}") from None


@lru_cache(maxsize=16)
def _stored_files(url: str, run_id: str, attempt: int) -> dict[str, StoredFile]:
    """The files of a manifest by path. One that is there does not change."""
    manifest = _read_manifest(url, run_id, attempt)
    return {} if manifest is None else {file.path: file for file in manifest.files}


def _content(stored: StoredOutputs, file: StoredFile, start: int) -> Iterator[bytes]:
    if start == 0:
        yield from stored.pieces(file)
        return
    while start < file.size:
        end = min(start + _PIECE_BYTES, file.size)
        yield stored.part(file, start, end)
        start = end
