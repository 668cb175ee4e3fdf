"""Adopts jobs that outlived their worker: containers, and processes that a detached worker left with its guard."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launch_worker.agent.outage import Outage
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.supervise import Cancel
from launch_worker.attempt.talk import read_words
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError
from launch_worker.model.run import Record
from launch_worker.model.spec import parse_spec
from launch_worker.runners.job import Gone, Job, Lease
from launch_worker.runners.process.handle import JobHandle, LeftJob
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.stop_reason import StopReason
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.runners.container.runner import ContainerRunner

log = logging.getLogger("launch_worker.inherit")


@dataclass
class Estate:
    """A former worker's folder, locked, with its guard if that lives, until its last job has ended."""

    folder: WorkerFolder
    runner: ProcessRunner | None
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, adopt: Callable[[], None], *, name: str) -> None:
        """Adopt one of its jobs and see it to its end, in a thread."""
        thread = threading.Thread(target=adopt, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def num_attended(self) -> int:
        """How many of its jobs are taken over here, or about to be."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def is_settled(self) -> bool:
        """Not while its guard has jobs that nobody here supervises: those were left to the next worker."""
        return not self.num_attended and (self.runner is None or self.runner.is_idle)

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()
        self.folder.release()


@dataclass(frozen=True)
class Adopted:
    """An attempt that is this worker's from now on."""

    record: Record
    lease: Lease
    #: Its job called itself finished, and its run is: it is only seen to its end.
    finished: bool = False


class Worker(Protocol):
    """What an heir needs of its agent."""

    def lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The lease of an attempt, renewed at a boot time, as a guard must enforce it."""

    def attempt_folder(self, record: Record) -> AttemptFolder:
        """Where an attempt's files are in this worker's own folder."""

    def carries(self, run_id: str) -> bool:
        """Whether the run is executed here now."""

    def carry_on(self, attempt: Attempt) -> None:
        """Supervise an adopted attempt to its end, and report that."""


class Adopter:
    """Adopts jobs for one worker. Each `adopt_…` blocks until the job has ended and was reported."""

    def __init__(
        self,
        agent: Worker,
        *,
        owner: str,
        worker: str,
        host: str,
        store: Store,
        work_dir: Path,
        lease_s: float,
        containers: Callable[[], ContainerRunner],
        has_containers: Callable[[], bool],
        system: Callable[[], str],
        outage: Outage,
    ) -> None:
        """`has_containers` tells whether a worker of this machine has ever made a container."""
        self.owner = owner
        self.worker = worker
        self._agent = agent
        self._host = host
        self._store = store
        self._work_dir = work_dir
        self._lease_s = lease_s
        self._containers = containers
        self._has_containers = has_containers
        self._system = system
        self._outage = outage
        #: By run: what is being adopted by its labels.
        self._strays: dict[str, threading.Thread] = {}

    # -- processes -------------------------------------------------------------------------------------------------

    def claim_process(self, estate: Estate, folder: AttemptFolder, left: LeftJob) -> Callable[[], None]:
        """Hear of the job from now on; returns what adopts it. Needs no Redis."""
        assert estate.runner is not None
        env = {"LAUNCH_RUN_ID": folder.run_id, "LAUNCH_TOKEN": str(folder.token)}
        kept, grace_s = folder.read_record(), 10.0
        if kept is not None:
            try:
                grace_s = parse_spec(kept.spec).grace_s
            except InputError as error:
                log.error("run.damaged run=%s: %s", folder.run_id, error)
        job = estate.runner.claim(left, env=env, grace_s=grace_s, events=queue.SimpleQueue())
        if kept is not None and self._is_nobody_elses(kept):
            # Nobody else may take the run, so the job may wait for as long as Redis is away.
            estate.runner.renew({left.key: None})
        return lambda: self._adopt_process(folder, job)

    def _is_nobody_elses(self, record: Record) -> bool:
        try:
            return self._agent.lease_of(record, renewed_at=0.0) is None
        except InputError:
            return False  # said when it is adopted

    def _adopt_process(self, folder: AttemptFolder, job: JobHandle) -> None:
        try:
            # Who has its guard has the job: no other owner can be meant.
            adopted, why = self._adopt(folder, [""])
            if adopted is not None:
                job.runner.renew({job.key: adopted.lease})
                self._carry_on(adopted, folder, job)
                return
            log.warning("run.not_adopted run=%s attempt=%d: %s", folder.run_id, folder.attempt, why)
            job.stop(grace_s=0)
            while not isinstance(job.events.get(), Gone):
                pass
            folder.remove()
        except BrokerUnavailableError:
            log.warning("run.not_adopted run=%s: this worker stops while Redis is away", folder.run_id)
        except Exception:
            log.exception("run.not_adopted run=%s", folder.run_id)

    # -- containers ------------------------------------------------------------------------------------------------

    def adopt_container(self, estate: Estate, folder: AttemptFolder) -> None:
        """Adopt the container of an attempt whose worker is gone; one that may not go on is removed."""
        try:
            kept = folder.read_record()
            formers = [estate.folder.owner] if kept is None else [kept.owner, estate.folder.owner]
            stopped_by = folder.stopped_by()
            if kept is not None:
                # Under this worker's lock, as its guard's watch over the container is: they end together.
                own = self._agent.attempt_folder(kept)
                own.path.parent.mkdir(parents=True, exist_ok=True)
                folder = AttemptFolder(folder.path.rename(own.path))
            self._adopt_container(folder, formers, watcher=estate.runner, stopped_by=stopped_by)
        except BrokerUnavailableError as error:
            log.warning("run.not_adopted run=%s: this worker stops while Redis is away. %s", folder.run_id, error)
        except Exception:
            log.exception("run.not_adopted run=%s", folder.run_id)

    def _adopt_container(
        self,
        folder: AttemptFolder,
        formers: list[str],
        *,
        only_if_gone: bool = False,
        watcher: ProcessRunner | None = None,
        stopped_by: StopReason = "",
    ) -> None:
        """`watcher` has the guard that watched over the container until now; `stopped_by`: it has begun to end it."""
        former = folder.read_record()
        adopted, why = self._adopt(folder, formers, only_if_gone=only_if_gone)
        if adopted is None:
            log.warning("run.not_adopted run=%s attempt=%d: %s", folder.run_id, folder.attempt, why)
            if why != "taken":
                self.remove_container(folder)
            folder.remove()
            return
        # First: see `begin`.
        runner = self._containers()
        from launch_worker.runners.container.config import Labels

        record = adopted.record
        labels = Labels(
            system=self._outage.repeat(self._system),
            run=record.id,
            attempt=record.attempt,
            token=record.token,
            owner=self.owner,
            worker=record.worker if former is None else former.worker,
            host=self._host,
        )
        # It is carried on from now on, its lease renewed, whether or not the engine answers.
        job = runner.adopt(
            labels,
            key=folder.key,
            lease=adopted.lease,
            events=queue.SimpleQueue(),
            output=folder.output,
            stopped_by=stopped_by,
        )
        if watcher is not None:
            watcher.unwatch(folder.key)
        self._carry_on(adopted, folder, job)

    def remove_container(self, folder: AttemptFolder) -> None:
        """Remove what an attempt left; where the engine is away, `clear_containers` does it later."""
        try:
            runner = self._containers()
            for container, labels in runner.find(self._outage.repeat(self._system), folder.run_id):
                if labels.token == folder.token:
                    runner.remove(container)
        except LaunchError as error:
            log.warning("container.not_removed run=%s: %s", folder.run_id, error)

    def clear_containers(self) -> None:
        """Remove containers whose attempts are over; adopt those whose worker left nothing but them.

        That is: its folder was on a disk that is gone, as a worker's that ran in a container itself.
        """
        if self._outage.is_on:
            return
        try:
            if not self._has_containers():
                return
            runner = self._containers()
            for container, labels in runner.find(self._system()):
                record = self._store.peek(labels.run)
                if record is None or record.token < labels.token:
                    continue  # Redis was restored from a snapshot: whoever has it tells
                if record.is_over(labels.token) and record.token == labels.token and self._is_attended(record):
                    continue  # its job called itself finished, and goes on
                if record.is_over(labels.token):
                    log.warning("container.left_over run=%s attempt=%d: removed", labels.run, labels.attempt)
                    runner.remove(container)
                elif self._is_stray(record):
                    self._adopt_stray(record)
        except LaunchError as error:
            log.debug("containers.not_looked_at: %s", error)

    def _is_attended(self, record: Record) -> bool:
        """Whether a worker sees to what is left of an attempt that is over."""
        if any((self._work_dir / "workers").glob(f"*/runs/{record.id}.{record.attempt}.{record.token}")):
            return True
        return record.owner != self.owner and record.owner in {worker["owner"] for worker in self._store.workers()}

    def _is_stray(self, record: Record) -> bool:
        thread = self._strays.get(record.id)
        if self._agent.carries(record.id) or (thread is not None and thread.is_alive()):
            return False
        is_own = record.owner == self.owner and not self._agent.attempt_folder(record).path.exists()
        return is_own or not (self._work_dir / "workers" / record.owner).exists()

    def _adopt_stray(self, record: Record) -> None:
        folder = self._agent.attempt_folder(record)

        def adopt() -> None:
            try:
                folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.mark_container(record)
                self._adopt_container(folder, [record.owner], only_if_gone=record.owner != self.owner)
            except Exception:
                log.exception("run.not_adopted run=%s", record.id)
                folder.remove()

        self._strays[record.id] = threading.Thread(target=adopt, name=f"adopt-{record.id}", daemon=True)
        self._strays[record.id].start()

    # -- both ------------------------------------------------------------------------------------------------------

    def _adopt(
        self, folder: AttemptFolder, formers: list[str], *, only_if_gone: bool = False
    ) -> tuple[Adopted | None, str]:
        """`formers`: who may have owned it until now; a worker may have died while it adopted it."""
        sent_at = 0.0
        record: Record | None = None
        why = ""
        for former in formers:

            def adopt(former: str = former) -> tuple[Record | None, str]:
                nonlocal sent_at
                sent_at = boot_time_s()
                return self._store.adopt(
                    folder.run_id,
                    folder.token,
                    attempt=folder.attempt,
                    former=former,
                    owner=self.owner,
                    worker=self.worker,
                    host=self._host,
                    lease_s=self._lease_s,
                    only_if_gone=only_if_gone,
                )

            record, why = self._outage.repeat(adopt)
            if why != "taken":
                break
        if record is None and why == "ended" and read_words(folder.talk).finish is not None:
            kept = folder.read_record()
            return (None, why) if kept is None else (Adopted(kept, None, finished=True), "")
        if record is None:
            return None, why
        try:
            folder.keep_record(record)
        except OSError as error:
            # The attempt is this worker's by now: its job must not stay without one.
            log.error("run.record_not_kept run=%s: %s", folder.run_id, error)
        return Adopted(record, self._agent.lease_of(record, renewed_at=sent_at)), ""

    def _carry_on(self, adopted: Adopted, folder: AttemptFolder, job: Job) -> None:
        record = adopted.record
        log.warning("run.adopted run=%s attempt=%d", record.id, record.attempt)
        ran_s = max(0.0, (self._outage.repeat(self._store.now_us) - (record.running_since or 0)) / 1e6)
        asked = record.reason.removeprefix("stopping: ")
        self._agent.carry_on(
            Attempt(
                record=record,
                spec=parse_spec(record.spec),
                folder=folder,
                events=job.events,
                lease=adopted.lease,
                job=job,
                ran_s=ran_s,
                is_adopted=True,
                finished=adopted.finished,
                asked=None if record.cancel_at is None else Cancel(asked, preempt=record.preempting),
            )
        )


def engine_is_near() -> bool:
    """Whether there may be a container engine here: a look that costs no SDK."""
    return bool(os.environ.get("DOCKER_HOST")) or os.path.exists("/var/run/docker.sock")
