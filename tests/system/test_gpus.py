"""GPUs, cores and memory through real workers: who gets what, who waits, and that nothing is ever given twice."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Run
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, Part, through_both_doors

#: Notes when it began and ended, and which devices it was given.
_NOTING = """
echo "$LAUNCH_RUN_ID began $(date +%s%N) $CUDA_VISIBLE_DEVICES" >> "$1"
sleep "$2"
echo "$LAUNCH_RUN_ID ended $(date +%s%N) $CUDA_VISIBLE_DEVICES" >> "$1"
"""
G = 1 << 30


@dataclass(frozen=True)
class Stay:
    """One job's own word of when it had which devices; nanoseconds of this machine's clock."""

    run_id: str
    devices: tuple[str, ...]
    began: int
    ended: int

    def overlaps(self, other: Stay) -> bool:
        return self.began < other.ended and other.began < self.ended


class Recorder:
    """Jobs that write down which devices they have, and what came of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.path = cluster.folder / "stays"

    def worker(self, *, gpus: str = "2", slots: int = 4, name: str = "w1", arguments: Iterable[str] = ()) -> Part:
        return self.cluster.worker("gpu", slots=slots, name=name, arguments=("--gpus", gpus, *arguments))

    def submit(self, seconds: float = 0.5, **options: Any) -> Run:
        command = ["sh", "-c", _NOTING, "sh", str(self.path), str(seconds)]
        return submit(command, queue="gpu", api=self.cluster.api, **options)

    def stays(self) -> list[Stay]:
        began: dict[str, tuple[int, tuple[str, ...]]] = {}
        stays = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            run_id, word, at, *devices = line.split()
            if word == "began":
                began[run_id] = int(at), tuple(devices[0].split(",")) if devices else ()
            else:
                stays.append(Stay(run_id, began[run_id][1], began[run_id][0], int(at)))
        return stays

    def stay(self, run: Run) -> Stay:
        (found,) = [stay for stay in self.stays() if stay.run_id == run.id]
        return found


@pytest.fixture
def recorder(cluster: Cluster) -> Recorder:
    return Recorder(cluster)


def finish(runs: Iterable[Run], timeout_s: float = 60) -> None:
    for run in runs:
        assert run.wait(timeout_s) is RunState.FINISHED, (run.id, run.record.reason, run.record.message)


def wait_for_reason(run: Run, reason: str) -> None:
    wait_until(lambda: run.refresh().reason == reason, what=f"{reason!r}, and not {run.record.reason!r}")
    assert run.record.state is RunState.PENDING


# -- devices -----------------------------------------------------------------------------------------------------------


def test_two_runs_of_one_gpu_on_one_gpu_run_one_after_the_other(recorder: Recorder) -> None:
    """X1."""
    recorder.worker(gpus="1", slots=2)
    runs = [recorder.submit(gpus=1) for _ in range(2)]
    finish(runs)
    first, second = (recorder.stay(run) for run in runs)
    assert not first.overlaps(second)
    assert first.devices == second.devices == ("0",)
    assert all(run.record.gpus == ("0",) for run in runs)


def test_with_two_gpus_they_run_at_once_on_distinct_devices(recorder: Recorder) -> None:
    """X1."""
    recorder.worker(gpus="2", slots=2)
    runs = [recorder.submit(2, gpus=1) for _ in range(2)]
    finish(runs)
    first, second = (recorder.stay(run) for run in runs)
    assert first.overlaps(second)
    assert {*first.devices, *second.devices} == {"0", "1"}


def test_a_run_without_gpus_sees_none_and_waits_for_none(recorder: Recorder) -> None:
    recorder.worker(gpus="1", slots=2)
    holder = recorder.submit(5, gpus=1)
    wait_until(lambda: holder.state is RunState.RUNNING)
    other = recorder.submit(0)
    finish([other])
    assert recorder.stay(other).devices == ()
    assert holder.state is RunState.RUNNING
    holder.cancel()


def test_devices_are_those_that_were_named(recorder: Recorder) -> None:
    recorder.worker(gpus="3,5")
    run = recorder.submit(0, gpus=2)
    finish([run])
    assert sorted(recorder.stay(run).devices) == ["3", "5"]


def test_more_gpus_than_any_worker_has_wait_with_the_reason_and_block_nobody(recorder: Recorder) -> None:
    """X2."""
    recorder.worker(name="w1")
    recorder.worker(name="w2")
    big = recorder.submit(gpus=4)
    behind = [recorder.submit(0.2, gpus=number) for number in (1, 2, 0, 1)]
    finish(behind)
    wait_for_reason(big, "waiting for 4 GPUs")
    status = recorder.cluster.run("launch-worker", "status", "--json")
    assert status.code == 0, status
    (problem,) = [each["text"] for each in json.loads(status.out)["problems"] if big.id in each["text"]]
    assert "wants 4 GPUs, and its workers have at most 2" in problem
    recorder.worker(gpus="4", name="w3")
    finish([big])
    assert sorted(recorder.stay(big).devices) == ["0", "1", "2", "3"]


def test_a_run_that_ends_in_any_way_frees_its_devices(recorder: Recorder) -> None:
    recorder.worker(gpus="1")
    broken = submit(["no-such-program"], queue="gpu", gpus=1, api=recorder.cluster.api)
    assert broken.wait(20) is RunState.FAILED
    killed = recorder.submit(60, gpus=1)
    wait_until(lambda: killed.state is RunState.RUNNING)
    waiting = recorder.submit(0, gpus=1)
    wait_for_reason(waiting, "waiting for 1 GPU")
    killed.cancel()
    finish([waiting])


@pytest.mark.timeout(240)
def test_no_device_is_held_twice_and_both_workers_are_busy_while_work_fits(recorder: Recorder) -> None:
    """The issue's recorder: two workers of two devices each, 40 runs that want one or two."""
    for name in ("w1", "w2"):
        recorder.worker(name=name)
    wants = [2 if number % 3 == 2 else 1 for number in range(40)]
    runs = [recorder.submit(1.5 + number % 4 / 4, gpus=want) for number, want in enumerate(wants)]
    finish(runs, timeout_s=150)
    workers = {run.id: run.record.worker for run in runs}
    stays = recorder.stays()
    assert len(stays) == 40
    assert len(set(workers.values())) == 2
    for run, want in zip(runs, wants, strict=True):
        assert len(set(recorder.stay(run).devices)) == want
    for one, other in itertools.combinations(stays, 2):
        if workers[one.run_id] == workers[other.run_id] and {*one.devices} & {*other.devices}:
            assert not one.overlaps(other), (one, other)
    for worker in set(workers.values()):
        assert _busy_share(runs, worker, devices=2) > 0.9


def _busy_share(runs: list[Run], worker: str, *, devices: int) -> float:
    """Of the time in which the worker ran something or could have, how long no waiting run would have fitted on it."""
    records = [run.record for run in runs]
    spans = {record.id: (record.started_at or 0, record.ended_at or 0) for record in records}
    edges = sorted({record.created_at for record in records} | {at for span in spans.values() for at in span})
    total = idle = 0
    for begin, end in itertools.pairwise(edges):
        held = sum(
            len(record.gpus)
            for record in records
            if record.worker == worker and spans[record.id][0] <= begin < spans[record.id][1]
        )
        waiting = [len(record.gpus) for record in records if record.created_at <= begin < spans[record.id][0]]
        total += end - begin if held or waiting else 0
        idle += end - begin if any(want <= devices - held for want in waiting) else 0
    return 1 - idle / total


def test_a_big_run_is_not_starved_by_a_stream_of_small_ones(recorder: Recorder) -> None:
    """LAUNCH_BACKFILL_S: until then small ones may pass it; then the worker collects GPUs for it."""
    recorder.cluster.env["LAUNCH_BACKFILL_S"] = "1"
    recorder.worker()
    # Of unequal lengths, so that the two devices never come free together.
    first = [recorder.submit(seconds, gpus=1) for seconds in (0.6, 1.1)]
    wait_until(lambda: all(run.state is not RunState.PENDING for run in first))
    big = recorder.submit(0.2, gpus=2)
    small = [recorder.submit(0.7 if number % 2 else 1.1, gpus=1) for number in range(30)]
    finish([big])
    waiting = [run for run in small if run.state is RunState.PENDING]
    assert len(waiting) >= 10, "the stream had dried up by then"
    assert any(recorder.stay(run).ended < recorder.stay(big).began for run in small if run.state is RunState.FINISHED)
    finish(small)


def test_a_shared_device_has_two_runs_at_once_and_no_run_has_it_twice(recorder: Recorder) -> None:
    """LAUNCH_GPUS_SHARE."""
    recorder.cluster.env["LAUNCH_GPUS_SHARE"] = "2"
    recorder.worker(gpus="1")
    big = recorder.submit(gpus=2)
    runs = [recorder.submit(1.5, gpus=1) for _ in range(3)]
    finish(runs)
    stays = sorted((recorder.stay(run) for run in runs), key=lambda stay: stay.began)
    assert stays[0].overlaps(stays[1])
    assert stays[2].began >= min(stay.ended for stay in stays[:2])
    assert all(stay.devices == ("0",) for stay in stays)
    wait_for_reason(big, "waiting for 2 GPUs")


@pytest.mark.parametrize(
    ("option", "needs", "reason"),
    [
        (("--cpus", "2"), {"cpus": 1.5}, "waiting for 1.5 CPUs"),
        (("--memory", "4G"), {"memory": 3 * G}, "waiting for 3 GiB of memory"),
    ],
)
def test_cores_and_memory_are_counted_against_what_the_worker_offers(
    recorder: Recorder, option: tuple[str, str], needs: dict[str, Any], reason: str
) -> None:
    recorder.worker(gpus="none", arguments=option)
    runs = [recorder.submit(2, **needs) for _ in range(2)]
    free = recorder.submit(0)
    finish([free])
    waiting = next(run for run in runs if run.state is RunState.PENDING)
    wait_for_reason(waiting, reason)
    finish(runs)
    first, second = (recorder.stay(run) for run in runs)
    assert not first.overlaps(second)


def test_the_devices_of_a_killed_worker_are_free_for_the_next_one(recorder: Recorder) -> None:
    killed = recorder.worker()
    lost = recorder.submit(60, gpus=2, retries=1)
    waiting = recorder.submit(0.2, gpus=1)
    wait_until(lambda: lost.state is RunState.RUNNING)
    wait_for_reason(waiting, "waiting for 1 GPU")
    killed.kill()
    recorder.worker(name="w2")
    finish([waiting])
    again = wait_until(lambda: lost.refresh() if lost.refresh().attempt == 2 else None, what="it runs again")
    assert sorted(again.gpus) == ["0", "1"]
    lost.cancel()


def test_the_devices_of_a_dead_workers_job_are_not_given_away_before_its_last_process_has_gone(
    recorder: Recorder,
) -> None:
    """Its guard gives the job its grace, and the next worker is there before that is over."""
    alive = recorder.cluster.folder / "alive"
    killed = recorder.worker(gpus="1")
    script = 'trap "" TERM; while :; do date +%s%N > "$1.new" && mv "$1.new" "$1"; sleep 0.05; done'
    stubborn = submit(["sh", "-c", script, "sh", str(alive)], queue="gpu", gpus=1, grace=2, api=recorder.cluster.api)
    wait_until(alive.exists)
    waiting = recorder.submit(0.2, gpus=1)
    wait_for_reason(waiting, "waiting for 1 GPU")
    killed.kill()
    recorder.worker(gpus="1")
    finish([waiting])
    assert recorder.stay(waiting).began > int(alive.read_text())
    assert stubborn.state is not RunState.RUNNING


def test_the_next_worker_takes_over_devices_with_the_jobs_that_have_them(recorder: Recorder) -> None:
    """`SIGUSR1`: the jobs go on, and so do their claims on devices."""
    # A loaded machine may take a while to start the next one.
    recorder.cluster.env["LAUNCH_LEASE_S"] = "15"
    first = recorder.worker()
    held = recorder.submit(6, gpus=1)
    wait_until(lambda: held.state is RunState.RUNNING)
    waiting = [recorder.submit(0.3, gpus=number) for number in (2, 1, 1, 1)]
    first.signal(signal.SIGUSR1)
    assert first.wait() == 0
    recorder.worker()
    finish([held, *waiting])
    assert held.record.attempt == 1
    stay = recorder.stay(held)
    for run in waiting:
        other = recorder.stay(run)
        assert not (stay.overlaps(other) and {*stay.devices} & {*other.devices}), (stay, other)


def test_a_worker_that_cannot_offer_what_it_is_asked_to_does_not_start(cluster: Cluster) -> None:
    part = cluster.worker("gpu", arguments=("--gpus", "0,0"), wait=False)
    assert part.wait(30) != 0
    assert "names GPU 0 twice" in part.log
    assert "Traceback" not in part.log


# -- what people see ---------------------------------------------------------------------------------------------------


def test_status_and_workers_show_each_device_and_who_holds_it(recorder: Recorder) -> None:
    recorder.worker(arguments=("--cpus", "4", "--memory", "8G"))
    run = recorder.submit(60, gpus=1, cpus=0.5, memory=2 * G)

    def worker() -> dict[str, Any]:
        (found,) = recorder.cluster.api.store.workers()
        return found

    wait_until(lambda: any(device["runs"] for device in worker()["devices"]), what="the heartbeat says who holds it")
    device = next(device["id"] for device in worker()["devices"] if device["runs"])
    other = {"0": "1", "1": "0"}[device]
    for command in ("status", "workers"):
        shown = recorder.cluster.run("launch-worker", command)
        assert shown.code == 0, shown
        rows = [line.split() for line in shown.out.splitlines()]
        assert {(row[1], row[2]) for row in rows if len(row) > 2} >= {(device, run.id), (other, "idle")}, shown.out
        assert "0.5/4 " in shown.out
        assert "2/8 GiB" in shown.out
    listed = json.loads(recorder.cluster.run("launch-worker", "workers", "--json").out)
    assert listed["cpus"] == {"total": 4.0, "free": 3.5}
    assert listed["memory"] == {"total": 8 * G, "free": 6 * G}
    run.cancel()
    wait_until(lambda: not any(device["runs"] for device in worker()["devices"]), what="the device is free")


@through_both_doors
def test_status_says_at_once_which_queues_are_idle_paused_or_limited(recorder: Recorder) -> None:
    recorder.worker()
    store = recorder.cluster.api.store
    submit(["true"], queue="nobody", api=recorder.cluster.api)
    store.configure("pool", "lab", {"limit": "3"})
    store.configure("queue", "gpu", {"limit": "2", "pool": "lab"})
    store.configure("queue", "halted", {"paused": "1"})
    run = recorder.submit(60)
    wait_until(lambda: run.state is RunState.RUNNING)
    status = json.loads(recorder.cluster.run("launch-worker", "status", "--json").out)
    queues = {queue["name"]: queue for queue in status["queues"]}
    assert queues["nobody"]["state"] == "Idle"
    assert (queues["gpu"]["state"], queues["gpu"]["running"], queues["gpu"]["limit"]) == ("Ready", 1, 2)
    assert (queues["gpu"]["pool"], queues["gpu"]["workers"]) == ("lab", 1)
    assert queues["halted"]["state"] == "Paused"
    (pool,) = status["pools"]
    assert (pool["name"], pool["running"], pool["limit"], pool["queues"]) == ("lab", 1, 3, ["gpu"])
    assert any(
        "queue nobody is Idle, 1 run waits in it: no worker consumes queue nobody" in problem["text"]
        for problem in status["problems"]
    )
    text = recorder.cluster.run("launch-worker", "status").out
    assert [line.split() for line in text.splitlines() if line.startswith("gpu ")] == [
        ["gpu", "Ready", "0", "-", "1/2", "lab", "1"]
    ]
    run.cancel()
