"""Tracks an agent's jobs by W&B's names: status trackers, savers of files, the logger."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

from launch_worker.agent.attempts import Ended
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded
from launch_worker.model.outcome import Outcome
from launch_worker.untrusted.text import clean, read_json

log = logging.getLogger("launch_worker.agent")


class RunQueueItem(TypedDict):
    """A claimed item, in the words of W&B's agent. `runQueueItemId` is the run's id."""

    runQueueItemId: str
    #: The run's spec, as the record keeps it.
    runSpec: dict[str, Any]
    queue: str
    attempt: int


class JobSpecAndQueue(NamedTuple):
    """What `get_job_and_queue` found, and where."""

    job: RunQueueItem
    queue: str


class FileSaver(Protocol):
    """Keeps files that belong to a run queue item and are no output of its job."""

    def save_contents(self, contents: str, fname: str, file_sub_type: str) -> list[str] | None:
        """Keep a text; returns what `fail_run_queue_item` takes as `files`. `file_sub_type`: "error" or "warning"."""


@dataclass(frozen=True)
class RunQueueItemFileSaver:
    """Keeps files on this machine's disk, in the attempt's folder, until the item's end is reported."""

    folder: str | Path

    def save_contents(self, contents: str, fname: str, file_sub_type: str) -> list[str] | None:
        """The path of the file; None when the disk did not take it, which is logged."""
        path = Path(self.folder, file_sub_type, fname)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(contents)
        except OSError as error:
            log.error("file.not_kept path=%s: %s", path, error)
            return None
        return [str(path)]


@dataclass
class JobAndRunStatusTracker:
    """A claimed item on its way to its end."""

    attempt: Attempt
    saver: FileSaver
    thread_id: int | None = None
    #: Callback once `thread_id` is known.
    on_begun: Callable[[], None] = lambda: None
    #: Outcome of the item, or that another worker has it; None before its end.
    result: Outcome | AttemptDetached | AttemptSuperseded | None = None
    #: Outcome given by `fail_run_queue_item` before the job was gone.
    failure: Outcome | None = None
    #: Error given to `finish_thread_id` then.
    failed_by: Exception | None = None
    files: list[str] = field(default_factory=list)
    #: End that was reported.
    ended: Ended = None

    @property
    def run_queue_item_id(self) -> str:
        return self.attempt.record.id

    @property
    def err_stage(self) -> str:
        """The part of the attempt that is under way: agent, build, start or run."""
        return self.attempt.phase

    @cached_property
    def job(self) -> RunQueueItem:
        record = self.attempt.record
        spec: dict[str, Any] = {"name": record.name} | read_json(record.spec)
        return RunQueueItem(runQueueItemId=record.id, runSpec=spec, queue=record.queue, attempt=record.attempt)


class InternalAgentLogger:
    """Logs what the agent does; from verbosity 2 on it is printed too."""

    def __init__(self, verbosity: int = 0) -> None:
        self._to_terminal = verbosity >= 2
        self._log = logging.getLogger("launch_worker.agent.internal")

    def debug(self, message: str) -> None:
        self._say(logging.DEBUG, message)

    def info(self, message: str) -> None:
        self._say(logging.INFO, message)

    def warning(self, message: str) -> None:
        self._say(logging.WARNING, message)

    def error(self, message: str) -> None:
        self._say(logging.ERROR, message)

    def _say(self, level: int, message: str) -> None:
        self._log.log(level, "%s", message)
        if self._to_terminal:
            say(f"launch agent: {message}", file=sys.stderr)


def say(line: str, *, file: Any = None) -> None:
    """Print a line; the terminal may be gone."""
    with contextlib.suppress(OSError, ValueError):
        print(clean(line), file=file or sys.stdout, flush=True)
