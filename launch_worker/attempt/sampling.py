"""Samples what running jobs use, in one thread for all attempts of a worker, within a bound of CPU.

A brief job is never looked at: what it used is told at its end by whoever reaps it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from launch_worker.attempt.attempt import Attempt
from launch_worker.model.needs import parse_needs
from launch_worker.model.run import Record
from launch_worker.model.usage import NO_USAGE, KeptUsage, Recorder, Used
from launch_worker.runners.job import Look
from launch_worker.runners.process.tree_usage import TreeUsage

log = logging.getLogger("launch_worker.usage")

#: Part of a core that the looks at one running job may take.
_COST = 0.002
#: Looks from one measuring of an attempt's folder to the next.
_DISK_LOOKS = 12
#: Files and folders in an attempt's folder, beyond which its size is not known.
_MAX_FILES = 20_000


@dataclass(frozen=True)
class DeviceUse:
    """How busy a device is, and by which processes, as its driver says; None is "the driver does not say"."""

    #: Busy share of the device, 0 to 1.
    busy: float | None = None
    #: Bytes of its memory in use.
    memory: int | None = None
    #: Busy share by pid; and bytes of its memory by pid.
    busy_by: Mapping[int, float] = field(default_factory=dict)
    memory_by: Mapping[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Watched:
    attempt: Attempt
    recorder: Recorder
    #: Monotonic time of the next look.
    due_s: float
    looks: int = 0
    is_asked: bool = False


class UsageSampler:
    """Looks at each watched attempt every `every_s` seconds at first, and seldomer when its samples are folded.

    `devices` says how busy these devices are, and must not block for long. `answer` gets what an attempt has used by
    now, for those who have asked. Thread-safe.
    """

    def __init__(
        self,
        *,
        every_s: float,
        devices: Callable[[Sequence[str]], Mapping[str, DeviceUse]] = lambda _: {},
        answer: Callable[[Record, KeptUsage], None] = lambda *_: None,
        cost: float = _COST,
    ) -> None:
        """`cost`: part of a core that the looks at one running job may take."""
        self._every_s = every_s
        self._devices = devices
        self._answer = answer
        self._cost = cost
        self._trees = TreeUsage()
        self._changed = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._thread: threading.Thread | None = None
        #: Monotonic time until which the thread sleeps, unless it is notified.
        self._wakes_s = 0.0
        #: Monotonic time before which no look is made, so that the looks stay within their bound.
        self._not_before_s = 0.0
        self._is_closing = False

    def watch(self, attempt: Attempt) -> None:
        """Look at an attempt's job from now on. Never raises."""
        if attempt.begun_s is None or self._every_s <= 0:
            return
        at_s = time.monotonic() - attempt.begun_s
        recorder = attempt.folder.read_usage() if attempt.is_adopted else None
        if recorder is None:
            # The samples of another worker are lost, as with its disk.
            is_late = attempt.is_adopted and at_s > 2 * self._every_s
            recorder = Recorder(every_s=self._every_s, since_s=at_s if is_late else None)
        watched = _Watched(attempt, recorder, self._tick_after(attempt.begun_s + self._every_s / 2))
        with self._changed:
            if self._is_closing:
                return
            self._watched[attempt.key] = watched
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="launch-usage", daemon=True)
                self._thread.start()
            # The common times of looks are known: a job that lasts a moment wakes nobody.
            if watched.due_s < self._wakes_s:
                self._changed.notify_all()

    def ask(self, attempt: Attempt) -> None:
        """Have what the attempt has used by now told to `answer`, soon."""
        with self._changed:
            watched = self._watched.get(attempt.key)
            if watched is not None:
                watched.is_asked = True
                self._changed.notify_all()

    def usage(self, attempt: Attempt) -> KeptUsage:
        """What an attempt has used by now, or in all when its job is gone."""
        if attempt.job is None or attempt.begun_s is None:
            return NO_USAGE
        wall_s = time.monotonic() - attempt.begun_s
        with self._changed:
            watched = self._watched.get(attempt.key)
            recorder = Recorder(every_s=1.0) if watched is None else watched.recorder
            recorder.note_end(attempt.job.used)
            return recorder.kept(wall_s, parse_needs(attempt.record.needs))

    def forget(self, attempt: Attempt) -> None:
        """Look at the attempt no more; its samples stay in its folder, for the next worker."""
        with self._changed:
            self._watched.pop(attempt.key, None)

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._watched.clear()
            self._changed.notify_all()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _tick_after(self, instant_s: float) -> float:
        """The next common time of looks: one look at the process table serves all jobs."""
        return math.ceil(instant_s / self._every_s) * self._every_s

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._is_closing:
                    return
                due = self._due()
                if not due:
                    pause_s = self._pause_s()
                    self._wakes_s = math.inf if pause_s is None else time.monotonic() + pause_s
                    self._changed.wait(pause_s)
                    continue
            begun_s = time.thread_time()
            try:
                self._look(due)
            except Exception:
                log.exception("usage.not_sampled")
            took_s = time.thread_time() - begun_s
            self._not_before_s = time.monotonic() + took_s / (self._cost * max(1, len(self._watched)))

    def _due(self) -> list[_Watched]:
        now = time.monotonic()
        return [
            watched
            for watched in self._watched.values()
            if watched.is_asked or (watched.due_s <= now and self._not_before_s <= now)
        ]

    def _pause_s(self) -> float | None:
        due_s = min((watched.due_s for watched in self._watched.values()), default=None)
        return None if due_s is None else max(0.001, max(due_s, self._not_before_s) - time.monotonic())

    def _look(self, due: Sequence[_Watched]) -> None:
        trees = self._trees.look() if any(not each.attempt.folder.is_container for each in due) else {}
        held = sorted({device for watched in due for device in watched.attempt.record.gpus})
        devices = self._devices(held) if held else {}
        for watched in due:
            asked, watched.is_asked = watched.is_asked, False
            watched.looks += 1
            watched.due_s = self._tick_after(time.monotonic() + watched.recorder.every_s / 2)
            measured = self._measure(watched, trees, devices)
            if measured is not None:
                self._note(watched, measured)
            if asked:
                kept = self.usage(watched.attempt)
                try:
                    self._answer(watched.attempt.record, kept)
                except Exception as error:  # noqa: BLE001 (who asked gets no answer, and asks again)
                    log.debug("usage.not_told run=%s: %s", watched.attempt.record.id, error)

    def _measure(self, watched: _Watched, trees: Mapping[int, Look], devices: Mapping[str, DeviceUse]) -> Used | None:
        attempt = watched.attempt
        measured = None if attempt.job is None else attempt.job.measure(trees)
        if measured is None:
            return None
        used = measured.used
        if attempt.record.gpus:
            used = self._with_devices(used, attempt, measured.pids, devices)
        if watched.looks % _DISK_LOOKS == 1:
            used = replace(used, disk_bytes=bytes_in(attempt.folder.root))
        return used

    def _with_devices(
        self, used: Used, attempt: Attempt, pids: frozenset[int], devices: Mapping[str, DeviceUse]
    ) -> Used:
        with self._changed:
            others = [each.attempt.record.gpus for each in self._watched.values() if each.attempt is not attempt]
        busy, memory = [], []
        for device in attempt.record.gpus:
            use = devices.get(device, DeviceUse())
            is_shared = any(device in gpus for gpus in others)
            busy.append(_share(use.busy, use.busy_by, pids, is_shared=is_shared))
            memory.append(_share(use.memory, use.memory_by, pids, is_shared=is_shared))
        return replace(
            used,
            gpus=None if None in busy else sum(share for share in busy if share is not None),
            gpu_memory=None if None in memory else int(sum(share for share in memory if share is not None)),
        )

    def _note(self, watched: _Watched, used: Used) -> None:
        attempt = watched.attempt
        with self._changed:
            if self._watched.get(attempt.key) is not watched:
                return
            watched.recorder.note(time.monotonic() - (attempt.begun_s or 0.0), used)
            # A full disk costs what a worker that is killed could have left to the next one.
            with contextlib.suppress(OSError):
                attempt.folder.keep_usage(watched.recorder)


def _share(whole: float | None, parts: Mapping[int, float], pids: frozenset[int], *, is_shared: bool) -> float | None:
    """What these processes have of a device; all of it for an attempt that has it alone."""
    if not is_shared:
        return whole
    if not (pids & parts.keys() or any(os.path.exists(f"/proc/{pid}") for pid in parts)):
        return None  # a driver that names no process, or numbers them otherwise than they are numbered here
    return sum(share for pid, share in parts.items() if pid in pids)


def bytes_in(folder: str) -> int | None:
    """The bytes on disk of a folder with all that is in it; None for a very large or a hidden one."""
    total, files, ahead = 0, 0, [folder]
    while ahead:
        try:
            with os.scandir(ahead.pop()) as entries:
                for entry in entries:
                    files += 1
                    if files > _MAX_FILES:
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        ahead.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue  # the job deletes as well
        except OSError:
            return None
    return total
