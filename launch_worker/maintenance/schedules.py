"""Submits runs again and again: schedules are kept in Redis and fired by a pass, each time once."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from launch_worker.errors import BrokerUnavailableError, InputError, NotFoundError, RedisFullError
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.store.submit import Configs, Created
from launch_worker.submission.resolve import resolve
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

log = logging.getLogger("launch_worker.schedules")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MISSED = ("skip", "once")
OVERLAPS = ("allow", "skip", "queue-one")
#: Microseconds that a time may be late without being missed.
LATE_US = 60_000_000
#: Microseconds until a schedule that cannot be read is looked at again.
_DAMAGED_US = 3600_000_000
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
#: Time around a moment that no change of a zone's clock exceeds.
_NEAR_CHANGE = timedelta(hours=3)
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Schedule:
    """A run that is submitted again and again. Constructing one validates it, the run aside."""

    name: str
    cron: str
    #: Arguments of RunSpec, only those that were given.
    given: dict[str, Any]
    timezone: str = "UTC"
    #: Rule for times that passed with no beat there: no run, or one run for all.
    missed: str = "skip"
    #: Rule for a time that comes before the last run has ended: a run beside it, none, or one after it.
    overlap: str = "allow"
    #: Time of its making, microseconds.
    made_at: int = field(default=0, compare=False)
    #: Name of the person whom a server has proven to have made it; '' for one that was made on Redis itself.
    user: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise InputError(
                f"schedule {str(self.name)[:60]!r} is not allowed as a name: "
                "letters, digits, and . _ - after the first, at most 100"
            )
        if self.missed not in MISSED:
            raise InputError(f"missed {self.missed!r} is unknown; use one of: {', '.join(MISSED)}")
        if self.overlap not in OVERLAPS:
            raise InputError(f"overlap {self.overlap!r} is unknown; use one of: {', '.join(OVERLAPS)}")
        if not isinstance(self.given, Mapping):
            raise InputError("the run of a schedule must be a map")
        _zone(self.timezone)
        check_cron(self.cron)

    def next_after(self, at_us: int) -> int:
        """The first time after `at_us`, both microseconds.

        By the wall clock of its zone: a time that a change of the clocks leaves out comes as much later, and one that
        the change repeats comes once, unless the hour is not fixed (`*`, `*/2`): then it comes in both.
        """
        zone = _zone(self.timezone)
        at = _BEGIN + timedelta(microseconds=at_us)
        first = next(self._walls(at.astimezone(zone).replace(tzinfo=None)))
        found = first.replace(tzinfo=zone).astimezone(UTC)
        if found > at and _is_quiet(at, zone) and _is_quiet(found, zone):
            return _micros(found)
        twice = self.cron.split()[1].startswith("*") if not self.cron.startswith("@") else self.cron == "@hourly"
        best: datetime | None = None
        for wall in self._walls((at - _NEAR_CHANGE).astimezone(zone).replace(tzinfo=None)):
            for fold in (0, 1):
                moment = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
                # For a time that the clocks leave out, fold 0 is the later reading.
                is_other = fold == 1 and moment != wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
                is_repeated = moment.astimezone(zone).replace(tzinfo=None) == wall
                if is_other and not (twice and is_repeated):
                    continue
                if moment > at and (best is None or moment < best):
                    best = moment
            if best is not None and wall > best.astimezone(zone).replace(tzinfo=None) + _NEAR_CHANGE:
                break
        assert best is not None
        return _micros(best)

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """Times of the wall clock after `start`, which no change of the clocks touches."""
        from croniter import croniter

        times = croniter(self.cron, start)
        while True:
            wall: datetime = times.get_next(datetime)
            yield wall

    def to_json(self) -> str:
        kept = {
            "name": self.name,
            "cron": self.cron,
            "timezone": self.timezone,
            "missed": self.missed,
            "overlap": self.overlap,
            "made_at": self.made_at,
            "user": self.user,
            "given": self.given,
        }
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule from its JSON. Raises InputError for one that is damaged, or of a newer release."""
        try:
            kept = read_json(text)
            given = {
                name: tuple(value) if isinstance(value, list) else value for name, value in kept.pop("given").items()
            }
            return cls(given=given, **kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the schedule is damaged: {type(error).__name__}: {error}") from None

    def as_json(self, next_us: int | None) -> dict[str, Any]:
        """The schedule for people: environment values under secret-looking names are masked."""
        from launch_worker.model.run import masked_spec
        from launch_worker.model.units import isoformat

        return {
            "name": self.name,
            "cron": self.cron,
            "timezone": self.timezone,
            "missed": self.missed,
            "overlap": self.overlap,
            "next_at": isoformat(next_us),
            "created_at": isoformat(self.made_at),
            "queue": self.given.get("queue", "default"),
            "run": masked_spec(json.dumps(self.given)),
        }


def unknown_schedule(name: str) -> NotFoundError:
    return NotFoundError(f"there is no schedule {name[:60]!r}; list them with: launch-worker schedules")


def check_cron(text: str) -> None:
    """Check the five fields of a crontab. Raises InputError, also for times that never come."""
    from croniter import croniter
    from croniter.croniter import CroniterError

    refused = (
        f"cron {str(text)[:60]!r} is not a schedule; "
        "write it as 'MINUTE HOUR DAY MONTH WEEKDAY', for instance '0 3 * * *', or @daily"
    )
    if not isinstance(text, str) or len(text) > 1000 or not text.isascii():
        raise InputError(refused)
    # croniter's words `R` (random) and `H` (hashed) are refused: two beats would not agree on a time.
    is_macro = text in _MACROS
    if not is_macro and (len(text.split()) != 5 or re.search(r"(^|[\s,/-])[HRhr](?=$|[\s,/(-])", text)):
        raise InputError(refused)
    try:
        croniter(text, datetime(2026, 1, 1)).get_next(datetime)
    except (CroniterError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{refused} ({error})") from None


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
        if spec.upload:
            # Imported on demand: start-up time of `launch-submit`, which imports this module.
            from launch_worker.code.storage import storage_of

            storage_of(settings, store).renew(spec.upload)
        return store.fire(
            *(schedule.name, due, following, run_id, spec),
            **configs._asdict(),
            overlap=schedule.overlap,
            user=schedule.user,
            scheduled_at=at,
        )

    created = store.with_configs(str(schedule.given.get("queue", "default")), fire)
    if created is not None and not created.is_new:
        log.info("schedule.left_out name=%s: its last run has not ended", schedule.name)
    return run_id if created is not None and created.is_new else ""


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):
        raise InputError(f"timezone {str(name)[:60]!r} is unknown; write it as Europe/Berlin or UTC") from None


def _is_quiet(at: datetime, zone: ZoneInfo) -> bool:
    """Whether the zone changes no clock near this time."""
    return (at - _NEAR_CHANGE).astimezone(zone).utcoffset() == (at + _NEAR_CHANGE).astimezone(zone).utcoffset()


def _micros(at: datetime) -> int:
    return (at - _BEGIN) // timedelta(microseconds=1)
