"""Defines a job as the guard sees it: a tree of processes, its deadlines, and how far its end has come.

Standard library only.
"""

from __future__ import annotations

import math
import os
import signal

from launch_worker.runners.output import Piped
from launch_worker.runners.process import tree
from launch_worker.runners.process.control_groups import Group
from launch_worker.runners.process.direct_channel import DirectChannelEnd
from launch_worker.runners.process.reaped import Reaped
from launch_worker.runners.process.tree import ProcessId
from launch_worker.runners.stop_reason import StopReason

#: Seconds between the first two looks at a job that is being ended; the pause grows from there.
FIRST_PAUSE_S = 0.01


class GuardedJob:
    """One job's tree, from its start until its last process has ended."""

    def __init__(
        self, key: str, marked: tuple[bytes, ...], grace_s: float, lease: list[float] | None, *, pid: int, folder: str
    ) -> None:
        self.key = key
        #: Entries of the environment by which the job's processes are known.
        self.marked = marked
        self.cookie = tree.cookie(marked)
        #: Pid of the main process.
        self.pid = pid
        self._main: ProcessId | None = None
        #: Folder of the attempt.
        self.folder = folder
        #: Control group of its processes; None for a job that has none of its own.
        self.group: Group | None = None
        #: None where the job prints straight into its file: a guard of an older release started it.
        self.output: Piped | None = None
        #: Boot time at which output is moved again; None while nothing is to be moved.
        self.move_at: float | None = None
        #: Boot time at which disk is reserved for output; None once it was.
        self.room_at: float | None = None
        self.grace_s = grace_s
        #: Number of the signal that asks the job to end, and whether the main process alone gets it while it lives.
        self.stop_signal: int = signal.SIGTERM
        self.stops_main = False
        #: Whether the main process is the monitor of a sandbox; and the program in there, once it was looked for.
        self.is_sandboxed = False
        self.program: ProcessId | None = None
        #: Boot time at which the job counts as brief no more and `started` is sent; None once it was.
        self.report_start_at: float | None = None
        #: Descriptor of the main process of an adopted job, whose exit is seen through it; its parent reaps it.
        self.pidfd: int | None = None
        #: Boot time until which another process may reap an adopted job that has ended without a worker.
        self.reaped_by: float | None = None
        #: Boot time of the next attempt to watch the main process of an adopted job; None unless one has failed.
        self.watch_at: float | None = None
        #: The job was started by a guard that died.
        self.is_adopted = False
        #: The main process has ended.
        self.has_exited = False
        self.is_exit_reported = False
        #: The exit status is in the file of the exits.
        self.is_kept = False
        #: Exit code or minus the signal's number; None while it is not known here.
        self.status: int | None = None
        #: Out-of-memory kills that its worker had counted before its start; None where that is not known.
        self.oom_kills: int | None = None
        #: The kernel ended the main process because there was too little memory.
        self.is_out_of_memory = False
        #: Processes that were found in the tree; one that cleared its environment later is known by this.
        self.seen: set[ProcessId] = set()
        #: Processes that were signalled.
        self.signalled: set[ProcessId] = set()
        #: Processes of another user (a setuid program), which the guard may not signal.
        self.foreign: set[ProcessId] = set()
        #: Processes of another user that were reported.
        self.foreign_reported: set[ProcessId] = set()
        #: Boot time of SIGKILL; None before the end of the job has begun.
        self.kill_at: float | None = None
        #: Clock ticks since boot at which the end of the job began.
        self.ends_since: int | None = None
        #: The guard that died was stopping the job.
        self.was_stopped = False
        #: Boot time of the next look at a job that is being ended.
        self.look_at = 0.0
        self.pause_s = FIRST_PAUSE_S
        #: Direct channel of the thread that ordered the job; None for one that came through the main socket.
        self.channel: DirectChannelEnd | None = None
        #: Boot times of [SIGTERM, SIGKILL]; None for a job that may outlive its lease.
        self.lease = lease
        self.is_lease_enforced = False
        self.stopped_by: StopReason = ""
        #: What its main process has used, once that has ended; None where it is not known.
        self._main_used: Reaped | None = None
        #: What its orphans have used that were reaped here.
        self._orphans_used = Reaped(0.0, 0)

    def note_main_used(self, used: Reaped | None) -> None:
        self._main_used = used

    def note_orphan_used(self, used: Reaped) -> None:
        self._orphans_used += used

    @property
    def used(self) -> Reaped | None:
        """What its ended processes have used by now, with all that these have waited for; None where not known."""
        return None if self._main_used is None else self._main_used + self._orphans_used

    @property
    def main(self) -> ProcessId:
        """The main process; must be read once before that process is reaped."""
        if self._main is None:
            found = tree.look_up(self.pid)
            # A /proc that hides other users' processes does not show one that has changed its user.
            self._main = ProcessId(self.pid, 0) if found is None else found.id
        return self._main

    @main.setter
    def main(self, main: ProcessId) -> None:
        self._main = main

    @property
    def attempt(self) -> str:
        """The name of the attempt's folder."""
        return os.path.basename(self.folder)

    @property
    def ended_by(self) -> StopReason:
        """Why its main process was signalled, or could not be though it should have been; '' for neither."""
        mains = {self.main, self.program or self.main}
        is_signalled = self.was_stopped or not mains.isdisjoint(self.signalled) or not mains.isdisjoint(self.foreign)
        return self.stopped_by if is_signalled else ""

    def due(self) -> float:
        """Boot time of the next look at this job."""
        times = (self.report_start_at, self.watch_at, self.reaped_by, self.move_at, self.room_at)
        due = min((at for at in times if at is not None), default=math.inf)
        if self.lease and not self.is_lease_enforced:
            due = min(due, self.lease[0])
        if self.kill_at is not None or self.has_exited:
            due = min(due, self.look_at)
        return due
