"""Defines the space of a sweep's parameters: W&B's distributions, and the value that each draw makes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

#: The largest whole number up to which each one is a double.
MAX_WHOLE = 1 << 53
#: The largest exponent whose exp() is a double.
_MAX_EXPONENT = 700.0
MAX_VALUES = 100_000
_MAX_DEPTH = 10
#: Distance of a draw between 0 and 1 from both ends, where quantiles are infinite.
_EDGE = 1e-9

#: Each distribution, the keys that it must have, and those that it may have.
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (("min", "max"), ()),
    "uniform": (("min", "max"), ()),
    "q_uniform": (("min", "max"), ("q",)),
    "log_uniform": (("min", "max"), ()),
    "log_uniform_values": (("min", "max"), ()),
    "q_log_uniform": (("min", "max"), ("q",)),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "inv_log_uniform": (("min", "max"), ()),
    "inv_log_uniform_values": (("min", "max"), ()),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
DISTRIBUTIONS = tuple(_KEYS)
_ALL_KEYS = sorted({key for must, may in _KEYS.values() for key in (*must, *may)} | {"distribution", "parameters"})
_DEFAULTS = {"q": 1, "mu": 0, "sigma": 1, "a": 1, "b": 1}


class Domain(NamedTuple):
    """The range that a search draws from: whole numbers, or numbers, from `low` to `high`."""

    kind: Literal["choice", "int", "float"]
    low: float
    high: float
    #: Whether the logarithm is drawn evenly.
    log: bool = False


@dataclass(frozen=True)
class Dimension:
    """One parameter. `path` leads to it in the run's config; `name` is the path with dots."""

    path: tuple[str, ...]
    distribution: str
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()
    #: Numbers of the distribution, of min, max, q, mu, sigma, a, b.
    numbers: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def domain(self) -> Domain | None:
        """The range to draw from; None for a constant."""
        if len(self.values) == 1:
            return None
        if self.distribution == "categorical":
            return Domain("choice", 0, len(self.values) - 1)
        if self.distribution == "int_uniform":
            return Domain("int", *self._bounds)
        if self.distribution == "q_uniform":
            return Domain("int", *self._multiples)
        if self.distribution == "uniform":
            return Domain("float", *self._bounds)
        if "log_uniform" in self.distribution:
            return Domain("float", *self._bounds, log=True)
        return Domain("float", 0.0, 1.0)

    def value(self, drawn: float) -> Any:
        """The parameter's value for a number of its domain."""
        if self.distribution == "categorical":
            return self.values[int(drawn)]
        if self.distribution == "categorical_w_probabilities":
            return self.values[self._chosen(drawn)]
        if self.distribution == "int_uniform":
            return int(drawn)
        if self.distribution == "q_uniform":
            return self._multiple(int(drawn))
        number = float(drawn)
        if "normal" in self.distribution or "beta" in self.distribution:
            number = self._quantile(min(max(number, _EDGE), 1 - _EDGE))
        if "q" not in self.numbers:
            return number
        nearest = round(number / self.numbers["q"])
        if "min" in self.numbers:
            least, most = self._multiples
            nearest = min(max(nearest, least), most)
        return self._multiple(nearest)

    @property
    def grid_size(self) -> int | None:
        """Number of its values; None where there is no end of them."""
        if self.values:
            return len(self.values)
        if self.distribution in ("int_uniform", "q_uniform"):
            domain = self.domain
            assert domain is not None
            return int(domain.high) - int(domain.low) + 1
        return None

    def grid_value(self, number: int) -> Any:
        """The value with this number, from 0."""
        if self.values:
            return self.values[number]
        domain = self.domain
        assert domain is not None
        return self.value(int(domain.low) + number)

    @property
    def _bounds(self) -> tuple[float, float]:
        """The bounds of the values: some distributions have exponents as their min and max."""
        least, most = self.numbers["min"], self.numbers["max"]
        if self.distribution in ("log_uniform", "q_log_uniform"):
            return math.exp(least), math.exp(most)
        if self.distribution == "inv_log_uniform":
            return math.exp(-most), math.exp(-least)
        return least, most

    @property
    def _multiples(self) -> tuple[int, int]:
        """The least and the largest multiple of q that are within the bounds."""
        step = _exact(self.numbers["q"])
        least, most = self._bounds
        return math.ceil(_exact(least) / step), math.floor(_exact(most) / step)

    def _multiple(self, count: int) -> int | float:
        """A multiple of q, computed in decimal: 3 * 0.1 is 0.3."""
        step = self.numbers["q"]
        return count * step if isinstance(step, int) else float(count * Decimal(repr(step)))

    def _chosen(self, drawn: float) -> int:
        total = 0.0
        for number, share in enumerate(self.probabilities):
            total += share
            if drawn < total:
                return number
        return max(number for number, share in enumerate(self.probabilities) if share > 0)

    def _quantile(self, share: float) -> float:
        if "beta" in self.distribution:
            return _beta_quantile(share, float(self.numbers["a"]), float(self.numbers["b"]))
        number = NormalDist(float(self.numbers["mu"]), float(self.numbers["sigma"])).inv_cdf(share)
        return math.exp(min(number, _MAX_EXPONENT)) if "log" in self.distribution else number


@dataclass(frozen=True)
class Space:
    """All parameters of a sweep, in the order in which they were written."""

    dimensions: tuple[Dimension, ...]

    @property
    def drawn(self) -> dict[str, Domain]:
        """The ranges to draw from, for each parameter that is not constant."""
        return {dim.name: domain for dim in self.dimensions if (domain := dim.domain) is not None}

    def config(self, drawn: Mapping[str, float]) -> dict[str, Any]:
        """A run's config of what was drawn."""
        return _nested(
            (dim.path, dim.value(drawn[dim.name]) if dim.domain is not None else dim.values[0])
            for dim in self.dimensions
        )

    @property
    def grid_size(self) -> int | None:
        """Number of points of the grid; None when there is no end of them."""
        sizes = [dim.grid_size for dim in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def grid_config(self, index: int) -> dict[str, Any]:
        """The grid's point with this number, from 0: the last parameter changes fastest."""
        values = []
        for dim in reversed(self.dimensions):
            index, number = divmod(index, dim.grid_size or 1)
            values.append((dim.path, dim.grid_value(number)))
        return _nested(reversed(values))


def parse_space(parameters: Any, problems: list[str]) -> Space:
    """W&B's `parameters`. Mistakes are added to `problems`, one sentence each."""
    dimensions: list[Dimension] = []
    if not isinstance(parameters, Mapping) or not parameters:
        problems.append("parameters: must be a map of names to what each may be, such as lr: {min: 0.001, max: 0.1}")
        return Space(())
    _parse_level(parameters, (), dimensions, problems)
    seen: set[str] = set()
    for dim in dimensions:
        if dim.name in seen:
            problems.append(f"parameters.{dim.name}: is there twice, once with a dot in its name")
        seen.add(dim.name)
    return Space(tuple(dimensions))


def _parse_level(
    parameters: Mapping[Any, Any], path: tuple[str, ...], dimensions: list[Dimension], problems: list[str]
) -> None:
    for name, said in parameters.items():
        where = ".".join(("parameters", *path, str(name)))[:200]
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 200:
            problems.append(f"{where}: is no name for a parameter; use a text of 1 to 200 characters")
        elif not isinstance(said, Mapping):
            problems.append(f"{where}: must be a map; for a constant write {name}: {{value: {_shown(said)}}}")
        elif "parameters" in said:
            inner = said["parameters"]
            if len(said) > 1:
                problems.append(f"{where}: has parameters of its own, and so can have nothing else beside them")
            elif not isinstance(inner, Mapping) or not inner:
                problems.append(f"{where}.parameters: must be a map of names to what each may be")
            elif len(path) >= _MAX_DEPTH:
                problems.append(f"{where}: is nested too deeply; at most {_MAX_DEPTH} levels")
            else:
                _parse_level(inner, (*path, name), dimensions, problems)
        else:
            found: list[str] = []
            dimension = _parse_dimension(said, (*path, name), found)
            problems += [f"{where}: {problem}" for problem in found]
            if dimension is not None and not found:
                dimensions.append(dimension)


def _parse_dimension(said: Mapping[Any, Any], path: tuple[str, ...], problems: list[str]) -> Dimension | None:
    for key in said:
        if key not in _ALL_KEYS:
            problems.append(f"{str(key)[:60]!r} is unknown{nearest(str(key), _ALL_KEYS)}")
    distribution = said.get("distribution") or _usual_distribution(said)
    if distribution is None:
        if not problems:
            problems.append("says nothing of its values; write value, values, or min and max")
        return None
    if distribution not in _KEYS:
        known = ", ".join(DISTRIBUTIONS)
        problems.append(f"distribution {str(distribution)[:60]!r} is unknown; use one of: {known}")
        return None
    if distribution == "categorical" and "probabilities" in said:
        distribution = "categorical_w_probabilities"
    must, may = _KEYS[distribution]
    for key in must:
        if key not in said:
            problems.append(f"{key} is missing, which {distribution} needs")
    for key in said:
        if key in _ALL_KEYS and key not in (*must, *may, "distribution"):
            problems.append(f"{key} has no meaning for {distribution}")
    if problems:
        return None
    if distribution == "constant":
        _check_plain(said["value"], "value", problems)
        return Dimension(path, distribution, (said["value"],))
    if "values" in must:
        return _parse_choice(said, path, distribution, problems)
    return _parse_numbers(said, path, distribution, (*must, *may), problems)


def _usual_distribution(said: Mapping[Any, Any]) -> str | None:
    """The distribution that W&B takes where none is named."""
    if "value" in said:
        return "constant"
    if "values" in said:
        return "categorical"
    if "min" in said and "max" in said:
        return "int_uniform" if _is_whole(said["min"]) and _is_whole(said["max"]) else "uniform"
    if "min" in said or "max" in said:
        return "uniform"
    return "normal" if "mu" in said or "sigma" in said else None


def _parse_choice(
    said: Mapping[Any, Any], path: tuple[str, ...], distribution: str, problems: list[str]
) -> Dimension | None:
    values = said["values"]
    if not isinstance(values, (list, tuple)) or not values:
        problems.append("values must be a list with at least one value")
        return None
    if len(values) > MAX_VALUES:
        problems.append(f"values has {len(values):,} entries; at most {MAX_VALUES:,} are taken")
        return None
    for number, value in enumerate(values):
        _check_plain(value, f"values[{number}]", problems)
    if problems:
        return None
    if distribution == "categorical":
        # By their JSON: 1, 1.0 and true are equal in Python.
        once = {json.dumps(value, sort_keys=True): value for value in reversed(values)}
        kept = [once.pop(text) for value in values if (text := json.dumps(value, sort_keys=True)) in once]
        return Dimension(path, distribution, tuple(kept))
    shares = said["probabilities"]
    if not isinstance(shares, (list, tuple)) or len(shares) != len(values):
        problems.append(f"probabilities must be a list of {len(values)} numbers, one for each of the values")
    elif not all(_is_number(share) and 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        problems.append("probabilities must be from 0 to 1, and 1 in all")
    else:
        return Dimension(path, distribution, tuple(values), tuple(map(float, shares)))
    return None


def _parse_numbers(
    said: Mapping[Any, Any], path: tuple[str, ...], distribution: str, keys: Sequence[str], problems: list[str]
) -> Dimension | None:
    numbers: dict[str, int | float] = {}
    for key in keys:
        value = said.get(key, _DEFAULTS.get(key))
        if distribution == "int_uniform" and not _is_whole(value):
            problems.append(f"{key} must be a whole number, not {_shown(value)}")
        elif not _is_number(value):
            problems.append(f"{key} must be a number, not {_shown(value)}")
        else:
            numbers[key] = value
    for key in ("q", "sigma", "a", "b"):
        if key in numbers and numbers[key] <= 0:
            problems.append(f"{key} must be more than 0, not {_shown(numbers[key])}")
    if "min" in numbers and "max" in numbers:
        _check_bounds(numbers["min"], numbers["max"], distribution, problems)
    if problems:
        return None
    dimension = Dimension(path, distribution, numbers=numbers)
    if "q" in numbers and "min" in numbers:
        least, most = dimension._multiples
        if least > most:
            problems.append(f"no multiple of q {_shown(numbers['q'])} is from min to max")
        elif max(abs(least), abs(most)) > MAX_WHOLE:
            problems.append(f"q {_shown(numbers['q'])} is too small for such a range")
    return dimension


def _check_bounds(least: float, most: float, distribution: str, problems: list[str]) -> None:
    if least > most:
        problems.append(f"min {_shown(least)} is above max {_shown(most)}")
    elif distribution.endswith("log_uniform_values") and least <= 0:
        problems.append(f"min must be more than 0 for {distribution}, not {_shown(least)}")
    elif distribution.endswith("log_uniform") and max(abs(least), abs(most)) > _MAX_EXPONENT:
        problems.append(
            f"min and max of {distribution} are exponents, from -700 to 700; write {distribution}_values for values"
        )
    elif distribution == "int_uniform" and max(abs(least), abs(most)) > MAX_WHOLE:
        problems.append(f"min and max must be from -{MAX_WHOLE} to {MAX_WHOLE}")
    elif not math.isfinite(most - least):
        problems.append("min and max are too far apart")


def nearest(word: str, known: Sequence[str]) -> str:
    """`; do you mean …?`, or the known words."""
    close = get_close_matches(word, known, n=1)
    return f"; do you mean {close[0]!r}?" if close else f"; use one of: {', '.join(known)}"


def _check_plain(value: Any, what: str, problems: list[str]) -> None:
    try:
        json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        problems.append(
            f"{what} {_shown(value)} cannot be written as JSON; write a text, a number, true, false or null"
        )


def _nested(entries: Any) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for path, value in entries:
        level = config
        for name in path[:-1]:
            level = level.setdefault(name, {})
        level[path[-1]] = value
    return config


def flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A config's entries, nested ones under their names with dots."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{inner}", entry) for inner, entry in flat(value))
        else:
            yield name, value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e308


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _exact(number: float) -> Fraction:
    """The number as it is written, not the nearest double: 0.3 is 3 times 0.1."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _beta_quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_share(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The part of a beta distribution below x, by the continued fraction of the incomplete beta function (Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    tiny = 1e-300
    c, d, total = 1.0, 0.0, 1.0
    for step in range(400):
        half = step // 2
        if step == 0:
            numerator = 1.0
        elif step % 2 == 0:
            numerator = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        else:
            numerator = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        d = 1 / (1 + numerator * d or tiny)
        c = 1 + numerator / c or tiny
        total *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (total - 1) / a
