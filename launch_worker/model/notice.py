"""Describes notices that wait in the outbox, and how the sending to each channel goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Notice(NamedTuple):
    """One entry of the outbox."""

    #: Stable name of what is told, for one channel: a repeat has it too.
    id: str
    #: Server time in microseconds of this try.
    due_at: int
    #: Number of failed tries.
    tries: int
    #: Digest of which it is a part; '' for none.
    mark: str
    #: Facts as they were when it was made: type, at, and those of its run, group or rule.
    facts: Mapping[str, Any]


class Lent(NamedTuple):
    """The answer to a sender that asks for a channel's notices."""

    notices: tuple[Notice, ...]
    #: Why there are none: `held` by another sender, `paused` after a failure, or nothing `due`.
    why: str
    #: Server time in microseconds at which to ask again; 0 for never before news.
    until: int
    #: Failed tries in a row.
    failures: int = 0
    #: Name of the sender that has the channel; '' for none.
    holder: str = ""


class ChannelState(NamedTuple):
    """How the sending to one channel goes. Times are server microseconds."""

    waiting: int
    bytes: int
    #: Time since which each try has failed; 0 for a channel whose last try was taken.
    failing_since: int
    #: The receiver's last refusal, as a sentence; '' for none.
    error: str
    #: Time before which it is not tried again; 0 for at once.
    next_at: int
    sent_at: int
    #: Time at which the oldest notice was made, about: that of the next one, or the first failure; 0 for none.
    oldest_at: int
    sent: int
    #: Notices that the receiver refused for good, that were given up after days, and that found no room.
    refused: int
    given_up: int
    dropped: int


class OutboxState(NamedTuple):
    """What waits to be told, and how it goes."""

    #: Names of the channels; None while no process sends.
    known: tuple[str, ...] | None
    #: State of each channel that is known or has notices.
    channels: Mapping[str, ChannelState]
    #: Notices ever that found no room, whose channel was not there, that were refused, and that were given up.
    dropped: int
    unknown: int
    refused: int
    given_up: int
    #: Server time in microseconds of the last of these; 0 for never.
    lost_at: int = 0

    @property
    def waiting(self) -> int:
        """The number of notices that wait."""
        return sum(channel.waiting for channel in self.channels.values())
