"""One attempt, from its claimed record to its outcome: prepare, start, supervise, keep the log."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch_worker.code.fetch import fetch_code, working_folder
from launch_worker.code.patience import CodeUnwanted, Patience
from launch_worker.environment import job_environment
from launch_worker.errors import CodeError, InputError
from launch_worker.logs import LogShipper, Tail
from launch_worker.retry import Outcome
from launch_worker.run import Record
from launch_worker.runners import oom
from launch_worker.runners.process import Gone, JobHandle, Lease, ProcessRunner, StartError
from launch_worker.settings import Settings
from launch_worker.spec import RunSpec
from launch_worker.spool import AttemptFolder
from launch_worker.states import RunState
from launch_worker.store.store import Store
from launch_worker.supervise import AttemptSuperseded, Limits, never_started, supervise

log = logging.getLogger("launch_worker.execute")

_DISK_WAS_FULL = "the worker's disk was full while it ran: output may be missing"
#: How a shell tells that its child died of SIGKILL.
_SHELL_SIGKILL = 137


@dataclass(frozen=True)
class Site:
    """What the worker lends to every attempt."""

    runner: ProcessRunner
    logs: LogShipper
    redis_url: str
    settings: Settings
    store: Store


@dataclass
class Attempt:
    """One claimed run on this worker. Events for its job (a cancel, a superseding) go into `events`."""

    record: Record
    spec: RunSpec
    folder: AttemptFolder
    events: queue.SimpleQueue[Any]
    lease: Lease
    tail: Tail | None = None
    #: Its job is gone; only its report is not delivered yet.
    ended: bool = False

    @property
    def key(self) -> str:
        return f"{self.record.id}.{self.record.attempt}"


def execute(attempt: Attempt, *, site: Site, on_started: Callable[[int], None]) -> Outcome:
    """Block until the attempt's job is gone. Whatever goes wrong on the way is a Failed outcome with its phase.

    `on_started` gets the pid of the job's main process. Raises AttemptSuperseded.
    """
    phase = "agent"
    handle: JobHandle | None = None
    patience = Patience.of(attempt.spec.start_timeout_s, unwanted=lambda: not attempt.events.empty())
    try:
        env = _prepare(attempt, site.redis_url)
        phase = "build"
        cwd = _working_directory(attempt, _fetch(attempt, site, patience))
        attempt.tail = site.logs.watch(attempt.record.id, attempt.record.attempt, attempt.folder.output)
        phase = "start"
        oom_kills = oom.kill_count()
        handle = site.runner.start(
            attempt.spec.command,
            key=attempt.key,
            env=env,
            cwd=cwd,
            log_path=attempt.tail.path,
            grace_s=attempt.spec.grace_s,
            lease=attempt.lease,
            events=attempt.events,
            timeout_s=math.ceil(patience.left_s),
        )
        phase = "run"
        on_started(handle.pid)
        limits = Limits(attempt.spec.timeout_s, attempt.spec.stall_timeout_s, attempt.spec.grace_s)
        tail = attempt.tail
        outcome = supervise(handle, limits=limits, last_output_s=lambda: tail.last_output_s)
        if tail.disk_was_full:
            outcome = replace(outcome, message=f"{outcome.message}\n{_DISK_WAS_FULL}".strip())
        return _with_memory_evidence(outcome, pid=handle.pid, oom_kills_before=oom_kills)
    except AttemptSuperseded:
        raise
    except CodeUnwanted:
        return never_started(attempt.events)
    except CodeError as error:
        message = f"{error}\n{error.detail}".strip()
        return Outcome(
            RunState.FAILED, reason=str(error), phase=phase, message=message, worker_fault=error.worker_fault
        )
    except (InputError, StartError) as error:
        return Outcome(RunState.FAILED, reason=str(error), phase=phase, message=str(error))
    except OSError as error:
        log.error("run.failed run=%s phase=%s: %s", attempt.record.id, phase, error)
        _end(handle)
        text = f"the worker's disk or system refused: {error}"
        return Outcome(RunState.FAILED, reason=text, phase=phase, message=text, worker_fault=True)
    except Exception as error:
        log.exception("run.failed run=%s phase=%s", attempt.record.id, phase)
        _end(handle)
        return Outcome(
            RunState.FAILED,
            reason=f"{type(error).__name__} in the worker: {error}",
            phase=phase,
            message=traceback.format_exc(limit=-8),
        )


def _prepare(attempt: Attempt, redis_url: str) -> dict[str, str]:
    """Make the attempt's folder; returns the job's environment."""
    record, spec = attempt.record, attempt.spec
    folder = attempt.folder.path
    folder.mkdir(parents=True, mode=0o700)
    config_path = folder / "config.json"
    config_path.write_text(
        json.dumps({"run_id": record.id, "attempt": record.attempt, "name": record.name, "project": record.project,
                    "queue": record.queue, "tags": list(record.tags), "config": {}})
    )  # fmt: skip
    return job_environment(record, spec, worker_env=os.environ, redis_url=redis_url, config_path=config_path)


def _fetch(attempt: Attempt, site: Site, patience: Patience) -> Path | None:
    """The folder with the run's code; None for a run that brings none. The record has its commit from then on."""
    if not (attempt.spec.uri or attempt.spec.upload):
        return None
    code = attempt.folder.path / "code"
    commit = fetch_code(attempt.spec, attempt.record, code, settings=site.settings, store=site.store, patience=patience)
    attempt.record = replace(attempt.record, commit=commit)
    return code


def _working_directory(attempt: Attempt, code: Path | None) -> str:
    cwd = attempt.spec.cwd
    if code is not None and (cwd is None or not cwd.startswith("/")):
        return str(working_folder(code, cwd))
    if cwd is not None and (attempt.spec.cwd_required or os.path.isdir(cwd)):
        return cwd
    scratch = attempt.folder.path / "work"
    scratch.mkdir()
    return str(scratch)


def _with_memory_evidence(outcome: Outcome, *, pid: int, oom_kills_before: int) -> Outcome:
    """Say "out of memory" where the kernel does; a SIGKILL alone proves nothing."""
    if outcome.state is not RunState.FAILED or (outcome.signal != "SIGKILL" and outcome.exit_code != _SHELL_SIGKILL):
        return outcome
    counted = oom.kill_count() > oom_kills_before
    said = oom.kernel_says(pid) if outcome.signal == "SIGKILL" else None
    if not (counted if said is None else said):
        return outcome
    text = f"{outcome.reason}: out of memory (the kernel's OOM killer ended it)"
    return replace(outcome, reason=text, message=outcome.message.replace(outcome.reason, text))


def _end(handle: JobHandle | None) -> None:
    """A job that nobody supervises any more must not stay."""
    if handle is None:
        return
    handle.stop(grace_s=0)
    while not isinstance(handle.events.get(), Gone):
        pass
