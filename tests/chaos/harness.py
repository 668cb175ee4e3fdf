"""The loop: start the system, do what is planned to it, let it come to rest, and check what is left."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.states import RunState
from launch_worker.outputs.outgoing import outgoing_names
from tests.chaos.archived import differences, packed_otherwise
from tests.chaos.evidence import Journal, read_stamps, server_to_boot_s
from tests.chaos.faults import FAULTS
from tests.chaos.leftovers import check_leftovers, counters_beside_records, damaged_runs, states_in
from tests.chaos.notices import delays, read_told, told_otherwise_of
from tests.chaos.outputs import check_outputs, count_outputs
from tests.chaos.plan import DISK_FAULTS, ENGINE_FAULTS, NOTICE_FAULTS, Fault, plan_faults
from tests.chaos.report import table
from tests.chaos.served import check_served
from tests.chaos.system import System
from tests.chaos.verify import Findings, check_runs, read_runs
from tests.chaos.vitals import EVERY_S, Vitals
from tests.chaos.whole_logs import check_whole_logs, waiting
from tests.support.redis_client import redis_of

_TICK_S = 0.05
#: A fault waits so long for something that it can be done to.
_PATIENCE_S = 20.0
_AGAIN_S = 0.1
#: Seconds without faults in which no run ends, though some wait: the system stands still. How long a backlog takes is
#: for the machine to say.
_DRAIN_S = 120.0
_STOP_S = 60.0


@dataclass
class Result:
    """What a run of the harness found, and where its logs are."""

    findings: Findings
    folder: Path | None


def run_chaos(
    *,
    seed: int,
    duration_s: float,
    workers: int = 3,
    keep: bool = False,
    with_engine: bool = True,
    told: int = 0,
    say: Callable[[str], None] = print,
) -> Result:
    """One whole run. With violations, or `keep`, the folder with all logs stays.

    `told`: the number of runs that tell their ends, for a run in which only the way of notices is disturbed.
    """
    folder = Path(tempfile.mkdtemp(prefix="launch-chaos-"))
    try:
        with ExitStack() as stack:
            system = System(folder, seed=seed, workers=workers, with_engine=with_engine)
            stack.callback(system.close)
            findings = _Harness(system, seed, duration_s, say, told=told).run()
            keep = keep or bool(findings.violations)
            if keep:
                # Who runs tests again sees no output of the first time.
                (folder / "findings").write_text(table(findings, seed=seed, duration_s=duration_s))
                # The small disk goes away with the system.
                shutil.copytree(
                    system.spool,
                    folder / "spool",
                    ignore=shutil.ignore_patterns("*.sock", "filler"),
                    ignore_dangling_symlinks=True,
                )
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(findings, folder if keep else None)


class _Harness:
    def __init__(
        self, system: System, seed: int, duration_s: float, say: Callable[[str], None], *, told: int = 0
    ) -> None:
        self.system = system
        self.seed = seed
        self.duration_s = duration_s
        self.say = say
        self.told = told
        self.begun = boot_time_s()
        self.vitals = Vitals()
        self._look_at = 0.0
        self._num_ended = 0
        self._moved_at = self.begun

    def run(self) -> Findings:
        system, evidence = self.system, self.system.evidence
        skip: frozenset[str] = frozenset()
        if not system.has_small_disk:
            skip |= DISK_FAULTS
            evidence.notes.append("no disk was filled: no tmpfs can be mounted here (that takes root)")
        if system.engine is None:
            skip |= ENGINE_FAULTS
            evidence.notes.append("no containers: they were not asked for, or take root, dockerd and busybox")
        self._wait_for_all()
        self.begun = boot_time_s()
        if self.told:
            skip |= FAULTS.keys() - NOTICE_FAULTS
        # Where there are few kinds, each of them comes more often.
        for fault in plan_faults(self.seed, self.duration_s, skip=skip, per_s=200.0 if self.told else 600.0):
            self._schedule(fault)
        system.start_producers(self.seed, self.duration_s, told=self.told)
        said_at = self.begun
        while boot_time_s() < self.begun + self.duration_s or len(system.timeline) or self._is_producing():
            self._tick()
            if boot_time_s() - said_at > 15:
                said_at = boot_time_s()
                self.say(f"{said_at - self.begun:5.0f} s  {sum(evidence.faults.values())} faults")
            if boot_time_s() > self.begun + self.duration_s and self._stands_still():
                evidence.wrong.append("the faults or the producer did not come to an end")
                break
        self._drain()
        self._wait_for_notices()
        self._wait_for_archive()
        self._stop_listeners()
        offset_s = server_to_boot_s()
        self._stop_workers()
        journal = Journal.read(system.journal, system.said / "answers")
        stamps = read_stamps(system.keep_stamps())
        if lost := system.lost_stamps():
            evidence.wrong.append(f"{len(lost)} files with stamps were deleted, {lost[0]} among them")
        damaged = evidence.damaged
        runs = read_runs(system.api.store, stamps, offset_s=offset_s, left_out=damaged)
        findings = check_runs(
            runs, evidence, journal, unknown=stamps.keys() - {run.record.id for run in runs} - damaged.keys()
        )
        findings.violations += damaged_runs(evidence, states_in(redis_of(system.api.store.url)), set(stamps))
        findings.violations += check_leftovers(system)
        findings.notes.append(counters_beside_records(system.api.store, damaged))
        findings.violations += check_whole_logs(system.log_url, runs)
        findings.violations += check_outputs(system.output_url, runs, journal.takes)
        findings.outputs = count_outputs(runs)
        findings.violations += check_served(system.said, journal, runs, damaged, system.database_url)
        told = read_told(system.folder / "told")
        findings.violations += told_otherwise_of(runs, journal.groups, told, damaged, redis_kills=evidence.redis_kills)
        findings.told, findings.tries, findings.told_s = len({one["id"] for one in told}), len(told), delays(told)
        findings.violations += self.vitals.wrong
        findings.violations += evidence.wrong
        findings.vitals = self.vitals.line()
        return findings

    def _wait_for_all(self) -> None:
        system = self.system
        system.start_listeners()
        deadline = boot_time_s() + 60
        store = system.api.store
        while len(store.workers()) < len(system.workers) or not system.are_listening or not store.notice_channels():
            self._tick()
            if boot_time_s() > deadline:
                raise RuntimeError(f"workers or servers did not start; see {system.folder}")

    def _tick(self) -> None:
        self.system.timeline.do_due()
        self.system.look_after()
        if boot_time_s() > self._look_at:
            self._look_at = boot_time_s() + EVERY_S
            self.vitals.look(self.system.tidy_processes())
            self.system.keep_stamps()
        self.system.timeline.sleep(_TICK_S)

    def _schedule(self, fault: Fault) -> None:
        evidence = self.system.evidence
        due = self.begun + fault.at_s

        def do() -> None:
            if FAULTS[fault.kind](self.system, fault):
                evidence.faults[fault.kind] += 1
            elif boot_time_s() < due + _PATIENCE_S:
                self.system.timeline.later(_AGAIN_S, do)
            else:
                evidence.missed[fault.kind] += 1

        self.system.timeline.at(due, do)

    def _is_producing(self) -> bool:
        for part in self.system.producers:
            if part.process.poll():
                self.system.evidence.wrong.append(f"{part.log_path.name} died: {part.log[-2000:]}")
                self.system.producers.remove(part)
                break
        return any(part.process.poll() is None for part in self.system.producers)

    def _drain(self) -> None:
        """Everything works again: wait until nothing is left to do."""
        self.say(f"{boot_time_s() - self.begun:5.0f} s  no more faults; waiting for the rest")
        while not self._stands_still():
            for _ in range(10):
                self._tick()
            try:
                if self._is_at_rest():
                    return
            except BrokerUnavailableError as error:
                self.system.evidence.notes.append(f"while draining: {error}")
        counts = self.system.api.store.counts()
        self.system.evidence.wrong.append(
            f"after {_DRAIN_S:g} s without faults {counts[RunState.PENDING]} runs are Pending and "
            f"{counts[RunState.RUNNING]} Running"
        )

    def _stands_still(self) -> bool:
        """Whether no run has ended for a while; before the faults' end the while has not begun."""
        try:
            counts = self.system.api.store.counts()
        except BrokerUnavailableError:
            return False
        ended = sum(count for state, count in counts.items() if state.is_final)
        if ended != self._num_ended:
            self._num_ended, self._moved_at = ended, boot_time_s()
        return boot_time_s() > max(self._moved_at, self.begun + self.duration_s) + _DRAIN_S

    def _wait_for_notices(self) -> None:
        """All is told: a receiver that is well again is asked within a minute."""
        store, deadline = self.system.api.store, boot_time_s() + _DRAIN_S
        while waiting := store.outbox_state().waiting:
            self._tick()
            if boot_time_s() > deadline:
                state = store.outbox_state().channels
                self.system.evidence.wrong.append(f"after {_DRAIN_S:g} s {waiting} notices wait: {state}")
                return
        total = store.outbox_state()
        if lost := total.dropped + total.unknown + total.refused + total.given_up:
            self.system.evidence.wrong.append(f"{lost} notices were not told: {total}")

    def _wait_for_archive(self) -> None:
        """Both may have been killed at last: the next one leads when the lease is over."""
        system, wrong = self.system, ["nobody has looked"]
        deadline = boot_time_s() + _DRAIN_S
        while wrong and boot_time_s() < deadline:
            for _ in range(20):
                self._tick()
            stamped = {run_id: set(attempts) for run_id, attempts in read_stamps(system.keep_stamps()).items()}
            wrong = differences(system.database_url, system.api.store, stamped, system.evidence.damaged)
        system.evidence.wrong += wrong
        system.evidence.wrong += packed_otherwise(
            system.database_url, system.log_url, system.api.store, system.evidence.damaged
        )

    def _stop_listeners(self) -> None:
        """They end when they have been told all."""
        listeners = self.system.listeners
        assert listeners is not None
        listeners.signal(signal.SIGTERM)
        deadline = boot_time_s() + _STOP_S
        while listeners.process.poll() is None and boot_time_s() < deadline:
            self._tick()
        if listeners.process.poll() != 0:
            self.system.evidence.wrong.append(f"the listeners did not end well: {listeners.log[-2000:]}")

    def _is_at_rest(self) -> bool:
        store = self.system.api.store
        counts = store.counts()
        if counts[RunState.PENDING] or counts[RunState.RUNNING] or any(store.queues().values()):
            return False
        return all(slot.is_up for slot in self.system.workers) and not self._is_sending()

    def _is_sending(self) -> bool:
        """Whether whole logs or outputs of ended attempts are not stored yet."""
        return bool(waiting(self.system.spool) or outgoing_names(self.system.spool))

    def _stop_workers(self) -> None:
        system = self.system
        slots = system.slots
        for slot in slots:
            slot.start_at = None
            if slot.is_up and slot.part is not None and slot.life is not None:
                slot.life.termed_at.append(boot_time_s())
                slot.part.signal(signal.SIGTERM)
        deadline = boot_time_s() + _STOP_S
        while any(slot.part is not None for slot in slots) and boot_time_s() < deadline:
            self._tick()
        for slot in slots:
            if slot.part is not None:
                system.evidence.wrong.append(f"{slot.name} did not end within {_STOP_S:g} s of the last SIGTERM")


def stop_on_sigterm() -> None:
    """SIGTERM ends the harness as Ctrl-C does, so that it cleans up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
