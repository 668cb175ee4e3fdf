"""Keeps the guard's jobs, and finds which processes belong to which of them. Standard library only."""

from __future__ import annotations

import os

from launch_worker.runners.process import reaped, tree
from launch_worker.runners.process.control_groups import Group, make_group, remove_soon
from launch_worker.runners.process.guarded_job import GuardedJob
from launch_worker.runners.process.tree import ProcessId

#: Rounds in which processes that fork and exit all the time are looked for.
ROUNDS = 50


class JobTable:
    """Jobs by their keys, main processes and cookies."""

    def __init__(self, worker_pid: int) -> None:
        #: Pid of the worker, which is never a job's process.
        self.worker_pid = worker_pid
        self.by_key: dict[str, GuardedJob] = {}
        #: Jobs by the pids of their main processes, while those are children of this process.
        self.by_main: dict[int, GuardedJob] = {}
        #: Jobs that this guard started, by the cookie that their processes carry.
        self._by_cookie: dict[int, GuardedJob] = {}
        #: Jobs by the pids of orphans, until those are reaped.
        self._owners: dict[int, GuardedJob] = {}
        self._children = tree.Children()
        #: Groups of jobs that are gone, with which the kernel was not done yet.
        self._left_groups: list[Group] = []

    def __len__(self) -> int:
        return len(self.by_key)

    def has(self, job: GuardedJob) -> bool:
        return self.by_key.get(job.key) is job

    def add_started(self, job: GuardedJob) -> None:
        self.by_key[job.key] = self.by_main[job.pid] = self._by_cookie[job.cookie] = job

    def add_adopted(self, job: GuardedJob) -> None:
        self.by_key[job.key] = job

    def remove(self, job: GuardedJob) -> None:
        del self.by_key[job.key]
        if self._by_cookie.get(job.cookie) is job:
            del self._by_cookie[job.cookie]
        if job.group is not None:
            self.remove_group(job.group)

    def make_group(self, attempt: str, limits: dict[str, int]) -> Group | None:
        """Make the control group of an attempt's job; None where this process can make none. Raises OSError."""
        self._left_groups = [group for group in self._left_groups if not group.remove()]
        return make_group(attempt, limits)

    def remove_group(self, group: Group) -> None:
        """Delete the control group of a job that is gone, now or later."""
        if not group.remove():
            self._left_groups.append(group)

    def close(self) -> None:
        """Delete the control groups that are left of jobs that are gone."""
        remove_soon(self._left_groups)

    def note_reaped(self, pid: int) -> None:
        self._owners.pop(pid, None)

    def has_process(self, pid: int) -> bool:
        """Whether a process belongs to a job, or has ended by now.

        One that has hidden descends from this guard all the same.
        """
        cookies = {job.cookie for job in self.by_key.values()}
        found = tree.look_up(pid)
        if found is None:
            return True
        while found is not None and found.id.pid > 1:
            if found.ppid == os.getpid() or tree.cookie_of(found.id.pid) in cookies:
                return True
            found = tree.look_up(found.ppid)
        return False

    def living_of(self, job: GuardedJob) -> list[ProcessId]:
        """The living processes of a job. An empty list for a job that has exited is certain."""
        orphans = self.orphans_of(job) if job.has_exited else None
        grouped = [] if job.group is None else job.group.living()
        if orphans is not None and not orphans and not grouped and not job.is_adopted:
            return []
        living = tree.members(job.main, marked=job.marked, known=job.seen, spare={self.worker_pid})
        living += [process for process in (*(orphans or ()), *grouped) if process not in living]
        job.seen.update(living)
        return living

    def orphans_of(self, job: GuardedJob) -> list[ProcessId] | None:
        """The living processes of a job among the children of its subreaper; None where the kernel does not tell.

        Each process of a job whose main process has ended descends from one of these, which stays a child of its
        subreaper until that reaps it: so an empty list, when dead children count too, proves that the job is gone. A
        look at all processes proves nothing, for one may exit while the look is made, and the process that it has just
        started is not seen.
        """
        return self._orphans_of_worker(job) if job.is_adopted else self._own_orphans(job)

    def _own_orphans(self, job: GuardedJob) -> list[ProcessId] | None:
        for _ in range(ROUNDS):
            pids = self._children.pids()
            if pids is None:
                return None
            orphans = [pid for pid in pids if pid not in self.by_main and self._owner(pid) is job]
            found = [tree.look_up(pid) for pid in orphans if not self.reap_orphan(pid)]
            if found:
                return [each.id for each in found if each is not None]
            if not orphans:
                return []
            # All had ended; the processes that they had started are children of this process by now.
        return [job.main]  # something lives, but no process stays long enough to be named

    def _orphans_of_worker(self, job: GuardedJob) -> list[ProcessId] | None:
        """The orphans of a job that came to the worker when its guard died; dead ones may stay there for a while."""
        number, previous = tree.cookie(job.marked), None
        for _ in range(ROUNDS):
            pids = tree.children(self.worker_pid)
            if pids is None:
                return None
            orphans = {pid for pid in pids if pid != job.pid and tree.cookie_of(pid) == number}
            found = [tree.look_up(pid) for pid in orphans]
            living = [each.id for each in found if each is not None and not each.zombie]
            if living:
                return living
            if orphans == previous or not orphans:
                return []
            previous = orphans
        return [job.main]

    def owner_of(self, pid: int) -> GuardedJob | None:
        """The job of a child of this process that is no main process; None where it is not known."""
        try:
            return self._owner(pid)
        except OSError:
            return None

    def _owner(self, pid: int) -> GuardedJob | None:
        """The job of an orphan that has come to this process, and may have ended."""
        owner = self._owners.get(pid)
        if owner is None:
            owner = self._by_cookie.get(tree.cookie_of(pid)) or self._owner_by_looks(pid)
            if owner is not None:
                self._owners[pid] = owner
        return owner

    def _owner_by_looks(self, pid: int) -> GuardedJob | None:
        """The job of an orphan that has changed its limits, and so has lost the cookie."""
        found = tree.look_up(pid)
        if found is None:
            return None
        entries = tree.environ(pid)
        for job in self.by_key.values():
            is_grouped = job.group is not None and found.id in job.group.living()
            if is_grouped or found.id in job.seen or set(job.marked) <= entries:
                return job
            leader = tree.look_up(job.pid) if found.session == job.pid else None
            # The pid of a main process that has ended may be another's by now, and that one lead a session too.
            if found.session == job.pid and (leader is None or leader.id == job.main):
                return job
        return None

    def reap_orphan(self, pid: int) -> bool:
        """Reap an orphan, for whose job it counts; False while it lives."""
        try:
            owner = self._owner(pid)
        except Exception:  # noqa: BLE001 (whatever it is: one that stays would be found again at once, for ever)
            owner = None
        ended, _, used = os.wait4(pid, os.WNOHANG)
        if ended == 0:
            return False
        self.note_reaped(pid)
        if owner is not None:
            owner.note_orphan_used(reaped.of_rusage(used))
        return True
