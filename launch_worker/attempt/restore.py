"""Restores the newest checkpoint of a run before its next attempt starts, and makes what keeps that attempt's own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from launch_worker import humane
from launch_worker.attempt.attempt import Attempt, Enter, WorkerContext
from launch_worker.attempt.checkpoints import Keeper, Sender
from launch_worker.attempt.folder import CHECKPOINT, AttemptFolder
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError, DamagedError, LaunchError, StartError
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.model.units import format_duration
from launch_worker.runners.kept_folder import Refreshed

log = logging.getLogger("launch_worker.checkpoints")

#: Variables of a job that goes on from a checkpoint.
RESUMED = {"LAUNCH_RESUMED": "1"}
#: Seconds between two sentences of how far it is.
_TELL_S = 5.0


def keeper_of(
    attempt: Attempt,
    context: WorkerContext,
    *,
    refresh: Callable[[], Refreshed | None] = lambda: None,
    tell: Callable[[str, str], None] | None = None,
) -> Keeper:
    """What keeps the checkpoints of an attempt; `refresh` and `tell` are as those of `Keeper`."""
    record, newest = attempt.record, Checkpoint.of(attempt.record.checkpoint)
    if attempt.is_bound:
        # Whoever stores its last state for this worker takes what was executed from there.
        attempt.folder.keep_record(record)
    sender = Sender(
        context.settings.output_url,
        context.store,
        run_id=record.id,
        attempt=record.attempt,
        token=record.token,
        owner=context.owner,
        newest=newest,
        executed=lambda: executed_in(attempt.folder) if attempt.is_adopted else record.executed,
    )
    every_s = attempt.spec.checkpoint_every_s
    return Keeper(attempt.folder, sender, every_s=every_s, number=sender.number, refresh=refresh, tell=tell)


def executed_in(folder: AttemptFolder) -> str:
    """What an attempt executes, as `Record.executed`; '' where its checkpoints need not be bound to that."""
    kept = folder.read_record()
    return "" if kept is None else kept.executed


def take_up_checkpoints(
    attempt: Attempt, context: WorkerContext, keeper_of: Callable[[Attempt, WorkerContext], Keeper] = keeper_of
) -> None:
    """Go on with the checkpoints of an attempt whose job another worker started, if that worker kept any."""
    if context.settings.output_url and os.path.isdir(f"{attempt.folder.root}/{CHECKPOINT}"):
        attempt.checkpoints = keeper_of(attempt, context)
        attempt.checkpoints.take_up()


def restore(attempt: Attempt, context: WorkerContext, patience: Patience, enter: Enter) -> None:
    """Make the job's folder of checkpoints as the newest checkpoint of the earlier attempts has it, if there is one.

    Raises StartError where that fails, so that no attempt begins anew unasked; StartGivenUpError, OSError.
    """
    record, known = attempt.record, Checkpoint.of(attempt.record.checkpoint)
    if known is not None and not context.settings.output_url:
        raise StartError(
            f"this worker has no LAUNCH_OUTPUT_URL, from where the checkpoint of attempt {known.attempt} is restored; "
            "set it in the worker's environment",
            worker_fault=True,
        )
    if attempt.checkpoints is None or record.attempt <= max(1, record.fresh_from):
        return
    try:
        attempt.is_resumed = _restore(attempt, attempt.checkpoints, known, context, patience, enter)
    except StartError:
        raise
    except CodeError:
        limit = format_duration(patience.limit_s)
        raise StartError(
            f"the checkpoint was not restored within the start timeout of {limit}; raise it with --start-timeout",
            worker_fault=True,
        ) from None
    except LaunchError as error:
        raise StartError(
            f"the run's checkpoint could not be restored: {error}; to begin anew once it has ended: launch-worker "
            f"retry {record.id} --from-scratch",
            worker_fault=True,
        ) from None


def _restore(
    attempt: Attempt,
    keeper: Keeper,
    known: Checkpoint | None,
    context: WorkerContext,
    patience: Patience,
    enter: Enter,
) -> bool:
    """Restore the newest checkpoint; returns False where there is none. Raises LaunchError."""
    from launch_worker.outputs import checkpoints
    from launch_worker.outputs.stored import PIECE_BYTES, StoredOutputs

    record = attempt.record
    try:
        stored = StoredOutputs(context.settings.output_url)
        # Of an attempt of the same number too: a Redis that has lost its last writes gives a number twice.
        place = patience.await_thread(
            lambda: checkpoints.newest(stored, record.id, before=record.attempt + 1, since=record.fresh_from)
        )
    except (StartError, CodeError):
        raise
    except LaunchError as error:
        if known is not None:
            raise
        # Redis knows of none, and only a Redis that has lost its last writes is wrong in that.
        log.warning("checkpoint.not_looked_for run=%s: %s", record.id, error)
        return False
    if known is not None and (place is None or place < (known.attempt, known.number)):
        raise DamagedError(f"that of attempt {known.attempt} is gone from the store")
    if place is None:
        return False
    newest = place
    manifest = patience.await_thread(lambda: checkpoints.manifest_of(stored, record.id, newest))
    if attempt.is_bound and manifest.executed != record.executed:
        raise DamagedError(f"that of attempt {place.attempt} was not made by what was submitted")
    said = f"restoring the checkpoint of attempt {place.attempt}, {humane.size(manifest.total_bytes)}"
    enter("fetch", said)
    pieces = sum(-(-file.size // PIECE_BYTES) for file in manifest.files)
    fetched = _Fetched(patience, pieces, lambda share: enter("fetch", f"{said}, {share} %"))
    patience.await_thread(lambda: checkpoints.restore(stored, manifest, keeper.folder, check=fetched.check))
    attempt.folder.give(str(keeper.folder))
    keeper.note_restored(manifest, place.number)
    log.info("checkpoint.restored run=%s attempt=%d from=%d.%d", record.id, record.attempt, *place)
    enter("start", "")
    return True


class _Fetched:
    """How much of a checkpoint is restored, told now and then."""

    def __init__(self, patience: Patience, pieces: int, tell: Callable[[int], None]) -> None:
        self._patience = patience
        self._pieces = max(1, pieces)
        self._tell = tell
        self._done = 0
        self._told_s = time.monotonic()

    def check(self) -> None:
        """Called for each piece. Raises StartGivenUpError, CodeError."""
        self._patience.check()
        self._done += 1
        if time.monotonic() - self._told_s >= _TELL_S:
            self._told_s = time.monotonic()
            self._tell(min(99, 100 * self._done // self._pieces))
