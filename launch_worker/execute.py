"""One attempt, from its claimed record to its outcome: prepare, fetch its code, start, supervise, keep the log."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from launch_worker.attempt import Attempt, Enter, Site
from launch_worker.begin import fetch, prepare
from launch_worker.code.patience import Patience
from launch_worker.environment import TALK
from launch_worker.errors import BrokerUnavailableError, CodeError, InputError
from launch_worker.logs import FOLLOW_AFTER_S, LogShipper
from launch_worker.retry import Outcome
from launch_worker.runners.errors import EngineAwayError, LeaseLostError, StartError, StartGivenUpError
from launch_worker.runners.guard import boot_time_s
from launch_worker.runners.output import make_room
from launch_worker.runners.process import Gone
from launch_worker.states import RunState
from launch_worker.supervise import AttemptDetached, AttemptSuperseded, Job, Limits, never_started, supervise
from launch_worker.told import Talk, Word
from launch_worker.units import isoformat

log = logging.getLogger("launch_worker.execute")


def execute(
    attempt: Attempt,
    *,
    site: Site,
    on_started: Callable[[int], None],
    enter: Enter = lambda *_: None,
    on_word: Callable[[Word, Outcome | None], None] = lambda *_: None,
) -> Outcome:
    """Block until the attempt's job is gone. Whatever goes wrong on the way is a Failed outcome with its phase.

    With a job in the attempt already (adopted from another worker) it is supervised from here on. `on_started` gets
    the pid of the job's main process once that is known to run, `on_word` what it says of its own end (see
    `supervise`).
    Raises AttemptSuperseded, AttemptDetached.
    """
    phase = "agent"
    begun = 0.0
    try:
        if attempt.job is None:
            patience = Patience.of(_start_timeout_s(attempt), unwanted=lambda: not attempt.events.empty())
            start = prepare(attempt, site, patience, enter)
            attempt.phase = phase = "build"
            code = fetch(attempt, site, patience, enter)
            attempt.phase = phase = "start"
            if attempt.start_at is not None:
                enter("wait", f"scheduled for {isoformat(attempt.record.start_at)}")
            if not attempt.folder.is_container:
                # A container is made first.
                attempt.await_start()
                if attempt.start_at is not None:
                    enter("start", "")
            record, folder = attempt.record, attempt.folder
            if folder.is_disk_short:
                make_room(folder.output, limit_bytes=site.settings.log_file_bytes)
            attempt.tail = site.logs.tail(record.id, record.attempt, folder.output)
            attempt.talk = talk_of(attempt)
            begun = time.monotonic()
            attempt.job = start(code)
            attempt.job.report_to(enter, on_started)
        else:
            # The pid of a process is in the record already.
            attempt.job.report_to(enter, on_started if attempt.folder.is_container else lambda _: None)
        attempt.phase = phase = "run"
        return _supervise(attempt, site.logs, on_word, begun=begun)
    except (AttemptSuperseded, AttemptDetached):
        raise
    except StartGivenUpError:
        return never_started(attempt.events)
    except CodeError as error:
        attempt.error = error
        message = f"{error}\n{error.detail}".strip()
        return Outcome(
            RunState.FAILED, reason=str(error), phase="build", message=message, worker_fault=error.worker_fault
        )
    except BrokerUnavailableError as error:
        # What is missing of the run, no job can be started without.
        _end(attempt.job)
        return Outcome(RunState.FAILED, reason=str(error), phase=phase, unbegun=attempt.job is None)
    except LeaseLostError as error:
        return Outcome(RunState.FAILED, reason=str(error), phase=phase, unbegun=True)
    except (InputError, StartError) as error:
        attempt.error = error
        is_away = isinstance(error, EngineAwayError)
        is_machine = isinstance(error, StartError) and error.worker_fault
        return Outcome(
            RunState.FAILED,
            reason=str(error),
            phase=phase,
            message=str(error),
            engine_fault=is_away,
            worker_fault=is_machine,
        )
    except OSError as error:
        attempt.error = error
        log.error("run.failed run=%s phase=%s: %s", attempt.record.id, phase, error)
        _end(attempt.job)
        text = f"the worker's disk or system refused: {error}"
        return Outcome(RunState.FAILED, reason=text, phase=phase, message=text, worker_fault=True)
    except Exception as error:
        attempt.error = error
        log.exception("run.failed run=%s phase=%s", attempt.record.id, phase)
        _end(attempt.job)
        return Outcome(
            RunState.FAILED,
            reason=f"{type(error).__name__} in the worker: {error}",
            phase=phase,
            message=traceback.format_exc(limit=-8),
        )


def _start_timeout_s(attempt: Attempt) -> float:
    """Waiting for its time is no part of a start."""
    ahead_s = 0.0 if attempt.start_at is None else max(0.0, attempt.start_at - boot_time_s())
    return attempt.spec.start_timeout_s + ahead_s


def talk_of(attempt: Attempt) -> Talk:
    """What its job tells becomes events of the attempt."""
    record, folder = attempt.record, attempt.folder
    return Talk(
        record.id, record.token, f"{folder.root}/{TALK}", on_word=attempt.events.put, is_copy=folder.is_container
    )


def _supervise(
    attempt: Attempt, logs: LogShipper, on_word: Callable[[Word, Outcome | None], None], *, begun: float
) -> Outcome:
    job, tail, talk, spec = attempt.job, attempt.tail, attempt.talk, attempt.spec
    assert job is not None
    assert tail is not None
    assert talk is not None
    limits = Limits(spec.timeout_s, spec.stall_timeout_s, spec.grace_s, spec.preempt_exit_code)
    outcome = supervise(
        job,
        limits=limits,
        last_output_s=lambda: max(tail.last_output_s, talk.last_output_s),
        ran_s=attempt.ran_s,
        former=attempt.asked,
        announce=job.announce,
        hear=talk.look_last,
        on_word=on_word,
        milestones=((begun + FOLLOW_AFTER_S, lambda: logs.follow(tail, talk)),),
    )
    return _with_folder(job.explain(outcome), attempt)


def _with_folder(outcome: Outcome, attempt: Attempt) -> Outcome:
    """Say so when its job was not where its submitter was: what it wrote there is gone."""
    if not attempt.missing_cwd:
        return outcome
    text = (
        "it ran in an empty folder, deleted at its end with what was in it, for this worker has no "
        f"{attempt.missing_cwd!r}; name a folder with --cwd, or send the code"
    )
    reason = f"{outcome.reason}; {text}" if outcome.reason else text
    return replace(outcome, reason=reason, message=f"{outcome.message}\n{text}" if outcome.message else "")


def _end(job: Job | None) -> None:
    """A job that nobody supervises any more must not stay."""
    if job is None:
        return
    job.stop(grace_s=0)
    while not isinstance(job.events.get(), Gone):
        pass
