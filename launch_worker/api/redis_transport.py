"""Joins the parts of the way to a launch system through its Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from launch_worker.api.doctor import diagnosis
from launch_worker.api.overview import overview
from launch_worker.api.redis_files import RedisFiles
from launch_worker.api.redis_groups import RedisGroups
from launch_worker.api.redis_names import RedisNames
from launch_worker.api.redis_queues import RedisQueues
from launch_worker.api.redis_sweeps import RedisSweeps
from launch_worker.database import open_database
from launch_worker.errors import InputError, LaunchError, NotFoundError
from launch_worker.model.allowance import Allowance
from launch_worker.model.finding import Finding
from launch_worker.model.schedule import Schedule
from launch_worker.model.totals import By, Total
from launch_worker.model.worker import WorkerOrder
from launch_worker.submission.options import DEFAULT_QUEUE
from launch_worker.submission.resolve import refuse_unsigned, with_project
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import TrustedKey, check_key_name


class RedisTransport(RedisFiles, RedisNames, RedisGroups, RedisQueues, RedisSweeps):
    """The transport through Redis, and through the archive's database where there is one. `Transport` documents it."""

    def queue_names(self) -> list[str]:
        return self.store.queue_names()

    def allowances(self) -> list[Allowance]:
        return self.store.allowances()

    def allow(self, name: str, *, waiting: int | None, running: int | None, gpus: int | None) -> bool:
        return self.store.allow(name, waiting=waiting, running=running, gpus=gpus, actor=self.actor)

    def workers(self) -> list[dict[str, Any]]:
        return self.store.workers_now()

    def gone_workers(self) -> list[dict[str, Any]]:
        try:
            database = self.archive()
            if database is None:
                return []
            from launch_worker.archive.acts import gone_workers

            return gone_workers(database)
        except LaunchError:
            # Without the archive nobody remembers them.
            return []

    def order(self, worker: str, word: WorkerOrder) -> int:
        owners = [entry["owner"] for entry in self.store.workers() if worker in (entry["worker"], entry["owner"])]
        if not owners:
            raise NotFoundError(f"there is no live worker {worker!r}; list them with: launch-worker workers")
        ordered = [self.store.order(owner, word, actor=self.actor) for owner in owners]
        if not any(ordered):
            raise InputError(f"worker {worker!r} does not listen now; try again in a few seconds")
        return sum(ordered)

    def schedules(self) -> list[tuple[str, str, int]]:
        return self.store.schedules()

    def schedule(self, name: str) -> tuple[str, int] | None:
        return self.store.schedule(name)

    def trusted_keys(self) -> list[TrustedKey]:
        found = []
        for text in self.store.trusted_keys():
            # A damaged one is trusted by no worker.
            with contextlib.suppress(InputError):
                found.append(TrustedKey.of_text(text))
        return sorted(found, key=lambda key: (key.name, key.id))

    def trust_key(self, key: str, *, name: str, is_server: bool) -> TrustedKey:
        made = TrustedKey(read_public(key, "sign"), check_key_name(name), is_server, trusted_at=self._now_ms_us())
        for other in self.trusted_keys():
            if other.id == made.id and other.revoked_at is not None:
                raise InputError(
                    f"key {made.id} was revoked, and all that it has signed would be executed again; make a new one "
                    "with: launch-worker keys new"
                )
            # A person whose key was revoked goes on with a new one of the same name.
            if other.id != made.id and (name == other.id or (name == other.name and other.revoked_at is None)):
                raise InputError(f"name {name!r} is another key's ({other.id}); choose another name")
        self.store.keep_key(made.id, made.to_text(), what="trusted", actor=self.actor)
        return made

    def _now_ms_us(self) -> int:
        """The time in microseconds, in whole milliseconds, as JSON has it."""
        return self.store.now_us() // 1000 * 1000

    def revoke_key(self, word: str) -> TrustedKey:
        found = [key for key in self.trusted_keys() if word in (key.name, key.id)]
        key = min(found, key=lambda key: key.revoked_at is not None, default=None)
        if key is None:
            raise NotFoundError(f"there is no key {word[:60]!r}; list them with: launch-worker keys")
        gone = replace(key, revoked_at=key.revoked_at or self._now_ms_us())
        self.store.keep_key(gone.id, gone.to_text(), what="revoked", actor=self.actor)
        return gone

    def keep_schedule(self, name: str, text: str, next_us: int) -> tuple[str, int]:
        schedule = Schedule.from_json(text)
        queue = str(schedule.given.get("queue") or DEFAULT_QUEUE)
        configs = self.store.configs_of(queue)
        refuse_unsigned(queue, configs.queue_config, what="a schedule")
        text = replace(schedule, given=with_project(schedule.given, **configs._asdict())).to_json()
        if not self.store.add_schedule(name, text, next_us, actor=self.actor):
            raise InputError(
                f"there is a schedule {name!r} already; delete it with: launch-worker schedules delete {name}, or name "
                "this one otherwise"
            )
        return text, next_us

    def pause_schedule(self, name: str, *, paused: bool, check: Callable[[str], None] | None = None) -> bool:
        """Pause a schedule, or let it go on; `check` gets the text of the one that is changed, and may raise."""
        # Another one that came meanwhile is looked at anew.
        while (was := self.store.schedule_bytes(name)) is not None:
            if check is not None:
                check(was.decode("utf-8", "replace"))
            schedule = replace(Schedule.from_json(was.decode("utf-8", "replace")), paused=paused)
            # A time that came while it was paused is not made up for.
            next_us = schedule.next_after(self.store.now_us())
            if self.store.change_schedule(name, schedule.to_json(), next_us, was=was, actor=self.actor):
                return True
        return False

    def delete_schedule(self, name: str, *, check: Callable[[str], None] | None = None) -> bool:
        """Delete a schedule; `check` is called with the text of the one that is deleted, and may raise."""
        if check is None:
            return self.store.delete_schedule(name, actor=self.actor)
        while (was := self.store.schedule_bytes(name)) is not None:
            check(was.decode("utf-8", "replace"))
            if self.store.delete_schedule(name, was=was, actor=self.actor):
                return True
        return False

    def acts(self, *, who: str, what: str, target: str, since_us: int | None, limit: int) -> list[dict[str, Any]]:
        database = self._archive or open_database(self.settings)
        # Imported with SQLAlchemy there for certain.
        from launch_worker.archive.acts import Wanted, acts

        return acts(database, Wanted(who=who, what=what, target=target, since=since_us, limit=limit))

    def sums(
        self, by: Sequence[By], *, since_us: int, until_us: int | None, project: str
    ) -> list[tuple[tuple[str, ...], Total]]:
        database = self._archive or open_database(self.settings)
        from launch_worker.archive.sums import sums

        return sums(database, by, since=since_us, until=until_us, project=project)

    def status(self) -> dict[str, Any]:
        seen = overview(self.store)
        return seen | {"problems": [one.as_json() for one in diagnosis.problems(self.store, self.settings, seen)]}

    def listen(self, *, on_news: Callable[[], None], stopped: Callable[[], bool]) -> None:
        self.store.listen_to_states(on_news=on_news, stopped=stopped)

    def findings(self) -> Iterator[Finding]:
        return diagnosis.check(self.store, self.settings)
