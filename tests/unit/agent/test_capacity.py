"""What a worker offers and who holds it: never a device to more runs than may share it, never twice to one."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pynvml  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.agent import gpus
from launch_worker.agent.capacity import Capacity, Device, Use, parse_gpus
from launch_worker.agent.gpus import Meter, capacity_from_options, find
from launch_worker.attempt.sampling import DeviceUse
from launch_worker.errors import InputError
from launch_worker.model.needs import Needs, parse_needs
from launch_worker.model.spec import RunSpec
from tests.conftest import wait_until

FOUND = [Device(str(number), "NVIDIA H100", 80 << 30, f"GPU-{number}{number}aa-{number}") for number in range(4)]
G = 1 << 30


def ids(text: str, *, visible: str | None = None, found: Sequence[Device] = FOUND) -> list[str]:
    return [device.id for device in parse_gpus(text, visible=visible, found=found)]


def inventory(count: int = 2, *, cpus: float = 4, memory: int = 8 * G, share: int = 1) -> Capacity:
    return Capacity([Device(str(number)) for number in range(count)], cpus=cpus, memory=memory, share=share)


# -- who holds what ----------------------------------------------------------------------------------------------------


def test_a_held_device_is_not_free_until_it_is_released() -> None:
    offered = inventory()
    offered.hold("run1.1", ["1"], 500, G)
    free = offered.free()
    assert (free.devices, free.millicores, free.memory) == (["0"], 3500, 7 * G)
    offered.release("run1.1")
    assert offered.free() == offered.total


def test_releasing_twice_or_what_was_never_held_is_harmless() -> None:
    """P16."""
    offered = inventory()
    offered.hold("run1.1", ["0"], 0, 0)
    for key in ("run1.1", "run1.1", "run2.1"):
        offered.release(key)
    assert offered.free() == offered.total


def test_holding_again_replaces_what_was_held() -> None:
    offered = inventory()
    offered.hold("run1.1", ["0", "1"], 4000, 8 * G)
    offered.hold("run1.1", ["1"], 0, 0)
    assert (offered.free().devices, offered.free().millicores) == (["0"], 4000)


def test_a_shared_device_is_free_for_as_many_runs_and_the_least_used_comes_first() -> None:
    """LAUNCH_GPUS_SHARE."""
    offered = inventory(share=2)
    offered.hold("run1.1", ["0"], 0, 0)
    assert offered.free().devices == ["1", "0"]
    offered.hold("run2.1", ["0"], 0, 0)
    assert offered.free().devices == ["1"]


def test_what_was_taken_over_may_be_more_than_there_is() -> None:
    """A worker restarted with less than its predecessor's jobs have."""
    offered = inventory(1, cpus=1, memory=G)
    offered.hold("run1.1", ["0", "7"], 3000, 2 * G)
    free = offered.free()
    assert (free.devices, free.millicores, free.memory) == ([], 0, 0)
    offered.hold("run2.1", ["0"], 0, 0)
    offered.release("run1.1")
    assert offered.free().devices == []


def test_a_part_of_a_core_is_counted() -> None:
    assert inventory(cpus=0.5).total.millicores == 500


@given(
    count=st.integers(0, 6),
    share=st.integers(1, 3),
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_no_device_is_ever_held_by_more_runs_than_may_share_it_nor_twice_by_one(
    count: int, share: int, steps: list[tuple[int, int, bool]]
) -> None:
    offered = inventory(count, share=share)
    held: dict[str, list[str]] = {}
    for number, wanted, ends in steps:
        key = f"run{number}.1"
        free = offered.free().devices
        assert len(set(free)) == len(free)
        if ends:
            offered.release(key)
            held.pop(key, None)
        elif key not in held and wanted <= len(free):
            offered.hold(key, free[:wanted], 0, 0)
            held[key] = free[:wanted]
        holders = Counter(device for devices in held.values() for device in devices)
        assert all(number <= share for number in holders.values())
        assert all(len(set(devices)) == len(devices) for devices in held.values())
        expected = {device for device in offered.total.devices if holders[device] < share}
        now = offered.free().devices
        assert set(now) == expected
        assert [holders[device] for device in now] == sorted(holders[device] for device in now)
        told = {entry["id"]: entry["runs"] for entry in offered.describe()}
        assert told == {
            device: sorted(key.partition(".")[0] for key, devices in held.items() if device in devices)
            for device in offered.total.devices
        }


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5000), st.integers(0, 9 * G), st.booleans()), max_size=40
    )
)
def test_cores_and_memory_add_up(steps: list[tuple[int, int, int, bool]]) -> None:
    offered = inventory()
    held: dict[str, tuple[int, int]] = {}
    for number, millicores, memory, ends in steps:
        key = f"run{number}.1"
        free = offered.free()
        if ends:
            offered.release(key)
            held.pop(key, None)
        elif key not in held and millicores <= free.millicores and memory <= free.memory:
            offered.hold(key, [], millicores, memory)
            held[key] = millicores, memory
        free = offered.free()
        assert free.millicores + sum(cores for cores, _ in held.values()) == offered.total.millicores
        assert free.memory + sum(size for _, size in held.values()) == offered.total.memory
        assert min(free.millicores, free.memory) >= 0


def test_many_threads_leave_nothing_held() -> None:
    offered = inventory(8, share=3)

    def turn(number: int) -> None:
        for attempt in range(200):
            key = f"run{number}.{attempt}"
            offered.hold(key, offered.free().devices[:1], 1, 1)
            offered.describe()
            offered.release(key)

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert offered.free() == offered.total


# -- needs -------------------------------------------------------------------------------------------------------------


@given(
    gpus=st.integers(0, 1024),
    cpus=st.none() | st.integers(1, 1000),
    memory=st.none() | st.integers(6 << 20, 10**15 - 1),
)
def test_needs_are_read_as_specs_write_them(gpus: int, cpus: int | None, memory: int | None) -> None:
    spec = RunSpec(command=("true",), gpus=gpus, cpus=None if cpus is None else cpus / 100, memory=memory)
    needs = parse_needs(spec.needs)
    assert (needs.gpus, needs.memory) == (gpus, memory or 0)
    # Rounded up, if at all: what a float makes of hundredths.
    assert 10 * (cpus or 0) <= needs.millicores <= 10 * (cpus or 0) + 1


@pytest.mark.parametrize("text", ["", "1", "1:2", "a:b:c", "-1:0:0", "1:2:3:4", "1.5:0:0", "1:2:3\n"])
def test_damaged_needs_are_none_as_at_the_claim(text: str) -> None:
    assert parse_needs(text) == Needs(0, 0, 0)


# -- which devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ["0", "1", "2", "3"]),
        ("none", []),
        ("0", []),
        ("2", ["0", "1"]),
        ("4", ["0", "1", "2", "3"]),
        ("0,1,3", ["0", "1", "3"]),
        ("3,0", ["3", "0"]),
        ("3,", ["3"]),
        (" 1, 2 ", ["1", "2"]),
        ("01,2", ["1", "2"]),
        ("GPU-11aa-1", ["GPU-11aa-1"]),
        ("GPU-2,0", ["GPU-22aa-2", "0"]),
    ],
)
def test_a_worker_offers_what_was_found_or_named(text: str, expected: list[str]) -> None:
    assert ids(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", []), ("none", []), ("0", []), ("3", ["0", "1", "2"]), ("0,5", ["0", "5"]), ("7,", ["7"])],
)
def test_without_a_driver_numbers_are_an_inventory_to_try_things_with(text: str, expected: list[str]) -> None:
    assert ids(text, found=[]) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("0,1,2,3", ["0", "1", "2", "3"]),
        ("2,0", ["2", "0"]),
        (" 2 , 0", ["2", "0"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", ["1"]),
        ("1,9,2", ["1"]),
        ("1,,2", ["1"]),
        ("1 the fast one,2", ["1", "2"]),
        ("1,1", []),
        ("GPU-22aa-2", ["GPU-22aa-2"]),
        ("GPU-3,GPU-0", ["GPU-33aa-3", "GPU-00aa-0"]),
        ("GPU-3,GPU-9,GPU-0", ["GPU-33aa-3"]),
        ("GPU-", []),
        ("GPU-3,3", []),
        ("MIG-1f-2/3/0", ["MIG-1f-2/3/0"]),
    ],
)
def test_the_workers_own_cuda_visible_devices_bounds_auto_as_cuda_reads_it(visible: str, expected: list[str]) -> None:
    assert ids("auto", visible=visible) == expected


def test_a_beginning_of_two_uuids_names_neither() -> None:
    twins = [Device("0", uuid="GPU-ab1"), Device("1", uuid="GPU-ab2")]
    assert ids("auto", visible="GPU-ab", found=twins) == []
    assert ids("auto", visible="GPU-ab2", found=twins) == ["GPU-ab2"]


def test_numbers_and_lists_are_bounded_too() -> None:
    assert ids("1", visible="2,3") == ["2"]
    assert ids("3,2", visible="2,3") == ["3", "2"]
    assert ids("0", visible="2,3") == []
    with pytest.raises(InputError, match=r"CUDA_VISIBLE_DEVICES leaves 2"):
        ids("3", visible="2,3")
    with pytest.raises(InputError, match="GPU 0, which this worker does not see; it sees: 2, 3"):
        ids("0,2", visible="2,3")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5", "the driver knows of 4; use --gpus auto"),
        ("1025", "at most 1024"),
        ("4,", "GPU 4, which this worker does not see"),
        ("0,1,0", "GPU 0 twice"),
        ("0,00", "GPU 00 twice"),
        ("0,GPU-00", "GPU GPU-00 twice"),
        ("GPU-9,", "does not see"),
        ("", "not auto, none"),
        (",", "not auto, none"),
        ("all", "not auto, none"),
        ("-1", "not auto, none"),
        ("1.5", "not auto, none"),
        ("0,,1", "not auto, none"),
        ("0;1", "not auto, none"),
        ("GPU-", "not auto, none"),
        ("٣", "not auto, none"),
        ("x" * 1000, "not auto, none"),
    ],
)
def test_gpus_that_make_no_sense_are_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        ids(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@given(
    text=st.text(max_size=20) | st.from_regex(r"[0-9,]{1,12}", fullmatch=True), visible=st.none() | st.text(max_size=12)
)
def test_whatever_is_written_devices_are_distinct_or_it_is_refused(text: str, visible: str | None) -> None:
    for found in (FOUND, []):
        try:
            devices = ids(text, visible=visible, found=found)
        except InputError:
            continue
        assert len(set(devices)) == len(devices)


# -- the machine -------------------------------------------------------------------------------------------------------


def test_by_default_a_worker_offers_all_that_the_machine_has() -> None:
    offered = capacity_from_options(None, None, None, env={})
    assert offered.total.millicores == 1000 * len(os.sched_getaffinity(0))
    assert 1 << 26 < offered.total.memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + (1 << 30)
    assert offered.total.devices == [device.id for device in find()]


def test_the_cores_are_those_that_the_worker_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert capacity_from_options("none", None, None, env={}).total.millicores == 1000
    finally:
        os.sched_setaffinity(0, allowed)


def test_options_bound_what_is_offered() -> None:
    offered = capacity_from_options("none", "1.5", "2G", env={}, share=2)
    assert (offered.total.devices, offered.total.millicores, offered.total.memory) == ([], 1500, 2 * G)


@pytest.mark.parametrize(
    ("cpus", "memory", "sentence"),
    [
        ("many", None, "--cpus must be a number of cores"),
        ("0", None, "--cpus must be a number of cores"),
        ("nan", None, "--cpus must be a number of cores"),
        ("-1", None, "--cpus must be a number of cores"),
        (None, "lots", "--memory 'lots' is not a size"),
        (None, "0", "--memory must be more than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(cpus: str | None, memory: str | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        capacity_from_options("none", cpus, memory, env={})


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia/version"), reason="this machine has a driver")
def test_a_machine_without_a_driver_has_no_gpus_and_says_nothing_of_their_use() -> None:
    assert find() == []
    assert gpus.use(["0", "GPU-1"]) == {}
    assert capacity_from_options("auto", None, None, env={"CUDA_VISIBLE_DEVICES": "0"}).total.devices == []
    fake = capacity_from_options("2", None, None, env={})
    assert [(entry["id"], entry["use"]) for entry in fake.describe()] == [("0", None), ("1", None)]


class Driver:
    """NVML with three GPUs: one whole, one off the bus, one (number 2) that tells little."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpus, "_has_library", lambda: True)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", self.by_index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {"GPU-a": "h0", "GPU-c": "h2"}[uuid])
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: {"h0": "GPU-a", "h2": b"GPU-c"}[handle])
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: self.whole(handle, "NVIDIA H100"))
        memory = SimpleNamespace(total=80 * G, used=3 * G)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: self.whole(handle, memory))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=45))

    def by_index(self, number: int) -> str:
        if number == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return f"h{number}"

    def whole(self, handle: str, answer: Any) -> Any:
        if handle != "h0":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer


def test_a_gpu_that_the_driver_cannot_speak_of_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    assert find() == [Device("0", "NVIDIA H100", 80 * G, "GPU-a"), Device("2", "", 0, "GPU-c")]
    measured = {"0": Use(45, 3 * G, 80 * G), "2": Use(45, None, None)}
    assert gpus.use(["0", "1", "2"]) == measured
    assert gpus.use(["GPU-c"]) == {"GPU-c": measured["2"]}


def test_a_worker_with_a_driver_offers_what_it_may_see_and_shows_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    offered = capacity_from_options(None, None, None, env={"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-a"})
    assert offered.total.devices == ["GPU-c", "GPU-a"]
    used = wait_until(lambda: offered.describe()[1]["use"], what="the measurement is there")
    assert used["percent"] == 45
    with pytest.raises(InputError, match="GPU 1, which this worker does not see; it sees: 0, 2"):
        capacity_from_options("0,1", None, None, env={})


def test_the_use_of_a_gpu_is_told_by_process(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    asked: list[int] = []

    def busy(handle: str, since_us: int) -> list[Any]:
        asked.append(since_us)
        samples = [(11, 2, 70), (11, 1, 10), (12, 1, 30)]
        found = [SimpleNamespace(pid=pid, timeStamp=at, smUtil=percent) for pid, at, percent in samples]
        return cast(list[Any], Driver.whole(driver, handle, found))

    driver = Driver(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetProcessUtilization", busy)
    holders = [SimpleNamespace(pid=11, usedGpuMemory=2 * G), SimpleNamespace(pid=13, usedGpuMemory=None)]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: driver.whole(handle, holders))
    used = gpus.use_by_process(["0", "1", "GPU-c"])
    assert used == {
        "0": DeviceUse(0.45, 3 * G, busy_by={11: 0.7, 12: 0.3, 13: 0.0}, memory_by={11: 2 * G}),
        "GPU-c": DeviceUse(0.45, None),
    }
    assert abs(asked[0] / 1e6 - time.time()) < 60


def test_a_driver_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.05)
    hangs = threading.Event()

    def measure(_: Sequence[str]) -> Mapping[str, DeviceUse]:
        hangs.wait(20)
        return {"0": DeviceUse(0.5)}

    meter = gpus.DeviceMeter(measure=measure)
    assert meter(["0"]) == {}
    assert meter(["0"]) == {}, "no second thread waits"
    hangs.set()
    assert wait_until(lambda: meter(["0"]), what="it answers again") == {"0": DeviceUse(0.5)}


# -- how busy they are -------------------------------------------------------------------------------------------------


def test_a_driver_that_hangs_holds_up_nobody() -> None:
    hangs, began = threading.Event(), threading.Event()

    def measure(_: Sequence[str]) -> Mapping[str, Use]:
        began.set()
        hangs.wait(20)
        return {"0": Use(45, 3 * G, 80 * G)}

    offered = Capacity([FOUND[0]], cpus=1, memory=G, use=Meter(["0"], measure=measure))
    assert offered.describe()[0]["use"] is None
    assert began.wait(5)
    assert offered.describe()[0]["use"] is None
    hangs.set()
    used = wait_until(lambda: offered.describe()[0]["use"], what="the measurement is there")
    assert used == {"percent": 45, "memory_used": 3 * G, "memory_total": 80 * G}


def test_a_device_is_described_with_its_runs() -> None:
    offered = Capacity(FOUND[:2], cpus=1, memory=G, share=2)
    offered.hold("run2.1", ["0"], 0, 0)
    offered.hold("run1.3", ["0"], 0, 0)
    first, second = offered.describe()
    assert (first["id"], first["name"], first["memory"]) == ("0", "NVIDIA H100", 80 * G)
    assert (first["runs"], second["runs"]) == (["run1", "run2"], [])
