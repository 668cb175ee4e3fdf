"""What long-lived workers and beats have of the machine, looked at every few seconds."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId

EVERY_S = 5.0
#: A parent that lives and is not frozen reaps its children within so many looks.
_ZOMBIE_LOOKS = 3
#: Far above what a worker of a few slots needs (about 40), far below what a leak would come to.
_MAX_FILES = 150
#: A server has up to 40 threads, each with its connections, and one for each of the people and followers.
_MAX_SERVER_FILES = 500
#: Its jobs' and Celery's own; a worker needs about 65 MiB, with Docker's client 80.
_MAX_RSS_MIB = 250
_MAX_THREADS = 80


@dataclass
class Most:
    """The largest figures that a process had."""

    files: int = 0
    rss_mib: int = 0
    threads: int = 0


@dataclass
class Vitals:
    """Figures by process name, and what is wrong with them."""

    most: dict[str, Most] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _zombies: Counter[ProcessId] = field(default_factory=Counter)
    _said: set[tuple[str, str]] = field(default_factory=set)

    def look(self, parents: dict[int, str]) -> None:
        """`parents`: living, running processes that must keep themselves tidy, with their names."""
        zombies: Counter[ProcessId] = Counter()
        for process in tree.table():
            if process.zombie and process.ppid in parents:
                zombies[process.id] = self._zombies[process.id] + 1
                if zombies[process.id] == _ZOMBIE_LOOKS:
                    self._say(parents[process.ppid], f"it does not reap its child {process.id.pid}")
        self._zombies = zombies
        for pid, name in parents.items():
            self._look_at(pid, name)

    def _look_at(self, pid: int, name: str) -> None:
        try:
            files = len(os.listdir(f"/proc/{pid}/fd"))
            told = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            rss_mib, threads = int(told["VmRSS"].split()[0]) >> 10, int(told["Threads"])
        except (OSError, KeyError):
            return  # it is gone
        most = self.most.setdefault(name.partition(" ")[0], Most())
        most.files, most.rss_mib = max(most.files, files), max(most.rss_mib, rss_mib)
        most.threads = max(most.threads, threads)
        for what, found, bound in (
            ("open files", files, _MAX_SERVER_FILES if name.startswith("server") else _MAX_FILES),
            ("MiB of memory", rss_mib, _MAX_RSS_MIB),
            ("threads", threads, _MAX_THREADS),
        ):
            if found > bound:
                self._say(name, f"it has {found} {what}")

    def _say(self, name: str, problem: str) -> None:
        kind = (name, problem.rstrip("0123456789 ").partition(" has ")[0])
        if kind not in self._said:
            self._said.add(kind)
            self.wrong.append(f"{name}: {problem}")

    def line(self) -> str:
        """For the table."""
        return ", ".join(
            f"{name} {most.files} files {most.rss_mib} MiB {most.threads} threads"
            for name, most in sorted(self.most.items())
        )
