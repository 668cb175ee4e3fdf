"""What was done and what was seen: the harness writes it, the checks read it. Times are seconds since boot."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch_worker.clock import boot_time_s

#: For an interval that is not over.
LATER = float("inf")


def server_to_boot_s() -> float:
    """What to add to Redis's time (this machine's wall clock) to get seconds since boot."""
    return boot_time_s() - time.time()


@dataclass
class Span:
    """An interval of time; open until `until` is set."""

    since: float
    until: float = LATER

    def meets(self, since: float, until: float) -> bool:
        return self.since <= until and since <= self.until


@dataclass
class Life:
    """One worker process."""

    slot: str
    pid: int
    since: float
    until: float = LATER
    killed_at: float | None = None
    termed_at: list[float] = field(default_factory=list)
    #: When it was told to leave its jobs to the next worker of its slot.
    upgraded_at: float | None = None
    #: When it was told to shut down by `celery control shutdown`.
    shutdown_at: float | None = None
    #: It was started with signals blocked.
    is_odd: bool = False
    stopped: list[Span] = field(default_factory=list)
    guard_killed_at: list[float] = field(default_factory=list)
    status: int | None = None
    log_path: str = ""

    @property
    def is_leaving(self) -> bool:
        """It was told to end, in one way or another."""
        return bool(self.termed_at) or self.upgraded_at is not None or self.shutdown_at is not None

    def able_s(self, since: float, until: float) -> float:
        """For how long between the two times it was alive and not frozen."""
        end = min(until, self.until)
        frozen = sum(max(0.0, min(end, span.until) - max(since, span.since)) for span in self.stopped)
        return max(0.0, end - max(since, self.since)) - frozen


@dataclass
class Evidence:
    """Everything the checks need besides Redis and the stamps."""

    lives: list[Life] = field(default_factory=list)
    redis_away: list[Span] = field(default_factory=list)
    #: Unix times at which Redis was killed: its last writes, more than a second of them on a slow disk, are lost.
    redis_kills: list[float] = field(default_factory=list)
    cuts: dict[str, list[Span]] = field(default_factory=dict)
    disk_full: list[Span] = field(default_factory=list)
    #: The container engine was frozen or dead, for everybody; its answers were thrown away, by worker.
    engine_away: list[Span] = field(default_factory=list)
    engine_mute: dict[str, list[Span]] = field(default_factory=dict)
    engine_killed_at: list[float] = field(default_factory=list)
    #: Runs whose records the harness damaged while they were Pending, and what it wrote.
    damaged: dict[str, str] = field(default_factory=dict)
    #: How many elements that are no runs it put into queues.
    hostile: int = 0
    watchers_ended: Counter[str] = field(default_factory=Counter)
    #: (run, attempt) -> signals that the harness sent to the job's main process.
    job_signals: dict[tuple[str, int], list[tuple[str, float]]] = field(default_factory=dict)
    #: Runs that the harness asked to be preempted, and when.
    preempted: dict[str, list[float]] = field(default_factory=dict)
    #: Items whose copies were put into a queue again, or that were taken out of it.
    doubled: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    #: Things that are wrong whatever the runs say.
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def life(self, pid: int, at: float) -> Life | None:
        """The worker process with this pid at this time."""
        return next((w for w in self.lives if w.pid == pid and w.since - 1 <= at <= w.until + 1), None)


@dataclass
class Cancel:
    """A request to stop a run, and what it was answered (`''` when no answer came)."""

    asked_at: float
    at: float | None = None
    answer: str = ""


@dataclass
class Group:
    """Runs that were submitted as one, and the run that waits for the end of all of them."""

    id: str
    runs: list[str]
    then: str
    #: Failed runs after which the rest is not started; 0 for no such number.
    max_fails: int = 0


@dataclass
class Journal:
    """What the producer and the people wrote down."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    cancels: dict[str, list[Cancel]] = field(default_factory=dict)
    #: Runs of people by the marks in their commands.
    submitted: dict[str, str] = field(default_factory=dict)
    #: Runs that take outputs of another one, and which.
    takes: dict[str, str] = field(default_factory=dict)
    #: Number of answers by person, what was asked for, run or group, and whether it was done.
    acts: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    #: Answers that must not be.
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, *paths: Path) -> Journal:
        journal = cls()
        for path in paths:
            for line in path.read_text().splitlines():
                journal._add(json.loads(line))
        return journal

    def _add(self, fact: dict[str, Any]) -> None:
        if "person" in fact and fact["at"] is not None:
            what = next(word for word in ("submit", "cancel", "retry") if word in fact)
            self.acts[fact["person"], what, fact[what], not fact["answer"].startswith("refused")] += 1
        if "run" in fact:
            self.acknowledged[fact["run"]] = fact["at"]
            if "mark" in fact:
                self.submitted[fact["mark"]] = fact["run"]
            if "takes" in fact:
                self.takes[fact["run"]] = fact["takes"]
        elif "group" in fact:
            self.groups.append(Group(fact["group"], fact["runs"], fact["then"], fact.get("max_fails", 0)))
        elif "cancel" in fact:
            asked = Cancel(fact["asked_at"], fact["at"], fact["answer"])
            self.cancels.setdefault(fact["cancel"], []).append(asked)
        elif "wrong" in fact:
            self.wrong.append(fact["wrong"])


@dataclass
class Stamps:
    """The ground truth about one attempt: what its job wrote. Times are seconds since boot."""

    starts: list[float] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    worker_pid: int = 0
    code: int | None = None
    ended_at: float | None = None
    #: When the main process last wrote, and when any process of the job did.
    last_main: float = 0.0
    first: float = LATER
    last: float = 0.0
    unprinted: bool = False
    devices: tuple[str, ...] = ()
    #: Epochs in the two files of its checkpoint when it began; and the last epoch that its worker has called stored.
    found: tuple[int, int] | None = None
    kept: int = 0
    #: Number of its outputs, once all were there.
    left: int = 0
    #: Attempt (RUN.ATTEMPT) whose outputs it was given, and how many; and the names of those that were otherwise.
    took: tuple[str, int] | None = None
    spoiled: list[str] = field(default_factory=list)
    #: Version of the package in its environment; '' for none that was stamped.
    wheel: str = ""
    #: When it got the signal ahead of its end.
    ahead: list[float] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Stamps:
        stamps = cls()
        main = ""
        for line in path.read_text().splitlines():
            word, ns, pid, *more = line.split()
            at = int(ns) / 1e9
            stamps.first, stamps.last = min(stamps.first, at), max(stamps.last, at)
            stamps.pids.add(int(pid))
            if word == "start":
                stamps.starts.append(at)
                stamps.worker_pid = int(more[1])
                stamps.devices = tuple(device for device in ",".join(more[2:]).split(",") if device.isdigit())
                main = pid
            elif word == "end":
                stamps.code, stamps.ended_at = int(more[0]), at
            elif word == "unprinted":
                stamps.unprinted = True
            elif word == "found":
                stamps.found = (int(more[0]), int(more[1]))
            elif word == "kept":
                stamps.kept = int(more[0])
            elif word == "left":
                stamps.left = int(more[0])
            elif word == "took":
                stamps.took = (more[0], int(more[1]))
            elif word == "spoiled":
                stamps.spoiled.append(more[0])
            elif word == "wheel":
                stamps.wheel = more[0]
            elif word == "ahead":
                stamps.ahead.append(at)
            if pid == main:
                stamps.last_main = at
        return stamps


def read_stamps(folder: Path) -> dict[str, dict[int, Stamps]]:
    """The stamps of every run and attempt."""
    found: dict[str, dict[int, Stamps]] = {}
    for path in folder.iterdir():
        run_id, _, attempt = path.name.rpartition(".")
        found.setdefault(run_id, {})[int(attempt)] = Stamps.read(path)
    return found
