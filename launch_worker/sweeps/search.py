"""Computes which parameters a sweep tries next, and which of its runs to stop, from the runs so far.

Nothing is kept between two calls, so that any worker can go on with any sweep. Optuna is imported when it is needed: it
is an extra, and takes 0.4 s and 30 MB.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from launch_worker.errors import InputError, LaunchError
from launch_worker.model.sweep import Trial
from launch_worker.sweeps.config import Engine, SweepConfig, SweepConfigError
from launch_worker.sweeps.space import Domain

#: Samplers that need nothing but the trials themselves. The others keep something with each trial as they go, in forms
#: that are not safe to read back (pickles): for them the sweep is played again from its beginning.
_FORGETFUL = ("TPESampler", "RandomSampler", "GPSampler")
#: Runs that are replayed to try a sampler: more than samplers draw at random first.
_TRIED = 12
#: Arguments of samplers and pruners that count steps of runs. All others cost time or memory of the process that draws.
_OF_STEPS = ("n_warmup_steps", "interval_steps", "min_resource", "max_resource", "patience", "seed")
#: Largest number among these others, most parameters that are drawn, and most values of one of them where the
#: sampler looks at each value: what strangers write must not hold up a server or a worker.
_MOST, _MOST_PARAMETERS, _MOST_VALUES = 1000, 1000, 10_000
_REMEMBERING_PRUNERS = ("SuccessiveHalvingPruner", "HyperbandPruner")


@dataclass(frozen=True)
class Suggestion:
    """The parameters of the next run: as they were drawn, and as its config."""

    drawn: dict[str, float]
    config: dict[str, Any]


def suggest(
    config: SweepConfig, trials: Sequence[Trial], *, seed: int, ended: Sequence[int], study: str = "sweep"
) -> Suggestion:
    """The parameters of the run after these; the same for the same arguments.

    `ended` are the indexes of the trials that have ended, in that order. Raises LaunchError when Optuna is not there,
    or its sampler fails.
    """
    index = len(trials)
    if config.method == "grid":
        return Suggestion({}, config.space.grid_config(index))
    domains = config.space.drawn
    engine = _sampler(config)
    _check_domains(domains, engine)
    with _optuna() as optuna, _clear_errors(engine.name):
        distributions = {name: _distribution(optuna, domain) for name, domain in domains.items()}
        if engine.name in _FORGETFUL:
            sampler = _made(optuna.samplers, engine, seed=_mixed(seed, index))
            made = _study(optuna, config, study, sampler=sampler)
            if engine.name != "RandomSampler":
                for trial in trials:
                    made.add_trial(_frozen(optuna, config, trial, distributions))
        else:
            # A new seed for each run: replayed trials draw nothing. A quasi-random sequence must keep its one seed.
            mixed = seed if engine.name == "QMCSampler" else _mixed(seed, index)
            made = _study(optuna, config, study, sampler=_made(optuna.samplers, engine, seed=mixed))
            _play(optuna, made, config, trials, ended, distributions)
        drawn = dict(made.ask(distributions).params)
    return Suggestion(drawn, config.space.config(drawn))


def hopeless(config: SweepConfig, trials: Sequence[Trial], *, study: str = "sweep") -> dict[int, str]:
    """The live trials that shall be stopped, and why. Raises LaunchError as `suggest`."""
    live = [trial for trial in trials if trial.live and trial.curve and not trial.stopped]
    if config.hyperband is not None:
        curves = {trial.index: [value for _, value in trial.curve] for trial in trials if trial.curve}
        verdicts = {
            trial.index: config.hyperband.verdict(
                curves[trial.index],
                (curve for index, curve in curves.items() if index != trial.index),
                maximize=config.maximize,
            )
            for trial in live
        }
        return {index: f"hyperband: {config.metric} {why}" for index, why in verdicts.items() if why}
    if config.pruner is None or not live:
        return {}
    found = _pruned(config, config.pruner, trials, live, study)
    return {
        trial.index: f"{config.pruner.name}: {config.metric} {trial.curve[-1][1]:g} at step {trial.curve[-1][0]}"
        for trial in live
        if trial.index in found
    }


def best_of(config: SweepConfig, trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best value; of several the first."""
    sign = -1.0 if config.maximize else 1.0
    ranked = [(sign * trial.value, trial.index, trial) for trial in trials if trial.counts and trial.value is not None]
    return min(ranked)[2] if ranked else None


def check_engines(config: SweepConfig, *, where: str) -> None:
    """Raises LaunchError when Optuna is not there, SweepConfigError for a sampler or a pruner that it does not have."""
    if not config.needs_optuna:
        return
    problems = []
    with _optuna() as optuna:
        for key, home, engine in (
            ("sampler", optuna.samplers, _sampler(config) if config.method != "grid" else None),
            ("pruner", optuna.pruners, config.pruner),
        ):
            try:
                if engine is not None:
                    _made(home, engine, seed=0)
            except LaunchError as error:
                problems.append(f"{key}: {error}")
        if not problems and config.method != "grid":
            try:
                _try_out(config)
            except LaunchError as error:
                problems.append(f"sampler: {error}")
    if problems:
        raise SweepConfigError(problems, where)


def _try_out(config: SweepConfig) -> None:
    """Try a sampler on a few runs: some find out only then that they lack something."""
    plain = replace(config, method="random", sampler=None)
    trials: list[Trial] = []
    for index in range(_TRIED):
        drawn = suggest(plain, trials, seed=0, ended=()).drawn
        trials.append(Trial(index, "", drawn, seen=index, live=False, state="Finished", value=float(index)))
    suggest(config, trials, seed=0, ended=range(_TRIED))


def has_optuna() -> bool:
    """Whether Optuna can be imported here; it is not imported for that."""
    from importlib.util import find_spec

    return find_spec("optuna") is not None


@contextmanager
def _optuna() -> Iterator[Any]:
    """Optuna, silent: its warnings are about its own plans. Raises LaunchError when it is not installed."""
    try:
        import optuna
    except ImportError:
        raise LaunchError(
            "sweeps other than grid need Optuna; install it with: pip install 'launch_worker[sweeps]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield optuna


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    try:
        yield
    except LaunchError:
        raise
    except Exception as error:
        # The code is Optuna's or a plugin's, and may raise anything.
        raise LaunchError(f"{what} failed: {' '.join(str(error).split())[:500] or type(error).__name__}") from error


def _sampler(config: SweepConfig) -> Engine:
    return config.sampler or Engine("TPESampler" if config.method == "bayes" else "RandomSampler")


def _check_domains(domains: Mapping[str, Domain], engine: Engine) -> None:
    """Raises InputError for a space of which a sampler would take too much time or memory to draw."""
    if len(domains) > _MOST_PARAMETERS:
        raise InputError(f"{len(domains):,} parameters are to be drawn; at most {_MOST_PARAMETERS:,} can be")
    kinds = ("choice", "int") if engine.name == "BruteForceSampler" else ("choice",)
    for name, domain in domains.items() if engine.name != "RandomSampler" else ():
        count = int(domain.high) - int(domain.low) + 1
        if domain.kind in kinds and count > _MOST_VALUES:
            raise InputError(
                f"parameter {name[:60]} has {count:,} values, and {engine.name} looks at each of them; give it at most "
                f"{_MOST_VALUES:,}, or use method: random"
            )


def _check_arguments(engine: Engine) -> None:
    for name, value in engine.arguments.items():
        if isinstance(value, (int, float)) and abs(value) > _MOST and name not in _OF_STEPS:
            raise InputError(f"{engine.name} can have at most {_MOST:,} as {name[:60]}, not {value:,}")


def _made(home: Any, engine: Engine, *, seed: int) -> Any:
    """Raises LaunchError for a class that Optuna does not have, and for arguments that it does not take."""
    import inspect

    kind = "Pruner" if home.__name__.endswith("pruners") else "Sampler"
    known = sorted(name for name in home.__all__ if name.endswith(kind) and not name.startswith("Base"))
    if engine.name not in known:
        raise InputError(f"{engine.name[:60]!r} is not one of Optuna's: {', '.join(known)}")
    if engine.name == "GridSampler":
        raise InputError("GridSampler is not used; write method: grid")
    _check_arguments(engine)
    made = getattr(home, engine.name)
    arguments = {name: _argument(home, value, seed=seed) for name, value in engine.arguments.items()}
    if "seed" in inspect.signature(made).parameters:
        arguments.setdefault("seed", seed)
    try:
        return made(**arguments)
    except ImportError as error:
        raise InputError(f"{engine.name} needs more than Optuna: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{engine.name} does not take these arguments: {error}") from None


def _argument(home: Any, value: Any, *, seed: int) -> Any:
    """One that is a sampler or a pruner itself is made too (`wrapped_pruner: {name: MedianPruner}`)."""
    if isinstance(value, Mapping) and str(value.get("name")) in home.__all__:
        inner = {name: argument for name, argument in value.items() if name != "name"}
        return _made(home, Engine(str(value["name"]), inner), seed=seed)
    return value


def _study(optuna: Any, config: SweepConfig, name: str, **engines: Any) -> Any:
    direction = "maximize" if config.maximize else "minimize"
    return optuna.create_study(direction=direction, study_name=name, **engines)


def _distribution(optuna: Any, domain: Domain) -> Any:
    if domain.kind == "choice":
        return optuna.distributions.CategoricalDistribution(tuple(range(int(domain.high) + 1)))
    if domain.kind == "int":
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high))
    return optuna.distributions.FloatDistribution(float(domain.low), float(domain.high), log=domain.log)


def _end(optuna: Any, config: SweepConfig, trial: Trial) -> tuple[Any, float | None]:
    """The state and the value of an ended trial, as Optuna has them."""
    states = optuna.trial.TrialState
    if not trial.counts:
        return states.FAIL, None
    if trial.state != "Finished" and trial.curve:
        return states.PRUNED, trial.value
    return states.COMPLETE, trial.value


def _frozen(optuna: Any, config: SweepConfig, trial: Trial, distributions: Mapping[str, Any]) -> Any:
    state, value = (optuna.trial.TrialState.RUNNING, None) if trial.live else _end(optuna, config, trial)
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=dict(trial.drawn),
        distributions=dict(distributions),
        intermediate_values=dict(trial.curve),
    )


def _play(
    optuna: Any,
    study: Any,
    config: SweepConfig,
    trials: Sequence[Trial],
    ended: Sequence[int],
    distributions: Mapping[str, Any],
) -> None:
    """Replay the sweep, so that the sampler has the state it had; the values drawn then are kept."""
    asked: list[Any] = []
    told = 0

    def tell(until: int) -> None:
        nonlocal told
        # A trial that ended before this one was drawn by a process that had not seen that end.
        while told < min(until, len(ended)) and ended[told] < len(asked):
            trial = trials[ended[told]]
            told += 1
            if trial.live:
                continue
            state, value = _end(optuna, config, trial)
            for step, intermediate in trial.curve:
                asked[trial.index].report(intermediate, step)
            study.tell(asked[trial.index], value if state is optuna.trial.TrialState.COMPLETE else None, state=state)

    for trial in trials:
        tell(trial.seen)
        study.enqueue_trial(dict(trial.drawn))
        asked.append(study.ask(dict(distributions)))
    tell(len(ended))


def _pruned(config: SweepConfig, engine: Engine, trials: Sequence[Trial], live: Sequence[Trial], name: str) -> set[int]:
    """Which of the live trials Optuna's pruner would stop."""
    with _optuna() as optuna, _clear_errors(engine.name):
        pruner = _made(optuna.pruners, engine, seed=0)
        study = _study(optuna, config, name, pruner=pruner)
        remembers = engine.name in _REMEMBERING_PRUNERS
        asked: dict[int, Any] = {}
        found: set[int] = set()
        for trial in trials:
            asked[trial.index] = study.ask()
            if not remembers:
                for step, value in trial.curve:
                    asked[trial.index].report(value, step)
        if remembers:
            # In the order of steps, as runs that began together report them.
            for step, index, told in sorted((step, t.index, value) for t in trials for step, value in t.curve):
                asked[index].report(told, step)
                if asked[index].should_prune():
                    found.add(index)
        for trial in trials:
            if not trial.live:
                state, end_value = _end(optuna, config, trial)
                is_complete = state is optuna.trial.TrialState.COMPLETE
                study.tell(asked[trial.index], end_value if is_complete else None, state=state)
        return {t.index for t in live if (t.index in found if remembers else asked[t.index].should_prune())}


def _mixed(seed: int, index: int) -> int:
    """Another seed for each run."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:4], "big")
