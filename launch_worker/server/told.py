"""Says what of a change in the feed each person is told: nothing of projects that are hidden from them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from launch_worker.model.units import isoformat
from launch_worker.people.roles import Act, Person, Sight, may, visible
from launch_worker.store.changes import Change
from launch_worker.store.store import Store
from launch_worker.untrusted.text import read_json, read_map

#: Kind of an event that stands for changes which the feed has lost.
GAP = "gap"
#: Kinds of things that belong to a project. Of others everybody is told who sees the system.
_OF_PROJECTS = frozenset({"run", "gone", "act", "sweep", "group", "schedule"})
_OF_RUNS = frozenset({"run", "gone", "act"})
_OF_SYSTEM = frozenset({"queue", "pool", "worker"})
#: Orders of a person to a worker, which name the worker by its owner's id only.
_ORDERS = frozenset({"drain", "upgrade", "resume"})

#: Facts of a change that are told, by how their text is read.
_NUMBERS = frozenset({"n", "attempt", "priority", "exit_code", "restored"})
_TIMES = frozenset({"at", "created_at", "started_at", "ended_at"})
_TEXTS = frozenset(
    {"id", "state", "what", "name", "worker", "host", "reason", "actor", "user", "signal", "phase", "message"}
    | {"array", "sweep"}
)
#: Facts of a worker's description that everybody may know.
_OF_WORKERS = ("host", "queues", "slots", "state")

#: Length of the id of a bulk submission's group.
_BULK_ID = 16
#: Number of runs, sweeps and schedules of which the project is remembered: the ones that were told of last.
_MOST_KNOWN = 20_000


class Place(NamedTuple):
    """A place in the feed: milliseconds, and a number within them. -1 is before all of these milliseconds."""

    ms: int
    number: int

    @classmethod
    def of_text(cls, text: str) -> Place | None:
        """Read a change's id; None for a text that is none."""
        ms, dash, number = text.partition("-")
        is_one = dash and all(part.isascii() and part.isdigit() and len(part) <= 20 for part in (ms, number))
        return cls(int(ms), int(number)) if is_one else None

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


class Sees(IntEnum):
    """How much a person is told of what belongs to no project."""

    #: Not all projects are seen.
    SOME = 0
    ALL = 1
    #: All projects, and who did what.
    ADMIN = 2

    @classmethod
    def of(cls, person: Person) -> Sees:
        if may(person, Act.SEE_AUDIT):
            return cls.ADMIN
        return cls.ALL if visible(person).is_everything else cls.SOME


@dataclass(frozen=True, slots=True)
class Told:
    """A change as an event."""

    place: Place
    kind: str
    #: The run, for a change of one; else ''.
    run: str
    #: The queue of the run or array, or the queue itself; else ''.
    queue: str
    #: The project; '' for a thing in no project, None where nobody knows any more in which it was.
    project: str | None
    #: The event without its id, for each of Sees; None: nothing is told.
    forms: tuple[bytes | None, bytes | None, bytes | None]

    def form(self, sees: Sees, sight: Sight) -> bytes | None:
        """The event without its id, for a person; None for one who may not know of it."""
        form = self.forms[sees]
        if form is None or sees is not Sees.SOME or self.kind not in _OF_PROJECTS:
            return form
        return form if self.project is not None and sight.sees(self.project) else None

    @property
    def size(self) -> int:
        """Bytes of its longest form."""
        return max(len(form) for form in self.forms if form is not None)


def gap(place: Place) -> Told:
    """An event that says that others before this place are lost."""
    said = "changes before this one are not kept any more; read anew what you follow, and go on from here"
    form = _form(GAP, {"kind": GAP, "detail": said})
    return Told(place, GAP, "", "", None, (form, form, form))


class Teller:
    """Makes events of changes, and finds out to which project each belongs. Thread-safe; it asks Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        #: Project and queue by kind and id.
        self._known: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def told(self, changes: Sequence[Change]) -> list[Told]:
        """The events of these changes."""
        self._look_up_runs(changes)
        return [self._one(change) for change in changes]

    def _look_up_runs(self, changes: Sequence[Change]) -> None:
        """Find the projects of all runs of some changes at once."""
        wanted = {c.fields.get("id", "") for c in changes if c.kind in _OF_RUNS}
        made = {c.fields.get("id", "") for c in changes if _is_creation(c)}
        with self._lock:
            missing = [run_id for run_id in wanted - made if ("run", run_id) not in self._known]
        self._remember({("run", run_id): at for run_id, at in self._store.places_of_runs(missing).items()})

    def _one(self, change: Change) -> Told:
        place = Place.of_text(change.id)
        assert place is not None
        if change.kind == "feed":
            return gap(place)
        fields = change.fields
        thing = fields.get("id", "")
        project, queue = self._place_of(change)
        run = thing if change.kind in _OF_RUNS else ""
        facts = _facts(change)
        if change.kind in _OF_PROJECTS:
            facts["project"] = project or None
        if run:
            facts["queue"] = queue or None
        return Told(place, change.kind, run, queue, project, _forms(change, facts))

    def _place_of(self, change: Change) -> tuple[str | None, str]:
        """The project and the queue of a change."""
        fields, thing = change.fields, change.fields.get("id", "")
        if change.kind == "queue":
            return None, thing
        if change.kind == "group":
            detail = read_map(fields.get("detail", ""))
            # A bulk submission may have runs of several projects, an array has not.
            is_of_many = len(thing) == _BULK_ID
            return (None if is_of_many else str(detail.get("project") or "")), str(detail.get("queue") or "")
        if change.kind in _OF_RUNS:
            return self._place_of_run(change)
        if change.kind == "sweep":
            return self._remembered("sweep", thing, self._project_of_sweep), ""
        if change.kind == "schedule":
            if fields.get("what") == "skipped":
                return self._remembered("schedule", thing, self._project_of_schedule), ""
            project = fields.get("project", "")
            self._remember({("schedule", thing): (project, "")})
            return project, ""
        return None, ""

    def _place_of_run(self, change: Change) -> tuple[str | None, str]:
        fields, run_id = change.fields, change.fields.get("id", "")
        if change.kind == "gone":
            # The record went in the same step.
            with self._lock:
                self._known.pop(("run", run_id), None)
            return fields.get("project", ""), fields.get("queue", "")
        if _is_creation(change):
            at = fields.get("project", ""), fields.get("queue", "")
            self._remember({("run", run_id): at})
            return at
        with self._lock:
            return self._known.get(("run", run_id), (None, ""))

    def _remembered(self, kind: str, thing: str, look_up: Callable[[str], str | None]) -> str | None:
        with self._lock:
            known = self._known.get((kind, thing))
        if known is not None:
            return known[0]
        project = look_up(thing)
        if project is not None:
            self._remember({(kind, thing): (project, "")})
        return project

    def _project_of_sweep(self, sweep_id: str) -> str | None:
        record = self._store.sweep(sweep_id)
        return None if record is None else record.project

    def _project_of_schedule(self, name: str) -> str | None:
        found = self._store.schedule(name)
        return None if found is None else project_of_schedule(read_map(found[0]))

    def _remember(self, places: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        with self._lock:
            for key, at in places.items():
                self._known[key] = at
                self._known.move_to_end(key)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)


def project_of_schedule(schedule: Mapping[str, Any]) -> str:
    """The project of a schedule's runs, by its content; '' for none."""
    given = schedule.get("given")
    return str(given.get("project") or "") if isinstance(given, dict) else ""


def _is_creation(change: Change) -> bool:
    # A later arrow to Pending has no name.
    return change.kind == "run" and "created_at" in change.fields


def _facts(change: Change) -> dict[str, Any]:
    """What is told of a change; a fact that a later release adds is told by a later server."""
    facts: dict[str, Any] = {"kind": change.kind}
    for name, text in change.fields.items():
        if name in _TEXTS:
            facts[name] = text
        elif name in _NUMBERS:
            facts[name] = int(text) if _is_number(text) else None
        elif name in _TIMES:
            facts[name] = isoformat(int(text)) if _is_number(text) else None
        elif name == "detail":
            facts[name] = read_map(text)
        elif name == "gpus":
            facts[name] = _list(text)
    return facts


def _list(text: str) -> list[str]:
    try:
        value = read_json(text)
    except ValueError:
        return []
    return [str(part) for part in value] if isinstance(value, list) else []


def _is_number(text: str) -> bool:
    return len(text) <= 20 and text.removeprefix("-").isdecimal() and text.isascii()


def _forms(change: Change, facts: dict[str, Any]) -> tuple[bytes | None, bytes | None, bytes | None]:
    kind = change.kind
    if kind in _OF_PROJECTS:
        form = _form(kind, facts)
        return form, form, form
    whole = _form(kind, facts)
    if kind not in _OF_SYSTEM:
        # Allowances are admins' matter, and of a kind that a later release adds nobody knows what it tells.
        return None, None, whole
    facts = {name: value for name, value in facts.items() if name != "actor"}
    without_actor = _form(kind, facts)
    if kind != "worker":
        return without_actor, without_actor, whole
    if facts.get("what") in _ORDERS:
        return None, without_actor, whole
    # The same that a list of workers shows to who does not see all projects.
    known = facts.pop("detail", {})
    facts.pop("id", None)
    facts["detail"] = {name: known[name] for name in _OF_WORKERS if name in known}
    return _form(kind, facts), without_actor, whole


def _form(kind: str, facts: Mapping[str, Any]) -> bytes:
    # The kind is a word of ours or is left out: it could begin another field.
    event = f"event: {kind}\n" if kind.isidentifier() else ""
    return f"{event}data: {json.dumps(facts, separators=(',', ':'))}\n\n".encode()
