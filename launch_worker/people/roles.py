"""Decides who may do what, and what a person sees, from the person's roles alone: the one place for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

from launch_worker.errors import InputError


class Role(IntEnum):
    """A person's standing, system-wide or in a project. Each has all that the ones before it have."""

    NONE = 0
    #: Sees.
    VIEWER = 1
    #: Submits, and acts on what is their own.
    MEMBER = 2
    #: Acts on everybody's runs.
    OPERATOR = 3
    #: Sets queues, pools, workers and people.
    ADMIN = 4

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Role:
        """Read a role's label. Raises InputError."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise InputError(f"a role is one of {', '.join(role.label for role in cls)}") from None


class Scope(StrEnum):
    """The place in which the role must be held."""

    #: The project of the run, sweep or schedule.
    PROJECT = "project"
    #: Any place: the system, or one project.
    ANYWHERE = "anywhere"
    SYSTEM = "system"


class Rule(NamedTuple):
    """What an act takes."""

    #: Role that suffices for everybody's things.
    least: Role
    scope: Scope
    #: Role that suffices for things of one's own; None: the same as for everybody's.
    own: Role | None = None
    #: Whether the person must see all projects, since the answer tells of all.
    whole: bool = False


class Act(StrEnum):
    """What a person may want to do. The rule of each is in `RULES`."""

    #: Ask who the own login is, and end it.
    SEE_SELF = "see_self"
    #: List, make and revoke API tokens and sessions.
    OWN_TOKENS = "own_tokens"
    #: See runs with their logs, files, figures and histories, sweeps and schedules.
    SEE_RUNS = "see_runs"
    #: See queues, pools, workers and how the system is; counts are those of visible projects.
    SEE_SYSTEM = "see_system"
    #: Upload a folder for a run to come.
    UPLOAD = "upload"
    #: Submit runs, sweeps and schedules.
    SUBMIT = "submit"
    #: Cancel, retry, preempt and delete runs.
    ACT_ON_RUN = "act_on_run"
    #: Pause, resume, stop and cancel sweeps.
    SET_SWEEPS = "set_sweeps"
    #: Change, pause, resume and delete schedules.
    SET_SCHEDULES = "set_schedules"
    #: Confirm that the job of a held run is over.
    CONFIRM_RUN = "confirm_run"
    #: Read what is wrong with the installation, as `launch-worker doctor` says it.
    SEE_PROBLEMS = "see_problems"
    #: Read the metrics of the whole system, as Prometheus does.
    SEE_METRICS = "see_metrics"
    #: Look at Flower's pages.
    SEE_CELERY = "see_celery"
    #: Use the buttons of Flower's pages.
    ACT_IN_CELERY = "act_in_celery"
    #: Give roles in a project, and make it private.
    SET_PROJECT = "set_project"
    #: Create, change, pause, resume and delete queues.
    SET_QUEUES = "set_queues"
    #: The same for pools.
    SET_POOLS = "set_pools"
    #: Drain, upgrade and resume workers.
    SET_WORKERS = "set_workers"
    #: Add, change and delete users, groups, their roles and limits.
    SET_PEOPLE = "set_people"
    #: Trust and revoke signing keys.
    SET_KEYS = "set_keys"
    #: Make, change, try and delete channels of notices, and rules.
    SET_CHANNELS = "set_channels"
    #: Read the audit log.
    SEE_AUDIT = "see_audit"

    @property
    def rule(self) -> Rule:
        return RULES[self]

    @property
    def least(self) -> Role:
        """The least role that may do it to anything at all."""
        return self.rule.least if self.rule.own is None else self.rule.own


RULES = {
    Act.SEE_SELF: Rule(Role.NONE, Scope.ANYWHERE),
    Act.OWN_TOKENS: Rule(Role.ADMIN, Scope.SYSTEM, own=Role.NONE),
    Act.SEE_RUNS: Rule(Role.VIEWER, Scope.PROJECT),
    Act.SEE_SYSTEM: Rule(Role.VIEWER, Scope.ANYWHERE),
    Act.UPLOAD: Rule(Role.MEMBER, Scope.ANYWHERE),
    Act.SUBMIT: Rule(Role.MEMBER, Scope.PROJECT),
    Act.ACT_ON_RUN: Rule(Role.OPERATOR, Scope.PROJECT, own=Role.MEMBER),
    Act.SET_SWEEPS: Rule(Role.OPERATOR, Scope.PROJECT, own=Role.MEMBER),
    Act.SET_SCHEDULES: Rule(Role.OPERATOR, Scope.PROJECT, own=Role.MEMBER),
    # A wrong word would have the run executed twice at once, so it is not for members.
    Act.CONFIRM_RUN: Rule(Role.OPERATOR, Scope.PROJECT),
    # Doctor, metrics and Flower know no projects.
    Act.SEE_PROBLEMS: Rule(Role.OPERATOR, Scope.SYSTEM, whole=True),
    Act.SEE_METRICS: Rule(Role.VIEWER, Scope.SYSTEM, whole=True),
    Act.SEE_CELERY: Rule(Role.VIEWER, Scope.SYSTEM, whole=True),
    Act.ACT_IN_CELERY: Rule(Role.OPERATOR, Scope.SYSTEM, whole=True),
    Act.SET_PROJECT: Rule(Role.ADMIN, Scope.PROJECT),
    Act.SET_QUEUES: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SET_POOLS: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SET_WORKERS: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SET_PEOPLE: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SET_KEYS: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SET_CHANNELS: Rule(Role.ADMIN, Scope.SYSTEM),
    Act.SEE_AUDIT: Rule(Role.ADMIN, Scope.SYSTEM),
}


@dataclass(frozen=True)
class Person:
    """Somebody who has proven who they are, with the roles that their login has now."""

    name: str
    display: str = ""
    groups: frozenset[str] = frozenset()
    #: System-wide role, which also is one in every project that is not private.
    role: Role = Role.NONE
    #: Roles that were given in single projects, to the person or to a group of theirs.
    projects: Mapping[str, Role] = field(default_factory=dict)
    #: Names of all private projects, whoever has a role there.
    private: frozenset[str] = frozenset()
    #: Kind of the proof: token, session, proxy, loopback.
    how: str = ""
    #: Name of the token, where there is one.
    token: str = ""

    def role_in(self, project: str) -> Role:
        """The role in a project; in a private one a system-wide role counts only for admins."""
        given = self.projects.get(project, Role.NONE)
        if project in self.private and self.role < Role.ADMIN:
            return given
        return max(given, self.role)

    @property
    def highest(self) -> Role:
        """The highest role that the person has anywhere."""
        return max(self.role, *self.projects.values()) if self.projects else self.role


@dataclass(frozen=True)
class Sight:
    """The projects whose runs a person sees. Nothing of the others may be told, counts included."""

    #: Projects that are seen; None: all but the hidden ones.
    only: frozenset[str] | None = None
    hidden: frozenset[str] = frozenset()

    @property
    def is_everything(self) -> bool:
        return self.only is None and not self.hidden

    def sees(self, project: str) -> bool:
        return project not in self.hidden if self.only is None else project in self.only

    def as_filter(self) -> dict[str, object]:
        """The condition of a list of runs, as `Api().runs` takes it; empty where everything is seen."""
        if self.only is not None:
            return {"project": {"$in": sorted(self.only)}}
        return {"project": {"$nin": sorted(self.hidden)}} if self.hidden else {}


def visible(person: Person) -> Sight:
    """Say which projects a person sees."""
    if person.role >= Role.VIEWER:
        return Sight(hidden=frozenset(name for name in person.private if person.role_in(name) < Role.VIEWER))
    return Sight(only=frozenset(name for name, role in person.projects.items() if role >= Role.VIEWER))


def may(person: Person, act: Act, *, project: str = "", owner: str = "") -> bool:
    """Whether a person may do this. `project` and `owner` are those of the run, sweep, schedule or token."""
    rule = act.rule
    held = _held(person, rule.scope, project)
    if held >= rule.least:
        return not rule.whole or visible(person).is_everything
    return rule.own is not None and owner == person.name != "" and held >= rule.own


def refusal(person: Person, act: Act, *, project: str = "") -> str:
    """The sentence for a person who may not: what they have, what it takes, and what to do."""
    rule = act.rule
    held = _held(person, rule.scope, project)
    if held >= rule.least:
        return f"{person.name} does not see all projects, and this tells of all; ask an admin"
    has = "no role" if held is Role.NONE else f"the role {held.label}"
    where = f" in the project {project}" if rule.scope is Scope.PROJECT and project else ""
    needs = rule.least.label
    if rule.own is not None:
        needs += f", or {rule.own.label} for one's own" if held < rule.own else " unless it is one's own"
    return f"{person.name} has {has}{where}; this takes {needs}; ask an admin"


def lowered(person: Person, most: Role) -> Person:
    """The person with no role above `most`, as a token of that role makes it."""
    projects = {name: min(role, most) for name, role in person.projects.items()}
    return replace(person, role=min(person.role, most), projects=projects)


def _held(person: Person, scope: Scope, project: str) -> Role:
    if scope is Scope.PROJECT:
        return person.role_in(project)
    return person.role if scope is Scope.SYSTEM else person.highest
