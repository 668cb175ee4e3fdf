"""The checks: every run has one final state and it is the true one, no two attempts overlapped, nothing is left.

What is compared: the records and histories in Redis, the stamps that jobs wrote (the truth), and what the harness
did. A finding is a violation; or it is tolerated, when nobody could have known the truth, and counted apart.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from launch_worker.model.history import Transition
from launch_worker.model.run import Record
from launch_worker.model.states import ARROWS, RunState
from launch_worker.runners.job import LAPSED
from launch_worker.store.store import Store
from tests.chaos.evidence import LATER, Evidence, Journal, Life, Span, Stamps
from tests.chaos.faults import PREEMPTED
from tests.chaos.plan import GOES_ON, LEASE_S
from tests.chaos.policies import NOT_STARTED, halted_otherwise, retried_otherwise, rules_of

#: A worker that lived so long after a job's end should have kept or told it.
_REPORT_S = 1.0
#: A killed worker's jobs end within this time, and stamps come every 80 ms.
_TREE_ENDS_S = 5.0 + 0.5
#: From a worker's start until it has taken over what its forerunner left.
_TAKE_OVER_S = 6.0
#: Between what the harness notes, what Redis notes and what jobs note.
_SLACK_S = 3.0


@dataclass
class Attempt:
    """One execution as the history tells it, beside what its job wrote. Times are seconds since boot."""

    number: int
    began_at: float
    worker: str
    ended_at: float = LATER
    state: RunState = RunState.RUNNING
    reason: str = ""
    came_back: bool = False
    crashed_at: list[float] = field(default_factory=list)
    stamps: Stamps | None = None


@dataclass
class RunFacts:
    """Everything known of one run."""

    record: Record
    history: list[Transition]
    attempts: list[Attempt]
    stamps: dict[int, Stamps]
    retries: int = 0
    gpus: int = 0
    #: How many lines its job prints, and the kept output of each attempt that printed them all.
    lines: int = 0
    #: Of a flood the last line only is known to be kept.
    last_line: bytes = b""
    logs: dict[int, bytes] = field(default_factory=dict)
    is_container: bool = False
    #: Name by which a person knows it again; '' for one of the producer.
    mark: str = ""
    #: What is tried again, by the kind of end; none where `retries` says it.
    rules: dict[str, int] = field(default_factory=dict)
    #: Seconds of its time limit; 0 for none.
    timeout_s: float = 0.0
    #: Version of the package that its environment is to have; '' for no environment.
    wheel: str = ""
    #: Whether a disk was full while it ran.
    was_disk_full: bool = False

    @property
    def flood_bytes(self) -> int:
        """Bytes that a flood prints, in lines of 64."""
        return (int(self.last_line) + 1) * 64


@dataclass
class Findings:
    """What the table is made of."""

    runs: int = 0
    attempts: int = 0
    states: Counter[str] = field(default_factory=Counter)
    crashed: int = 0
    retried: int = 0
    came_back: int = 0
    #: Attempts that went on from a checkpoint, and attempts that had one called stored.
    resumed: int = 0
    kept: int = 0
    #: Attempts whose outputs are kept, and attempts that were given such.
    outputs: int = 0
    took: int = 0
    #: Runs with rules of their own, attempts that reached their time limit, or found the package of their environment,
    #: and groups that were halted.
    ruled: int = 0
    timed_out: int = 0
    in_environments: int = 0
    halted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    tolerated: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Notices that a receiver heard of, and the tries to tell them.
    told: int = 0
    tries: int = 0
    #: Seconds from ends until they were told, the shortest first.
    told_s: list[float] = field(default_factory=list)
    #: The most that workers and beats had of the machine.
    vitals: str = ""


def read_runs(
    store: Store, stamps: dict[str, dict[int, Stamps]], *, offset_s: float, left_out: Collection[str] = ()
) -> list[RunFacts]:
    """Every run in Redis. `offset_s`: from the server's time to seconds since boot."""
    runs = []
    for record in store.runs(newest_first=False):
        if record.id in left_out:
            continue
        history = store.history(record.id)
        written = stamps.get(record.id, {})
        spec = json.loads(record.spec)
        run = RunFacts(
            record,
            history,
            list(_attempts(history, written, offset_s)),
            written,
            retries=int(spec.get("retries", 0)),
            gpus=int(spec.get("gpus", 0)),
            is_container=bool(spec.get("image")),
            rules=rules_of(spec.get("retry", ())),
            timeout_s=float(spec.get("timeout_s", 0)),
        )
        flags = dict(flag.partition("=")[::2] for flag in spec["command"] if "=" in flag)
        run.lines = int(flags.get("print", 0))
        if "flood" in flags:
            run.last_line = b"%d" % ((int(flags["flood"]) << 14) - 1)
        run.mark, run.wheel = flags.get("mark", ""), flags.get("wheel", "")
        for number, seen in written.items() if run.lines or run.last_line else ():
            if seen.code == 0 and not seen.unprinted:
                run.logs[number] = b"".join(chunk.data for chunk in store.log(record.id, number))
        runs.append(run)
    return runs


def _attempts(history: list[Transition], stamps: dict[int, Stamps], offset_s: float) -> Iterator[Attempt]:
    now: Attempt | None = None
    for step in history:
        at = step.at / 1e6 + offset_s
        if step.state is RunState.PENDING:
            if now is not None:
                yield now
            now = None
        elif step.state is RunState.RUNNING and (now is None or now.number != step.attempt):
            if now is not None:
                yield now
            now = Attempt(step.attempt, at, step.worker, stamps=stamps.get(step.attempt))
        elif now is not None:
            now.came_back = now.came_back or now.state is RunState.CRASHED
            now.state, now.reason, now.ended_at = step.state, step.reason, at
            if step.state is RunState.CRASHED:
                now.crashed_at.append(at)
    if now is not None:
        yield now


def check_runs(runs: list[RunFacts], evidence: Evidence, journal: Journal, *, unknown: Iterable[str]) -> Findings:
    """All that can be checked run by run. `unknown`: run ids of stamps of which Redis knows nothing."""
    findings = Findings(
        runs=len(runs), faults=evidence.faults, missed=evidence.missed, notes=list(evidence.notes)
    )  # fmt: skip
    known = {run.record.id for run in runs}
    for run_id in sorted(journal.acknowledged.keys() - known):
        findings.violations.append(f"{run_id}: it was submitted and acknowledged, and is lost")
    findings.violations += [f"{run_id}: its job ran, and Redis knows nothing of it" for run_id in sorted(unknown)]
    for run in runs:
        check = _Check(run, evidence, journal)
        check.all()
        run.was_disk_full = any(map(check.was_full, run.attempts))
        findings.violations += [f"{run.record.id}: {text}" for text in check.wrong]
        findings.tolerated += [f"{run.record.id}: {text}" for text in check.tolerated]
        findings.states[run.record.state.value] += 1
        findings.attempts += len(run.attempts)
        findings.resumed += sum(bool(stamps.found and stamps.found[0]) for stamps in run.stamps.values())
        findings.in_environments += sum(bool(stamps.wheel) for stamps in run.stamps.values())
        findings.ruled += bool(run.rules)
        findings.timed_out += sum(attempt.reason.startswith("time limit of ") for attempt in run.attempts)
        findings.took += sum(stamps.took is not None for stamps in run.stamps.values())
        findings.kept += sum(stamps.kept > 0 for stamps in run.stamps.values())
        findings.came_back += sum(attempt.came_back for attempt in run.attempts)
        for before, after in zip(run.history, [*run.history[1:], None], strict=True):
            if before.state is RunState.CRASHED:
                findings.crashed += 1
                findings.retried += after is not None and after.state is RunState.PENDING
    findings.violations += _shared(runs)
    not_started = {run.record.id for run in runs if run.record.reason.startswith(NOT_STARTED)}
    findings.halted = sum(not not_started.isdisjoint(group.runs) for group in journal.groups)
    findings.violations += _groups(runs, journal)
    return findings


def _shared(runs: list[RunFacts]) -> Iterator[str]:
    """Devices that two jobs had at once, and keys that two runs held at once."""
    held: dict[str, list[tuple[float, float, str, Attempt]]] = {}
    for run in runs:
        for attempt in run.attempts:
            if attempt.stamps is None or not attempt.stamps.starts:
                continue
            names = [f"device {device} of {_slot(attempt)}" for device in attempt.stamps.devices]
            if len(attempt.stamps.devices) != run.gpus:
                yield f"{run.record.id}: it was given devices {attempt.stamps.devices}, and wanted {run.gpus}"
            names += [f"key {run.record.concurrency_key}"] if run.record.concurrency_key else []
            for name in names:
                who = f"{run.record.id}.{attempt.number}"
                held.setdefault(name, []).append((attempt.stamps.first, attempt.stamps.last, who, attempt))
    for name, spans in held.items():
        spans.sort(key=lambda span: span[:3])
        for (_, last, one, before), (first, _, other, _) in itertools.pairwise(spans):
            # A job may live on while its worker is silent: it is Crashed, and counts for nothing until it is heard.
            was_silent = any(at <= first for at in before.crashed_at)
            if first < last and not was_silent:
                yield f"{other}: it had {name} {1000 * (last - first):.0f} ms before {one} had let go of it"


def _groups(runs: list[RunFacts], journal: Journal) -> Iterator[str]:
    """Runs that waited for a group and were not executed once, or before all runs of the group had ended."""
    known = {run.record.id: run for run in runs}
    for group in journal.groups:
        then, members = known.get(group.then), [known[run_id] for run_id in group.runs if run_id in known]
        # Lost runs are found elsewhere, and of damaged ones nothing is known.
        if then is None or len(members) < len(group.runs):
            continue
        histories = {member.record.id: member.history for member in members}
        yield from halted_otherwise(histories, group.max_fails)
        claims = [step.at for step in then.history if step.state is RunState.RUNNING]
        if not claims:
            yield f"{group.then}: it waited for group {group.id}, which is over, and is {then.record.state} unexecuted"
            continue
        if (count := sum(len(stamps.starts) for stamps in then.stamps.values())) > 1 + then.record.preemptions:
            yield f"{group.then}: it waited for group {group.id}, and was executed {count} times"
        for member in members:
            *_, before, last = [None, *(step for step in member.history if step.at <= min(claims))]
            # The end that a silent worker's run was given let the other one go; it is not called back.
            came_back = last.state is RunState.RUNNING and before is not None and before.state is RunState.CRASHED
            if not last.state.is_final and not came_back:
                early = f"began while {member.record.id} was {last.state}"
                yield f"{group.then}: it waited for group {group.id}, and {early}"


class _Check:
    """The checks of one run."""

    def __init__(self, run: RunFacts, evidence: Evidence, journal: Journal) -> None:
        self.run = run
        self.evidence = evidence
        self.cancels = journal.cancels.get(run.record.id, [])
        self.wrong: list[str] = []
        self.tolerated: list[str] = []

    def all(self) -> None:
        self._history()
        self._final_state()
        self._executions()
        self._checkpoints()
        for attempt in self.run.attempts:
            self._attempt(attempt)
            self._output(attempt)

    def _history(self) -> None:
        steps = self.run.history
        if not steps or steps[0].state is not RunState.PENDING:
            self.wrong.append("its history does not begin with Pending")
        for before, after in itertools.pairwise(steps):
            if after.state not in ARROWS[before.state]:
                self.wrong.append(f"its history goes from {before.state} to {after.state}")
        if steps and steps[-1].state is not self.run.record.state:
            self.wrong.append(f"its history ends with {steps[-1].state}, its record says {self.run.record.state}")
        numbers = [attempt.number for attempt in self.run.attempts]
        if numbers != sorted(set(numbers)):
            self.wrong.append(f"its attempts are numbered {numbers}")

    def _final_state(self) -> None:
        record = self.run.record
        if not record.state.is_final:
            self.wrong.append(f"it is still {record.state}: {record.reason}")
        # A person who asks for a new attempt has all retries again.
        asked = [step.attempt for step in self.run.history if step.reason.startswith("retry asked for by")]
        before = max(asked, default=0)
        counted = [attempt for attempt in self.run.attempts if attempt.number > before]
        back = [step for step in self.run.history if step.state is RunState.PENDING and "had not begun" in step.reason]
        # What had not begun when its worker stopped goes back, and counts as nothing.
        unbegun = sum(step.attempt > before for step in back)
        # Nor does a time limit after which it goes on.
        went_on = [step for step in self.run.history if step.reason.startswith("goes on after its time limit")]
        if len(went_on) > GOES_ON:
            self.wrong.append(f"it went on {len(went_on)} times after its time limit")
        unbegun += sum(step.attempt > before for step in went_on)
        # A start that failed through its worker uses no retry up.
        tries = len(counted) - record.preemptions - record.misstarts - unbegun
        is_not_started = record.reason.startswith(NOT_STARTED)
        if self.run.rules:
            self.wrong += retried_otherwise(self.run.history, self.run.rules, is_cancelled=bool(self.cancels))
        elif tries > 1 + self.run.retries:
            self.wrong.append(f"it was attempted {len(self.run.attempts)} times with {self.run.retries} retries")
        elif (
            not self.cancels
            and tries <= self.run.retries
            and record.state is not RunState.FINISHED
            and not is_not_started
        ):
            self.wrong.append(
                f"it is {record.state} ({record.reason}) after {len(self.run.attempts)} attempts, "
                f"with {self.run.retries} retries"
            )
        for cancel in self.cancels:
            if cancel.answer.startswith("killed"):
                if record.state is not RunState.KILLED:
                    self.wrong.append(f"it was Killed by a cancel, and is {record.state}")
                if cancel.at is not None and any(s.first > cancel.at for s in self.run.stamps.values()):
                    self.wrong.append("its job started after a cancel had Killed it")

    def _executions(self) -> None:
        """No two executions overlapped, each attempt was executed at most once, and the history knows them all."""
        known = {attempt.number for attempt in self.run.attempts}
        for number, stamps in self.run.stamps.items():
            if len(stamps.starts) > 1:
                self.wrong.append(f"attempt {number} was executed {len(stamps.starts)} times")
            if number not in known:
                self.wrong.append(f"attempt {number} was executed, and is not in its history")
            if self.run.wheel and stamps.wheel not in ("", self.run.wheel):
                wanted = f"wanted version {self.run.wheel} of its package"
                self.wrong.append(f"attempt {number} had version {stamps.wheel}, and {wanted}")
            if len(stamps.ahead) > 1:
                self.wrong.append(f"attempt {number} got the signal ahead of its end {len(stamps.ahead)} times")
        spans = sorted((s.first, s.last, number) for number, s in self.run.stamps.items())
        for (_, last, before), (first, _, after) in itertools.pairwise(spans):
            if first <= last:
                self.wrong.append(
                    f"attempt {before} still lived {1000 * (last - first):.0f} ms after attempt {after} had started"
                )

    def _checkpoints(self) -> None:
        """Each attempt went on from a whole state, which is no older than the last that was called stored before."""
        kept, of = 0, 0
        for number, stamps in sorted(self.run.stamps.items()):
            if stamps.found is None:
                continue
            first, second = stamps.found
            if first != second:
                self.wrong.append(f"a checkpoint was half: attempt {number} found epochs {first} and {second}")
            if first < kept:
                self.wrong.append(
                    f"an acknowledged checkpoint was lost: attempt {number} went on from epoch {first}, "
                    f"and epoch {kept} of attempt {of} was stored"
                )
            if stamps.kept > kept:
                kept, of = stamps.kept, number

    def _attempt(self, attempt: Attempt) -> None:
        self._outlived(attempt)
        for at in attempt.crashed_at:
            if not self._was_disturbed(attempt, at):
                self.wrong.append(
                    f"attempt {attempt.number} was Crashed {at - attempt.began_at:.1f} s after its claim by "
                    f"{attempt.worker}, which had no trouble"
                )
        problem = {
            RunState.FINISHED: self._finished,
            RunState.FAILED: self._failed,
            RunState.KILLED: self._killed,
            RunState.CRASHED: self._crashed,
        }.get(attempt.state)
        text = problem(attempt) if problem is not None else ""
        if text:
            self.wrong.append(f"attempt {attempt.number} is {attempt.state} ({attempt.reason}): {text}")

    def _outlived(self, attempt: Attempt) -> None:
        life = self._life(attempt)
        # A container outlives its worker until its lease is over, or the next worker adopts it.
        if life is None or life.killed_at is None or attempt.stamps is None or self.run.is_container:
            return
        # Without its guard, its jobs are ended by the next worker on the machine.
        if any(abs(at - life.killed_at) < 2 for at in life.guard_killed_at):
            return
        # One that was killed as it started had not taken over yet what its forerunner left: the lease ends that.
        if life.pid != attempt.stamps.worker_pid and life.killed_at < life.since + _TAKE_OVER_S:
            return
        late = attempt.stamps.last - life.killed_at
        if late > _TREE_ENDS_S:
            self.wrong.append(f"attempt {attempt.number}: its job lived {late:.1f} s longer than its killed worker")

    def _finished(self, attempt: Attempt) -> str:
        return "" if _code(attempt) == 0 else f"its job {_told(attempt)}"

    def _output(self, attempt: Attempt) -> None:
        """What a Finished attempt printed was kept, whole and once; of a flood the newest."""
        if attempt.state is not RunState.FINISHED or attempt.number not in self.run.logs:
            return
        if self.run.last_line:
            *_, last = [b"", *self.run.logs[attempt.number].split()]
            if last != self.run.last_line:
                text = f"printed lines until {self.run.last_line.decode()}, the last one that was kept is {last[:40]!r}"
                self.wrong.append(f"attempt {attempt.number} {text}")
            return
        if self.was_full(attempt) and "disk was full" in self.run.record.message:
            return  # and it says so
        name = f"{self.run.record.id}.{attempt.number}"
        kept = self.run.logs[attempt.number].decode("utf-8", "replace").splitlines()
        printed = [f"{name} line {number}" for number in range(self.run.lines)]
        if kept != printed and self._engine_lost_some(attempt, kept, printed):
            self.tolerated.append(f"attempt {attempt.number}: its engine was killed with output that it had read only")
        elif kept != printed:
            self.wrong.append(f"attempt {attempt.number} printed {len(printed)} lines, {len(kept)} were kept")

    def _went_back(self, attempt: Attempt) -> str:
        """It had not begun, and its worker had been cut off or frozen."""
        if attempt.stamps is not None:
            return f"its job {_told(attempt)}"
        return "" if self._was_disturbed(attempt, attempt.ended_at) else "Redis was there"

    def _timed_out(self, attempt: Attempt) -> str:
        """It had a time limit, which was over, and of which a worker that was well has told its job."""
        stamps, ran_s = attempt.stamps, attempt.ended_at - attempt.began_at
        if not self.run.timeout_s or ran_s < self.run.timeout_s - 0.1:
            return f"it ran for {ran_s:.1f} s, and may for {self.run.timeout_s:g} s"
        # The signal comes a second ahead, to a job that may be slow to begin.
        is_sure = stamps is not None and stamps.first < attempt.ended_at - 2 and not stamps.ahead
        return "it got no signal ahead" if is_sure and not self._was_disturbed(attempt, attempt.ended_at) else ""

    def _failed(self, attempt: Attempt) -> str:
        if re.search(
            r"No space left|the worker's disk|git could not .*(write error|could not set|failed to write)",
            attempt.reason,
        ):
            return "" if self.was_full(attempt) else "the disk was not full"
        if attempt.reason.startswith("time limit of "):
            return self._timed_out(attempt)
        if "left no outputs" in attempt.reason:
            return "" if attempt.stamps is None else f"its job {_told(attempt)}"
        if LAPSED in attempt.reason or re.match("Redis at .* is not reachable", attempt.reason):
            return self._went_back(attempt)
        if "engine" in attempt.reason:
            if attempt.stamps is not None and not re.search("has forgotten it|has lost its exit code", attempt.reason):
                return f"its job {_told(attempt)}"
            spans = [*self.evidence.engine_away, *self.evidence.engine_mute.get(_slot(attempt), [])]
            was_away = any(span.meets(attempt.began_at - _SLACK_S, attempt.ended_at) for span in spans)
            return "" if was_away else "its engine was there"
        if found := re.match(r"(?:preempted \()?exit code (\d+)", attempt.reason):
            return "" if _code(attempt) == int(found[1]) else f"its job {_told(attempt)}"
        if found := re.match(r"ended by (SIG\w+)", attempt.reason):
            signals = self.evidence.job_signals.get((self.run.record.id, attempt.number), [])
            if found[1] not in [name for name, _ in signals]:
                return f"nobody sent it that; its job {_told(attempt)}"
            if attempt.stamps is not None and attempt.stamps.ended_at is not None:
                near = any(at <= attempt.stamps.ended_at + 0.5 for _, at in signals)
                return "" if near else f"its job {_told(attempt)} before the signal"
            return ""
        if "exit status was lost" in attempt.reason:
            # Also in the life of the worker that had it before: who takes such a job over is not its parent either.
            lives = [life for life in self.evidence.lives if life.slot == _slot(attempt)]
            killed_at = [at for life in lives for at in life.guard_killed_at]
            if any(attempt.began_at - 1 <= at <= attempt.ended_at for at in killed_at):
                self.tolerated.append(f"attempt {attempt.number}: its exit was lost with a killed guard")
                return ""
            return "no guard was killed"
        return "the harness knows no cause"

    def _killed(self, attempt: Attempt) -> str:
        asked = [cancel for cancel in self.cancels if cancel.asked_at <= attempt.ended_at]
        if asked:
            ended_at = attempt.stamps.ended_at if attempt.stamps is not None else None
            if ended_at is not None and all(ended_at < cancel.asked_at - 0.5 for cancel in asked):
                return f"its job {_told(attempt)} before anyone asked for its end"
            return ""
        if attempt.reason.startswith(PREEMPTED):
            times = self.evidence.preempted.get(self.run.record.id, [])
            return "" if any(at <= attempt.ended_at for at in times) else "nobody had it preempted"
        if attempt.reason == LAPSED:
            return self._went_back(attempt)
        if "before it had begun" in attempt.reason:
            lives = [life for life in self.evidence.lives if life.slot == _slot(attempt)]
            if attempt.stamps is not None:
                return f"its job {_told(attempt)}"
            return "" if any(life.is_leaving for life in lives) else "its worker was not told to stop"
        if "shut down" in attempt.reason:
            if any(w.slot == _slot(attempt) and len(w.termed_at) > 1 for w in self.evidence.lives):
                return ""
            return "its worker was not told to shut down"
        return "nobody asked for it"

    def _crashed(self, attempt: Attempt) -> str:
        stamps = attempt.stamps
        if stamps is None or stamps.ended_at is None:
            return ""
        if stamps.code == 9 or "lease" in attempt.reason:
            return ""  # it was told to end, and did
        life = self._life(attempt)
        if life is None:
            return f"its job {_told(attempt)}; its worker (pid {stamps.worker_pid}) is unknown"
        went_back = any((step.state, step.attempt) == (RunState.PENDING, attempt.number) for step in self.run.history)
        if went_back or attempt is not self.run.attempts[-1] or self.run.record.attempt != attempt.number:
            # It was superseded, by its next attempt or by what ended the run before that began: its report, however
            # late, came after its lease.
            return ""
        if life.killed_at is not None and stamps.ended_at >= life.killed_at:
            self.tolerated.append(f"attempt {attempt.number}: its job ended by itself after its worker had been killed")
            return ""
        if life.killed_at is not None and life.able_s(stamps.last, life.killed_at) <= _REPORT_S:
            self.tolerated.append(
                f"attempt {attempt.number}: its worker was killed {life.able_s(stamps.last, life.killed_at):.2f} s "
                "(frozen time not counted) after the job was gone, before it could keep its end"
            )
            return ""
        if life.killed_at is not None and any(s.meets(stamps.ended_at - 1, life.killed_at) for s in self._full()):
            self.tolerated.append(f"attempt {attempt.number}: the full disk could not keep its end, its worker died")
            return ""
        first = self.evidence.life(stamps.worker_pid, stamps.first)
        left_at = first.upgraded_at if first is not None else None
        lost = (
            []
            if first is None or left_at is None
            else [at for at in first.guard_killed_at if at >= left_at - _REPORT_S]
        )
        if any(at <= stamps.ended_at for at in lost):
            self.tolerated.append(f"attempt {attempt.number}: it ended between two workers, and its guard was killed")
            return ""
        was_full = any(s.meets(stamps.ended_at - 1, stamps.ended_at + 1) for s in self._full())
        if left_at is not None and stamps.ended_at >= left_at and was_full:
            self.tolerated.append(
                f"attempt {attempt.number}: it ended between two workers, and the full disk kept no end"
            )
            return ""
        return f"its job {_told(attempt)}, and its worker lived {life.able_s(stamps.last, LATER):.1f} s longer"

    def _engine_lost_some(self, attempt: Attempt, kept: list[str], printed: list[str]) -> bool:
        """Whether lines are missing, in an otherwise whole output, of a container whose engine was killed."""
        stamps = attempt.stamps
        if stamps is None or not self.run.is_container:
            return False
        rest = iter(printed)
        return all(line in rest for line in kept) and any(
            stamps.first <= at <= stamps.last + _REPORT_S for at in self.evidence.engine_killed_at
        )

    # -- what the harness did ------------------------------------------------------------------------------------

    def _life(self, attempt: Attempt) -> Life | None:
        if attempt.stamps is None:
            return None
        life = self.evidence.life(attempt.stamps.worker_pid, attempt.stamps.first)
        if life is not None and life.slot == _slot(attempt):
            return self._heir(life, attempt.stamps.last)
        # Its job wrote down another parent: the guard was killed as it started.
        slot = [life for life in self.evidence.lives if life.slot == _slot(attempt)]
        # The worker may have been killed in the instant in which its run was noted to be Running.
        return next((life for life in slot if life.since <= attempt.began_at <= life.until + _SLACK_S), None)

    def _heir(self, life: Life, lived_until: float) -> Life:
        """Who had the job at last: a worker that left it hands it to the next one of its slot."""
        while life.upgraded_at is not None and lived_until > life.until:
            later = [other for other in self.evidence.lives if other.slot == life.slot and other.since >= life.until]
            if not later:
                break
            life = later[0]
        return life

    def was_full(self, attempt: Attempt) -> bool:
        return any(s.meets(attempt.began_at - _SLACK_S, attempt.ended_at) for s in self._full())

    def _full(self) -> list[Span]:
        return self.evidence.disk_full

    def _was_disturbed(self, attempt: Attempt, until: float) -> bool:
        """Whether anything was done to its worker, or to Redis, that can have stopped its heartbeats."""
        since = until - LEASE_S - _SLACK_S
        if re.search(r"lease| died", attempt.reason):
            # Reported by a worker itself, whenever it could; a claim may arrive just after its worker was killed.
            since = attempt.began_at - 0.5
        # A container may have been adopted by whichever worker of the machine looked first.
        slots = {life.slot for life in self.evidence.lives} if self.run.is_container else {_slot(attempt)}
        spans = [*self.evidence.redis_away, *(cut for slot in slots for cut in self.evidence.cuts.get(slot, []))]
        for life in self.evidence.lives:
            if life.slot in slots:
                spans += life.stopped
                if life.killed_at is not None:
                    spans.append(Span(life.killed_at, life.killed_at))
                if life.upgraded_at is not None:
                    spans.append(Span(life.upgraded_at, life.until))
                if len(life.termed_at) > 1:
                    spans.append(Span(life.termed_at[0], life.until))
        return any(span.meets(since, until) for span in spans)


def _slot(attempt: Attempt) -> str:
    return attempt.worker.partition("@")[0]


def _code(attempt: Attempt) -> int | None:
    return attempt.stamps.code if attempt.stamps is not None else None


def _told(attempt: Attempt) -> str:
    stamps = attempt.stamps
    if stamps is None:
        return "never started"
    if stamps.code is None:
        return f"lived until {attempt.ended_at - stamps.last:.2f} s before that, and never ended by itself"
    assert stamps.ended_at is not None
    return f"ended with code {stamps.code} {attempt.ended_at - stamps.ended_at:.2f} s before that"
