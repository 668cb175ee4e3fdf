"""Makes, shows, pauses, resumes, stops and cancels sweeps, and waits for them, for Python and the command line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch_worker.api.connection import Connection
from launch_worker.api.patience import AWAY, Patience
from launch_worker.api.run import Run
from launch_worker.errors import (
    InputError,
    LaunchError,
    RefusedError,
    UnknownRunError,
)
from launch_worker.ids import new_run_id
from launch_worker.model.checks import KEY, MAX_LIMIT
from launch_worker.model.states import RunState
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial, unknown_sweep
from launch_worker.model.units import isoformat
from launch_worker.submission.options import DEFAULT_QUEUE, read_options
from launch_worker.submission.requirements import attach
from launch_worker.submission.resolve import current_folder
from launch_worker.untrusted.text import read_map

if TYPE_CHECKING:
    from launch_worker.model.spec import RunSpec
    from launch_worker.sweeps.config import SweepConfig

MAX_FILE_BYTES = 4 << 20
#: Live runs of one sweep at most: one script must be able to kill them all.
MAX_WORKERS = 1000
#: Lines of a failed run's output in the status of a sweep whose first runs all failed.
_LAST_LINES = 3
#: Words of `Sweep.steer`, and what the reason of a run that was Killed by each says.
_STEERED: dict[SweepOrder, str] = {"stop": "stopped", "cancel": "cancelled", "pause": "paused", "resume": "resumed"}


class Sweep:
    """One sweep. `record` is of the last read; `state`, `best_run` and the like read it anew."""

    def __init__(self, api: Connection, sweep_id: str, *, record: SweepRecord | None = None) -> None:
        self.id = sweep_id
        self._api = api
        self._record = record

    def __repr__(self) -> str:
        return f"<Sweep {self.id}>"

    @property
    def record(self) -> SweepRecord:
        return self._record if self._record is not None else self.refresh()

    def refresh(self) -> SweepRecord:
        """Read the record from Redis. Raises InputError when the sweep is gone."""
        record = self._api.transport.sweep(self.id)
        if record is None:
            raise unknown_sweep(self.id)
        self._record = record
        return record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> str:
        """RUNNING, PAUSED, STOPPED (its last runs are ending), FINISHED or CANCELED; as it is now."""
        return self.refresh().state

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it was written."""
        return read_map(self.record.config)

    @property
    def expected_run_count(self) -> int | None:
        """Most runs that it makes; None when there is no end."""
        return self.record.cap

    @property
    def trials(self) -> list[Trial]:
        """The sweep's runs by number, with their parameters and results, as they are now."""
        return self._api.transport.trials(self.id)

    @property
    def runs(self) -> list[Run]:
        """The sweep's runs, the first one first; runs that the retention has deleted are left out."""
        found = self._api.transport.records([trial.run_id for trial in self.trials])
        return [self._run(record.id, record) for record in found]

    def best_run(self) -> Run | None:
        """The run with the best value of the metric; None while none has ended with one."""
        from launch_worker.sweeps.search import best_of

        best = best_of(self._parsed(), self.trials)
        return None if best is None else self._run(best.run_id)

    def pause(self) -> str:
        """Make no more runs until `resume`. Those that are made, pending ones too, go on. Returns the state now.

        As W&B's (`wandb sweep --pause`). Raises RefusedError when it is over or stopped.
        """
        return self.steer("pause")

    def resume(self) -> str:
        """Go on after `pause`. Returns the state now. Raises RefusedError when it is over or stopped."""
        return self.steer("resume")

    def stop(self) -> str:
        """Make no more runs, and be FINISHED when the running ones have ended; pending ones are Killed.

        As W&B's (`wandb sweep --stop`). Returns the state now. Raises RefusedError when it was cancelled.
        """
        return self.steer("stop")

    def cancel(self) -> str:
        """Kill its running and pending runs, and be CANCELED when they are. Returns the state now.

        As W&B's (`wandb sweep --cancel`). Raises RefusedError when it is FINISHED.
        """
        return self.steer("cancel")

    def steer(self, word: SweepOrder) -> str:
        """Carry out the order. Returns the state now."""
        reason = f"sweep {self.id} was {_STEERED[word]} by {self._api.actor}"
        done, state = self._api.transport.steer_sweep(self.id, word, reason=reason)
        if not done:
            raise RefusedError(f"sweep {self.id} is {state} and cannot be {_STEERED[word]}; nothing was changed")
        return state

    def wait(self, timeout: float | None = None) -> str:
        """Block until the sweep is FINISHED or CANCELED; returns which. Raises TimeoutError.

        Woken by the sweep's news, not by polling. A paused sweep is waited for as long as it takes, but LaunchError is
        raised for one that paused itself because its first runs all failed. Outlasts an outage of Redis of up to ten
        minutes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = Patience(deadline)
        while True:
            try:
                for record in self._api.transport.follow_sweep(self.id, deadline=deadline):
                    patience.has_answer()
                    self._record = record
                    if record.state == "PAUSED" and record.failures:
                        raise LaunchError(f"sweep {self.id} is PAUSED: {record.problem}")
                if self.refresh().is_over:
                    return self.record.state
                break
            except AWAY as error:
                patience.outlast(error)
        raise TimeoutError(f"sweep {self.id} is still {self.record.state} after {timeout:g} s")

    def as_json(self, *, runs: bool = False) -> dict[str, Any]:
        """The object of `sweep list --json`; with `runs` that of `sweep status --json`."""
        record = self.record
        shown: dict[str, Any] = {
            "id": self.id,
            "name": record.name,
            "state": record.state,
            "cancelling": record.cancelling and not record.is_over,
            "workers": record.workers,
            "made": record.made,
            "run_cap": record.cap,
            "live": record.live,
            "reason": record.reason or None,
            "problem": record.problem or None,
            "created_at": isoformat(record.created_at),
            "ended_at": isoformat(record.ended_at),
        }
        with contextlib.suppress(InputError):
            config = self._parsed()
            shown |= {"method": config.method, "metric": config.metric or None, "goal": _goal(config)}
            if runs:
                shown |= self._runs_as_json(config)
        return shown

    def _runs_as_json(self, config: SweepConfig) -> dict[str, Any]:
        from launch_worker.sweeps.search import best_of

        trials = self.trials
        now = {r.id: r for r in self._api.transport.records([trial.run_id for trial in trials if trial.live])}
        rows = [
            {
                "index": trial.index,
                "run": trial.run_id,
                "state": now[trial.run_id].state.value if trial.run_id in now else trial.state or None,
                "value": trial.value,
                "config": _config_of(config, trial),
                "stopped": trial.stopped or None,
            }
            for trial in trials
        ]
        counted = Counter(row["state"] for row in rows)
        best = best_of(config, trials)
        return {
            "queue": read_map(self.record.given).get("queue", "default"),
            "counts": {state.value: counted[state.value] for state in RunState},
            "best": next((row for row in rows if best is not None and row["index"] == best.index), None),
            "runs": rows,
            "failed_output": self._last_words(),
        }

    def _last_words(self) -> str | None:
        """The last lines of the last failed run, while no run has Finished: they say more than an exit code."""
        record = self.record
        if not (record.failures and record.problem):
            return None
        with contextlib.suppress(UnknownRunError):
            lines = self._run(record.failed).logs().decode(errors="replace").strip().splitlines()
            return "\n".join(lines[-_LAST_LINES:])[-2000:] or None
        return None

    def _parsed(self) -> SweepConfig:
        from launch_worker.sweeps.config import config_from_json

        return config_from_json(self.record.config)

    def _run(self, run_id: str, record: Any = None) -> Run:
        return Run(self._api, run_id, record=record)


class SweepApi(Connection):
    """A part of `Api`. Everything raises InputError before anything is written, and BrokerUnavailableError."""

    def create_sweep(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        *,
        queue: str | None = None,
        workers: int = 1,
        count: int | None = None,
        strict: bool = False,
        **options: Any,
    ) -> Sweep:
        """Start a sweep: W&B's configuration as a map, or the path of a YAML file. Its first runs are made at once.

        `workers` of its runs are live at once, and at most `count` are made (and at most `run_cap`). `options` are
        those of `submit` for its runs: gpus, env, image, retries and so on. Raises SweepConfigError with all that is
        wrong, LaunchError when Optuna is missing.
        """
        # Imported on demand: start-up time of `launch-submit`, which imports this module.
        from launch_worker.sweeps.config import parse_config
        from launch_worker.sweeps.search import check_engines, suggest
        from launch_worker.sweeps.trial import spec_of

        api: Any = self
        said, where = _read(config)
        has_image = options.get("image") is not None
        parsed = parse_config(said, where=where, has_image=has_image)
        for what, number, most in (("workers", workers, MAX_WORKERS), ("count", count, MAX_LIMIT)):
            if number is not None and (
                not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most
            ):
                raise InputError(f"{what} must be a whole number from 1 to {most:,}, not {number!r}")
        check_engines(parsed, where=where)
        given = _given(api, parsed, {"queue": queue, **options})
        api.check_unsigned(given.get("queue") or DEFAULT_QUEUE, what="a sweep")
        seed = parsed.seed if parsed.seed is not None else secrets.randbits(32)
        sweep_id = new_run_id()
        # A run of it is tried first: its mistakes are reported before there is a sweep.
        first = suggest(parsed, (), seed=seed, ended=(), study=sweep_id)
        sample = spec_of(given, parsed, first, sweep_id=sweep_id, index=0)
        ready = self.transport.complete(dict(given) | {"command": sample.command}, fresh=True)
        beside = None if isinstance(config, Mapping) else os.path.dirname(os.path.abspath(config))
        folder = _folder_of_program(parsed, ready, options, where=where, beside=beside)
        if folder is not None:
            given["cwd"] = folder
        if strict and sample.queue != "default" and sample.queue not in (names := self.transport.queue_names()):
            known = ", ".join(names) or "none"
            raise InputError(f"there is no queue {sample.queue!r}; known are: {known}")
        if given.get("upload") is not None:
            given["upload"] = self.transport.send_folder(options["upload"])
        cap = min((n for n in (parsed.cap, count) if n is not None), default=None)
        fields: dict[str, str | int] = {
            "name": parsed.name or sample.name.rpartition("-")[0],
            "config": parsed.to_json(),
            "given": json.dumps(given),
            "workers": workers,
            "cap": "" if cap is None else cap,
            "seed": seed,
            "metric": parsed.metric,
            "goal": _goal(parsed) or "",
            "target": "" if parsed.target is None else repr(parsed.target),
            "watched": int(parsed.watches_metric),
        }
        return Sweep(api, self.transport.create_sweep(sweep_id, fields))

    def sweep(self, path: str) -> Sweep:
        """The sweep with this id, or `entity/project/id`. Raises InputError for an unknown one."""
        api: Any = self
        sweep_id = path.rpartition("/")[2]
        record = self.transport.sweep(sweep_id) if KEY.fullmatch(sweep_id) else None
        if record is None:
            raise unknown_sweep(sweep_id)
        return Sweep(api, sweep_id, record=record)

    def sweeps(self) -> list[Sweep]:
        """All sweeps that are known, the newest first."""
        api: Any = self
        return [Sweep(api, record.id, record=record) for record in self.transport.sweeps()]


def _read(config: Mapping[str, Any] | str | os.PathLike[str]) -> tuple[Any, str]:
    if isinstance(config, Mapping):
        return config, "the sweep's configuration"
    name = os.fspath(config)
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8; save the file as UTF-8") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{name} has more than {MAX_FILE_BYTES:,} bytes")
    from launch_worker.sweeps.config import read_yaml

    return read_yaml(text, where=name), name


def _given(api: Any, config: SweepConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of its runs. Raises InputError."""

    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    for name in ("command", "array", "at", "delay"):
        if name in plain:
            raise InputError(f"{name} is not an option of a sweep; its runs are made when there is room for them")
    here = current_folder() or "/"
    item = attach(read_options(plain, folder=here), folder=here)
    if item.secrets:
        raise InputError("a sweep has no secrets: nobody is there to seal them for each of its runs")
    given: dict[str, Any] = {"author": api.actor} | dict(item.given)
    if config.project or api.settings.project:
        given.setdefault("project", config.project or api.settings.project)
    if not (given.get("uri") or given.get("upload")) and (folder := current_folder()) is not None:
        # Without `cwd_required`, so that a folder among the queue's defaults replaces it.
        given.setdefault("cwd", folder)
    return given


def _folder_of_program(
    config: SweepConfig, run: RunSpec, options: Mapping[str, Any], *, where: str, beside: str | None
) -> str | None:
    """The folder in which its runs find the program, if it is not their own: the folder of the sweep's file.

    Raises InputError where this machine shows that they would not find the program.
    """
    # Imported on demand: start-up time of `launch-submit`, which imports this module.
    from launch_worker.model.macros import has_macros

    program = config.program
    uses_it = any("${program}" in word for word in config.command) and not has_macros([program, run.cwd or ""])
    if not uses_it or run.image or run.uri:
        return None
    sent = None if options.get("upload") is None else os.path.realpath(options["upload"])
    folder = run.cwd if sent is None else os.path.join(sent, run.cwd or "")
    if folder is None or os.path.isfile(path := os.path.join(folder, program)):
        return None
    if beside is not None and options.get("cwd") is None and os.path.isfile(os.path.join(beside, program)):
        if sent is None:
            return beside
        within = os.path.relpath(os.path.realpath(beside), sent)
        if not within.startswith(".."):
            return within
    if sent is None and not os.path.isdir(os.path.dirname(path)):
        # The worker's machine may have the program.
        return None
    raise InputError(
        f"{where}: the program {program!r} is not in {folder}, where its runs start; name it as it is found from "
        "there, or name its folder with --cwd"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _goal(config: SweepConfig) -> str | None:
    return ("maximize" if config.maximize else "minimize") if config.metric else None


def _config_of(config: SweepConfig, trial: Trial) -> dict[str, Any]:
    if config.method == "grid":
        return config.space.grid_config(trial.index)
    try:
        return config.space.config(trial.drawn)
    except KeyError:
        return {}
