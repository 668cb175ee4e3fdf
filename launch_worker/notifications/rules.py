"""Looks whether what rules watch for is so, from Redis' indexes in bounded reads, and tells each finding once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sqlalchemy import delete, insert, select

from launch_worker import humane
from launch_worker.database.audit import gone_workers
from launch_worker.database.database import Database
from launch_worker.model.run import Record
from launch_worker.notifications.channels import Channels
from launch_worker.notifications.message import Alarm
from launch_worker.notifications.rule import Condition, Rule
from launch_worker.notifications.schema import alarms
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.notifications")

#: Waiting runs of a queue, and Running runs, at which a rule looks; a rule with a project sees no others either.
_MOST_WAITING = 200
_MOST_RUNNING = 2000
#: Runs that one look tells one by one; more are told together, as what has befallen them is mostly one thing.
_MOST_APART = 5
#: Seconds between two looks at Running runs: a part of the rule's own time, and no more and no less than these.
_RUNS_PART, _LEAST_S, _MOST_S = 1 / 4, 5.0, 30.0
#: Per cent of a device's time at work up to which it is idle.
_IDLE = 2
#: Seconds for which a worker that is gone is remembered, and lines of the audit in which lost ones are looked for.
_GONE_S = 3600
_MOST_LINES = 200

#: How many runs of each queue wait, and the first of them with the times since which they do.
_Waiting = dict[str, tuple[int, list[tuple[str, int]]]]
#: What tells a finding: the channel's name, an id that stays the same for it, and what it is.
Tell = Callable[[str, str, Alarm], object]


@dataclass
class _Busy:
    """What is remembered of the GPUs of a run's attempt."""

    attempt: int
    #: Server time in microseconds at which one of them was last seen at work; that of the first look, for none yet.
    at: int
    seen_at: int


class Rules:
    """The rules of one database, looked at by one thread. What was told is kept in the database: it is told once.

    A finding that is over may be told again when it comes back.
    """

    def __init__(self, store: Store, database: Database, *, tell: Tell) -> None:
        self._store = store
        self._database = database
        self._channels = Channels(database)
        self._tell = tell
        self._busy: dict[str, _Busy] = {}
        #: Monotonic times of the next looks at Running runs, by rule.
        self._next: dict[str, float] = {}

    def look(self) -> None:
        """Look once. Raises ArchiveError, BrokerUnavailableError: then what was not told is told by the next look."""
        rules = self._channels.rules()
        if not rules:
            return
        now = self._store.now_us()
        looked = _Look(self._store, self._database, now, self._busy)
        told = self._told()
        for rule in rules:
            if rule.condition.is_of_runs and not self._is_due(rule):
                continue
            found = {alarm.subject: alarm for alarm in looked.findings(rule)}
            before = told.get(rule.name, frozenset())
            self._tell_new(rule, [found[subject] for subject in found if subject not in before], now)
            self._forget(rule.name, before - found.keys())

    def _is_due(self, rule: Rule) -> bool:
        at = time.monotonic()
        if at < self._next.get(rule.name, 0.0):
            return False
        self._next[rule.name] = at + min(_MOST_S, max(_LEAST_S, rule.seconds * _RUNS_PART))
        return True

    def _told(self) -> dict[str, frozenset[str]]:
        """The subjects of which each rule has told, and that were not over at the last look."""
        found: dict[str, set[str]] = {}
        with self._database.reading() as connection:
            for rule, subject in connection.execute(select(alarms.c.rule, alarms.c.subject)):
                found.setdefault(rule, set()).add(subject)
        return {rule: frozenset(subjects) for rule, subjects in found.items()}

    def _tell_new(self, rule: Rule, new: Sequence[Alarm], now: int) -> None:
        if not new:
            return
        new = sorted(new, key=lambda alarm: alarm.since)
        told = new if len(new) <= _MOST_APART else [_together(new)]
        for alarm in told:
            self._tell(rule.channel, _id_of(rule, alarm), alarm)
            log.info("rule.fired rule=%s subject=%s", rule.name, alarm.subject)
        # Told twice would be less bad than not at all, and its id is the same then.
        rows = [{"rule": rule.name, "subject": one.subject, "since": one.since, "told_at": now} for one in new]
        with self._database.writing(is_synced=False) as connection:
            # Another process may have told it as well.
            connection.execute(
                delete(alarms).where(alarms.c.rule == rule.name, alarms.c.subject.in_([one.subject for one in new]))
            )
            connection.execute(insert(alarms), rows)

    def _forget(self, rule: str, over: frozenset[str]) -> None:
        if over:
            with self._database.writing(is_synced=False) as connection:
                connection.execute(delete(alarms).where(alarms.c.rule == rule, alarms.c.subject.in_(sorted(over))))


class _Look:
    """What one look has read: rules that need the same share it."""

    def __init__(self, store: Store, database: Database, now: int, busy: dict[str, _Busy]) -> None:
        self._store = store
        self._database = database
        self._now = now
        self._busy = busy
        self._workers: list[dict[str, Any]] | None = None
        self._ready: list[str] | None = None
        self._running: dict[tuple[str, str], list[Record]] = {}

    def findings(self, rule: Rule) -> Iterator[Alarm]:
        """What the rule finds now."""
        find = {
            Condition.WAITING: self._waiting,
            Condition.UNSERVED: self._unserved,
            Condition.SILENT: self._silent,
            Condition.GPU_IDLE: self._idle,
            Condition.WORKER_LOST: self._lost,
        }
        before = self._now - int(rule.seconds * 1e6)
        for alarm in find[rule.condition](rule, before):
            yield replace(alarm, rule=rule.name)

    def _queues(self, rule: Rule) -> list[str]:
        """The queues in which runs are ready that the rule watches."""
        if self._ready is None:
            self._ready = [name for name, ready in self._store.queues().items() if ready]
        return [name for name in self._ready if not rule.queue or name == rule.queue]

    def _waiting(self, rule: Rule, before: int) -> Iterator[Alarm]:
        waiting = self._store.waiting_before(self._queues(rule), before, most=_MOST_WAITING if rule.project else 1)
        if rule.project:
            waiting = self._of_project(waiting, rule.project)
        oldest = [first[0][0] for _, first in waiting.values()]
        records = {record.id: record for record in self._store.records(oldest)}
        for queue, (count, first) in waiting.items():
            run_id, since = first[0]
            record = records.get(run_id, Record())
            of = f" of project {rule.project}" if rule.project else ""
            yield Alarm(
                "",
                "queue",
                queue,
                since,
                f"In queue {queue}, {humane.plural(count, 'run')}{of} {_verb(count, 'waits', 'wait')} for more than "
                f"{humane.duration(rule.seconds)}; {record.name or 'the first'} ({run_id}) for {self._for(since)}"
                + (f": {record.reason}." if record.reason else "."),
                f"launch-worker queues show {queue}",
                queue,
                rule.project,
                {"runs": str(count), "oldest_run": run_id},
            )

    def _of_project(self, waiting: _Waiting, project: str) -> _Waiting:
        """What of these runs is of a project."""
        places = self._store.places_of_runs([run_id for _, first in waiting.values() for run_id, _ in first])
        kept = {
            queue: [run for run in first if places.get(run[0], ("", ""))[0] == project]
            for queue, (_, first) in waiting.items()
        }
        return {queue: (len(first), first) for queue, first in kept.items() if first}

    def _unserved(self, rule: Rule, before: int) -> Iterator[Alarm]:
        served = {
            str(queue)
            for worker in self._live()
            if worker.get("state") == "running"
            for queue in worker.get("queues") or ()
        }
        unserved = [queue for queue in self._queues(rule) if queue not in served]
        for queue, (count, first) in self._store.waiting_before(unserved, before, most=1).items():
            if self._store.settings_of("queue", queue).get("paused"):
                continue
            yield Alarm(
                "",
                "queue",
                queue,
                first[0][1],
                f"No worker consumes queue {queue}: {humane.plural(count, 'run')} {_verb(count, 'waits', 'wait')} "
                f"there for more than {humane.duration(rule.seconds)}.",
                f"celery -A launch_worker worker -Q {queue}",
                queue,
                values={"runs": str(count)},
            )

    def _silent(self, rule: Rule, before: int) -> Iterator[Alarm]:
        started = [(record, record.running_since or 0) for record in self._runs(rule)]
        candidates = [(record, since) for record, since in started if 0 < since < before]
        heard = self._store.heard_at([(record.id, record.attempt) for record, _ in candidates])
        for (record, since), at in zip(candidates, heard, strict=True):
            last = max(since, at)
            if last < before:
                said = "It has had no output yet" if at < since else "Its last output came"
                when = f", and runs for {self._for(since)}" if at < since else f" {self._for(last)} ago"
                yield self._of_run(
                    record, last, f"{record.name} ({record.id}) on {record.worker} is silent. {said}{when}.", "logs"
                )

    def _idle(self, rule: Rule, before: int) -> Iterator[Alarm]:
        use = self._devices_in_use()
        for record in self._runs(rule):
            if not record.gpus or record.id not in use:
                continue
            known = self._busy.get(record.id)
            if known is None or known.attempt != record.attempt:
                known = self._busy[record.id] = _Busy(record.attempt, self._now, self._now)
            known.seen_at = self._now
            if use[record.id]:
                known.at = self._now
            elif known.at < before:
                held = humane.plural(len(record.gpus), "GPU")
                yield self._of_run(
                    record,
                    known.at,
                    f"{record.name} ({record.id}) on {record.worker} holds {held}, idle for {self._for(known.at)}.",
                    "show",
                    gpus=str(len(record.gpus)),
                )
        for run_id in [one for one, known in self._busy.items() if known.seen_at < self._now - _GONE_S * 1_000_000]:
            del self._busy[run_id]

    def _lost(self, rule: Rule, before: int) -> Iterator[Alarm]:
        living = {str(worker.get("worker")) for worker in self._live()}
        for name, owner, at in self._gone():
            if name not in living and at <= before:
                yield Alarm(
                    "",
                    "worker",
                    name,
                    at,
                    f"Worker {name} was lost {self._for(at)} ago: its heartbeats have stopped, and its runs are "
                    "Crashed or tried again.",
                    "launch-worker workers",
                    values={"owner": owner},
                )

    def _of_run(self, record: Record, since: int, sentence: str, command: str, **values: str) -> Alarm:
        return Alarm(
            "",
            "run",
            record.id,
            since,
            sentence,
            f"launch-worker {command} {record.id}",
            record.queue,
            record.project,
            {"attempt": str(record.attempt), "worker": record.worker, "name": record.name, **values},
        )

    def _runs(self, rule: Rule) -> list[Record]:
        """The Running runs of the rule's queue and project, the oldest first."""
        key = (rule.queue, rule.project)
        if key not in self._running:
            narrow = {"state": {"Running"}}
            narrow |= {kind: {name} for kind, name in (("queue", rule.queue), ("project", rule.project)) if name}
            runs = self._store.runs(narrow, newest_first=False, page=500)
            self._running[key] = list(islice(runs, _MOST_RUNNING))
        return self._running[key]

    def _live(self) -> list[dict[str, Any]]:
        if self._workers is None:
            self._workers = self._store.workers()
        return self._workers

    def _devices_in_use(self) -> dict[str, bool]:
        """The runs that hold devices, and whether one of those is at work; those of which a driver says nothing are."""
        found: dict[str, bool] = {}
        for worker in self._live():
            for device in worker.get("devices") or ():
                use = device.get("use") if isinstance(device, Mapping) else None
                percent = use.get("percent") if isinstance(use, Mapping) else None
                is_busy = not isinstance(percent, (int, float)) or percent > _IDLE
                for run_id in (device.get("runs") or ()) if isinstance(device, Mapping) else ():
                    found[str(run_id)] = found.get(str(run_id), False) or is_busy
        return found

    def _gone(self) -> list[tuple[str, str, int]]:
        """The workers that were lost in the last hour: name, owner, and when; as the archive knows them."""
        since = self._now - _GONE_S * 1_000_000
        with self._database.reading() as connection:
            lost = gone_workers(connection, ("lost",), since=since, limit=_MOST_LINES)
        found: dict[str, tuple[str, str, int]] = {}
        for row, known in lost:
            name = str(known.get("worker") or row.target)
            found.setdefault(name, (name, row.target, row.at))
        return list(found.values())

    def _for(self, since: int) -> str:
        return humane.duration(max(0, self._now - since) / 1e6)


def _together(found: Sequence[Alarm]) -> Alarm:
    """Many findings of one rule as one: the oldest, and how many more there are."""
    first, more = found[0], len(found) - 1
    others = {"worker": "other worker", "queue": "other queue"}.get(first.kind, "other run")
    sentence = f"{first.sentence} The same is so of {humane.plural(more, others)}."
    return replace(first, sentence=sentence, values={**first.values, "others": str(more)})


def _id_of(rule: Rule, alarm: Alarm) -> str:
    """The finding's id: the same in whatever process it is found, and until it is over."""
    text = f"{rule.name} {rule.created_at} {alarm.subject} {alarm.since}"
    return f"rule-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:24]}"


def _verb(number: int, one: str, many: str) -> str:
    return one if number == 1 else many
