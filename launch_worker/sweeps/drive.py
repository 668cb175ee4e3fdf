"""Makes the next runs of a sweep when one ends, in the worker that learns of it first."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError, RedisFullError
from launch_worker.ids import new_run_id
from launch_worker.model.checks import KEY
from launch_worker.model.sweep import SweepRecord, Trial
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.store.submit import Configs
from launch_worker.submission.resolve import refuse_unsigned
from launch_worker.sweeps.trial import spec_of
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.sweeps.config import SweepConfig
    from launch_worker.sweeps.search import Suggestion

log = logging.getLogger("launch_worker.sweeps")

#: Seconds for which one process makes a sweep's runs alone; then others do it too.
_MAKING_S = 5.0
#: Seconds between two judgements of a sweep: its runs may report their metric many times a second.
_JUDGING_S = 0.5
#: Runs that are made in one go, between two looks at the sweep.
_AT_ONCE = 50
#: Looks at a sweep in which others were quicker each time; then the sweep is left to them.
_IDLE_ROUNDS = 5


def check_sweep(store: Store, sweep_id: str) -> str:
    """Why a run of this sweep must not start now; '' when it may.

    As W&B's agent does (`check_sweep_state` in wandb/sdk/launch/agent/agent.py): runs of a RUNNING and of a PAUSED
    sweep start. One of a STOPPED sweep had begun before: its pending ones were killed. Raises BrokerUnavailableError.
    """
    sweep = store.sweep(sweep_id) if KEY.fullmatch(sweep_id) else None
    if sweep is None:
        return f"sweep {sweep_id[:100]} is unknown"
    if sweep.cancelling or sweep.state not in ("RUNNING", "PAUSED", "STOPPED"):
        return f"sweep {sweep_id} is {'being cancelled' if not sweep.is_over else sweep.state}"
    return ""


def advance_sweeps(store: Store, settings: Settings) -> int:
    """Make the runs that sweeps lack, and end sweeps that are over. Returns the number of runs made."""
    made = 0
    for sweep_id in store.live_sweep_ids():
        try:
            store.settle_sweep(sweep_id)
            made += look_after(store, settings, sweep_id)
        except RedisFullError as error:
            # Their runs are made once Redis has room. Settling goes on: it ends sweeps.
            log.debug("sweep.waits sweep=%s: %s", sweep_id, error)
        except BrokerUnavailableError:
            raise
        except Exception:
            # One damaged sweep never holds up the others.
            log.exception("sweep.failed sweep=%s", sweep_id)
    return made


def look_after(store: Store, settings: Settings, sweep_id: str) -> int:
    """Make the runs that a sweep lacks, and stop hopeless ones. Returns the number of runs made."""
    made = advance(store, settings, sweep_id)
    judge(store, sweep_id)
    return made


def advance(store: Store, settings: Settings, sweep_id: str) -> int:
    """Make the runs that a sweep lacks. Returns how many; however many do this at once, each run is made once.

    A reason why a run cannot be made is noted with the sweep. Raises BrokerUnavailableError.
    """
    # Imported on demand: start-up time of `launch-submit`, which imports this module.
    from launch_worker.sweeps.config import config_from_json
    from launch_worker.sweeps.search import has_optuna

    made = idle = 0
    while True:
        sweep = store.sweep(sweep_id)
        if sweep is None or not sweep.room or idle == _IDLE_ROUNDS:
            return made
        try:
            config = config_from_json(sweep.config)
        except InputError as error:
            store.note_sweep_problem(sweep_id, str(error))
            return made
        if config.method != "grid" and not has_optuna():
            # Without the lock: another worker may have Optuna.
            store.note_sweep_problem(sweep_id, "the workers that looked after it have no Optuna: launch_worker[sweeps]")
            return made
        if not store.lock_sweep(sweep_id, "making", for_s=_MAKING_S):
            return made
        try:
            count = make_runs(store, settings, sweep, config)
        except InputError as error:
            _note(store, sweep, f"its runs are refused: {error}")
            return made
        except LaunchError as error:
            if isinstance(error, BrokerUnavailableError):
                raise
            _note(store, sweep, str(error))
            return made
        finally:
            store.unlock_sweep(sweep_id, "making")
        # Look again, without the lock: a process that saw a run end meanwhile found the lock taken and left.
        made += count
        idle = 0 if count else idle + 1


def make_runs(store: Store, settings: Settings, sweep: SweepRecord, config: SweepConfig) -> int:
    """Make runs until the sweep has as many as it may, or another process was quicker. Returns how many.

    Raises InputError when its queue refuses them, LaunchError when none can be drawn.
    """
    from launch_worker.sweeps.search import suggest

    trials, ended = store.trials(sweep.id, curves=config.watches_metric)
    if len(trials) != sweep.made:
        # Sweep and trials were read at two instants: read the sweep again.
        sweep = store.sweep(sweep.id) or sweep
        if len(trials) != sweep.made:
            return 0
    made = 0
    for _ in range(min(sweep.room, _AT_ONCE)):
        drawn = suggest(config, trials, seed=sweep.seed, ended=ended, study=sweep.id)
        trial = Trial(len(trials), new_run_id(), drawn.drawn, seen=len(ended))
        why_not = _create(store, settings, sweep, config, trial, drawn)
        if why_not:
            log.debug("sweep.not_made sweep=%s index=%d: %s", sweep.id, trial.index, why_not)
            break
        log.info("sweep.run_made sweep=%s index=%d run=%s", sweep.id, trial.index, trial.run_id)
        trials.append(trial)
        made += 1
    return made


def judge(store: Store, sweep_id: str) -> int:
    """Stop the runs of a sweep that are clearly worse than others. Returns how many."""
    from launch_worker.sweeps.config import config_from_json
    from launch_worker.sweeps.search import has_optuna, hopeless

    sweep = store.sweep(sweep_id)
    if sweep is None or sweep.is_over or not sweep.live:
        return 0
    try:
        config = config_from_json(sweep.config)
    except InputError:
        return 0
    if not config.watches_metric or (config.pruner is not None and not has_optuna()):
        return 0
    if not store.lock_sweep(sweep_id, "judging", for_s=_JUDGING_S):
        return 0
    trials, _ = store.trials(sweep_id, curves=True)
    try:
        found = hopeless(config, trials, study=sweep_id)
    except LaunchError as error:
        _note(store, sweep, str(error))
        return 0
    for index, why in found.items():
        # The mark comes first: the run may end at once.
        store.mark_stopped(sweep_id, index, why)
        word, _ = store.cancel(trials[index].run_id, reason=f"stopped early by {why}")
        log.info("sweep.run_stopped sweep=%s run=%s %s: %s", sweep_id, trials[index].run_id, word, why)
    return len(found)


def given_of(sweep: SweepRecord) -> dict[str, Any]:
    """The arguments of the sweep's runs, as `resolve` takes them. Raises InputError for a damaged record."""
    try:
        given = read_json(sweep.given)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    except (ValueError, AttributeError):
        raise InputError("the sweep's record is damaged: what its runs are submitted with is no JSON") from None


def _create(
    store: Store, settings: Settings, sweep: SweepRecord, config: SweepConfig, trial: Trial, drawn: Suggestion
) -> str:
    given = given_of(sweep)

    def create(configs: Configs) -> str:
        spec = spec_of(given, config, drawn, sweep_id=sweep.id, index=trial.index, **configs._asdict())
        refuse_unsigned(spec.queue, configs.queue_config, what="a sweep")
        if spec.upload:
            # Imported on demand: start-up time of `launch-submit`, which imports this module.
            from launch_worker.code.storage import storage_of

            storage_of(settings, store).renew(spec.upload)
        return store.next_run(sweep.id, trial, spec, reason=f"sweep {sweep.id}", **configs._asdict())

    return store.with_configs(str(given.get("queue", "default")), create)


def _note(store: Store, sweep: SweepRecord, problem: str) -> None:
    if problem != sweep.stuck:
        log.error("sweep.stuck sweep=%s: %s", sweep.id, problem)
        store.note_sweep_problem(sweep.id, problem)


class SweepMinder:
    """Looks after the sweeps that a worker is notified of, in a thread that is made at the first one."""

    def __init__(self, store: Store, settings: Settings, *, stopping: threading.Event) -> None:
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._notified: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def notify(self, sweep_id: str) -> None:
        """Have a sweep looked at, and return at once. A waiting one is not queued twice. Raises InputError."""
        if not KEY.fullmatch(sweep_id):
            raise InputError("it is no sweep's id")
        with self._lock:
            if sweep_id in self._waiting:
                return
            self._waiting.add(sweep_id)
            self._notified.put(sweep_id)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._mind, name="launch-sweeps", daemon=True)
                self._thread.start()

    def _mind(self) -> None:
        while not self._stopping.is_set():
            sweep_id = self._notified.get()
            with self._lock:
                self._waiting.discard(sweep_id)
            try:
                look_after(self._store, self._settings, sweep_id)
            except BrokerUnavailableError as error:
                log.warning("sweep.left_to_the_pass sweep=%s: %s", sweep_id, error)
            except Exception:
                log.exception("sweep.failed sweep=%s", sweep_id)
