"""Looks at running jobs: how often, what of a device is whose, and what is told when a job has ended."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.sampling import DeviceUse, UsageSampler, bytes_in
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.usage import NO_USAGE, KeptUsage, Samples, Usage, Used
from launch_worker.runners.job import Look
from tests.conftest import wait_until

MIB = 1 << 20


class Job:
    """A job whose figures the test sets."""

    def __init__(self, *pids: int) -> None:
        self.used = Used()
        self.look: Look | None = Look(Used(cpu_s=1.0, memory=100 * MIB), frozenset(pids))
        self.looks = 0

    def measure(self, _: Mapping[int, Look]) -> Look | None:
        self.looks += 1
        return self.look


class Bench:
    """A sampler with attempts that have no processes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.answers: list[tuple[str, KeptUsage]] = []
        self.sampler = UsageSampler(
            answer=lambda record, kept: self.answers.append((record.id, kept)),
            **{"every_s": 0.02, "cost": 1.0} | options,
        )

    def attempt(self, run_id: str, job: Job | None, **options: Any) -> Attempt:
        path = self.folder / f"{run_id}.1.7"
        path.mkdir(exist_ok=True)
        gpus = options.pop("gpus", ())
        needs = options.pop("needs", "")
        made = Attempt(
            record=Record(id=run_id, attempt=1, token=7, gpus=gpus, needs=needs),
            spec=RunSpec(command=("true",)),
            folder=AttemptFolder(path),
            events=queue.SimpleQueue(),
            lease=None,
            **options,
        )
        made.job, made.begun_s = job, time.monotonic()  # type: ignore[assignment]
        return made

    def watch(self, run_id: str, job: Job, **options: Any) -> Attempt:
        attempt = self.attempt(run_id, job, **options)
        self.sampler.watch(attempt)
        return attempt


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.sampler.close()


def figures(bench: Bench, attempt: Attempt) -> Usage:
    return Usage.of(bench.sampler.usage(attempt).figures)


def test_an_attempt_that_has_not_begun_has_no_usage(bench: Bench) -> None:
    attempt = bench.attempt("a", None)
    assert bench.sampler.usage(attempt) is NO_USAGE


def test_a_brief_job_is_known_by_its_end_alone(bench: Bench) -> None:
    job = Job()
    attempt = bench.attempt("a", job, needs="1:1500:1024")
    job.used = Used(cpu_s=0.25, peak_memory=5 * MIB)
    kept = bench.sampler.usage(attempt)
    usage = Usage.of(kept.figures)
    assert (usage.cpu_s, usage.peak_memory, usage.mean_memory, kept.samples) == (0.25, 5 * MIB, None, "")
    assert (usage.asked_gpus, usage.asked_cpus, usage.asked_memory) == (1, 1.5, 1024)
    assert job.looks == 0
    assert bench.sampler._thread is None


def test_what_was_seen_and_what_the_end_tells_are_one(bench: Bench) -> None:
    job = Job()
    attempt = bench.watch("a", job)
    wait_until(lambda: job.looks >= 3)
    job.used = Used(cpu_s=7.5, peak_memory=300 * MIB)
    kept = bench.sampler.usage(attempt)
    usage = Usage.of(kept.figures)
    assert (usage.cpu_s, usage.peak_memory, usage.mean_memory) == (7.5, 300 * MIB, 100 * MIB)
    assert usage.disk_bytes is not None
    assert Samples.of(kept.samples) is not None
    bench.sampler.forget(attempt)
    looks = job.looks
    bench.watch("b", other := Job())
    wait_until(lambda: other.looks >= 3)
    assert job.looks <= looks + 1


def test_a_job_that_cannot_be_measured_now_is_looked_at_again(bench: Bench) -> None:
    job = Job()
    job.look = None
    attempt = bench.watch("a", job)
    wait_until(lambda: job.looks >= 2)
    assert figures(bench, attempt).cpu_s is None
    job.look = Look(Used(cpu_s=2.0))
    wait_until(lambda: figures(bench, attempt).cpu_s == 2.0)


def test_whoever_asks_is_told_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, every_s=600)
    attempt = bench.watch("a", Job())
    bench.sampler.ask(bench.attempt("unknown", Job()))
    bench.sampler.ask(attempt)
    wait_until(lambda: bench.answers)
    [(run_id, kept)] = bench.answers
    assert run_id == "a"
    assert Usage.of(kept.figures).cpu_s == 1.0
    bench.sampler.close()


def test_an_answer_that_nobody_gets_harms_nothing(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError("away")

    sampler = UsageSampler(every_s=0.02, answer=fail, cost=1.0)
    bench = Bench(tmp_path)
    attempt = bench.attempt("a", job := Job())
    sampler.watch(attempt)
    sampler.ask(attempt)
    looks = job.looks
    wait_until(lambda: job.looks > looks + 3)
    sampler.close()


def test_looks_that_take_long_are_seldom(tmp_path: Path) -> None:
    """At most 0.2 % of a core for each job: a look of 20 ms is followed by ten seconds without."""
    bench = Bench(tmp_path, cost=0.002)
    job = Job()

    def burn(_: Mapping[int, Look]) -> Look | None:
        job.looks += 1
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return None

    job.measure = burn  # type: ignore[method-assign]
    bench.watch("a", job)
    wait_until(lambda: job.looks >= 1)
    time.sleep(0.3)
    assert job.looks == 1
    bench.sampler.close()


def test_another_worker_goes_on_with_what_was_kept(bench: Bench, tmp_path: Path) -> None:
    attempt = bench.watch("a", job := Job())
    wait_until(lambda: job.looks >= 3)
    bench.sampler.forget(attempt)
    later = Bench(tmp_path)
    job.look = Look(Used(cpu_s=4.0, memory=50 * MIB))
    attempt = later.attempt("a", job, is_adopted=True)
    assert attempt.begun_s is not None
    attempt.begun_s -= 30
    later.sampler.watch(attempt)
    wait_until(lambda: figures(later, attempt).cpu_s == 4.0)
    usage = figures(later, attempt)
    assert usage.peak_memory == 100 * MIB
    assert usage.since_s is None
    later.sampler.forget(attempt)
    (tmp_path / "a.1.7" / "usage.json").write_text("{")
    later.sampler.watch(attempt)
    wait_until(lambda: (figures(later, attempt).since_s or 0) >= 30)
    later.sampler.close()


@pytest.mark.parametrize(
    ("use", "others", "gpus", "memory"),
    [
        (DeviceUse(0.5, 900, {}, {}), (), 0.5, 900),
        (DeviceUse(0.5, 900, {1: 0.2, 99: 0.3}, {1: 300, 99: 600}), ("0",), 0.2, 300),
        (DeviceUse(0.5, 900, {os.getpid(): 0.3}, {os.getpid(): 600}), ("0",), 0.0, 0),
        (DeviceUse(0.5, 900, {99_999_999: 0.3}, {99_999_999: 600}), ("0",), None, None),
        (DeviceUse(0.5, 900, {}, {}), ("0",), None, None),
        (DeviceUse(None, 900, {}, {}), (), None, 900),
        (DeviceUse(0.5, None, {}, {}), ("1",), 0.5, None),
    ],
    ids=["alone", "by process", "others only", "other numbers", "no processes", "busy unknown", "memory unknown"],
)
def test_a_device_counts_as_far_as_it_is_the_attempts(
    tmp_path: Path, use: DeviceUse, others: tuple[str, ...], gpus: float | None, memory: int | None
) -> None:
    asked: list[Sequence[str]] = []

    def devices(ids: Sequence[str]) -> Mapping[str, DeviceUse]:
        asked.append(ids)
        return {"0": use}

    bench = Bench(tmp_path, devices=devices)
    if others:
        bench.watch("other", Job(2), gpus=others)
    attempt = bench.watch("a", job := Job(1), gpus=("0",))
    wait_until(lambda: job.looks >= 3)
    usage = figures(bench, attempt)
    assert (usage.gpu_s is None) == (gpus is None)
    if gpus is not None and usage.gpu_s is not None and usage.wall_s:
        assert usage.gpu_s / usage.wall_s == pytest.approx(gpus, rel=0.3)
    assert usage.peak_gpu_memory == memory
    assert {"0", *others} in [set(ids) for ids in asked], "one question for all"
    bench.sampler.close()


def test_a_folder_is_measured_as_far_as_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(os.urandom(1 << 20))
    (tmp_path / "link").symlink_to("/")
    found = bytes_in(str(tmp_path))
    assert found is not None
    assert 1 << 20 <= found < (1 << 20) + 100_000
    assert bytes_in(str(tmp_path / "gone")) == 0
    monkeypatch.setattr("launch_worker.attempt.sampling._MAX_FILES", 3)
    assert bytes_in(str(tmp_path)) is None
