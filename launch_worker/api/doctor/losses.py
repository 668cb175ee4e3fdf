"""Looks for what did not arrive: items that were refused, runs that no archive has, notices that were not told."""

from __future__ import annotations

from collections.abc import Iterator

from launch_worker.humane import plural
from launch_worker.model.finding import Finding
from launch_worker.model.units import format_duration, isoformat
from launch_worker.store.store import Store

#: Seconds for which a receiver may fail before there is a warning.
_FAILING_S = 60.0
#: Microseconds for which a loss of history is told.
_RECENT_US = 7 * 86_400_000_000


def refused(store: Store) -> Iterator[Finding]:
    for item in store.refused(limit=5):
        yield Finding(
            "warning",
            "item.refused",
            f"an item of queue {item['queue']} was refused: {item['reason']}",
            "look at it, and who sent it: redis-cli LRANGE launch:refused 0 -1; DEL launch:refused forgets them",
        )


def unarchived(store: Store) -> Iterator[Finding]:
    state = store.archive_state()
    if state.deleted_at and store.now_us() - state.deleted_at < _RECENT_US:
        runs = "1 ended run was" if state.deleted == 1 else f"{state.deleted} ended runs were"
        yield Finding(
            "error",
            "archive.missed",
            f"{runs} deleted before an archive had them, the last at {isoformat(state.deleted_at)}: more waited for it "
            "than LAUNCH_UNARCHIVED_BYTES allows",
            "start the archive, or raise LAUNCH_UNARCHIVED_BYTES of workers and beat",
        )


def notices(store: Store) -> Iterator[Finding]:
    """What runs were to tell, and did not, or not yet."""
    state, now = store.outbox_state(), store.now_us()
    if state.known is None and state.waiting:
        yield Finding(
            "warning",
            "notices.alone",
            f"{plural(state.waiting, 'notice waits', 'notices wait')}, and no process sends them",
            "start launch-worker server, or launch-worker archive run",
        )
    for name, channel in state.channels.items():
        if channel.failing_since and now - channel.failing_since > _FAILING_S * 1e6:
            span = format_duration(round((now - channel.failing_since) / 1e6))
            yield Finding(
                "warning",
                "notices.failing",
                f"channel {name} has taken no notice for {span}, and {channel.waiting:,} wait: {channel.error}",
                f"see to its receiver, or change the channel: launch-worker channels set {name}",
            )
    if state.lost_at and now - state.lost_at < _RECENT_US:
        whys = {
            "was refused": state.refused,
            "was given up": state.given_up,
            "found no room": state.dropped,
            "had no channel": state.unknown,
        }
        told = ", ".join(
            f"{count:,} {why.replace('was', 'were') if count > 1 else why}" for why, count in whys.items() if count
        )
        yield Finding(
            "warning",
            "notices.lost",
            f"notices were not told, the last at {isoformat(state.lost_at)}; of all so far {told}",
            "launch-worker channels says which channel, and what its receiver answered",
        )
