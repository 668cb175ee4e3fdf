"""Describes a rule: a condition that is watched, where, for how long, and the channel that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import PROJECT, PROJECT_RULE, check_queue_name, check_text
from launch_worker.model.notify import CHANNEL_NAME, CHANNEL_NAME_RULE
from launch_worker.model.units import format_duration, isoformat, micros_of


class Condition(StrEnum):
    """What a rule watches."""

    #: Runs are ready, and wait for longer than that.
    WAITING = "waiting"
    #: No worker consumes a queue in which runs wait.
    UNSERVED = "unserved"
    #: A Running run has had no output for as long.
    SILENT = "silent"
    #: All GPUs of a Running run are idle for as long.
    GPU_IDLE = "gpu-idle"
    #: A worker's heartbeats have stopped, and it has not come back for as long.
    WORKER_LOST = "worker-lost"

    @property
    def is_of_runs(self) -> bool:
        """Whether it watches single runs that are Running."""
        return self in (Condition.SILENT, Condition.GPU_IDLE)


CONDITIONS = tuple(condition.value for condition in Condition)
#: Seconds of the conditions that have a default.
_DEFAULTS_S = {Condition.UNSERVED: 300.0, Condition.WORKER_LOST: 0.0}


@dataclass(frozen=True)
class Rule:
    """A rule. Times are microseconds since 1970."""

    name: str
    condition: Condition
    #: Seconds for which it must be so.
    seconds: float
    channel: str
    #: Queue and project that it watches; '' for every one.
    queue: str = ""
    project: str = ""
    created_at: int = 0
    created_by: str = ""
    #: Number of findings that were told and are not over, and the time since which the first of them is so.
    findings: int = 0
    since: int | None = None

    @classmethod
    def checked(
        cls, name: str, condition: str, channel: str, *, seconds: float | None, queue: str, project: str
    ) -> Rule:
        """The rule that an admin asks for. Raises InputError."""
        check_text("rule", name, CHANNEL_NAME, CHANNEL_NAME_RULE)
        if condition not in CONDITIONS:
            raise InputError(f"a rule watches for {', '.join(CONDITIONS)}, not {condition[:40]!r}")
        wanted = Condition(condition)
        if queue:
            check_queue_name(queue)
        if project:
            check_text("project", project, PROJECT, PROJECT_RULE)
        if wanted is Condition.WORKER_LOST and (queue or project):
            raise InputError(f"a rule of {wanted} watches all workers; leave out the queue and the project")
        if wanted is Condition.UNSERVED and project:
            raise InputError(f"a rule of {wanted} watches queues; leave out the project")
        seconds = _DEFAULTS_S.get(wanted) if seconds is None else seconds
        if seconds is None:
            raise InputError(f"say for how long, as --for 2h: the rule is of {wanted}")
        return cls(name, wanted, seconds, channel, queue, project)

    def says(self) -> str:
        """The rule as a phrase: `waiting for more than 2 h in queue gpu`."""
        words = [self.condition.value]
        if self.seconds:
            words.append(f"for more than {format_duration(self.seconds)}")
        words += [f"in queue {self.queue}"] if self.queue else []
        words += [f"of project {self.project}"] if self.project else []
        return " ".join(words)

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Rule:
        return cls(
            shown["name"],
            Condition(shown["when"]),
            float(shown["seconds"]),
            shown["channel"],
            shown["queue"] or "",
            shown["project"] or "",
            micros_of(shown["created_at"]) or 0,
            shown["created_by"] or "",
            int(shown["findings"]),
            micros_of(shown["since"]),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "when": self.condition.value,
            "seconds": self.seconds,
            "queue": self.queue or None,
            "project": self.project or None,
            "channel": self.channel,
            "created_at": isoformat(self.created_at or None),
            "created_by": self.created_by or None,
            "findings": self.findings,
            "since": isoformat(self.since),
        }
