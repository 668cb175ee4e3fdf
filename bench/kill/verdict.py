"""What became of the jobs of a scene: the jobs' stamps beside the system's own record. Pure functions of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bench.kill.stamps import Execution

#: Words of a record after which a system does no more for a job.
FINAL = frozenset({"done", "failed", "cancelled"})
#: Seconds for which a record may lag behind without being called false: two looks at it.
LAG_S = 1.0
#: Seconds after its worker's death, or after the record's end, that a process is given to end.
LEFT_S = 3.0
#: Seconds after a cancel that a job is given: SIGTERM, the usual grace of 10 s, SIGKILL.
CANCEL_S = 15.0


@dataclass
class Facts:
    """One scene: what was done, what the jobs wrote, and what the system said at each look."""

    jobs: Mapping[str, Sequence[Execution]]
    #: Time of a look, and the word for each job; nothing for a look that was not answered.
    looks: Sequence[tuple[float, Mapping[str, str]]]
    fault_at: float
    over_at: float
    cancelled: Mapping[str, float] = field(default_factory=dict)
    #: When the worker of an execution was killed, by the execution's pid.
    orphaned: Mapping[int, float] = field(default_factory=dict)
    #: Job whose message was taken out of the queue.
    dropped: str = ""


@dataclass
class Verdict:
    """Numbers of jobs, and seconds."""

    jobs: int = 0
    #: They never came to their end, and the record does not say that they failed.
    lost: int = 0
    #: More than one execution came to its end.
    twice: int = 0
    #: Two executions worked at the same time.
    overlapping: int = 0
    #: A process of theirs went on without anybody: after its worker's death, a cancel, or the record's end.
    left: int = 0
    #: The record still says that they run, and nothing of them does.
    stuck: int = 0
    #: The record says that they failed, and they came to their end.
    falsely_failed: int = 0
    #: They began more than once: no fault, but work that was done for nothing.
    again: int = 0
    #: Longest time for which a job's record was false; 0 for less than a second, None for one that stayed false.
    truth_s: float | None = 0.0

    @property
    def is_clean(self) -> bool:
        return not any(asdict(self)[name] for name in COUNTS) and self.truth_s is not None


COUNTS = ("lost", "twice", "overlapping", "left", "stuck", "falsely_failed")


def judge(facts: Facts) -> Verdict:
    verdict = Verdict(jobs=len(facts.jobs))
    for name, processes in facts.jobs.items():
        mains = [process for process in processes if not process.is_child]
        ends = [process.ended_at for process in mains if process.ended_at is not None]
        last = _last_word(facts, name)
        is_cancelled = name in facts.cancelled
        is_lost = not ends and not is_cancelled and last not in ("failed", "cancelled")
        lives = any(process.lives_at(facts.over_at) for process in mains)
        verdict.lost += is_lost
        verdict.twice += len(ends) > 1
        verdict.again += len(mains) > 1
        verdict.overlapping += any(
            one.overlaps(other) for place, one in enumerate(mains) for other in mains[place + 1 :]
        )
        verdict.left += any(_is_left(facts, name, process) for process in processes)
        verdict.stuck += last == "running" and not lives
        verdict.falsely_failed += bool(ends) and not is_cancelled and last in ("failed", "cancelled")
        false_s = None if is_lost else _false_s(facts, name, mains)
        if false_s is None or verdict.truth_s is None:
            verdict.truth_s = None
        else:
            verdict.truth_s = max(verdict.truth_s, false_s)
    return verdict


def _last_word(facts: Facts, name: str) -> str:
    return facts.looks[-1][1].get(name, "unknown") if facts.looks else "unknown"


def _is_left(facts: Facts, name: str, process: Execution) -> bool:
    until = []
    if process.pid in facts.orphaned:
        until.append(facts.orphaned[process.pid] + LEFT_S)
    if name in facts.cancelled:
        until.append(facts.cancelled[name] + CANCEL_S)
    last = _last_word(facts, name)
    if last in FINAL:
        # Since when the record has said so without a break.
        since = facts.looks[-1][0]
        for at, words in reversed(facts.looks):
            if words.get(name) != last or at < process.first:
                break
            since = at
        until.append(since + (CANCEL_S if name in facts.cancelled else LEFT_S))
    return any(process.last > limit for limit in until)


def _is_true(facts: Facts, name: str, mains: Sequence[Execution], at: float, word: str) -> bool:
    """Whether a record's word fits what the jobs wrote; one that says nothing is true of what has not ended."""
    begun = [process for process in mains if process.first <= at]
    if any(process.ended_at is not None and process.ended_at <= at for process in begun):
        return word == "done" or (name in facts.cancelled and word == "cancelled")
    if any(process.lives_at(at) or (process.first <= at <= process.last) for process in begun):
        return word not in FINAL
    if begun:
        # Its execution is over without an end of its own.
        return word in ("waiting", "failed", "cancelled")
    if name == facts.dropped:
        return word in ("failed", "cancelled")
    begins_soon = any(at < process.first <= at + LAG_S for process in mains)
    return word in ("waiting", "unknown") or begins_soon or (name in facts.cancelled and word == "cancelled")


def _false_s(facts: Facts, name: str, mains: Sequence[Execution]) -> float | None:
    """The longest time for which the record of a job was false, after the fault; None where it still is."""
    longest, since = 0.0, None
    for at, words in facts.looks:
        if at < facts.fault_at:
            continue
        if _is_true(facts, name, mains, at, words.get(name, "unknown")):
            if since is not None:
                longest = max(longest, at - since)
            since = None
        elif since is None:
            since = at
    if since is not None and facts.looks[-1][0] - since > LEFT_S:
        return None
    return round(longest, 1) if longest >= LAG_S else 0.0
