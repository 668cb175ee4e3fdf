"""Fetches the talk of jobs in containers, by one thread for all, into files as processes write them.

The engine's archive API gives a file whole. So it is only asked how long the file is, once a second, and the file is
fetched when it grew; a large one less often, so that no job costs its engine more than about a megabyte a second.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch_worker.current import STOP, TO_WORKER
from launch_worker.errors import EngineAwayError, LaunchError, NoContainerError, StartError
from launch_worker.model.container_options import LAUNCH_DIR
from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.folders import Chunks
from launch_worker.runners.talk_folder import TALK, stop_text

log = logging.getLogger("launch_worker.container")

_EVERY_S = 1.0
#: Seconds between two looks at a container that was silent in its first minute.
_SILENT_EVERY_S = 5.0
_SILENT_S = 60.0
_BYTES_PER_S = 1 << 20
_BLOCK = 64 << 10
#: Bytes of a file that is copied at all: the engine reads it from its beginning each time, a sparse one too, and
#: answers nothing else about the container meanwhile.
MOST_BYTES = 1 << 30
#: Bytes of what is new that are copied, the newest: no more of it is read (`attempt.talk`).
MOST_NEW_BYTES = 16 << 20
_FOLDER = f"{LAUNCH_DIR}/{TALK}"


@dataclass
class _Source:
    """One container's file, and the bytes of it that were copied."""

    container: str
    target: Path
    copied: int
    size: int = -1
    modified: str = ""
    since: float = field(default_factory=time.monotonic)
    next_at: float = 0.0
    #: It was said that the file is too large.
    is_said: bool = False
    copying: threading.Lock = field(default_factory=threading.Lock)


class ContainerTalks:
    """Copies the talk of one worker's containers. Thread-safe; its thread lives while there is a container."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sources: dict[str, _Source] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, container: str, folder: Path) -> None:
        """Copy into the file in `folder` from now on; the bytes in it were copied before. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / TO_WORKER
        target.touch()
        with self._changed:
            self._sources[container] = _Source(container, target, target.stat().st_size)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="container-talks", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop(self, container: str) -> None:
        with self._changed:
            self._sources.pop(container, None)
            self._changed.notify_all()

    def finish(self, container: str) -> None:
        """Copy the rest of a container's talk once it has ended, and before it is removed."""
        source = self._sources.get(container)
        self.drop(container)
        if source is not None:
            self._copy(source)

    def show_stop(self, container: str, reason: str, kill_at: float) -> None:
        """Put the file that says that the job shall stop; the job is signalled anyway."""
        self.tell(container, STOP, stop_text(reason, kill_at))

    def tell(self, container: str, name: str, text: str) -> None:
        """Put a file into the folder of a container's talk. Never raises."""
        data = text.encode()
        with io.BytesIO() as buffer:
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
            try:
                self._engine.put(container, _FOLDER, buffer.getvalue())
            except LaunchError as error:
                log.warning("%s.not_shown container=%s: %s", name, container[:12], error)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._sources:
                    self._thread = None
                    return
                now = time.monotonic()
                due = [source for source in self._sources.values() if source.next_at <= now]
                if not due:
                    self._changed.wait(min(source.next_at for source in self._sources.values()) - now)
                    continue
            for source in due:
                self._copy(source)
                source.next_at = time.monotonic() + self._pause_s(source)

    def _pause_s(self, source: _Source) -> float:
        if source.size < 0:
            return _EVERY_S if time.monotonic() - source.since < _SILENT_S else _SILENT_EVERY_S
        return max(_EVERY_S, source.size / _BYTES_PER_S)

    def _copy(self, source: _Source) -> None:
        """Copy new bytes. Never raises: talk is no reason to lose a job."""
        try:
            with source.copying:
                self._copy_new(source)
        except (NoContainerError, EngineAwayError) as error:
            log.debug("the talk of container %s is not there now: %s", source.container[:12], error)
        except (StartError, OSError, tarfile.TarError) as error:
            log.warning("talk.not_copied container=%s: %s", source.container[:12], error)

    def _copy_new(self, source: _Source) -> None:
        found = self._engine.stat(source.container, f"{_FOLDER}/{TO_WORKER}")
        if found is None or not found.is_file or (found.size, found.modified) == (source.size, source.modified):
            return
        if found.size < source.copied:
            # Written anew instead of appended to.
            source.copied = 0
        if found.size > MOST_BYTES:
            self._say_too_large(source, found.size)
            return
        path = f"/containers/{source.container}/archive"
        if found.size > source.copied:
            with self._engine.stream(path, {"path": f"{_FOLDER}/{TO_WORKER}"}) as chunks:
                self._append(source, chunks)
        source.size, source.modified = found.size, found.modified

    def _append(self, source: _Source, chunks: Iterator[bytes]) -> None:
        source_of_tar: Any = Chunks(chunks)
        with tarfile.open(fileobj=source_of_tar, mode="r|") as archive:
            entry = archive.next()
            # The job may have changed the file since the engine was asked for its length.
            is_file = entry is not None and entry.isreg() and entry.size <= MOST_BYTES
            data = archive.extractfile(entry) if entry is not None and is_file else None
            if entry is None or data is None:
                return
            left = begin = max(source.copied, entry.size - MOST_NEW_BYTES)
            while left and (skipped := data.read(min(_BLOCK, left))):
                left -= len(skipped)
            with source.target.open("r+b", buffering=0) as target:
                # A hole stands for what is left out.
                target.seek(begin - source.copied, os.SEEK_END)
                while block := data.read(_BLOCK):
                    begin += target.write(block)
                    source.copied = begin

    def _say_too_large(self, source: _Source, size: int) -> None:
        if not source.is_said:
            source.is_said = True
            log.warning(
                "talk.too_large container=%s: its file %s has %d bytes, and one of more than %d is not read",
                source.container[:12],
                TO_WORKER,
                size,
                MOST_BYTES,
            )
