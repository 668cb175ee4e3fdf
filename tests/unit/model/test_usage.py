"""Figures and samples of an attempt: sums are exact, and samples are bounded however long it takes."""

from __future__ import annotations

import json
import random

import pytest

from launch_worker.model.usage import MAX_BYTES, Recorder, Samples, Usage, Used

GIB = 1 << 30


def test_figures_are_sums_over_time() -> None:
    recorder = Recorder(every_s=5)
    for at_s in range(5, 105, 5):
        recorder.note(at_s, Used(cpu_s=2.0 * at_s, memory=3 * GIB if at_s <= 50 else 1 * GIB, gpus=0.5, gpu_memory=GIB))
    recorder.note_end(Used(cpu_s=201.5, peak_memory=4 * GIB))
    usage = recorder.usage(100.0)
    assert usage.cpu_s == 201.5
    assert usage.cores == pytest.approx(2.015)
    assert usage.peak_memory == 4 * GIB
    assert usage.mean_memory == pytest.approx(2 * GIB, rel=0.05)
    assert usage.memory_gb_h == pytest.approx(2 * 100 / 3600, rel=0.05)
    assert usage.gpu_s == pytest.approx(50)
    assert usage.peak_gpu_memory == GIB
    assert usage.disk_bytes is None
    assert Usage.of(usage.to_text()) == Usage.of(json.dumps(usage.as_json()))
    assert Usage.of(usage.to_text()).cpu_s == 201.5


def test_samples_say_cores_and_memory_over_time() -> None:
    recorder = Recorder(every_s=5)
    recorder.note(5, Used(cpu_s=5, memory=GIB))
    recorder.note(10, Used(cpu_s=20, memory=2 * GIB))
    recorder.note(12, Used(cpu_s=22, memory=GIB))
    samples = Samples.of(recorder.to_text(recorder.usage(12)))
    assert samples is not None
    assert samples.every_s == 5
    assert samples.cpu == (1.0, 3.0, 1.0), "the latest one is of two seconds"
    assert samples.memory[-2:] == (GIB, 2 * GIB)
    assert samples.gpu == ()


def test_a_late_look_spreads_its_cpu_over_the_time_since_the_one_before() -> None:
    recorder = Recorder(every_s=5)
    recorder.note(5, Used(cpu_s=0, memory=GIB))
    recorder.note(25, Used(cpu_s=20, memory=GIB))
    samples = Samples.of(recorder.to_text(recorder.usage(25)))
    assert samples is not None
    assert samples.cpu[:5] == (0, 1, 1, 1, 1)
    assert samples.memory[2:5] == (None, None, None), "nobody has looked"


@pytest.mark.parametrize("length_s", [600, 86400, 30 * 86400])
def test_samples_are_bounded_however_long_the_job_takes(length_s: int) -> None:
    chance = random.Random(1)
    recorder = Recorder(every_s=5)
    at_s = cpu_s = 0.0
    while at_s < length_s:
        at_s = min(at_s + recorder.every_s, length_s)
        cpu_s += chance.random() * 64 * recorder.every_s
        recorder.note(
            at_s, Used(cpu_s, chance.randrange(1 << 42), None, chance.random() * 8, chance.randrange(1 << 40))
        )
        assert len(recorder.to_text(recorder.usage(at_s))) <= MAX_BYTES
    samples = Samples.of(recorder.to_text(recorder.usage(at_s)))
    assert samples is not None
    assert len(samples.cpu) >= 30
    seen_s = sum(value * samples.every_s for value in samples.cpu[:-1] if value is not None)
    assert seen_s == pytest.approx(cpu_s, rel=0.1)


def test_a_machine_that_slept_for_a_year_costs_nothing() -> None:
    recorder = Recorder(every_s=5)
    recorder.note(5, Used(cpu_s=1, memory=1))
    recorder.note(3e7, Used(cpu_s=2, memory=1))
    assert len(recorder.to_text(recorder.usage(3e7))) < MAX_BYTES


def test_cpu_never_shrinks_and_an_older_look_is_no_look() -> None:
    recorder = Recorder(every_s=5)
    recorder.note(5, Used(cpu_s=9, memory=5))
    recorder.note(10, Used(cpu_s=2, memory=5))
    recorder.note(7, Used(cpu_s=50, memory=50))
    assert recorder.usage(10).cpu_s == 9
    assert recorder.usage(10).peak_memory == 50


def test_another_worker_goes_on_where_the_former_one_was() -> None:
    whole, former = Recorder(every_s=5), Recorder(every_s=5)
    looks = [(5.0 * n, Used(cpu_s=3.0 * n, memory=n << 20, gpus=1, gpu_memory=n << 21)) for n in range(1, 300)]
    for look in looks:
        whole.note(*look)
    for look in looks[:150]:
        former.note(*look)
    later = Recorder.resume(json.dumps(former.state()))
    assert later is not None
    for look in looks[150:]:
        later.note(*look)
    assert later.to_text(later.usage(1495)) == whole.to_text(whole.usage(1495))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"every_s": 0}', '{"every_s": "x"}', json.dumps(Recorder(every_s=5).state() | {"_series": 7})],
)
def test_a_damaged_state_is_none(text: str) -> None:
    assert Recorder.resume(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[1]", '{"cpu_s": "much", "peak_memory": -1, "samples": 3}'),
        *('{"cpu_s": 1e999, "samples": {}}', '{"peak_memory": 1e30}'),
    ],
)
def test_damaged_figures_are_unknown(text: str) -> None:
    assert Usage.of(text) == Usage()
    assert not Usage.of(text)
    assert Samples.of(text) is None


def test_the_figures_of_a_brief_job_are_short() -> None:
    assert Usage(cpu_s=0.0123456, wall_s=0.05).to_text() == '{"cpu_s":0.0123,"wall_s":0.05}'
    assert Usage().to_text() == ""
