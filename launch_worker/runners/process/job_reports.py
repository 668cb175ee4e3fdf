"""Reports jobs to the guard's worker, and moves their output, which must be in its file before their end is reported.

Standard library only.
"""

from __future__ import annotations

import select
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.runners.process import tree
from launch_worker.runners.process.failsafe import Failsafe
from launch_worker.runners.process.guarded_job import GuardedJob
from launch_worker.runners.process.poller import Poller
from launch_worker.runners.process.tree import ProcessId
from launch_worker.runners.process.worker_link import WorkerLink

#: Seconds from `started` until disk is reserved for a job's output; a disk with plenty of room is not filled before.
_ROOM_AFTER_S = 1.0
#: Number of processes named in one `unendable`.
_NAMED = 5


class JobOutputs:
    """Moves the output of all jobs from their pipes into their files."""

    def __init__(self, poller: Poller, failsafe: Failsafe) -> None:
        self._poller = poller
        self._failsafe = failsafe
        #: Jobs by their pipes, while their output is waited for.
        self._jobs: dict[int, GuardedJob] = {}

    def follow(self, job: GuardedJob) -> None:
        """Move the output as it comes. A brief job's is moved at its end only, which saves waking for it."""
        job.move_at = None
        if job.output is not None:
            self._jobs[job.output.pipe] = job
            self._poller.listen(job.output.pipe, select.EPOLLIN)
        self._poller.be_due(job.due())

    def move_ready(self, ready: list[int]) -> None:
        for fd in ready:
            if fd in self._jobs:
                self._failsafe.call("output", self._move, self._jobs[fd])

    def look_at(self, job: GuardedJob, now: float) -> None:
        if job.room_at is not None and now >= job.room_at:
            job.room_at = None
            if job.output is not None:
                job.output.make_room()
        if job.move_at is not None and now >= job.move_at:
            self.follow(job)

    def finish(self, job: GuardedJob) -> dict[str, Any]:
        """Move the rest of a job that is gone; the facts about it that its worker gets."""
        if job.output is None:
            return {}
        self._unfollow(job)
        self._failsafe.call("output", job.output.finish)
        return {"disk_full": True} if job.output.disk_was_full else {}

    def _move(self, job: GuardedJob) -> None:
        assert job.output is not None
        pause_s = job.output.move()
        if pause_s == 0:
            return
        self._unfollow(job)
        if pause_s is not None:
            job.move_at = boot_time_s() + pause_s
            self._poller.be_due(job.move_at)

    def _unfollow(self, job: GuardedJob) -> None:
        job.move_at = None
        if job.output is not None and self._jobs.pop(job.output.pipe, None) is not None:
            self._poller.listen(job.output.pipe, 0)


class JobReports:
    """Sends each event of a job once."""

    def __init__(self, worker: WorkerLink, outputs: JobOutputs) -> None:
        self._worker = worker
        self._outputs = outputs

    def started(self, job: GuardedJob) -> None:
        """The job is no brief one."""
        job.report_start_at = None
        self._worker.answer(job.channel, "started", job.key, pid=job.pid, start=job.main.start)
        job.room_at = boot_time_s() + _ROOM_AFTER_S
        self._outputs.follow(job)

    def ended(self, job: GuardedJob) -> None:
        """A brief job has ended, and is gone."""
        facts = self._exit_of(job)
        self._worker.answer(job.channel, "ended", job.key, pid=job.pid, **facts, **self._outputs.finish(job))

    def exited(self, job: GuardedJob) -> None:
        if job.is_exit_reported:
            return
        job.is_exit_reported = True
        if job.report_start_at is not None:
            self.started(job)
        self._worker.tell("exited", job.key, **self._exit_of(job))

    def gone(self, job: GuardedJob) -> None:
        self._worker.tell("gone", job.key, **_used_by(job), **self._outputs.finish(job))

    def unendable(self, job: GuardedJob, living: list[ProcessId]) -> None:
        """Name the processes that cannot be ended, so that people learn why the job stays."""
        stays = job.foreign.intersection(living)
        if not stays <= job.foreign_reported:
            job.foreign_reported = stays
            named = [[process.pid, tree.name(process.pid)] for process in sorted(stays)]
            self._worker.tell("unendable", job.key, processes=named[:_NAMED])

    @staticmethod
    def _exit_of(job: GuardedJob) -> dict[str, Any]:
        facts = {"status": job.status, "stopped_by": job.ended_by, "kept": job.is_kept, "oom": job.is_out_of_memory}
        return {**facts, **_used_by(job)}


def _used_by(job: GuardedJob) -> dict[str, Any]:
    return {} if job.used is None else {"used": job.used}
