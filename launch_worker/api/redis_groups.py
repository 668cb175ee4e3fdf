"""Reads, follows and steers groups in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from launch_worker.api.redis_connection import TURN_S, RedisConnection
from launch_worker.maintenance.passes import catch_up
from launch_worker.model.group import GroupRecord


class RedisGroups(RedisConnection):
    """The part of the transport for groups."""

    def group(self, group_id: str) -> GroupRecord | None:
        return self.store.group(group_id)

    def known_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        return self.store.groups(group_ids)

    def group_runs(self, group: GroupRecord, *, skip: int, limit: int) -> list[str]:
        return self.store.group_runs(group, skip=skip, limit=limit)

    def follow_group(self, group_id: str, *, deadline: float | None) -> Iterator[GroupRecord]:
        with self.store.watch(group_id) as wait_for_news:
            while (record := self.store.group(group_id)) is not None:
                yield record
                turn_s = TURN_S if deadline is None else min(TURN_S, deadline - time.monotonic())
                if record.is_over or turn_s <= 0:
                    return
                if not wait_for_news(turn_s):
                    catch_up(self.store, self.settings)

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        reason = reason or f"cancelled by {self.actor}"
        return self.store.cancel_group(group, reason=reason, grace_s=grace_s, actor=self.actor)

    def retry_group(self, group: GroupRecord, *, only_failed: bool, not_on_same_worker: bool = False) -> int:
        reason = f"retry asked for by {self.actor}" + (", on other workers" if not_on_same_worker else "")
        return self.store.retry_group(
            group, only_failed=only_failed, reason=reason, actor=self.actor, elsewhere=not_on_same_worker
        )
