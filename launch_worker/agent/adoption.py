"""Adopts jobs that outlived their worker: containers, and processes that a detached worker left with its guard."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.containers import Containers
from launch_worker.agent.identity import Identity
from launch_worker.agent.leases import lease_of
from launch_worker.agent.outage import Outage
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.kept_folders import kept_folders
from launch_worker.attempt.prepare import ending_of
from launch_worker.attempt.supervise import asked_of
from launch_worker.attempt.talk import read_words
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError
from launch_worker.model.run import Record
from launch_worker.model.spec import parse_spec
from launch_worker.runners.job import TERM_ALL, Gone, Job, Lease
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.runners.process.exits import Exit
from launch_worker.runners.process.handle import JobHandle, LeftJob
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.inherit")


@dataclass
class AbandonedFolder:
    """A previous worker's folder, locked, with its guard if that lives, until its last job has ended."""

    folder: WorkerFolder
    runner: ProcessRunner | None
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, adopt: Callable[[], None], *, name: str) -> None:
        """Adopt a job of the folder and see it to its end, in a thread."""
        thread = threading.Thread(target=adopt, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def num_adopted(self) -> int:
        """The number of jobs of the folder that are adopted, or about to be."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to supervise; jobs that nobody here supervises were left to the next worker."""
        return not self.num_adopted and (self.runner is None or self.runner.is_idle)

    def close(self) -> None:
        """End the guard, and release the folder."""
        if self.runner is not None:
            self.runner.close()
        self.folder.release()


@dataclass(frozen=True)
class Adopted:
    """An attempt that is this worker's from now on."""

    record: Record
    lease: Lease
    #: The job called itself finished, and its run has ended: the processes are only seen to their end.
    finished: bool = False


class Adopter:
    """Adopts jobs for one worker. Each `adopt_…` blocks until the job has ended and was reported."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        outage: Outage,
        containers: Containers,
        attempt_folder: Callable[[Record], AttemptFolder],
        attempts: Attempts,
        carry_on: Callable[[Attempt], None],
    ) -> None:
        """`attempt_folder` gives the folder for an attempt's files in this worker's own folder.

        `carry_on` supervises an adopted attempt, which has its slot, to its end, and reports that.
        """
        self._identity = identity
        self._store = store
        self._settings = settings
        self._outage = outage
        self._containers = containers
        self._attempt_folder = attempt_folder
        self._attempts = attempts
        self._carry_on_attempt = carry_on
        #: Threads that adopt containers found by their labels, by run.
        self._strays: dict[str, threading.Thread] = {}

    # -- processes -------------------------------------------------------------------------------------------------

    def claim_process(self, abandoned: AbandonedFolder, folder: AttemptFolder, left: LeftJob) -> Callable[[], None]:
        """Receive the job's events from now on; returns a function that adopts the job. Needs no Redis."""
        assert abandoned.runner is not None
        env = {"LAUNCH_RUN_ID": folder.run_id, "LAUNCH_TOKEN": str(folder.token)}
        kept, grace_s, ending = folder.read_record(), 10.0, TERM_ALL
        if kept is not None:
            try:
                spec = parse_spec(kept.spec)
                grace_s, ending = spec.grace_s, ending_of(spec)
            except InputError as error:
                log.error("run.damaged run=%s: %s", folder.run_id, error)
        job = abandoned.runner.claim(left, env=env, grace_s=grace_s, events=queue.SimpleQueue(), ending=ending)
        if kept is not None and self._is_kept_from_others(kept):
            # No other machine is given the run, so the job may go on for as long as Redis is away.
            abandoned.runner.renew({left.key: None})
        return lambda: self._adopt_process(folder, job)

    def _is_kept_from_others(self, record: Record) -> bool:
        try:
            return self._lease_of(record, renewed_at=0.0) is None
        except InputError:
            return False  # logged when the job is adopted

    def _adopt_process(self, folder: AttemptFolder, job: JobHandle) -> None:
        try:
            with self._slot() as slot:
                # The worker that has the guard has the job: any owner may be in the record.
                adopted, why = self._adopt(folder, [""])
                if adopted is not None:
                    job.runner.renew({job.key: adopted.lease})
                    self._carry_on(adopted, folder, job, slot)
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

    def adopt_container(self, abandoned: AbandonedFolder, folder: AttemptFolder) -> None:
        """Adopt the container of an attempt whose worker is gone; one that may not go on is removed."""
        try:
            kept = folder.read_record()
            owners = [abandoned.folder.owner] if kept is None else [kept.owner, abandoned.folder.owner]
            former = folder
            if kept is not None:
                # In this worker's folder: its lock ends together with its guard's watch over the container.
                own = self._attempt_folder(kept)
                own.path.parent.mkdir(parents=True, exist_ok=True)
                folder = AttemptFolder(folder.path.rename(own.path))
            self._adopt_container(folder, owners, watcher=abandoned.runner, former_exit=former.read_exit)
        except BrokerUnavailableError as error:
            log.warning("run.not_adopted run=%s: this worker stops while Redis is away. %s", folder.run_id, error)
        except Exception:
            log.exception("run.not_adopted run=%s", folder.run_id)

    def _adopt_container(
        self,
        folder: AttemptFolder,
        owners: list[str],
        *,
        only_if_gone: bool = False,
        watcher: ProcessRunner | None = None,
        former_exit: Callable[[], Exit | None] = lambda: None,
    ) -> None:
        """Adopt a container that one of these owners had.

        `watcher` has the guard that watched over the container until now; `former_exit` returns what that kept of its
        end.
        """
        kept = folder.read_record()
        with self._slot() as slot:
            adopted, why = self._adopt(folder, owners, only_if_gone=only_if_gone)
            if adopted is not None:
                job = self._container_of(adopted, folder, kept, former_exit)
                if watcher is not None:
                    watcher.unwatch(folder.key)
                self._carry_on(adopted, folder, job, slot)
                return
        log.warning("run.not_adopted run=%s attempt=%d: %s", folder.run_id, folder.attempt, why)
        if why != "taken":
            self.remove_container(folder)
        folder.remove()

    def _container_of(
        self, adopted: Adopted, folder: AttemptFolder, kept: Record | None, former_exit: Callable[[], Exit | None]
    ) -> Job:
        # Before the import below: see `attempt.prepare`.
        runner = self._containers.runner()
        from launch_worker.runners.container.config import Labels

        record = adopted.record
        labels = Labels(
            system=self._outage.repeat(self._containers.system),
            run=record.id,
            attempt=record.attempt,
            token=record.token,
            owner=self._identity.owner,
            worker=record.worker if kept is None else kept.worker,
            host=self._identity.host,
        )
        # The attempt is carried on from here, and its lease renewed, whether or not the engine answers.
        return runner.adopt(
            labels,
            key=folder.key,
            lease=adopted.lease,
            events=queue.SimpleQueue(),
            output=folder.output,
            former_exit=former_exit,
            keeps=self._kept_folders(folder, record),
        )

    def _kept_folders(self, folder: AttemptFolder, record: Record) -> tuple[KeptFolder, ...]:
        """The folders of an attempt's container that are kept; none where they have no place here. Never raises."""
        try:
            return kept_folders(folder, parse_spec(record.spec), self._settings)
        except (InputError, OSError) as error:
            log.error("folders.not_kept run=%s: %s", record.id, error)
            return ()

    def remove_container(self, folder: AttemptFolder) -> None:
        """Remove the containers of an attempt, once what they have left is copied.

        While the engine is away that is left to `clear_containers`.
        """
        try:
            runner = self._containers.runner()
            for container, labels in runner.find(self._outage.repeat(self._containers.system), folder.run_id):
                if labels.token == folder.token:
                    record = folder.read_record()
                    runner.remove(container, keeps=() if record is None else self._kept_folders(folder, record))
        except LaunchError as error:
            log.warning("container.not_removed run=%s: %s", folder.run_id, error)

    def clear_containers(self) -> None:
        """Remove containers whose attempts are over; adopt those whose worker left no folder.

        A folder is missing where its disk is gone, as that of a worker that ran in a container itself.
        """
        if self._outage.is_on:
            return
        try:
            if not self._containers.may_exist():
                return
            runner = self._containers.runner()
            for container, labels in runner.find(self._containers.system()):
                record = self._store.peek(labels.run)
                if record is None or record.token < labels.token:
                    continue  # Redis was restored from a snapshot: the worker that has the run restores its record
                if record.is_over(labels.token) and record.token == labels.token and self._is_attended(record):
                    continue  # the job called itself finished, and goes on
                if record.is_over(labels.token):
                    log.warning("container.left_over run=%s attempt=%d: removed", labels.run, labels.attempt)
                    runner.remove_over(container, labels)
                elif self._is_stray(record):
                    self._adopt_stray(record)
        except LaunchError as error:
            log.debug("containers.not_looked_at: %s", error)

    def _is_attended(self, record: Record) -> bool:
        """Whether a worker sees to what is left of an attempt that is over."""
        if any((self._settings.work_dir / "workers").glob(f"*/runs/{record.id}.{record.attempt}.{record.token}")):
            return True
        return record.owner != self._identity.owner and record.owner in {
            worker["owner"] for worker in self._store.workers()
        }

    def _is_stray(self, record: Record) -> bool:
        thread = self._strays.get(record.id)
        if self._attempts.carries(record.id) or (thread is not None and thread.is_alive()):
            return False
        is_own = record.owner == self._identity.owner and not self._attempt_folder(record).path.exists()
        return is_own or not (self._settings.work_dir / "workers" / record.owner).exists()

    def _adopt_stray(self, record: Record) -> None:
        folder = self._attempt_folder(record)

        def adopt() -> None:
            try:
                folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.mark_container(record)
                self._adopt_container(folder, [record.owner], only_if_gone=record.owner != self._identity.owner)
            except Exception:
                log.exception("run.not_adopted run=%s", record.id)
                folder.remove()

        self._strays[record.id] = threading.Thread(target=adopt, name=f"adopt-{record.id}", daemon=True)
        self._strays[record.id].start()

    # -- both ------------------------------------------------------------------------------------------------------

    def _adopt(
        self, folder: AttemptFolder, owners: list[str], *, only_if_gone: bool = False
    ) -> tuple[Adopted | None, str]:
        """Adopt an attempt from one of these owners; returns it, or None and why it was refused.

        There may be two owners: a worker may have died while it adopted the attempt.
        """
        sent_at = 0.0
        record: Record | None = None
        why = ""
        for previous in owners:

            def adopt(previous: str = previous) -> tuple[Record | None, str]:
                nonlocal sent_at
                sent_at = boot_time_s()
                return self._store.adopt(
                    folder.run_id,
                    folder.token,
                    attempt=folder.attempt,
                    previous_owner=previous,
                    owner=self._identity.owner,
                    worker=self._identity.worker,
                    host=self._identity.host,
                    lease_s=self._settings.lease_s,
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
            # The attempt is this worker's by now: without a worker its job would go on unsupervised.
            log.error("run.record_not_kept run=%s: %s", folder.run_id, error)
        return Adopted(record, self._lease_of(record, renewed_at=sent_at)), ""

    def _lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The lease of an attempt by its record alone. Raises InputError for a damaged one."""
        return lease_of(record, parse_spec(record.spec), renewed_at=renewed_at, lease_s=self._settings.lease_s)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[contextlib.ExitStack]:
        """Take a slot before an attempt is this worker's, so that no claim takes it; free unless it is passed on."""
        self._attempts.take_slot()
        with contextlib.ExitStack() as slot:
            slot.callback(self._attempts.leave_slot)
            yield slot

    def _carry_on(self, adopted: Adopted, folder: AttemptFolder, job: Job, slot: contextlib.ExitStack) -> None:
        record = adopted.record
        log.warning("run.adopted run=%s attempt=%d", record.id, record.attempt)
        ran_s = max(0.0, (self._outage.repeat(self._store.now_us) - (record.running_since or 0)) / 1e6)
        attempt = Attempt(
            record=record,
            spec=parse_spec(record.spec),
            folder=folder,
            events=job.events,
            lease=adopted.lease,
            job=job,
            ran_s=ran_s,
            is_adopted=True,
            finished=adopted.finished,
            asked=asked_of(record),
        )
        slot.pop_all()
        self._carry_on_attempt(attempt)
