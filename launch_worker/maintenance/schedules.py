"""Submits runs again and again: schedules are kept in Redis and fired by a pass, each time once."""

from __future__ import annotations

import logging

from launch_worker.errors import BrokerUnavailableError, InputError, RedisFullError
from launch_worker.ids import new_run_id
from launch_worker.model.schedule import Schedule
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.store.submit import Configs, Created
from launch_worker.submission.resolve import refuse_unsigned, resolve

log = logging.getLogger("launch_worker.schedules")

#: Microseconds that a time may be late without being missed.
LATE_US = 60_000_000
#: Microseconds until a schedule that cannot be read is looked at again.
_DAMAGED_US = 3600_000_000


def fire_due(store: Store, settings: Settings) -> int:
    """Submit the due run of each schedule. Returns the number of runs made.

    However many do this at once, each time of a schedule makes one run. One that fails never holds up the others.
    """
    fired = 0
    now = store.now_us()
    for name, text, due in store.schedules():
        if due > now:
            continue
        try:
            fired += _fire(store, settings, name, text, due, now)
        except RedisFullError:
            break  # the others would be refused too; they are due until Redis has room
        except BrokerUnavailableError:
            raise
        except Exception:
            log.exception("schedule.failed name=%s", name)
    return fired


def _fire(store: Store, settings: Settings, name: str, text: str, due: int, now: int) -> int:
    try:
        schedule = Schedule.from_json(text)
    except InputError as error:
        if store.skip_schedule(name, due, now + _DAMAGED_US):
            log.error("schedule.damaged name=%s: %s", name, error)
        return 0
    if schedule.paused:
        store.skip_schedule(name, due, schedule.next_after(now))
        return 0
    at, following = occurrence(schedule, due, now)
    if at is None:
        if store.skip_schedule(name, due, following):
            log.warning("schedule.missed name=%s: nobody was there to submit it in time", name)
        return 0
    try:
        run_id = _submit(store, settings, schedule, due=due, at=at, following=following)
    except InputError as error:
        # Its queue refuses the run now: that is logged once for each time of the schedule.
        if store.skip_schedule(name, due, following):
            log.error("schedule.refused name=%s: %s", name, error)
        return 0
    if run_id:
        log.info("schedule.fired name=%s run=%s", name, run_id)
    return int(bool(run_id))


def occurrence(schedule: Schedule, due: int, now: int) -> tuple[int | None, int]:
    """The time that shall make a run now, None for none, and the next time to look at."""
    if schedule.missed == "once":
        return due, schedule.next_after(now)
    at = due if now - due <= LATE_US else schedule.next_after(now - LATE_US - 1)
    return (at, schedule.next_after(at)) if at <= now else (None, at)


def _submit(store: Store, settings: Settings, schedule: Schedule, *, due: int, at: int, following: int) -> str:
    """The id of the run; '' when another process has made one, or none is to be made while the last one goes on."""
    run_id = new_run_id()

    def fire(configs: Configs) -> Created | None:
        spec = resolve(schedule.given, **configs._asdict())
        refuse_unsigned(spec.queue, configs.queue_config, what="a schedule")
        if spec.upload:
            # Imported on demand: start-up time of `launch-submit`, which imports this module.
            from launch_worker.code.storage import storage_of

            storage_of(settings, store).renew(spec.upload)
        return store.fire(
            *(schedule.name, due, following, run_id, spec),
            **configs._asdict(),
            overlap=schedule.overlap,
            user=schedule.user,
            user_groups=schedule.user_groups,
            scheduled_at=at,
        )

    created = store.with_configs(str(schedule.given.get("queue", "default")), fire)
    if created is not None and not created.is_new:
        log.info("schedule.left_out name=%s: its last run has not ended", schedule.name)
    return run_id if created is not None and created.is_new else ""
