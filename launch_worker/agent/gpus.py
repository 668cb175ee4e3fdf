"""Finds the GPUs, cores and memory of a machine; NVIDIA's driver names the GPUs, through NVML."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch_worker.agent.capacity import Capacity, Device, Use, parse_gpus
from launch_worker.attempt.sampling import DeviceUse
from launch_worker.errors import InputError
from launch_worker.model.container_options import check_cpus
from launch_worker.model.units import parse_size

log = logging.getLogger("launch_worker.gpus")

#: Seconds after which a measurement is shown no more: a driver can hang.
_STALE_S = 60.0
#: Seconds between the begins of two measurements, at least.
_MEASURE_EVERY_S = 1.0
#: Seconds for which the driver's samples of a process count as its use now.
_RECENT_S = 5.0
#: Seconds to wait for the driver when a job is sampled.
_PATIENCE_S = 1.0


def find() -> list[Device]:
    """The GPUs of this machine by their numbers, in the order of their places on the bus; none without a driver."""
    devices = []
    with _nvml() as nvml:
        for number in range(_ask(nvml.nvmlDeviceGetCount) or 0 if nvml else 0):
            # A GPU that has fallen off the bus keeps its number, and is left out.
            handle = _ask(nvml.nvmlDeviceGetHandleByIndex, number)
            uuid = _text(_ask(nvml.nvmlDeviceGetUUID, handle)) if handle else ""
            if uuid:
                memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
                name = _text(_ask(nvml.nvmlDeviceGetName, handle))
                devices.append(Device(str(number), name, int(memory.total) if memory else 0, uuid))
    return devices


def use(ids: Sequence[str]) -> dict[str, Use]:
    """How busy these devices are now, without those of which the driver says nothing. Blocks on a slow driver."""
    measured = {}
    with _nvml() as nvml:
        for device_id in ids if nvml else ():
            handle = _handle(nvml, device_id)
            rates = _ask(nvml.nvmlDeviceGetUtilizationRates, handle) if handle else None
            memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle) if handle else None
            if rates or memory:
                measured[device_id] = Use(
                    int(rates.gpu) if rates else None,
                    int(memory.used) if memory else None,
                    int(memory.total) if memory else None,
                )
    return measured


def use_by_process(ids: Sequence[str]) -> dict[str, DeviceUse]:
    """How busy these devices are now, and by which processes. Blocks on a slow driver."""
    measured = {}
    with _nvml() as nvml:
        for device_id in ids if nvml else ():
            handle = _handle(nvml, device_id)
            if handle is None:
                continue
            rates, memory = _ask(nvml.nvmlDeviceGetUtilizationRates, handle), _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
            since_us = int(1e6 * (time.time() - _RECENT_S))
            busy = _ask(nvml.nvmlDeviceGetProcessUtilization, handle, since_us) or ()
            holders = _ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
            # The newest of several samples of a process comes last.
            measured[device_id] = DeviceUse(
                busy=rates.gpu / 100 if rates else None,
                memory=int(memory.used) if memory else None,
                busy_by={
                    **{int(each.pid): 0.0 for each in holders},
                    **{int(each.pid): each.smUtil / 100 for each in sorted(busy, key=lambda each: int(each.timeStamp))},
                },
                memory_by={int(each.pid): int(each.usedGpuMemory) for each in holders if each.usedGpuMemory},
            )
    return measured


class DeviceMeter:
    """Says how busy devices are, and by which processes; a driver that hangs is waited for a moment only."""

    def __init__(self, *, measure: Callable[[Sequence[str]], Mapping[str, DeviceUse]] = use_by_process) -> None:
        self._measure = measure
        self._thread: threading.Thread | None = None
        self._measured: Mapping[str, DeviceUse] = {}

    def __call__(self, ids: Sequence[str]) -> Mapping[str, DeviceUse]:
        """The use of these devices now; nothing where the driver does not answer in time."""
        if self._thread is not None and self._thread.is_alive():
            return {}
        self._measured = {}
        self._thread = threading.Thread(target=self._turn, args=(ids,), name="launch-gpus", daemon=True)
        self._thread.start()
        self._thread.join(_PATIENCE_S)
        return {} if self._thread.is_alive() else self._measured

    def _turn(self, ids: Sequence[str]) -> None:
        self._measured = self._measure(ids)


class Meter:
    """The latest measurement, taken by a thread: a driver that hangs must not hold up a heartbeat."""

    def __init__(self, ids: Sequence[str], *, measure: Callable[[Sequence[str]], Mapping[str, Use]] = use) -> None:
        self._ids = tuple(ids)
        self._measure = measure
        self._lock = threading.Lock()
        self._latest: Mapping[str, Use] = {}
        self._measured_at = -_STALE_S
        self._began_at = -_MEASURE_EVERY_S
        self._is_measuring = False

    def __call__(self) -> Mapping[str, Use]:
        """The last measurement, if it is not too old; begins the next one."""
        now = time.monotonic()
        with self._lock:
            if not self._is_measuring and now - self._began_at >= _MEASURE_EVERY_S:
                self._is_measuring, self._began_at = True, now
                threading.Thread(target=self._turn, name="launch-gpus", daemon=True).start()
            return self._latest if now - self._measured_at < _STALE_S else {}

    def _turn(self) -> None:
        measured: Mapping[str, Use] = {}
        try:
            measured = self._measure(self._ids)
        finally:
            with self._lock:
                self._latest, self._measured_at = measured, time.monotonic()
                self._is_measuring = False


def capacity_from_options(
    gpus: str | None,
    cpus: str | float | None,
    memory: str | int | None,
    *,
    env: Mapping[str, str],
    share: int = 1,
) -> Capacity:
    """The capacity by `--gpus`, `--cpus` and `--memory`; None is all that the machine has. Raises InputError."""
    word = "auto" if gpus is None else gpus
    found = [] if word.strip() in ("none", "0") else find()
    devices = parse_gpus(word, visible=env.get("CUDA_VISIBLE_DEVICES"), found=found)
    if devices and not found:
        log.warning("gpus.on_trust %s: no driver tells which there are", ",".join(device.id for device in devices))
    return Capacity(
        devices,
        cpus=_cores() if cpus is None else _checked_cpus(cpus),
        memory=_all_memory() if memory is None else _checked_memory(memory),
        share=share,
        use=Meter([device.id for device in devices]) if found and devices else None,
    )


def _checked_cpus(cpus: str | float) -> float:
    try:
        return check_cpus("--cpus", float(cpus))
    except ValueError:
        raise InputError(f"--cpus must be a number of cores such as 8 or 0.5, not {cpus!r}") from None


def _checked_memory(memory: str | int) -> int:
    size = parse_size(memory, what="--memory")
    if size < 1:
        raise InputError("--memory must be more than 0; write it as 512M or 64G")
    return size


def _cores() -> float:
    return float(len(os.sched_getaffinity(0)))


def _all_memory() -> int:
    """Bytes of memory of the machine, or of the smallest control group around this process."""
    total = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) << 10
    return min([total, *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, name = Path("/sys/fs/cgroup"), "memory.max"
            elif "memory" in controllers.split(","):
                root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            else:
                continue
            # In a container the path may be the host's, of which only the root is there.
            for folder in (relative := Path(path.lstrip("/")), *relative.parents):
                with contextlib.suppress(OSError, ValueError):
                    yield int((root / folder / name).read_text())


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """NVML for a while; None without a driver that answers."""
    if not _has_library():
        yield None
        return
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _handle(nvml: Any, device_id: str) -> Any:
    """The driver's handle of a device, by its number or its UUID; None where it has none."""
    if device_id.isdigit():
        return _ask(nvml.nvmlDeviceGetHandleByIndex, int(device_id))
    return _ask(nvml.nvmlDeviceGetHandleByUUID, device_id)


def _has_library() -> bool:
    """Whether `pynvml` would find its library: without it the import is left out, 10 ms of each worker's start."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer; None where it has none: one silent device must not hide the others."""
    import pynvml

    try:
        return question(*arguments)
    except (pynvml.NVMLError, OSError, UnicodeDecodeError):
        return None


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
