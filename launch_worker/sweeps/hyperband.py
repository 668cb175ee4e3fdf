"""Stops runs early as W&B's `early_terminate` does: at each bracket those that are clearly worse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch_worker.sweeps.space import nearest

KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
#: The last iteration at which there may be a bracket.
_MAX_ITERATION = 1 << 40


@dataclass(frozen=True)
class Hyperband:
    """The rule when runs are judged, and how many go on.

    An iteration is one report of the sweep's metric, as in W&B. At each bracket the best 1/eta of the runs that
    reached it go on (https://docs.wandb.ai/guides/sweeps/sweep-config-keys, `early_terminate`).
    """

    brackets: tuple[int, ...]
    eta: float = 3.0

    def verdict(self, curve: Sequence[float], others: Iterable[Sequence[float]], *, maximize: bool) -> str:
        """Why a run with these values of the metric so far shall be stopped; '' when it may go on.

        A run is judged at the last bracket that it reached, by its best value until there, and only once eta runs or
        more have reached the bracket.
        """
        reached = [bracket for bracket in self.brackets if bracket <= len(curve)]
        if not reached:
            return ""
        bracket = reached[-1]
        sign = -1.0 if maximize else 1.0
        own = min(sign * value for value in curve[:bracket])
        rivals = [min(sign * value for value in other[:bracket]) for other in others if len(other) >= bracket]
        ranked = sorted([own, *rivals])
        places = math.floor(len(ranked) / self.eta)
        if places < 1 or own <= ranked[places - 1]:
            return ""
        return f"{sign * own:g} after {bracket} is not among the best {places} of {len(ranked)}"


def parse_hyperband(said: Any, problems: list[str]) -> Hyperband | None:
    """Read W&B's `early_terminate`. Mistakes are added to `problems`."""
    found: list[str] = []
    made = _parse(said, found)
    problems += [f"early_terminate: {problem}" for problem in found]
    return None if found else made


def _parse(said: Any, problems: list[str]) -> Hyperband | None:
    if not isinstance(said, Mapping):
        problems.append("must be a map, such as {type: hyperband, min_iter: 3}")
        return None
    for key in said:
        if key not in KEYS:
            problems.append(f"{str(key)[:60]!r} is unknown{nearest(str(key), KEYS)}")
    if said.get("type") != "hyperband":
        problems.append(f"type must be hyperband, not {said.get('type')!r}")
    for key, least in (("min_iter", 1), ("max_iter", 1), ("s", 1)):
        value = said.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_ITERATION:
            problems.append(f"{key} must be a whole number from {least}, not {value!r}")
    eta = said.get("eta", 3)
    if not isinstance(eta, (int, float)) or isinstance(eta, bool) or not 1 < eta <= 1000:
        problems.append(f"eta must be a number above 1, not {eta!r}")
    if ("min_iter" in said) == ("max_iter" in said):
        problems.append("needs one of min_iter and max_iter")
    if "max_iter" in said and "s" not in said:
        problems.append("max_iter needs s, the number of brackets")
    if problems:
        return None
    brackets = _up(said["min_iter"], eta) if "min_iter" in said else _down(said["max_iter"], eta, said["s"])
    if not brackets:
        problems.append("has no bracket; raise max_iter, or lower eta")
        return None
    return Hyperband(tuple(brackets), float(eta))


def _up(min_iter: int, eta: float) -> list[int]:
    """min_iter, min_iter * eta, min_iter * eta² …"""
    brackets: list[int] = []
    bracket = float(min_iter)
    while bracket <= _MAX_ITERATION and len(brackets) < 100:
        brackets.append(int(bracket))
        bracket *= eta
    return sorted(set(brackets))


def _down(max_iter: int, eta: float, count: int) -> list[int]:
    """max_iter / eta, max_iter / eta² …, `count` of them at most."""
    brackets: list[int] = []
    bracket = float(max_iter)
    for _ in range(min(count, 100)):
        bracket /= eta
        if bracket < 1:
            break
        brackets.append(int(bracket + 1e-9))
    return sorted(set(brackets))
