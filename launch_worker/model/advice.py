"""Compares what an attempt used with what its run had asked for, and says what to ask for next time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launch_worker.model.needs import Needs
from launch_worker.model.units import format_duration, format_size
from launch_worker.model.usage import Samples, Usage

#: Seconds of an attempt below which nothing follows from what it used.
_BRIEF_S = 30.0
#: Parts of what was asked for: less than the first is far less, and more than the second is close to it.
_FAR_LESS, _CLOSE = 0.5, 0.9
#: What is advised, as a multiple of what was used.
_ROOM = 1.25
_GIB = 1 << 30
_MIB = 1 << 20


def advise(usage: Usage, samples: Samples | None, needs: Needs) -> list[str]:
    """Sentences for the submitter of an ended run; none where it asked for what it used."""
    if usage.wall_s is None:
        return []
    if usage.wall_s < _BRIEF_S:
        return [f"it ran for {format_duration(usage.wall_s)} only: too briefly for advice"]
    return [*_of_memory(usage, needs), *_of_cores(usage, samples, needs), *_of_gpus(usage, needs)]


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
