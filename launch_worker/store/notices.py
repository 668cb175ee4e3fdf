"""Reads and empties the outbox: notices of runs, groups and rules that wait for a sender."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from launch_worker.model.units import as_us
from launch_worker.store import keys
from launch_worker.store.news import News
from launch_worker.store.redis.client import pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map, read_whole

if TYPE_CHECKING:
    from launch_worker.model.notice import ChannelState, Lent, OutboxState

#: Seconds for which the names of channels are known without a sender's word.
SENDER_LIFE_S = 60.0
#: Notices that a sender gets at once.
AT_ONCE = 100
#: Seconds after which a rule's notice may be made again, once the rule does not find its cause any more.
_TOLD_LIFE_S = 3600.0

#: What became of notices: told, refused for good, given up after days, of a channel that is not there; or not yet.
Fate = Literal["sent", "refused", "given_up", "unknown", "later", "put_off"]


class Notices(News):
    """The part of `Store` for the outbox."""

    def notify(self, channel: str, notice_id: str, facts: Mapping[str, Any], *, life_s: float = _TOLD_LIFE_S) -> bool:
        """Put a rule's notice into the outbox; False where the id was put within `life_s`, which begins anew."""
        return bool(self._call("notify", channel, notice_id, json.dumps(facts), as_us(life_s)))

    def keep_channels(
        self, names: Sequence[str], projects: Mapping[str, str] | None = None, *, life_s: float = SENDER_LIFE_S
    ) -> None:
        """Note that this process sends notices to these channels.

        `projects`: what the runs of each tell, as in a record's field `notify`.
        """
        told = [word for pair in (projects or {}).items() for word in pair]
        self._call("keep_channels", as_us(life_s), " ".join(names), *told)

    def channels_with_notices(self) -> list[str]:
        """The names of the channels that have notices; anybody may have written them."""
        with clear_errors(self.url):
            return sorted(text(name) for name in self._redis.smembers(keys.OUTBOX))

    def lend_notices(self, channel: str, holder: str, *, lease_s: float, count: int = AT_ONCE) -> Lent:
        """Lend this sender the notices of a channel that are due, the oldest first."""
        # Imported on demand, here and below: commands that show no notices start the faster.
        from launch_worker.model.notice import Lent, Notice

        # Who may write to the outbox may have written any of the numbers.
        answer = self._call("lend_notices", channel, holder, as_us(lease_s), count)
        why, until = text(answer[0]), read_whole(answer[1]) or 0
        if why != "due" or len(answer) == 2:
            return Lent((), why, until, holder=text(answer[2]) if why == "held" else "")
        found = [
            Notice(text(notice_id), read_whole(due_at) or 0, read_whole(tries) or 0, text(mark), read_map(facts))
            for notice_id, due_at, tries, mark, facts in zip(*[iter(answer[3:])] * 5, strict=True)
        ]
        return Lent(tuple(found), why, until, read_whole(answer[2]) or 0)

    def return_channel(self, channel: str, holder: str) -> None:
        """Let another sender have a channel at once."""
        self._call("lend_notices", channel, holder, 0, 0)

    def settle_notices(
        self,
        channel: str,
        holder: str,
        notice_ids: Sequence[str],
        fate: Fate,
        *,
        lease_s: float,
        next_at: int = 0,
        pause_until: int = 0,
        words: str = "",
        mark: str = "",
    ) -> bool:
        """Note what became of notices. False where another sender has the channel by now."""
        args = (channel, holder, as_us(lease_s), fate, next_at, pause_until, words[:300], mark, *notice_ids)
        return bool(self._call("settle_notices", *args))

    @contextmanager
    def watch_outbox(self) -> Iterator[Callable[[float], bool]]:
        """Yield a function that waits until there is a new notice; False after its timeout in seconds."""
        with self._watch(keys.OUTBOX) as wait:
            yield wait

    def outbox_state(self) -> OutboxState:
        """What waits to be told, and how it goes."""
        from launch_worker.model.notice import OutboxState

        known = self.notice_channels()
        names = sorted({*self.channels_with_notices(), *(known or ())})
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            pipe.hmget(keys.COUNTERS, *(f"notices_{word}" for word in _LOST))
            for name in names:
                pipe.hgetall(keys.outbox(name, "state"))
                pipe.zcard(keys.outbox(name))
                pipe.zrange(keys.outbox(name), 0, 0)
            counters, *found = pipe.execute()
            states, counts, firsts = found[::3], found[1::3], found[2::3]
            pipe = self._redis.pipeline(transaction=False)
            for name, first in zip(names, firsts, strict=True):
                pipe.hget(keys.outbox(name, "notices"), first[0] if first else "")
            made = [str(read_map(facts or b"").get("at") or 0) for facts in (pipe.execute() if names else ())]
        channels = {
            name: _channel(pairs(state) | {"oldest_at": oldest_at}, waiting)
            for name, state, waiting, oldest_at in zip(names, states, counts, made, strict=True)
        }
        lost = {word: read_whole(count) or 0 for word, count in zip(_LOST, counters, strict=True)}
        return OutboxState(known, channels, **lost)


#: Counters of notices that were not told, and the time of the last.
_LOST = ("dropped", "unknown", "refused", "given_up", "lost_at")


def _channel(state: Mapping[str, str], waiting: int) -> ChannelState:
    from launch_worker.model.notice import ChannelState

    def number(name: str) -> int:
        return read_whole(state.get(name)) or 0

    times = [at for at in (number("oldest_at"), number("failing_since")) if at]
    return ChannelState(
        waiting=waiting,
        bytes=number("bytes"),
        failing_since=number("failing_since"),
        error=state.get("error", ""),
        next_at=number("paused_until"),
        sent_at=number("sent_at"),
        oldest_at=min(times) if waiting and times else 0,
        sent=number("sent"),
        refused=number("refused"),
        given_up=number("given_up"),
        dropped=number("dropped"),
    )
