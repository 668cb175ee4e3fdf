"""One attempt, from its claimed record to its outcome: prepare, start, supervise, keep the log."""

from __future__ import annotations

import json
import logging
import os
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launch_worker.containers import LAUNCH_DIR, ContainerPlan
from launch_worker.environment import container_environment, job_environment
from launch_worker.errors import InputError
from launch_worker.logs import LogShipper, Tail
from launch_worker.queue_config import QueueConfig
from launch_worker.retry import Outcome
from launch_worker.run import Record
from launch_worker.runners.errors import EngineAwayError, StartError, StartGivenUpError
from launch_worker.runners.process import Gone, Lease, ProcessRunner
from launch_worker.spec import RunSpec
from launch_worker.spool import AttemptFolder
from launch_worker.states import RunState
from launch_worker.supervise import (
    AttemptDetached,
    AttemptSuperseded,
    Job,
    Limits,
    outcome_before_start,
    supervise,
)

if TYPE_CHECKING:
    from launch_worker.runners.container import ContainerRunner

log = logging.getLogger("launch_worker.execute")

_DISK_WAS_FULL = "the worker's disk was full while it ran: output may be missing"


@dataclass(frozen=True)
class Site:
    """What the worker lends to every attempt."""

    runner: ProcessRunner
    #: Made, and its engine's SDK imported, when the first container job comes.
    containers: Callable[[], ContainerRunner]
    logs: LogShipper
    redis_url: str
    #: The name of this launch system, for the labels of its containers.
    system: Callable[[], str]
    owner: str
    worker: str
    host: str


@dataclass
class Attempt:
    """One claimed run on this worker. Events for its job (a cancel, a superseding) go into `events`."""

    record: Record
    spec: RunSpec
    folder: AttemptFolder
    events: queue.SimpleQueue[Any]
    lease: Lease
    tail: Tail | None = None
    job: Job | None = None
    #: For how long another worker has supervised it.
    ran_s: float = 0.0
    #: Its job is gone; only its report is not delivered yet.
    ended: bool = False

    @property
    def key(self) -> str:
        return f"{self.record.id}.{self.record.attempt}"


#: Told of each part of an attempt's start, with a sentence for people: `pull`, `start`.
Enter = Callable[[str, str], None]


def execute(
    attempt: Attempt, *, site: Site, on_started: Callable[[int], None], enter: Enter = lambda *_: None
) -> Outcome:
    """Block until the attempt's job is gone. Whatever goes wrong on the way is a Failed outcome with its phase.

    With a job in the attempt already (adopted from another worker) it is supervised from here on. `on_started` gets
    the pid of the job's main process. Raises AttemptSuperseded, AttemptDetached.
    """
    phase = "agent" if attempt.job is None else "run"
    try:
        if attempt.job is None:
            start = _prepare(attempt, site, enter)
            phase = "start"
            attempt.tail = site.logs.watch(attempt.record.id, attempt.record.attempt, attempt.folder.output)
            attempt.job = start()
            phase = "run"
            on_started(attempt.job.pid)
        return _supervise(attempt)
    except (AttemptSuperseded, AttemptDetached):
        raise
    except StartGivenUpError:
        return outcome_before_start(attempt.events.get())
    except (InputError, StartError) as error:
        is_away = isinstance(error, EngineAwayError)
        return Outcome(RunState.FAILED, reason=str(error), phase=phase, message=str(error), engine_fault=is_away)
    except OSError as error:
        log.error("run.failed run=%s phase=%s: %s", attempt.record.id, phase, error)
        _end(attempt.job)
        text = f"the worker's disk or system refused: {error}"
        return Outcome(RunState.FAILED, reason=text, phase=phase, message=text, worker_fault=True)
    except Exception as error:
        log.exception("run.failed run=%s phase=%s", attempt.record.id, phase)
        _end(attempt.job)
        return Outcome(
            RunState.FAILED,
            reason=f"{type(error).__name__} in the worker: {error}",
            phase=phase,
            message=traceback.format_exc(limit=-8),
        )


def _prepare(attempt: Attempt, site: Site, enter: Enter) -> Callable[[], Job]:
    """Make what the job needs on this machine; returns what starts it. Raises InputError, OSError."""
    plan = QueueConfig.from_json(attempt.record.queue_config).container_plan(attempt.spec)
    attempt.folder.path.mkdir(parents=True, mode=0o700)
    if plan is None:
        return _prepare_process(attempt, site)
    return _prepare_container(attempt, site, plan, enter)


def _prepare_process(attempt: Attempt, site: Site) -> Callable[[], Job]:
    record, spec, folder = attempt.record, attempt.spec, attempt.folder.path
    config_path = folder / "config.json"
    config_path.write_bytes(_config(record))
    env = job_environment(record, spec, worker_env=os.environ, redis_url=site.redis_url, config_path=config_path)
    if spec.cwd is not None and (spec.cwd_required or os.path.isdir(spec.cwd)):
        cwd = spec.cwd
    else:
        scratch = folder / "work"
        scratch.mkdir()
        cwd = str(scratch)
    return lambda: site.runner.start(
        spec.command,
        key=attempt.key,
        env=env,
        cwd=cwd,
        log_path=attempt.folder.output,
        grace_s=spec.grace_s,
        lease=attempt.lease,
        events=attempt.events,
        timeout_s=spec.start_timeout_s,
    )


def _prepare_container(attempt: Attempt, site: Site, plan: ContainerPlan, enter: Enter) -> Callable[[], Job]:
    from launch_worker.runners.container import Files, Labels

    record, spec = attempt.record, attempt.spec
    env = container_environment(
        record, spec, worker_env=os.environ, redis_url=site.redis_url, config_path=f"{LAUNCH_DIR}/config.json"
    )
    attempt.folder.mark_container(record)
    labels = Labels(
        system=site.system(),
        run=record.id,
        attempt=record.attempt,
        token=record.token,
        owner=site.owner,
        worker=site.worker,
        host=site.host,
    )
    return lambda: site.containers().start(
        plan,
        spec.command,
        key=attempt.key,
        labels=labels,
        env=env,
        cwd=spec.cwd if spec.cwd_required else None,
        gpus=record.gpus,
        files=Files(_config(record)),
        output=attempt.folder.output,
        lease=attempt.lease,
        events=attempt.events,
        timeout_s=spec.start_timeout_s,
        enter=enter,
    )


def _config(record: Record) -> bytes:
    return json.dumps({"run_id": record.id, "attempt": record.attempt, "name": record.name, "project": record.project,
                       "queue": record.queue, "tags": list(record.tags), "config": {}}).encode()  # fmt: skip


def _supervise(attempt: Attempt) -> Outcome:
    job, tail, spec = attempt.job, attempt.tail, attempt.spec
    assert job is not None
    assert tail is not None
    limits = Limits(spec.timeout_s, spec.stall_timeout_s, spec.grace_s)
    outcome = supervise(job, limits=limits, last_output_s=lambda: tail.last_output_s, ran_s=attempt.ran_s)
    if tail.disk_was_full:
        outcome = replace(outcome, message=f"{outcome.message}\n{_DISK_WAS_FULL}".strip())
    return job.explain(outcome)


def _end(job: Job | None) -> None:
    """A job that nobody supervises any more must not stay."""
    if job is None:
        return
    job.stop(grace_s=0)
    while not isinstance(job.events.get(), Gone):
        pass
