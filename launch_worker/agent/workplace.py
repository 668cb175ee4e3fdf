"""Opens a worker's place on its machine: its folder, its guard and its log shipper."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence

from launch_worker.agent.capacity import Capacity
from launch_worker.agent.containers import Containers
from launch_worker.agent.enforcement import Enforcement
from launch_worker.agent.gpus import DeviceMeter
from launch_worker.agent.guards import Guards
from launch_worker.agent.identity import Identity
from launch_worker.agent.outage import Outage
from launch_worker.agent.recovery import end_leftovers
from launch_worker.attempt.attempt import WorkerContext
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.sampling import UsageSampler
from launch_worker.attempt.shipping import LogShipper
from launch_worker.attempt.worker_folder import WorkerFolder, delete_undeleted, why_not_own
from launch_worker.errors import LaunchError
from launch_worker.logs.recorder import recorder_of
from launch_worker.model.needs import parse_needs
from launch_worker.model.run import Record
from launch_worker.outputs.sender import OutputSender, sender_of
from launch_worker.runners.output import FULL_DISK
from launch_worker.runners.process.runner import ProcessRunner, reap_orphans
from launch_worker.settings import NO_WORK_DIR, Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.agent")

#: Seconds that a worker waits at its start for room on a full disk; it ends then, and its supervisor starts it again.
_ROOM_PATIENCE_S = 20.0


#: What to do where the folder cannot be used, by the error.
_ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or, with a hundred workers of one user on this machine, "
    "that of inotify: sysctl fs.inotify.max_user_instances",
    errno.ENOSPC: "make room on that disk",
}


class Workplace:
    """What a worker has on its machine from `open` on."""

    folder: WorkerFolder
    runner: ProcessRunner
    logs: LogShipper
    usage: UsageSampler
    #: What sends ended attempts' outputs; None where they are not kept.
    outputs: OutputSender | None
    #: What every attempt gets of this worker.
    context: WorkerContext

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        outage: Outage,
        capacity: Capacity,
        guards: Guards,
        enforcement: Enforcement,
        hung_after_s: float | None,
    ) -> None:
        """`hung_after_s`: seconds without a sign of life after which the guard ends this process and its jobs."""
        self._identity = identity
        self._store = store
        self._settings = settings
        self._outage = outage
        self._capacity = capacity
        self._guards = guards
        self._enforcement = enforcement
        self._hung_after_s = hung_after_s
        self.containers = Containers(
            store=store, settings=settings, processes=lambda: self.runner, send_outputs=self.send_outputs
        )
        #: Keys of what previous workers' attempts hold of this machine, by the name of the attempt's folder.
        self._held_before: dict[str, str] = {}

    def open(self) -> list[WorkerFolder]:
        """Make the folder, the guard and the log shipper; returns abandoned folders, each locked for the caller.

        Raises LaunchError when this machine does not permit it.
        """
        work_dir = self._settings.work_dir
        if work_dir == NO_WORK_DIR:
            raise LaunchError("this user has no home, so there is no place for the worker's files; set LAUNCH_WORK_DIR")
        try:
            return self._open()
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "set it to a folder it may write to")
            raise LaunchError(f"the worker cannot start with LAUNCH_WORK_DIR {work_dir}: {error}; {advice}") from None

    def _open(self) -> list[WorkerFolder]:
        settings, identity = self._settings, self._identity
        work_dir = settings.work_dir
        reason = "" if settings.work_dir_trusted else why_not_own(work_dir)
        if reason:
            raise LaunchError(
                f"the worker cannot use LAUNCH_WORK_DIR {work_dir}, for others could harm its jobs: {reason} "
                "(or set LAUNCH_WORK_DIR_TRUSTED=1 where nobody else is on the machine, as in a container)"
            )
        delete_undeleted(work_dir)
        abandoned = list(WorkerFolder.abandoned(work_dir))
        for folder in abandoned:
            end_leftovers(folder.attempts())
        self._hold_for([*abandoned, *WorkerFolder.of_worker(work_dir, identity.worker)])
        self.folder = self._make_folder()
        self.folder.has_outputs = bool(settings.output_url)
        # The guard holds the lock too: while it is held, worker or guard lives.
        self.runner = ProcessRunner(
            lock_fd=self.folder.lock_fd,
            folder=self.folder.path,
            log_file_bytes=settings.log_file_bytes,
            hung_after_s=self._hung_after_s,
        ).open()
        self._guards.add(self.runner)
        self.logs = LogShipper(
            self._store,
            keep_bytes=settings.log_bytes,
            file_bytes=settings.log_file_bytes,
            is_away=lambda: self._outage.is_on,
            on_away=self._outage.note,
            recorder=recorder_of(settings),
        )
        self.outputs = sender_of(settings, self._store)
        self.usage = UsageSampler(
            every_s=settings.usage_s,
            devices=DeviceMeter(),
            answer=self._store.answer_usage,
        )
        self.context = WorkerContext(
            self.runner,
            self.containers.runner,
            self.logs,
            self.usage.watch,
            settings=settings,
            store=self._store,
            system=self.containers.system,
            owner=identity.owner,
            worker=identity.worker,
            host=identity.host,
            layers=self._enforcement.layers,
            why_unenforced=self._enforcement.why_not,
        )
        return abandoned

    def _make_folder(self) -> WorkerFolder:
        """Wait for room on a full disk, as a worker that runs does. Raises OSError."""
        work_dir, identity = self._settings.work_dir, self._identity
        give_up, is_said = time.monotonic() + _ROOM_PATIENCE_S, False
        while True:
            try:
                return WorkerFolder.create(work_dir, identity.owner, worker=identity.worker)
            except OSError as error:
                if error.errno not in FULL_DISK or time.monotonic() > give_up:
                    raise
            if not is_said:
                log.warning("worker.disk: LAUNCH_WORK_DIR %s is full; the worker starts when there is room", work_dir)
                is_said = True
            time.sleep(0.5)

    def _hold_for(self, folders: Sequence[WorkerFolder]) -> None:
        """Hold what jobs of previous workers have, before anything is claimed, until those attempts are settled."""
        for attempt in (attempt for folder in folders for attempt in folder.attempts()):
            devices, needs_text = attempt.read_holding()
            needs = parse_needs(needs_text)
            self._held_before[attempt.path.name] = attempt.key
            self._capacity.hold(attempt.key, devices, needs.millicores, needs.memory)

    def attempt_folder(self, record: Record) -> AttemptFolder:
        """The folder for the files of an attempt in this worker's own folder."""
        return self.folder.attempt(record)

    def send_outputs(self, name: str) -> None:
        """Have what an attempt has left sent: `name` is that of the attempt's folder."""
        if self.outputs is not None:
            self.outputs.send(name)

    def tidy(self) -> None:
        """Release what settled attempts of previous workers held, and reap orphans; called at each heartbeat."""
        for name, key in list(self._held_before.items()):
            if not WorkerFolder.has_attempt(self._settings.work_dir, name):
                del self._held_before[name]
                self._capacity.release(key)
        reap_orphans()
        self.logs.adopt()
        if self.outputs is not None:
            self.outputs.adopt()
