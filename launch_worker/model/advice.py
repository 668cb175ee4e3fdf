"""Compares what an attempt used with what its run had asked for, and says what to ask for next time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.needs import Needs, memory_range
from launch_worker.model.units import format_duration, format_size
from launch_worker.model.usage import Samples, Usage

#: Seconds of an attempt below which nothing follows from what it used.
_BRIEF_S = 30.0
#: Earlier runs of which the figures are known, at least, for advice by them.
_FEWEST = 3
#: Parts of what was asked for: less than the first is far less, and more than the second is close to it.
_FAR_LESS, _CLOSE = 0.5, 0.9
#: What is advised, as a multiple of what was used.
_ROOM = 1.25
_GIB = 1 << 30
_MIB = 1 << 20


def advise(usage: Usage, samples: Samples | None, needs: Needs, *, memory: Any = None) -> list[str]:
    """Sentences for the submitter of an ended run; none where it asked for what it used.

    `needs` are those of the attempt, and `memory` is the run's own `--memory` as its spec has it.
    """
    if usage.wall_s is None:
        return []
    if usage.wall_s < _BRIEF_S:
        return [f"it ran for {format_duration(usage.wall_s)} only: too briefly for advice"]
    return [
        *_of_growth(needs, memory),
        *_of_memory(usage, needs),
        *_of_cores(usage, samples, needs),
        *_of_gpus(usage, needs),
    ]


def advise_by_earlier(name: str, earlier: Sequence[Usage], asked: Needs) -> list[str]:
    """Sentences for whoever submits a run, where earlier ones of its name used far less, or more, than it asks for."""
    known = [usage for usage in earlier if usage.wall_s is not None and usage.wall_s >= _BRIEF_S]
    peaks = [usage.peak_memory for usage in known if usage.peak_memory]
    cores = [usage.cores for usage in known if usage.cores is not None]
    busy = [usage.busy_gpus for usage in known if usage.busy_gpus is not None]
    said = []
    if asked.memory and len(peaks) >= _FEWEST:
        peak, wanted = max(peaks), enough_memory(max(peaks))
        fewer = peak < _FAR_LESS * asked.memory and asked.memory - peak >= 256 * _MIB
        if fewer or peak > asked.memory:
            what = f"peaked at {format_size(peak)} of memory, and {format_size(asked.memory)} are asked for"
            said.append(f"{_last(peaks, name)} {what}; --memory {wanted} {'would do' if fewer else 'is safer'}")
    if asked.millicores and len(cores) >= _FEWEST:
        cpus, wanted_cpus = asked.millicores / 1000, max(1, math.ceil(max(cores) * _ROOM))
        if max(cores) < _FAR_LESS * cpus and wanted_cpus < cpus:
            what = f"used {max(cores):.1f} cores at most on average, and {cpus:g} are asked for"
            said.append(f"{_last(cores, name)} {what}; --cpus {wanted_cpus} may do")
    if asked.gpus and len(busy) >= _FEWEST and max(busy) < _FAR_LESS * asked.gpus:
        what = f"kept {max(busy):.1f} GPUs busy at most on average, and {asked.gpus} are asked for"
        fewer_gpus = max(1, math.ceil(max(busy) * _ROOM))
        advice = f"; --gpus {fewer_gpus} may do" if fewer_gpus < asked.gpus else ""
        said.append(f"{_last(busy, name)} {what}{advice}")
    return said


def _last(found: Sequence[object], name: str) -> str:
    return f"the last {len(found)} runs named {name}"


def compare_memory(peak: int, asked: int) -> str:
    """A sentence where far less, nearly all, or more of the memory asked for was used; '' where it fits."""
    if not asked or not peak:
        return ""
    wanted = enough_memory(peak)
    if peak > asked:
        return f"used {format_size(peak)}, more than the {format_size(asked)} asked for; ask for --memory {wanted}"
    if peak > _CLOSE * asked:
        return (
            f"used {peak / asked:.0%} of the {format_size(asked)} asked for, which is close; --memory {wanted} is safer"
        )
    if peak < _FAR_LESS * asked and asked - peak >= 256 * _MIB:
        return f"used {peak / asked:.0%} of the {format_size(asked)} asked for; --memory {wanted} would do"
    return ""


def enough_memory(peak: int) -> str:
    """The memory to ask for where this was the peak, in whole GiB or steps of 256 MiB."""
    step = _GIB if peak * _ROOM > 4 * _GIB else 256 * _MIB
    return format_size(step * math.ceil(peak * _ROOM / step))


def _of_growth(needs: Needs, memory: Any) -> list[str]:
    """What to begin with after attempts that had too little memory (`--memory 8G..64G`)."""
    try:
        first, most = memory_range(memory) if isinstance(memory, str) else (0, 0)
    except InputError:
        return []
    if not first < needs.memory <= most:
        return []
    now = format_size(needs.memory)
    begin = now if needs.memory == most else f"{now}..{format_size(most)}"
    return [f"memory: {format_size(first)} was too little, and this attempt had {now}; begin with --memory {begin}"]


def _of_memory(usage: Usage, needs: Needs) -> list[str]:
    said = compare_memory(usage.peak_memory or 0, needs.memory)
    return [f"memory: {said}"] if said else []


def _of_cores(usage: Usage, samples: Samples | None, needs: Needs) -> list[str]:
    asked, used = needs.millicores / 1000, usage.cores
    if not asked or used is None:
        return []
    # By the busiest samples, but for a few: many jobs load their data before they compute.
    busiest = max(used, _most_of([] if samples is None else [value for value in samples.cpu if value is not None]))
    if used > asked * 1.1:
        return [
            f"cores: {used:.1f} used on average, more than the {asked:g} asked for; ask for --cpus {math.ceil(used)}"
        ]
    if busiest < _FAR_LESS * asked:
        wanted = max(1, math.ceil(busiest * 1.05))
        return [f"cores: {used:.1f} of {asked:g} used; --cpus {wanted} would do"] if wanted < asked else []
    return []


def _of_gpus(usage: Usage, needs: Needs) -> list[str]:
    if not needs.gpus or usage.gpu_s is None or not usage.wall_s:
        return []
    idle = 1 - usage.gpu_s / (needs.gpus * usage.wall_s)
    if idle < _FAR_LESS:
        return []
    some = "GPU" if needs.gpus == 1 else f"{needs.gpus} GPUs"
    fewer = math.ceil(usage.gpu_s / usage.wall_s * _ROOM)
    advice = f"; --gpus {fewer} may do" if 0 < fewer < needs.gpus else ""
    return [f"{some} idle {idle:.0%} of the time{advice}"]


def _most_of(values: Sequence[float]) -> float:
    """The largest value but for the largest twentieth."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else 0.0
