"""Ends jobs for the guard, and notices their ends. Standard library only."""

from __future__ import annotations

import math
import os
import select
import signal

from launch_worker.clock import boot_time_s
from launch_worker.runners.process import oom, reaped, sandboxed, tree
from launch_worker.runners.process.exits import Exit, ExitFile
from launch_worker.runners.process.failsafe import Failsafe
from launch_worker.runners.process.guarded_job import FIRST_PAUSE_S, GuardedJob
from launch_worker.runners.process.job_reports import JobReports
from launch_worker.runners.process.job_table import ROUNDS, JobTable
from launch_worker.runners.process.poller import Poller
from launch_worker.runners.process.tree import ProcessId
from launch_worker.runners.process.worker_link import WorkerLink
from launch_worker.runners.stop_reason import StopReason

#: Seconds of grace, at most, for the rest of a job whose main process ended by itself, and for jobs whose worker died.
AFTERMATH_S = 2.0
#: Seconds that another process has to reap an adopted job whose worker has left.
_REAPED_S = 5.0
#: Seconds until the next attempt to watch an adopted job's main process, for which there was no descriptor.
_WATCH_AGAIN_S = 0.5
#: Seconds between two looks at a job that is being ended, at most; and at one whose last processes cannot be ended.
_PAUSE_S = 0.1
_IN_VAIN_S = 1.0
#: Seconds that the kernel has to take an empty sandbox apart, before it is looked whether something is left in it.
_EMPTIED_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class JobEnds:
    """Signals the processes of jobs that must end, and reports jobs whose processes have ended."""

    def __init__(
        self,
        jobs: JobTable,
        worker: WorkerLink,
        reports: JobReports,
        poller: Poller,
        failsafe: Failsafe,
        *,
        exits: ExitFile | None,
    ) -> None:
        self._jobs = jobs
        self._worker = worker
        self._reports = reports
        self._poller = poller
        self._failsafe = failsafe
        #: Adopted jobs by the descriptors of their main processes.
        self._by_pidfd: dict[int, GuardedJob] = {}
        #: None where the file of the exits cannot be written.
        self._exits = exits

    # -- the end of a main process ---------------------------------------------------------------------------------

    def reap(self) -> None:
        """Reap all children that have ended, and report those that were main processes."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            # Its end is kept and reported before it is reaped: should this guard die in between, the worker finds that
            # the job has run.
            job = self._jobs.by_main.get(ended.si_pid)
            if job is not None:
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                job.note_main_used(reaped.of_unreaped(ended.si_pid))
                self._failsafe.call(f"end of {job.key}", self._on_exit, job, status)
                del self._jobs.by_main[ended.si_pid]
                os.waitpid(ended.si_pid, 0)
                self._jobs.note_reaped(ended.si_pid)
            else:
                self._failsafe.call("an orphan", self._reap_orphan, ended.si_pid)

    def _reap_orphan(self, pid: int) -> None:
        job = self._jobs.owner_of(pid)
        self._jobs.reap_orphan(pid)
        if job is not None and job.is_sandboxed and job.has_exited and self._jobs.has(job):
            # What is left of a sandbox ends with its first process.
            job.look_at = 0.0
            self._conclude(job)

    def watch_adopted(self, job: GuardedJob) -> None:
        """Wait for the exit of a main process that is no child of this guard."""
        try:
            pidfd = os.pidfd_open(job.pid)
        except ProcessLookupError:
            self._on_exit(job, None)
            return
        except OSError:
            # No descriptor is left. That says nothing about the process.
            job.watch_at = boot_time_s() + _WATCH_AGAIN_S
            self._poller.be_due(job.watch_at)
            return
        found = tree.look_up(job.pid)
        if found is None or found.id != job.main:
            os.close(pidfd)  # the pid may be another process's
            self._on_exit(job, None)
            return
        job.pidfd = pidfd
        self._by_pidfd[pidfd] = job
        self._poller.listen(pidfd, select.EPOLLIN)

    def note_exits(self, ready: list[int]) -> None:
        for fd in ready:
            if fd in self._by_pidfd:
                job = self._by_pidfd[fd]
                self._failsafe.call(f"end of {job.key}", self._on_exit, job, None)

    def _on_exit(self, job: GuardedJob, status: int | None) -> None:
        """`status` is None for an adopted job, which was not this process's child."""
        if job.pidfd is not None:
            status = tree.exit_status(job.pidfd)
            if status is None and self._awaits_reaping(job, job.pidfd):
                return
            self._poller.listen(job.pidfd, 0)
            del self._by_pidfd[job.pidfd]
            os.close(job.pidfd)
            job.pidfd = job.reaped_by = None
        said = status
        if job.is_sandboxed and status is not None:
            status = sandboxed.status_of(status)
        job.has_exited = True
        job.status = status
        if job.stops_main and job.kill_at is not None:
            # From now on the rest is what any job leaves behind that ends.
            job.kill_at = min(job.kill_at, boot_time_s() + min(job.grace_s, AFTERMATH_S))
            job.ends_since = None
        # Should anything from here on fail, the rest follows at the next look.
        job.look_at = boot_time_s()
        self._poller.be_due(job.look_at)
        if said is not None and not job.ended_by:
            # In a group of its own a child may have been killed, for want of which the job has failed. Without one, by
            # the exit code of a sandbox's monitor, the killed process is another one, as under a shell.
            is_in_group = said != 0 and job.group is not None and job.group.oom_kills() > 0
            job.is_out_of_memory = is_in_group or oom.has_ended(job.pid, said, kills_before=job.oom_kills)
        elif said is None and job.group is not None:
            # Its worker, which learns the exit code, cannot ask the group: that is deleted by then.
            job.is_out_of_memory = job.group.oom_kills() > 0
        if status is not None and self._exits is not None:
            was_full = job.output is not None and job.output.disk_was_full
            exited = Exit(status, job.ended_by, job.look_at, job.used, was_full, job.is_out_of_memory)
            job.is_kept = self._exits.keep(job.attempt, exited)
        self._conclude(job)

    def _conclude(self, job: GuardedJob) -> None:
        """Report a brief job whose main process has ended in one message if nothing is left of it."""
        if job.report_start_at is not None:
            living = self._jobs.living_of(job)
            if not living:
                self._jobs.remove(job)
                self._reports.ended(job)
                return
            if job.is_sandboxed and job.look_at > 0 and not any(tree.children(each.pid) for each in living):
                # The first process of the sandbox, which has nothing to wait for.
                job.look_at = boot_time_s() + _EMPTIED_S
                self._poller.be_due(job.look_at)
                return
        self.step(job)

    def _awaits_reaping(self, job: GuardedJob, pidfd: int) -> bool:
        """Whether another process must reap an adopted job before its exit status is known, and soon does."""
        found = tree.look_up(job.pid)
        if found is None or found.id != job.main:
            return False
        if found.ppid == self._worker.pid and not self._worker.is_gone:
            return False  # the worker does, once it gets `exited`, and knows the status itself
        if job.reaped_by is None:
            job.reaped_by = boot_time_s() + _REAPED_S
            self._poller.be_due(job.reaped_by)
            self._poller.listen(pidfd, select.EPOLLHUP)
        return boot_time_s() < job.reaped_by

    # -- ending ----------------------------------------------------------------------------------------------------

    def look_at(self, job: GuardedJob, now: float) -> None:
        """Do what is due for the end of a job."""
        if job.watch_at is not None and now >= job.watch_at:
            job.watch_at = None
            self.watch_adopted(job)
        if job.reaped_by is not None and now >= job.reaped_by:
            self._on_exit(job, None)
        # Also a job that is being stopped already, and has a longer grace than its lease.
        if job.lease and now >= job.lease[0] and not job.is_lease_enforced:
            job.is_lease_enforced = True
            self.stop(job, grace_s=max(0.0, job.lease[1] - now), why="lease")
        self.step(job)

    def stop(self, job: GuardedJob, *, grace_s: float, why: StopReason) -> None:
        if job.report_start_at is not None:
            self._reports.started(job)
        if not job.has_exited:
            job.stopped_by = job.stopped_by or why
        kill_at = boot_time_s() + grace_s
        job.kill_at = kill_at if job.kill_at is None else min(kill_at, job.kill_at)
        job.foreign_reported = set()
        job.look_at = 0.0
        job.pause_s = FIRST_PAUSE_S
        self.step(job)

    def step(self, job: GuardedJob) -> None:
        """Look at a job that is being ended, or whose main process has ended, and do the next thing."""
        now = boot_time_s()
        if (job.kill_at is None and not job.has_exited) or now < job.look_at or not self._jobs.has(job):
            return
        if job.has_exited:
            self._reports.exited(job)
        living = self._jobs.living_of(job)
        if job.has_exited and not living:
            self._jobs.remove(job)
            self._reports.gone(job)
            return
        if job.kill_at is None:
            job.kill_at = now + min(job.grace_s, AFTERMATH_S)
        if now >= job.kill_at:
            self._kill(job, living)
        else:
            self._terminate(job, living)
        # A look at all processes, for nothing, should cost next to nothing.
        is_in_vain = bool(living) and job.foreign.issuperset(living)
        job.pause_s = min(2 * job.pause_s, _IN_VAIN_S if is_in_vain else _PAUSE_S)
        self._reports.unendable(job, living)
        job.look_at = now + job.pause_s
        if now < job.kill_at:
            job.look_at = min(job.look_at, job.kill_at)
        self._poller.be_due(job.look_at)

    def _terminate(self, job: GuardedJob, living: list[ProcessId]) -> None:
        """Send the stop signal once to the processes that were there when the end of the job began.

        Processes that begin later have the grace: a job may save its work by starting other programs. Of a job that
        `stops_main`, only the main process gets it while it lives.
        """
        main: ProcessId | None = job.main
        if job.is_sandboxed and not job.has_exited:
            if job.program is None:
                job.program = sandboxed.program_of(job.main)
                if job.program is None:
                    return  # the sandbox is being made; it is looked at again
                # It may have begun after those were listed.
                living = self._jobs.living_of(job)
            main = job.program
            living = [process for process in living if process != job.main]
            self._send(job, job.main, signal.SIGCONT)  # as below
        if job.stops_main and not job.has_exited:
            living = [process for process in living if process == main]
        is_first = job.ends_since is None
        if job.ends_since is None:
            job.ends_since = math.floor(boot_time_s() * _TICKS_PER_S)
        for process in living:
            # A process that ended before the signal reached it ended by itself.
            was_there = is_first or process.start < job.ends_since
            if was_there and process not in job.signalled and self._send(job, process, job.stop_signal):
                job.signalled.add(process)
                # A stopped process would keep the signal pending until its SIGKILL.
                self._send(job, process, signal.SIGCONT)

    def _kill(self, job: GuardedJob, living: list[ProcessId]) -> None:
        for process in living:
            if self._send(job, process, signal.SIGKILL):
                job.signalled.add(process)
        if job.group is not None and job.group.kill():
            job.foreign.clear()
            return
        # The processes that those had just started come to this guard as their parents end, and are killed at once:
        # processes that fork and exit all the time are gone before the next look finds them.
        for _ in range(ROUNDS):
            orphans = self._jobs.orphans_of(job)
            if not orphans or job.foreign.issuperset(orphans):
                break
            for process in orphans:
                self._send(job, process, signal.SIGKILL)

    def _send(self, job: GuardedJob, process: ProcessId, number: int) -> bool:
        """Signal a process; False where it did not get the signal."""
        try:
            is_sent = tree.send(process, number)
        except PermissionError:
            job.foreign.add(process)
            return False
        if is_sent:
            job.foreign.discard(process)
        return is_sent
