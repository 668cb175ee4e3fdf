"""Carries one attempt from its claimed record to its outcome: prepare, start, supervise, explain."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from launch_worker.attempt.attempt import Attempt, Enter, WorkerContext
from launch_worker.attempt.prepare import build, fetch, prepare
from launch_worker.attempt.restore import restore
from launch_worker.attempt.shipping import FOLLOW_AFTER_S
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded, Limits, never_started, supervise
from launch_worker.attempt.tail import explained
from launch_worker.attempt.talk import Talk
from launch_worker.clock import boot_time_s
from launch_worker.code.patience import Patience
from launch_worker.errors import (
    BrokerUnavailableError,
    CodeError,
    EngineAwayError,
    InputError,
    LeaseLostError,
    StartError,
    StartGivenUpError,
    UnenforcedError,
)
from launch_worker.model.job_words import Word
from launch_worker.model.outcome import Outcome
from launch_worker.model.signals import parse_ahead
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.runners.job import Gone, Job
from launch_worker.runners.output import make_room
from launch_worker.runners.talk_folder import TALK

log = logging.getLogger("launch_worker.execute")


def execute(
    attempt: Attempt,
    *,
    context: WorkerContext,
    on_started: Callable[[int], None],
    enter: Enter = lambda *_: None,
    on_word: Callable[[Word, Outcome | None], None] = lambda *_: None,
) -> Outcome:
    """Block until the attempt's job is gone. Whatever goes wrong on the way is a Failed outcome with its phase.

    The job of an adopted attempt is there already, and is supervised from here on. `on_started` gets the pid of the
    job's main process once that is known to run, `on_word` what the job says of its own end (see `supervise`).
    Raises AttemptSuperseded, AttemptDetached.
    """
    begun = 0.0
    try:
        if attempt.job is None:
            start = _prepare(attempt, context, enter)
            begun = _start(attempt, context, start, enter)
            note_pid = on_started
        else:
            # The pid of a process is in the record already.
            note_pid = on_started if attempt.folder.is_container else lambda _: None
            attempt.begun_s = time.monotonic() - attempt.ran_s
        outcome = _supervise(attempt, context, on_word, begun=begun, enter=enter, on_started=note_pid)
        return _explain(attempt, outcome)
    except (AttemptSuperseded, AttemptDetached):
        raise
    except StartGivenUpError:
        return never_started(attempt.events)
    except Exception as error:  # noqa: BLE001 (the one place that turns a crash into an outcome; it is logged there)
        return _fail(attempt, error)


# -- the steps ---------------------------------------------------------------------------------------------------------


def _prepare(attempt: Attempt, context: WorkerContext, enter: Enter) -> Callable[[], Job]:
    """Make the attempt's folder, fetch its code and make its environment; returns what starts its job."""
    patience = Patience.of(_start_timeout_s(attempt), unwanted=lambda: not attempt.events.empty())
    start = prepare(attempt, context, patience, enter)
    attempt.phase = "build"
    restore(attempt, context, patience, enter)
    if attempt.checkpoints is not None:
        # Not before: other jobs of its account could put links where the checkpoint is written to.
        attempt.folder.give(str(attempt.checkpoints.folder))
    code = fetch(attempt, context, patience, enter)
    build(attempt, context, patience, enter, code)
    return partial(start, code)


def _start(attempt: Attempt, context: WorkerContext, start: Callable[[], Job], enter: Enter) -> float:
    """Start the job, when its time has come; returns the monotonic time of its start."""
    attempt.phase = "start"
    if attempt.start_at is not None:
        enter("wait", f"scheduled for {isoformat(attempt.record.start_at)}")
    record, folder = attempt.record, attempt.folder
    if not folder.is_container:
        # A container waits after it was made.
        attempt.await_start()
        if attempt.start_at is not None:
            enter("start", "")
    if folder.is_disk_short:
        make_room(folder.output, limit_bytes=context.settings.log_file_bytes)
    attempt.tail = attempt.tail or context.logs.tail(record.id, record.attempt, folder.output)
    attempt.talk = talk_of(attempt)
    begun = attempt.begun_s = time.monotonic()
    attempt.job = start()
    if folder.is_container:
        # Its start includes the wait for the run's time.
        attempt.begun_s = time.monotonic()
    return begun


def _supervise(
    attempt: Attempt,
    context: WorkerContext,
    on_word: Callable[[Word, Outcome | None], None],
    *,
    begun: float,
    enter: Enter,
    on_started: Callable[[int], None],
) -> Outcome:
    """Block until the job is gone; its files are followed from a moment after `begun`."""
    job, tail, talk, spec = attempt.job, attempt.tail, attempt.talk, attempt.spec
    assert job is not None
    assert tail is not None
    assert talk is not None
    job.report_to(enter, on_started)
    attempt.phase = "run"

    ahead = parse_ahead(spec.signal) if spec.signal else None

    def follow() -> None:
        context.logs.follow(tail, talk)
        context.sample(attempt)
        if attempt.checkpoints is not None:
            attempt.checkpoints.begin()

    return supervise(
        job,
        limits=Limits(
            spec.timeout_s,
            spec.stall_timeout_s,
            spec.grace_s,
            spec.preempt_exit_code,
            signal=ahead,
            signals_all=spec.stop_scope == "all",
        ),
        last_output_s=lambda: max(tail.last_output_s, talk.last_output_s),
        ran_s=attempt.ran_s,
        asked_before=attempt.asked,
        was_signalled=ahead is not None and attempt.is_adopted and attempt.folder.was_signalled,
        note_signal=attempt.folder.note_signal,
        announce=job.announce,
        read_talk=talk.look_last,
        on_word=on_word,
        milestones=((begun + FOLLOW_AFTER_S, follow),),
    )


def _explain(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Add the job's exception, what the runner knows of the end, and that the job ran in another folder."""
    assert attempt.job is not None
    hidden = tuple(attempt.secrets.values())
    outcome = attempt.job.explain(explained(outcome, attempt.folder.output, attempt.spec, hidden=hidden))
    if not attempt.missing_cwd:
        return outcome
    # A folder that is there may be one that the job's sandbox has not.
    what = f"{attempt.missing_cwd!r}{' for its jobs' if os.path.isdir(attempt.missing_cwd) else ''}"
    text = (
        f"it ran in an empty folder, deleted at its end with what was in it, for this worker has no {what}; "
        "name a folder with --cwd, or send the code"
    )
    reason = f"{outcome.reason}; {text}" if outcome.reason else text
    return replace(outcome, reason=reason, message=f"{outcome.message}\n{text}" if outcome.message else "")


# -- errors ------------------------------------------------------------------------------------------------------------


def _fail(attempt: Attempt, error: Exception) -> Outcome:
    """End what was begun of the attempt; returns the outcome of the error."""
    outcome = outcome_of_error(error, attempt.phase)
    # Errors of which the sentence says all, raised before there is a job.
    is_of_the_start = isinstance(error, (CodeError, InputError, StartError))
    if not outcome.unbegun:
        attempt.error = error
    if not outcome.unbegun and not is_of_the_start:
        about = (attempt.record.id, attempt.phase)
        log.error("run.failed run=%s phase=%s: %s", *about, error, exc_info=not isinstance(error, OSError))
    if not is_of_the_start:
        _end(attempt.job)
    return replace(outcome, unbegun=outcome.unbegun and attempt.job is None)


def outcome_of_error(error: Exception, phase: str) -> Outcome:
    """The outcome of an attempt that an error ended in a phase."""
    text = str(error)
    failed = Outcome(RunState.FAILED, reason=text, phase=phase, message=text)
    match error:
        case CodeError():
            message = f"{text}\n{error.detail}".strip()
            return replace(failed, phase="build", message=message, worker_fault=error.worker_fault)
        case LeaseLostError() | BrokerUnavailableError() | UnenforcedError():
            # Without the lease, what Redis has of the run, or what its queue asks for, no job can be started.
            return replace(failed, message="", unbegun=True)
        case EngineAwayError():
            return replace(failed, engine_fault=True, worker_fault=True)
        case StartError():
            return replace(failed, worker_fault=error.worker_fault)
        case InputError():
            return failed
        case OSError():
            text = f"the worker's disk or system refused: {error}"
            return replace(failed, reason=text, message=text, worker_fault=True)
    trace = "".join(traceback.format_exception(error, limit=-8))
    return replace(failed, reason=f"{type(error).__name__} in the worker: {error}", message=trace)


def _end(job: Job | None) -> None:
    """End a job that nobody supervises any more."""
    if job is None:
        return
    job.stop(grace_s=0)
    while not isinstance(job.events.get(), Gone):
        pass


def _start_timeout_s(attempt: Attempt) -> float:
    """Seconds that the start may take; a wait for the run's time does not count."""
    ahead_s = 0.0 if attempt.start_at is None else max(0.0, attempt.start_at - boot_time_s())
    return attempt.spec.start_timeout_s + ahead_s


def talk_of(attempt: Attempt) -> Talk:
    """The talk of an attempt, whose words become events of the attempt."""
    record, folder = attempt.record, attempt.folder
    return Talk(record.id, record.token, f"{folder.root}/{TALK}", on_word=attempt.hear, is_copy=folder.is_container)
