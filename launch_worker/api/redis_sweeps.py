"""Keeps, reads, follows and steers sweeps in Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping

from launch_worker.api.redis_connection import TURN_S, RedisConnection
from launch_worker.maintenance.passes import catch_up
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial
from launch_worker.submission.options import DEFAULT_QUEUE
from launch_worker.submission.resolve import refuse_unsigned, with_project
from launch_worker.sweeps.drive import advance
from launch_worker.untrusted.text import read_map


class RedisSweeps(RedisConnection):
    """The part of the transport for sweeps."""

    def create_sweep(self, sweep_id: str, fields: Mapping[str, str | int]) -> str:
        given = read_map(str(fields.get("given", "")))
        queue = str(given.get("queue") or DEFAULT_QUEUE)
        configs = self.store.configs_of(queue)
        refuse_unsigned(queue, configs.queue_config, what="a sweep")
        fields = {**fields, "given": json.dumps(with_project(given, **configs._asdict()))}
        if self.user:
            fields = {**fields, "user": self.user, "user_groups": " ".join(sorted(self.groups))}
        self.store.create_sweep(sweep_id, fields, actor=self.actor)
        advance(self.store, self.settings, sweep_id)
        return sweep_id

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        return self.store.sweep(sweep_id)

    def sweeps(self) -> list[SweepRecord]:
        return self.store.sweeps_of(self.store.sweep_ids())

    def trials(self, sweep_id: str) -> list[Trial]:
        return self.store.trials(sweep_id)[0]

    def steer_sweep(self, sweep_id: str, word: SweepOrder, *, reason: str) -> tuple[bool, str]:
        done, state = self.store.steer_sweep(sweep_id, word, reason=reason, actor=self.actor)
        if done and word == "resume":
            advance(self.store, self.settings, sweep_id)
        return done, state

    def follow_sweep(self, sweep_id: str, *, deadline: float | None) -> Iterator[SweepRecord]:
        with self.store.watch_sweeps() as wait_for_news:
            while (record := self.sweep(sweep_id)) is not None:
                yield record
                turn_s = TURN_S if deadline is None else min(TURN_S, deadline - time.monotonic())
                if record.is_over or turn_s <= 0:
                    return
                if not wait_for_news(turn_s):
                    catch_up(self.store, self.settings)
