"""Defines what an attempt used of its machine, as figures and as samples over time, and sums samples as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from launch_worker.model.needs import NOTHING, Needs
from launch_worker.untrusted.text import read_json, read_map

#: Bytes of an attempt's figures and samples together, as JSON.
MAX_BYTES = 4096
#: Samples of each series at most; twice as many are folded into that number.
_MAX_SAMPLES = 120
_MIB = 1 << 20
#: Figures from here on are damaged: no database takes them.
_TOO_MUCH = 1 << 62
_GB_HOUR = (1 << 30) * 3600.0


@dataclass(frozen=True)
class Used:
    """What a job has used by one instant, as far as its runner can tell; None is unknown."""

    #: Seconds of CPU since the job's start, ended processes included.
    cpu_s: float | None = None
    #: Bytes of resident memory now.
    memory: int | None = None
    #: Bytes of resident memory at most, where the kernel remembers that.
    peak_memory: int | None = None
    #: Busy devices now, each counted by its busy share: 1.5 is one that is busy and one that is half busy.
    gpus: float | None = None
    #: Bytes of GPU memory now.
    gpu_memory: int | None = None
    #: Bytes on disk in the attempt's folder now.
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Usage:
    """What one attempt used; None is unknown. The names are those of the JSON, and of the archive's columns."""

    #: Seconds of CPU.
    cpu_s: float | None = None
    #: Seconds of GPUs at work: a device that is half busy counts half.
    gpu_s: float | None = None
    #: Seconds from the start of the job to its end.
    wall_s: float | None = None
    #: Bytes of resident memory, at most and on average.
    peak_memory: int | None = None
    mean_memory: int | None = None
    #: Resident memory over time, in GiB times hours.
    memory_gb_h: float | None = None
    peak_gpu_memory: int | None = None
    #: Bytes on disk in the attempt's folder, at most.
    disk_bytes: int | None = None
    #: Seconds after the start of the job from which on memory, GPUs and disk are known; None for all of its time.
    since_s: float | None = None
    #: Cores, bytes and devices that its run had asked for; None for none.
    asked_cpus: float | None = None
    asked_memory: int | None = None
    asked_gpus: int | None = None

    @classmethod
    def of(cls, text: str | bytes) -> Usage:
        """Read the JSON of a record or an archive; what is damaged is unknown."""
        found = read_map(text)
        known: dict[str, Any] = {name: _figure(name, found.get(name)) for name in _FIGURES}
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """The known figures, as short as they are exact."""
        return {name: _short(value) for name in _FIGURES if (value := getattr(self, name)) is not None}

    def to_text(self) -> str:
        """The JSON of a record; '' where nothing is known."""
        known = self.as_json()
        return json.dumps(known, separators=(",", ":")) if known else ""

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in _FIGURES)

    @property
    def held_gb_h(self) -> float | None:
        """`memory_gb_h` for sums: a job that nobody looked at, as it was brief, counts as if it had held its peak."""
        if self.memory_gb_h is not None or self.peak_memory is None or self.wall_s is None:
            return self.memory_gb_h
        return self.peak_memory * self.wall_s / _GB_HOUR

    @property
    def cores(self) -> float | None:
        """The cores in use on average."""
        return self.cpu_s / self.wall_s if self.cpu_s is not None and self.wall_s else None

    @property
    def busy_gpus(self) -> float | None:
        """The GPUs at work on average."""
        return self.gpu_s / self.wall_s if self.gpu_s is not None and self.wall_s else None


class KeptUsage(NamedTuple):
    """What is kept of an attempt: its figures as JSON, and the same with samples; '' for what is not known."""

    figures: str = ""
    samples: str = ""


NO_USAGE = KeptUsage()


@dataclass(frozen=True)
class Samples:
    """Series of an attempt over time: one value for each stretch of `every_s` seconds from its start on.

    None is a stretch that nobody has seen. An empty series was never known.
    """

    every_s: float
    #: Cores in use, on average.
    cpu: tuple[float | None, ...] = ()
    #: Bytes of resident memory, at most.
    memory: tuple[int | None, ...] = ()
    #: Busy devices, at most.
    gpu: tuple[float | None, ...] = ()
    #: Bytes of GPU memory, at most.
    gpu_memory: tuple[int | None, ...] = ()

    @classmethod
    def of(cls, text: str | bytes) -> Samples | None:
        """Read what `Recorder.to_text` wrote; None where that holds no samples, or damaged ones."""
        found = read_map(text).get("samples")
        if not isinstance(found, dict):
            return None
        every_s = _number(found.get("every_s"))
        if not every_s or every_s < 0:
            return None
        series = {name: _series(found.get(name), unit) for name, unit in _UNITS.items()}
        return cls(every_s, **series)

    def as_json(self) -> dict[str, Any]:
        """The object of `metrics --json`."""
        return {"every_s": self.every_s, **{name: list(getattr(self, name)) for name in _UNITS}}


class Measured(NamedTuple):
    """What was measured of one attempt, and whether it goes on."""

    attempt: int
    usage: Usage
    samples: Samples | None
    is_running: bool

    def as_json(self) -> dict[str, Any]:
        """The object of `metrics --json`, without the run and its metrics."""
        samples = None if self.samples is None else self.samples.as_json()
        return {"attempt": self.attempt, "usage": self.usage.as_json() or None, "samples": samples}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Measured:
        """Read what `as_json` wrote, and `is_running` beside it."""
        usage, samples = json.dumps(said.get("usage") or {}), said.get("samples")
        shown = None
        if isinstance(samples, dict):
            series = {name: tuple(samples.get(name) or ()) for name in _UNITS}
            shown = Samples(float(samples.get("every_s") or 1), **series)
        return cls(int(said["attempt"]), Usage.of(usage), shown, bool(said.get("is_running")))

    @classmethod
    def of(cls, attempt: int, kept: str, *, is_running: bool) -> Measured:
        """Read what is kept of an attempt; '' is nothing."""
        return cls(attempt, Usage.of(kept), Samples.of(kept), is_running)


#: Series, and what 1 in the written numbers stands for.
_UNITS: Mapping[str, float] = {"cpu": 0.01, "memory": _MIB, "gpu": 0.01, "gpu_memory": _MIB}
_FIGURES = tuple(field.name for field in fields(Usage))
_WHOLE = frozenset(("peak_memory", "mean_memory", "peak_gpu_memory", "disk_bytes", "asked_memory", "asked_gpus"))


class Recorder:
    """Sums what is seen of one attempt into figures and bounded samples. All times are seconds since its start."""

    def __init__(self, *, every_s: float, since_s: float | None = None) -> None:
        """`since_s`: the time from which on the attempt is looked at, where its earlier samples are lost."""
        #: Seconds of a sample.
        self.every_s = every_s
        #: Time of the latest look; 0 before the first.
        self.last_s = 0.0
        self._since_s = since_s
        self._has_looked = False
        self._last = Used()
        #: Memory over the time for which it is known, in byte seconds; and that time.
        self._memory_s, self._memory_known_s = 0.0, 0.0
        #: Seconds of busy devices, and the time for which these are known.
        self._gpu_s, self._gpu_known_s = 0.0, 0.0
        self._cpu_s: float | None = None
        self._peaks: dict[str, int] = {}
        #: Samples: seconds of CPU, and the most of everything else; None for a stretch without a look.
        self._series: dict[str, list[float | None]] = {name: [] for name in _UNITS}

    # -- looks -----------------------------------------------------------------------------------------------------

    def note(self, at_s: float, used: Used) -> None:
        """Add a look at the job. A look that is not later than the latest one adds only its peaks."""
        self._note_peaks(used)
        took_s = at_s - self.last_s
        if took_s <= 0:
            return
        while int(at_s / self.every_s) >= _MAX_SAMPLES:
            self._fold()
        if used.cpu_s is not None:
            self._note_cpu(at_s, used.cpu_s)
        known_s = took_s if self._has_looked else 0.0
        if used.memory is not None:
            before = used.memory if self._last.memory is None else self._last.memory
            self._memory_s += known_s * (used.memory + before) / 2
            self._memory_known_s += known_s
        if used.gpus is not None:
            self._gpu_s += known_s * (used.gpus + (used.gpus if self._last.gpus is None else self._last.gpus)) / 2
            self._gpu_known_s += known_s
        for name, value in (("memory", used.memory), ("gpu", used.gpus), ("gpu_memory", used.gpu_memory)):
            if value is not None:
                series, place = self._reach(name, at_s)
                series[place] = max(series[place] or 0.0, value)
        self.last_s, self._last, self._has_looked = at_s, used, True

    def note_end(self, used: Used) -> None:
        """Add what is known when the job has ended: what it used in all."""
        self._note_peaks(used)
        if used.cpu_s is not None:
            self._cpu_s = max(used.cpu_s, self._cpu_s or 0.0)

    def _note_peaks(self, used: Used) -> None:
        for name, value in (
            ("peak_memory", max(used.memory or 0, used.peak_memory or 0)),
            ("peak_gpu_memory", used.gpu_memory),
            ("disk_bytes", used.disk_bytes),
        ):
            if value is not None and (value > 0 or name != "peak_memory"):
                self._peaks[name] = max(value, self._peaks.get(name, 0))

    def _note_cpu(self, at_s: float, cpu_s: float) -> None:
        # A process that nobody waited for takes its time with it: what was seen before stays.
        known_s = self._cpu_s or 0.0
        self._cpu_s = max(cpu_s, known_s)
        cores = (self._cpu_s - known_s) / (at_s - self.last_s)
        for place in range(int(self.last_s / self.every_s), int(at_s / self.every_s) + 1):
            seen_s = min(at_s, (place + 1) * self.every_s) - max(self.last_s, place * self.every_s)
            if seen_s > 0:
                series, _ = self._reach("cpu", place * self.every_s)
                series[place] = (series[place] or 0.0) + cores * seen_s

    def _reach(self, name: str, at_s: float) -> tuple[list[float | None], int]:
        """A series that reaches to a time, and the place of that time in it."""
        series, place = self._series[name], math.floor(at_s / self.every_s + 1e-9)
        series.extend([None] * (place + 1 - len(series)))
        return series, place

    def _fold(self) -> None:
        """Halve the resolution."""
        self.every_s *= 2
        for name, series in self._series.items():
            pairs = [[value for value in series[at : at + 2] if value is not None] for at in range(0, len(series), 2)]
            fold = sum if name == "cpu" else max
            self._series[name] = [fold(pair) if pair else None for pair in pairs]

    # -- figures ---------------------------------------------------------------------------------------------------

    def usage(self, wall_s: float | None, asked: Needs = NOTHING) -> Usage:
        """The figures of a job that has taken this time; None for one that is not known."""
        mean = self._memory_s / self._memory_known_s if self._memory_known_s else self._last.memory
        busy = self._gpu_s / self._gpu_known_s if self._gpu_known_s else self._last.gpus
        return Usage(
            cpu_s=self._cpu_s,
            gpu_s=None if busy is None or wall_s is None else busy * wall_s,
            wall_s=wall_s,
            mean_memory=None if mean is None else int(mean),
            memory_gb_h=None if mean is None or wall_s is None else mean * wall_s / _GB_HOUR,
            since_s=self._since_s,
            asked_cpus=asked.millicores / 1000 or None,
            asked_memory=asked.memory or None,
            asked_gpus=asked.gpus or None,
            **self._peaks,
        )

    def kept(self, wall_s: float | None, asked: Needs = NOTHING) -> KeptUsage:
        """All that is kept of a job that has taken this time."""
        usage = self.usage(wall_s, asked)
        return KeptUsage(usage.to_text(), self.to_text(usage))

    def to_text(self, usage: Usage) -> str:
        """The figures and the samples as JSON of at most MAX_BYTES; '' where there are no samples."""
        if not self._has_looked:
            return ""
        while len(text := self._encode(usage)) > MAX_BYTES:
            self._fold()
        return text

    def _encode(self, usage: Usage) -> str:
        written: dict[str, Any] = {"every_s": _short(self.every_s)}
        for name, series in self._series.items():
            values = self._cores(series) if name == "cpu" else series
            if series:
                written[name] = [None if value is None else round(value / _UNITS[name]) for value in values]
        return json.dumps({**usage.as_json(), "samples": written}, separators=(",", ":"))

    def _cores(self, series: Sequence[float | None]) -> list[float | None]:
        """Seconds of CPU as cores; the latest sample is of a shorter time."""
        ends = [min((place + 1) * self.every_s, self.last_s) - place * self.every_s for place in range(len(series))]
        return [
            None if value is None or seen_s <= 0 else value / seen_s for value, seen_s in zip(series, ends, strict=True)
        ]

    # -- across the lives of workers ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All of it as JSON, for `resume`."""
        return {**vars(self), "_last": asdict(self._last)}

    @classmethod
    def resume(cls, state: str | bytes) -> Recorder | None:
        """Go on with what another worker has kept; None where that is damaged."""
        try:
            found = read_json(state)
            made = cls(every_s=float(found["every_s"]))
            if found.keys() != vars(made).keys() or not 0 < made.every_s < math.inf:
                return None
            vars(made).update(found, _last=Used(**found["_last"]))
            made.note_end(Used())
            made._encode(made.usage(made.last_s))
        except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
            return None
        return made


def _figure(name: str, value: Any) -> float | None:
    number = _number(value)
    if number is None or not 0 <= number < _TOO_MUCH:
        return None
    return int(number) if name in _WHOLE else number


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _series(values: Any, unit: float) -> tuple[Any, ...]:
    if not isinstance(values, list):
        return ()
    known = [_number(value) for value in values[: 4 * _MAX_SAMPLES]]
    return tuple(
        None if value is None else round(value * unit, 2) if unit < 1 else int(value * unit) for value in known
    )


def _short(value: float) -> float:
    """A number with few digits; a whole one without a point."""
    rounded = round(value, 3) if value >= 1 else float(f"{value:.3g}")
    return int(rounded) if rounded == int(rounded) else rounded
