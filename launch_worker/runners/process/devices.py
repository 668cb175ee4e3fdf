"""Finds the device files of NVIDIA's GPUs, so that a job in a sandbox is given those of its own GPUs and no others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

_DRIVER = "/proc/driver/nvidia/gpus"
#: Device files that each program needs that uses a GPU.
_COMMON = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_CAPS = "/dev/nvidia-caps"


def nodes_of(gpus: Sequence[str]) -> list[str]:
    """The device files of these GPUs, by the driver's numbers or by their UUIDs; none for no GPUs."""
    if not gpus:
        return []
    found = [f"/dev/nvidia{minor}" for minor in _minors(gpus)]
    # A part of a GPU (MIG) is opened by files of its own.
    more = [_CAPS] if any(gpu.startswith("MIG-") for gpu in gpus) else []
    return [node for node in (*found, *_COMMON, *more) if os.path.exists(node)]


def _minors(gpus: Sequence[str]) -> Iterator[int]:
    """The numbers of the device files of these GPUs."""
    known = list(_known())
    for number, (uuid, minor) in enumerate(known):
        # Whose part a MIG device is, its name does not say: the files of the GPUs alone open none of them.
        if str(number) in gpus or uuid in gpus or any(gpu.startswith("MIG-") for gpu in gpus):
            yield minor
    if not known:
        yield from (int(gpu) for gpu in gpus if gpu.isdigit())


def _known() -> Iterator[tuple[str, int]]:
    """The UUID and the number of the device file of each GPU, in the driver's order: that of their PCI addresses."""
    try:
        folders = sorted(os.listdir(_DRIVER))
    except OSError:
        return
    for folder in folders:
        try:
            with open(f"{_DRIVER}/{folder}/information", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        uuid = re.search(r"GPU UUID:\s*(\S+)", text)
        minor = re.search(r"Device Minor:\s*(\d+)", text)
        if minor:
            yield uuid[1] if uuid else "", int(minor[1])
