"""Keeps schedules, the recurring submissions, and submits their runs."""

from __future__ import annotations

from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.submit import Created, created_of, expiry_of, fields_of, proven_fields


class Schedules(Client):
    """The part of `Store` for schedules."""

    def keep_schedule(self, name: str, description: str, next_us: int, *, actor: str = "") -> None:
        """Keep a schedule (JSON) and its next time; a schedule of that name is replaced."""
        self._call("keep_schedule", name, description, next_us, self.named(actor))

    def add_schedule(self, name: str, description: str, next_us: int, *, actor: str = "") -> bool:
        """Keep a new schedule. False when there is one of that name, which stays as it is."""
        return bool(self._call("keep_schedule", name, description, next_us, self.named(actor), ""))

    def change_schedule(self, name: str, description: str, next_us: int, *, was: bytes, actor: str = "") -> bool:
        """Replace the schedule with the description `was`. False when there is another one by now, or none."""
        return bool(self._call("keep_schedule", name, description, next_us, self.named(actor), was))

    def delete_schedule(self, name: str, *, was: bytes | None = None, actor: str = "") -> bool:
        """Delete a schedule, or only the one with the description `was`. False when there is none."""
        arguments = (name, "", "", self.named(actor), *(() if was is None else (was,)))
        return bool(self._call("keep_schedule", *arguments))

    def fire(
        self,
        name: str,
        expected_us: int,
        next_us: int,
        run_id: str,
        spec: RunSpec,
        *,
        queue_config: str,
        pool_config: str,
        overlap: str = "allow",
        user: str = "",
        user_groups: tuple[str, ...] = (),
        scheduled_at: int | None = None,
    ) -> Created | None:
        """Submit the run of a schedule whose time has come, and note its next time, in one step.

        None when another process did; a `Created` that is not new when the time was left out because the last run has
        not ended (`overlap`: allow, skip, queue-one). Raises as `create`.
        """
        head = (name, expected_us, next_us, run_id, f"schedule {name}", spec.queue, queue_config, pool_config)
        planned = expected_us if scheduled_at is None else scheduled_at
        # A schedule goes on for long: Redis may have forgotten the run of which its runs take outputs.
        waits = {other: wish for other, wish in spec.waits.items() if self.exists(other)} if spec.inputs else None
        fields = (*fields_of(spec, waits), *proven_fields(user, user_groups), "scheduled_at", planned)
        answer = self._call("fire", *head, expiry_of(spec), overlap, *fields)
        if answer[0] == 2:
            return Created(is_new=False, consumers=0)
        return None if answer[0] == 0 else created_of(spec, answer)

    def skip_schedule(self, name: str, expected_us: int, next_us: int) -> bool:
        """Leave out a time of a schedule. False when another process has dealt with that time."""
        return bool(self._call("fire", name, expected_us, next_us, "", "", "", "", "", "", "allow")[0])

    def schedules(self) -> list[tuple[str, str, int]]:
        """Name, description (JSON) and next time (server microseconds) of each schedule, the soonest first."""
        with clear_errors(self.url):
            found = self._redis.zrange(keys.SCHEDULES, 0, -1, withscores=True)
            kept = self._redis.mget([keys.schedule(text(name)) for name, _ in found]) if found else []
        return [(text(name), text(json_text or ""), int(at)) for (name, at), json_text in zip(found, kept, strict=True)]

    def schedule(self, name: str) -> tuple[str, int] | None:
        """Description and next time of a schedule; None when there is none of that name."""
        found = self._kept_schedule(name)
        return (text(found[0]), found[1]) if found else None

    def schedule_bytes(self, name: str) -> bytes | None:
        """The description of a schedule as Redis has it, not UTF-8 too: the `was` of a change."""
        found = self._kept_schedule(name)
        return found[0] if found else None

    def _kept_schedule(self, name: str) -> tuple[bytes, int] | None:
        with clear_errors(self.url):
            kept, at = self._redis.get(keys.schedule(name)), self._redis.zscore(keys.SCHEDULES, name)
        return (kept, int(at)) if kept is not None and at is not None else None
