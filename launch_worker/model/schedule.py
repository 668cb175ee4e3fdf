"""Says when a run is submitted again and again: a cron expression, by the wall clock of a time zone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from launch_worker.errors import InputError, NotFoundError
from launch_worker.model.masking import masked_spec
from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MISSED = ("skip", "once")
OVERLAPS = ("allow", "skip", "queue-one")
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
#: Fields of a run that are of one run, or of the runs of one submission: runs that come again and again have none.
_OF_ONE = ("after", "array", "array_index", "array_limit", "sweep", "sweep_index")
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
    #: Groups of that person at the time of the making; its runs count for them, and are admitted by them.
    user_groups: tuple[str, ...] = ()
    #: Whether its times come and go without a run.
    paused: bool = False

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
        if not isinstance(self.paused, bool):
            raise InputError("paused must be true or false")
        if not isinstance(self.given, Mapping):
            raise InputError("the run of a schedule must be a map")
        _zone(str(self.timezone))
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
        # Left out where they say nothing: an older beat does not know them.
        more = {"paused": self.paused, "user_groups": self.user_groups}
        return json.dumps(kept | {name: value for name, value in more.items() if value})

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule from its JSON. Raises InputError for one that is damaged, or of a newer release."""
        try:
            kept = read_json(text)
            given = {
                name: tuple(value) if isinstance(value, list) else value for name, value in kept.pop("given").items()
            }
            return cls(given=given, user_groups=tuple(map(str, kept.pop("user_groups", ()))), **kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the schedule is damaged: {type(error).__name__}: {error}") from None

    def as_json(self, next_us: int | None) -> dict[str, Any]:
        """The schedule for people: environment values under secret-looking names are masked."""
        return {
            "name": self.name,
            "cron": self.cron,
            "timezone": self.timezone,
            "missed": self.missed,
            "overlap": self.overlap,
            "paused": self.paused,
            "next_at": isoformat(next_us),
            "created_at": isoformat(self.made_at),
            "queue": self.given.get("queue", "default"),
            "run": masked_spec(json.dumps(self.given)),
        }


def check_recurring(given: Mapping[str, Any]) -> None:
    """Raises InputError for arguments of RunSpec that runs which come again and again cannot have."""
    for name in _OF_ONE:
        if given.get(name) not in (None, (), []):
            raise InputError(f"{name} is of one run or submission, and a schedule makes run after run; leave it out")


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
