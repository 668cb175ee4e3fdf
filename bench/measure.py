"""What is measured, and how it is told: values of systems by metric, ratios within a round, medians and spreads."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")


class BenchError(Exception):
    """A part of the benchmark did not do what it was started for."""


#: From so many values on, a spread is that of the middle half: a range only grows with the number of values.
_MANY = 20


@dataclass(frozen=True)
class Spread:
    """The middle of some values, and from where to where they went; of many values, where their middle half lies."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) >= _MANY:
            low, median, high = statistics.quantiles(values, n=4, method="inclusive")
            return cls(median, low, high, len(values))
        return cls(statistics.median(values), min(values), max(values), len(values))

    def kept(self) -> list[float]:
        """Median, low, high, and the number of values, for a file."""
        return [*(float(f"{value:.4g}") for value in (self.median, self.low, self.high)), self.count]

    def __str__(self) -> str:
        if self.count == 1 or self.low == self.high:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


def lines_of(written: dict[str, dict[str, Any]]) -> str:
    """JSON with a line for each fact, group and metric, so that a person and git see what differs."""
    parts = (
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(one)}" for name, one in known.items())
        for part, known in written.items()
    )
    return "{" + "\n},\n".join(parts) + "\n}}\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def short(value: float) -> str:
    """Three figures: 0.00123, 4.56, 789, 12300."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Metric:
    """One thing that was measured of several systems, once a round each."""

    name: str
    unit: str
    #: The system that the others are compared to, within each round; '' for none.
    baseline: str = ""
    #: What PERFORMANCE.md wants: of the ratio where there is a baseline, else of the value.
    goal: str = ""
    #: The group of the benchmark that measures it.
    group: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, system: str, value: float) -> None:
        self.values.setdefault(system, []).append(value)

    def ratio(self, system: str) -> Spread | None:
        """Of each round's value to the baseline's of the same round: what slowed both does not count."""
        compared = self.values.get(self.baseline, [])
        pairs = [(mine, other) for mine, other in zip(self.values[system], compared, strict=False) if other]
        return Spread.of([mine / other for mine, other in pairs]) if pairs else None

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        for system, values in self.values.items():
            ratio = self.ratio(system) if system != self.baseline else None
            goal = self.goal if system == next(iter(self.values)) else ""
            yield self.name, system, str(ratio or ""), f"{Spread.of(values)} {self.unit}", goal

    def summary(self) -> dict[str, Any]:
        """What is kept of it."""
        ratios = {system: self.ratio(system) for system in self.values if system != self.baseline}
        return {
            "group": self.group,
            "unit": self.unit,
            "baseline": self.baseline,
            "goal": self.goal,
            "values": {system: Spread.of(values).kept() for system, values in self.values.items()},
            "ratios": {system: ratio.kept() for system, ratio in ratios.items() if ratio is not None},
        }


class Results:
    """All metrics of one benchmark, in the order in which they were first measured."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        #: Sentences, each with its group.
        self.notes: list[tuple[str, str]] = []
        #: The group that measures now.
        self.group = ""

    def metric(self, name: str, unit: str, *, baseline: str = "", goal: str = "") -> Metric:
        return self.metrics.setdefault(name, Metric(name, unit, baseline, goal, self.group))

    def note(self, sentence: str) -> None:
        self.notes.append((self.group, sentence))

    def table(self) -> str:
        heads = ("METRIC", "SYSTEM", "x BASELINE, median (spread)", "ABSOLUTE, this hour only", "TO REACH")
        rows: list[tuple[str, ...]] = [heads]
        last = ""
        for metric in self.metrics.values():
            for name, *rest in metric.rows():
                rows.append(("" if name == last else name, *rest))
                last = name
        return "\n".join([table(rows), *(f"note: {sentence}" for _, sentence in self.notes)])

    def save(self, path: Path, *, facts: dict[str, Any], groups: dict[str, dict[str, Any]]) -> None:
        """Keep medians and spreads in a file. What the file has of other groups, from an earlier call, stays."""
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"groups": {}, "metrics": {}}
        others = {name: metric for name, metric in kept["metrics"].items() if metric["group"] not in groups}
        mine = {name: metric.summary() for name, metric in self.metrics.items()}
        told = {
            name: known | {"notes": [sentence for group, sentence in self.notes if group == name]}
            for name, known in groups.items()
        }
        written = {"facts": facts, "groups": kept["groups"] | told, "metrics": others | mine}
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines_of(written))


def facts() -> dict[str, Any]:
    """What the figures were got on."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "bytecode": not os.environ.get("PYTHONDONTWRITEBYTECODE"),
    }


def commit() -> dict[str, str]:
    """The short hash of what is measured, `-dirty` where files were changed since, and when it was committed."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    name = git("rev-parse", "--short=8", "HEAD") or "unknown"
    return {"commit": f"{name}-dirty" if changed else name, "committed_at": git("log", "-1", "--format=%cI")}


# -- processes -----------------------------------------------------------------------------------------------------


def pythons(pid: int) -> list[psutil.Process]:
    """A process and what it started, without the jobs: those are not Python here."""
    found = []
    with gone_is_fine():
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with gone_is_fine():
                if process.pid == pid or "python" in Path(process.exe()).name:
                    found.append(process)
    return found


def children(process: psutil.Process) -> list[psutil.Process]:
    """Nothing for a process that is gone."""
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def is_over(process: psutil.Process) -> bool:
    """Whether it has ended, be it that nobody has asked for its exit code yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def cpu_s(pid: int) -> float:
    """CPU seconds so far of a worker, its guard or pool included; of threads that are there still."""
    return sum(own_cpu_s(process.pid) for process in pythons(pid))


def own_cpu_s(pid: int) -> float:
    """The same of one process, without what it started."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # To the nanosecond: the ticks of `times` miss what wakes for less than one.
        with suppress(OSError):
            total += int(task.read_text().split()[0])
    return total / 1e9


def pss_mib(pid: int) -> float:
    """Memory of a worker, its guard or pool included; pages that several processes share count once."""
    total = 0
    for process in pythons(pid):
        with gone_is_fine():
            total += process.memory_full_info().pss
    return total / (1 << 20)


@contextmanager
def gone_is_fine() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        yield


# -- Redis ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """What a Redis did between two moments."""

    seconds: float
    #: Commands that scripts gave, too.
    commands: int
    #: What clients sent: a pipeline is one.
    requests: int
    cpu_s: float
    by_name: dict[str, int]


class RedisMeter:
    """Counts what a Redis does from here on."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.restart()

    def restart(self) -> None:
        self._began, self._cpu, self._calls = time.monotonic(), self._cpu_s(), self._count()
        self._requests = self._count_requests()

    def read(self) -> Traffic:
        # Less this question.
        requests = self._count_requests() - self._requests - 1
        calls, cpu, now = self._count(), self._cpu_s(), time.monotonic()
        by_name = {name: count - self._calls.get(name, 0) for name, count in calls.items()}
        by_name = {name: count for name, count in sorted(by_name.items(), key=lambda one: -one[1]) if count}
        # Reading them is not what is measured.
        by_name.pop("info", None)
        return Traffic(now - self._began, sum(by_name.values()), requests, cpu - self._cpu, by_name)

    def _count(self) -> dict[str, int]:
        stats = self._redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}

    def _count_requests(self) -> int:
        return int(self._redis.info("stats")["total_reads_processed"])

    def _cpu_s(self) -> float:
        found = self._redis.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


# -- time ----------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], T], *, timeout_s: float = 60.0, turn_s: float = 0.005, what: str = "") -> T:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not so after {timeout_s:g} s: {what}")
        time.sleep(turn_s)
    return value


def time_ms(call: Callable[[], object], *, repeat: int = 1) -> float:
    """The median of some calls, in milliseconds."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000
