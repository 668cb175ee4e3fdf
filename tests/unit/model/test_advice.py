"""Advice after a run: said only where far less, nearly all, or more was used than asked for."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.model.advice import advise, advise_by_earlier, compare_memory, enough_memory
from launch_worker.model.needs import Needs
from launch_worker.model.units import format_size, parse_size
from launch_worker.model.usage import Samples, Usage

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("peak", "asked", "said"),
    [
        (7 * GIB, 64 * GIB, "used 11% of the 64G asked for; --memory 9G would do"),
        (200 * MIB, 4 * GIB, "used 5% of the 4G asked for; --memory 256M would do"),
        (61 * GIB, 64 * GIB, "used 95% of the 64G asked for, which is close; --memory 77G is safer"),
        (12 * GIB, 8 * GIB, "used 12G, more than the 8G asked for; ask for --memory 15G"),
        (40 * GIB, 64 * GIB, ""),
        (10 * MIB, 200 * MIB, ""),
        (0, GIB, ""),
        (GIB, 0, ""),
    ],
)
def test_memory_is_compared_with_what_was_asked_for(peak: int, asked: int, said: str) -> None:
    assert compare_memory(peak, asked) == said


@pytest.mark.parametrize("peak", [1, MIB, 300 * MIB, 3 * GIB, 11 * GIB, 700 * GIB])
def test_the_advised_memory_is_a_size_with_some_room(peak: int) -> None:
    advised = parse_size(enough_memory(peak))
    assert 1.2 * peak <= advised
    assert advised <= max(256 * MIB, 2.5 * peak)


def test_cores_are_compared_with_the_busiest_samples() -> None:
    needs = Needs(millicores=8000)
    usage = Usage(cpu_s=100, wall_s=100)
    assert advise(usage, None, needs) == ["cores: 1.0 of 8 used; --cpus 2 would do"]
    assert advise(usage, Samples(5, cpu=(0.1,) * 15 + (6.0, 6.5) + (0.1,) * 3), needs) == [], "it is busy at times"
    assert advise(usage, Samples(5, cpu=(1.0,) * 40 + (8.0,)), needs) == ["cores: 1.0 of 8 used; --cpus 2 would do"]
    more = advise(Usage(cpu_s=1000, wall_s=100), None, needs)
    assert more == ["cores: 10.0 used on average, more than the 8 asked for; ask for --cpus 10"]
    assert advise(Usage(cpu_s=600, wall_s=100), None, needs) == []
    assert advise(usage, None, Needs(millicores=1000)) == []


def test_a_run_whose_memory_grew_is_told_what_to_begin_with() -> None:
    usage = Usage(peak_memory=12 * GIB, wall_s=100)
    assert advise(usage, None, Needs(memory=16 * GIB), memory="8G..64G") == [
        "memory: 8G was too little, and this attempt had 16G; begin with --memory 16G..64G"
    ]
    assert advise(usage, None, Needs(memory=16 * GIB), memory="8G..16G") == [
        "memory: 8G was too little, and this attempt had 16G; begin with --memory 16G"
    ]
    others: tuple[Any, ...] = ("16G..64G", 16 * GIB, None, "damaged..", "..", {})
    for unchanged in others:
        assert advise(usage, None, Needs(memory=16 * GIB), memory=unchanged) == []


def test_idle_gpus_are_named() -> None:
    assert advise(Usage(gpu_s=17, wall_s=100), None, Needs(gpus=1)) == ["GPU idle 83% of the time"]
    assert advise(Usage(gpu_s=100, wall_s=100), None, Needs(gpus=4)) == ["4 GPUs idle 75% of the time; --gpus 2 may do"]
    assert advise(Usage(gpu_s=80, wall_s=100), None, Needs(gpus=1)) == []
    assert advise(Usage(wall_s=100), None, Needs(gpus=1)) == [], "nothing is known"


def test_nothing_follows_from_a_brief_or_unknown_attempt() -> None:
    needs = Needs(1, 8000, 64 * GIB)
    assert advise(Usage(), None, needs) == []
    [said] = advise(Usage(cpu_s=1, wall_s=2.5, peak_memory=MIB), None, needs)
    assert said == "it ran for 2.5 s only: too briefly for advice"
    assert advise(Usage(cpu_s=1, wall_s=250, peak_memory=MIB), None, Needs()) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1K"), (1536, "1.5K"), (11 * GIB, "11G"), (2.5 * GIB, "2.5G"), (1 << 41, "2T")],
)
def test_a_size_is_shown_as_people_write_it(size: float, text: str) -> None:
    assert format_size(size) == text
    assert parse_size(text) == size


def test_a_size_that_is_nearly_whole_is_shown_as_whole() -> None:
    assert format_size(6.98 * GIB) == "7G"
    assert format_size(9.97 * GIB) == "10G"


def used(**figures: float) -> list[Usage]:
    return [Usage(wall_s=100, **figures) for _ in range(5)]  # type: ignore[arg-type]


def test_earlier_runs_of_a_name_are_compared_with_what_the_next_one_asks_for() -> None:
    asked = Needs(gpus=4, millicores=16_000, memory=64 * GIB)
    earlier = [Usage(wall_s=100, peak_memory=peak * GIB) for peak in (9, 11, 10)]
    [said] = advise_by_earlier("train", earlier, asked)
    wanted = "the last 3 runs named train peaked at 11G of memory, and 64G are asked for; --memory 14G would do"
    assert said == wanted
    [said] = advise_by_earlier("train", earlier, Needs(memory=10 * GIB))
    assert said.endswith("and 10G are asked for; --memory 14G is safer")
    [said] = advise_by_earlier("train", used(cpu_s=150), asked)
    assert said.endswith("used 1.5 cores at most on average, and 16 are asked for; --cpus 2 may do")
    [said] = advise_by_earlier("train", used(gpu_s=90), asked)
    assert said.endswith("kept 0.9 GPUs busy at most on average, and 4 are asked for; --gpus 2 may do")


def test_nothing_is_said_by_too_few_or_brief_earlier_runs_or_where_it_fits() -> None:
    asked = Needs(memory=64 * GIB)
    assert advise_by_earlier("train", used(peak_memory=GIB)[:2], asked) == []
    assert advise_by_earlier("train", [Usage(wall_s=2, peak_memory=GIB)] * 9, asked) == []
    assert advise_by_earlier("train", used(peak_memory=40 * GIB), asked) == []
    assert advise_by_earlier("train", used(peak_memory=GIB, cpu_s=1, gpu_s=1), Needs()) == []
