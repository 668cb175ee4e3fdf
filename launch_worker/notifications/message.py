"""Defines a message: what one notice tells, with an id that stays the same however often it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from launch_worker.model.group import GroupRecord
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.untrusted.text import read_map

#: Types of messages that tell of no run.
GROUP_ENDED = "group.ended"
#: A first run of a group has failed.
GROUP_FAILING = "group.failing"
#: So many runs of a group have failed that the rest is not started.
GROUP_HALTED = "group.halted"
RULE_FIRED = "rule.fired"
DIGEST = "digest"
TEST = "test"


@dataclass(frozen=True)
class Best:
    """The best run of a sweep."""

    run: Record
    metric: str
    value: float


@dataclass(frozen=True)
class Ended:
    """A group that has ended: an array, a bulk submission or a sweep."""

    group: GroupRecord
    #: The first runs of it that are not Finished; the group's counts say how many there are.
    failed: tuple[Record, ...] = ()
    best: Best | None = None


@dataclass(frozen=True)
class Alarm:
    """What a rule has found. It is made of texts and a time, so that it can be kept as JSON."""

    #: Name of the rule.
    rule: str
    #: Kind of the subject (run, queue, worker), and its id or name.
    kind: str
    subject: str
    #: Server time in microseconds since which it is so.
    since: int
    #: A sentence for people, with what others wrote in it.
    sentence: str
    #: Command that says more.
    command: str = ""
    queue: str = ""
    project: str = ""
    #: Values by name, for programs.
    values: Mapping[str, str] = field(default_factory=dict)

    def as_text(self) -> str:
        """The alarm as JSON, from which `of_text` makes it again."""
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> Alarm:
        """Read what `as_text` wrote; what of it is damaged is empty."""
        found = read_map(text)
        words = {name: found[name] for name in _WORDS if isinstance(found.get(name), str)}
        since, values = found.get("since"), found.get("values")
        return cls(
            **{"rule": "", "kind": "", "subject": "", "sentence": "", **words},
            since=since if isinstance(since, int) else 0,
            values={name: str(value) for name, value in values.items()} if isinstance(values, dict) else {},
        )


#: Fields of an alarm that are texts.
_WORDS = ("rule", "kind", "subject", "sentence", "command", "queue", "project")


@dataclass(frozen=True)
class Message:
    """What one notice tells. What others wrote in it is not cleaned: each sender does that as its medium needs it."""

    #: Name of the notice, the same for every try to send it: `webhook-id`.
    id: str
    #: Type, as run.failed, group.ended, rule.fired, digest, test.
    type: str
    #: Server time in microseconds at which it happened.
    at: int
    run: Record | None = None
    #: Last lines of a failed run's output.
    output: str = ""
    ended: Ended | None = None
    alarm: Alarm | None = None
    #: Messages of a digest, the oldest first.
    parts: tuple[Message, ...] = ()


def of_run(message_id: str, at: int, run: Record, state: RunState, *, output: str = "") -> Message:
    """The message that a run has come into a state, Pending by a retry; the record may be a later one."""
    word = "retry" if state is RunState.PENDING else state.value.lower()
    return Message(message_id, f"run.{word}", at, run=replace(run, state=state), output=output)


def of_group(
    message_id: str,
    at: int,
    group: GroupRecord,
    *,
    failed: Iterable[Record] = (),
    best: Best | None = None,
    type_: str = GROUP_ENDED,
) -> Message:
    """The message that all runs of a group have ended, or of another type what has become of it."""
    return Message(message_id, type_, at, ended=Ended(group, tuple(failed), best))


def of_alarm(message_id: str, at: int, alarm: Alarm) -> Message:
    """The message that a rule has found something."""
    return Message(message_id, RULE_FIRED, at, alarm=alarm)


def digest(message_id: str, at: int, parts: Iterable[Message]) -> Message:
    """The message that tells several at once, after quiet hours."""
    return Message(message_id, DIGEST, at, parts=tuple(parts))


def of_test(message_id: str, at: int) -> Message:
    """The message that an admin has sent to see whether a channel works."""
    return Message(message_id, TEST, at)
