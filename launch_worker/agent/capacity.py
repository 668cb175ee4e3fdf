"""Counts what a worker has for runs (devices, cores, memory), and which attempt holds how much of it."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_GPUS

_NUMBER = re.compile(r"[0-9]{1,4}")
_DEVICE = re.compile(r"[0-9]{1,4}|(GPU|MIG)-[0-9A-Za-z/-]{1,80}")


@dataclass(frozen=True)
class Device:
    """A GPU. `id` is its number or its UUID, as in CUDA_VISIBLE_DEVICES; `memory` is bytes, 0 where not known."""

    id: str
    name: str = ""
    memory: int = 0
    uuid: str = ""


@dataclass(frozen=True)
class Use:
    """How busy a device is, as its driver says; None is "the driver does not say"."""

    percent: int | None = None
    memory_used: int | None = None
    memory_total: int | None = None


@dataclass(frozen=True)
class Free:
    """An amount of what a worker has."""

    devices: list[str]
    millicores: int
    memory: int


@dataclass(frozen=True)
class _Hold:
    devices: frozenset[str]
    millicores: int
    memory: int
    is_scheduler: bool = False


class Capacity:
    """What a worker offers, and what each of its attempts holds. Thread-safe.

    It counts and does not decide: an adopted attempt holds what it has, even beyond the total. At most `share` attempts
    get the same device. `use` says how busy devices are, and must not block.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        cpus: float,
        memory: int,
        share: int = 1,
        max_schedulers: int = 1,
        use: Callable[[], Mapping[str, Use]] | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self._share = share
        #: Number of schedulers at once, which take no slot.
        self.max_schedulers = max_schedulers
        self._use = use or dict
        self._held: dict[str, _Hold] = {}
        self._lock = threading.Lock()
        self.total = Free([device.id for device in self.devices], math.floor(1000 * cpus), memory)

    def free(self) -> Free:
        """What one more run can have now; each free device once, devices with the fewest runs first."""
        with self._lock:
            holds = list(self._held.values())
        runs = {device: sum(device in hold.devices for hold in holds) for device in self.total.devices}
        return Free(
            sorted((device for device in runs if runs[device] < self._share), key=runs.__getitem__),
            max(0, self.total.millicores - sum(hold.millicores for hold in holds)),
            max(0, self.total.memory - sum(hold.memory for hold in holds)),
        )

    @property
    def free_schedulers(self) -> int:
        """The number of schedulers that can still be taken."""
        with self._lock:
            return max(0, self.max_schedulers - sum(hold.is_scheduler for hold in self._held.values()))

    def hold(
        self, key: str, devices: Sequence[str], millicores: int, memory: int, *, is_scheduler: bool = False
    ) -> None:
        """Give the attempt these amounts, in place of what it had."""
        with self._lock:
            self._held[key] = _Hold(frozenset(devices), millicores, memory, is_scheduler)

    def release(self, key: str) -> None:
        """Take everything from the attempt; a second call changes nothing."""
        with self._lock:
            self._held.pop(key, None)

    @property
    def held_devices(self) -> frozenset[str]:
        """The ids of the devices that at least one attempt holds."""
        with self._lock:
            return frozenset[str]().union(*(hold.devices for hold in self._held.values()))

    def describe(self) -> list[dict[str, Any]]:
        """The devices for people: which they are, the ids of the runs that hold each, and how busy each is."""
        with self._lock:
            held = dict(self._held)
        use = self._use()
        return [
            {
                "id": device.id,
                "name": device.name,
                "memory": device.memory,
                # A key is RUN.ATTEMPT.
                "runs": sorted({key.partition(".")[0] for key, hold in held.items() if device.id in hold.devices}),
                "use": asdict(use[device.id]) if device.id in use else None,
            }
            for device in self.devices
        ]


def parse_gpus(text: str, *, visible: str | None, found: Sequence[Device]) -> list[Device]:
    """The devices that `--gpus auto|N|0,1,3|none` offers; InputError for those that are not there.

    `found` are all of this machine, `visible` is the worker's own CUDA_VISIBLE_DEVICES, which bounds them. Where none
    were found, numbers are believed.
    """
    word = text.strip()
    if word == "none":
        return []
    offered = list(found) if visible is None else _visible(visible, found)
    if word == "auto":
        return offered
    if _NUMBER.fullmatch(word):
        return _first(int(word), offered, found=found)
    return _named(word, offered, found=found)


def _first(count: int, offered: list[Device], *, found: Sequence[Device]) -> list[Device]:
    if count > MAX_GPUS:
        raise InputError(f"--gpus {count} is too many; a worker can offer at most {MAX_GPUS} GPUs")
    if not found:
        return [Device(str(number)) for number in range(count)]
    if count > len(offered):
        hidden = f", and CUDA_VISIBLE_DEVICES leaves {len(offered)} of them" if len(offered) < len(found) else ""
        raise InputError(
            f"--gpus {count} is more than this machine has: the driver knows of {len(found)}{hidden}; use --gpus auto"
        )
    return offered[:count]


def _named(text: str, offered: list[Device], *, found: Sequence[Device]) -> list[Device]:
    # With a comma at its end, one number is a list too.
    ids = [word.strip() for word in text.removesuffix(",").split(",")]
    if not all(_DEVICE.fullmatch(device_id) for device_id in ids):
        raise InputError(f"--gpus {text[:60]!r} is not auto, none, a number of GPUs, or a list of them such as 0,1,3")
    devices: list[Device] = []
    for device_id in ids:
        device = _by_id(device_id, offered) if found else Device(_plain(device_id))
        if device is None:
            there = ", ".join(other.id for other in offered) or "none"
            raise InputError(f"--gpus names GPU {device_id}, which this worker does not see; it sees: {there}")
        if any(_is_same(device, other) for other in devices):
            raise InputError(f"--gpus names GPU {device_id} twice; name each GPU once")
        devices.append(device)
    return devices


def _visible(text: str, found: Sequence[Device]) -> list[Device]:
    """CUDA's reading: what follows the first entry that names no device is not seen; one named twice hides all."""
    devices: list[Device] = []
    for entry in text.split(","):
        device = _by_cuda_name(entry.strip(), found)
        if device is None:
            break
        if any(_is_same(device, other) for other in devices):
            return []
        devices.append(device)
    return devices


def _by_cuda_name(entry: str, found: Sequence[Device]) -> Device | None:
    if entry.startswith("GPU-"):
        return _by_id(entry, found)
    if entry.startswith("MIG-") and _DEVICE.fullmatch(entry) and found:
        # A slice of a GPU; the driver was asked for whole GPUs.
        return Device(entry, uuid=entry)
    # As strtoul: "1 (the fast one)" is 1.
    number = re.match(r"\+?([0-9]+)", entry)
    return _by_id(_plain(number[1]), found) if number else None


def _by_id(device_id: str, devices: Sequence[Device]) -> Device | None:
    """The one device of this number or this beginning of a UUID, under the name that it was asked for by."""
    plain = _plain(device_id)
    for device in devices:
        if device.id == plain:
            return device
    fits = [device for device in devices if device.uuid.startswith(device_id)] if not device_id.isdigit() else []
    if len(fits) != 1 or len(device_id) <= len("GPU-"):
        return None
    return Device(fits[0].uuid, fits[0].name, fits[0].memory, fits[0].uuid)


def _is_same(device: Device, other: Device) -> bool:
    return device.id == other.id or (device.uuid != "" and device.uuid == other.uuid)


def _plain(device_id: str) -> str:
    """`01` is `1`."""
    return str(int(device_id)) if device_id.isdigit() else device_id
