"""Reads the log of one container from its engine, as it comes, into the attempt's output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from launch_worker.runners.container.engine import Cut
from launch_worker.runners.container.life import Containers, Life
from launch_worker.runners.container.log import ContainerLog, messages_of

#: Seconds of silence after which a log is looked at: the engine may have failed to say that it is over.
_SILENT_S = 10.0
#: Bytes of a flood after which it is looked at, and bytes of it that are copied in a second.
_FLOOD_BYTES = 2 << 20
_BYTES_PER_S = 32 << 20
#: Lines of the rest that are read when a job has ended.
_NEWEST_LINES = 100_000


class LogStream:
    """The log of one container. `copy` and `copy_rest` are for one thread."""

    def __init__(self, life: Life, runner: Containers, output: Path, *, rest_silence_s: float) -> None:
        """`rest_silence_s`: seconds of silence in the rest of an ended container's log, after which it is given up."""
        self._life = life
        self._runner = runner
        self._output = output
        self._rest_silence_s = rest_silence_s
        #: None until the engine has said in which form it gives the log.
        self._log: ContainerLog | None = None
        self._heard_at = 0.0
        #: Ends the reading that is under way; None where there is none.
        self._cut: Cut | None = None

    @property
    def disk_was_full(self) -> bool:
        return self._log is not None and self._log.disk_was_full

    def copy(self) -> None:
        """Copy the log from its mark on, until the container ends or the engine closes the connection.

        Raises EngineAwayError, NoContainerError, StartError, OSError.
        """
        self._copy({"follow": 1, "tail": "all"}, silence_s=None)

    def copy_rest(self) -> None:
        """Copy what is missing of an ended container's log, its newest lines only.

        An engine that drops older output may close the connection of a reader that is behind. Raises as `copy`.
        """
        self._copy({"follow": 0, "tail": _NEWEST_LINES}, silence_s=self._rest_silence_s)

    def silent_cut(self) -> Cut | None:
        """What ends the reading that is under way, if it has brought nothing for a while; else None."""
        with self._life.changed:
            return self._cut if time.monotonic() - self._heard_at > _SILENT_S else None

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _copy(self, options: dict[str, int | str], *, silence_s: float | None) -> None:
        if self._log is None:
            self._log = ContainerLog(
                self._output,
                limit_bytes=self._runner.log_file_bytes,
                mends_lines=self._runner.log_driver == "local",
            )
        copied, follows = self._log, bool(options["follow"])
        options = {"stdout": 1, "stderr": 1, "timestamps": 1, **options}
        if since := copied.resume():
            options["since"] = f"{since:.9f}"
        began, before = time.monotonic(), copied.copied
        path = f"/containers/{self._life.container}/logs"
        with (
            self._cutting(),
            self._runner.engine.stream(path, options, silence_s=silence_s, on_open=self._note_cut) as chunks,
        ):
            for message in messages_of(chunks):
                with self._life.changed:
                    if self._life.is_left:
                        return
                    copied.add(message)
                    self._heard_at = time.monotonic()
                if follows and copied.copied - before > _FLOOD_BYTES:
                    # A flood must neither take all of the processor, nor be read to its end when its job has ended.
                    took_s = time.monotonic() - began
                    time.sleep(max(0.0, _FLOOD_BYTES / _BYTES_PER_S - took_s))
                    if not self._life.look().is_running:
                        return
                    began, before = time.monotonic(), copied.copied
        copied.end()

    def _note_cut(self, cut: Cut) -> None:
        with self._life.changed:
            self._heard_at, self._cut = time.monotonic(), cut

    @contextlib.contextmanager
    def _cutting(self) -> Iterator[None]:
        """Let another thread end the reading in this block."""
        try:
            yield
        finally:
            with self._life.changed:
                self._cut = None
