"""What will be done to the system, and what it will be given to do: a pure function of the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

LEASE_S = 4.0

#: How many faults of each kind there are in ten minutes.
FAULTS = {
    "kill worker": 36,
    "kill guard": 28,
    "kill job": 44,
    "kill beat": 14,
    "kill archive": 20,
    "kill worker and guard": 13,
    "term worker": 16,
    "upgrade worker": 24,
    "term guard": 14,
    "term job": 20,
    "preempt job": 20,
    "term beat": 14,
    "stop worker": 18,
    "restart redis": 16,
    "cut network": 18,
    "double message": 30,
    "drop message": 30,
    "fill disk": 14,
    "squeeze disk": 14,
    "mute network": 10,
    "remote shutdown": 8,
    "hostile element": 40,
    "damage record": 20,
    "freeze engine": 16,
    "mute engine": 16,
    "kill engine": 6,
    "kill server": 20,
    "term server": 10,
    "cut server": 14,
    "cut people": 14,
    "kill receiver": 16,
    "spoil receiver": 24,
}
#: What is done to receivers, senders and Redis: all that the way of a notice depends on.
NOTICE_FAULTS = frozenset(
    {"kill receiver", "spoil receiver", "kill archive", "kill server", "term server", "cut server", "restart redis"}
)
#: What needs a container engine.
ENGINE_FAULTS = frozenset({"freeze engine", "mute engine", "kill engine"})
#: What needs a small disk.
DISK_FAULTS = frozenset({"fill disk", "squeeze disk"})
_PER_S = 600.0
#: Channel that runs tell, and what they ask for: an end, or more.
CHANNEL = "chaos"
_NOTIFY = ("", CHANNEL, f"{CHANNEL}:end+running+retry")
#: What is back before the leases of its jobs run out, mostly.
_SOON_BACK = ("kill worker and guard", "upgrade worker")

#: Before the first fault the workers start; after the last one there is still something to do.
_QUIET_S = 4.0

#: How many faults follow upon another one, and how soon.
_IN_COMPANY = 0.4
_COMPANY_S = 3.0

QUEUES = ("default", "gpu")
#: The queue of container jobs.
CONTAINER_QUEUE = "box"
#: What runs with a time limit have besides, and how often they go on.
SIGNAL, GOES_ON = "USR1@1", 2
#: Versions of the package that Python environments are made with.
WHEELS = (1, 2, 3)
#: GPUs of each worker, which only have numbers.
DEVICES = 2
_PRIORITIES = ("critical", "high", "medium", "medium", "low")

#: People who go through the servers, and the projects to which they submit. Only the first one sees the hidden project.
PEOPLE = ("ada", "bob")
OPEN, HIDDEN = "chaos/open", "ada/hidden"
#: Ways to submit so that a repeated request submits nothing more: by `Idempotency-Key`, by an id that the client has
#: chosen, by `launch-submit --unique`, and as several runs in one request.
MANNERS = ("key", "key", "id", "id", "command", "bulk")


@dataclass(frozen=True)
class Fault:
    """`pick` (0 to 1) chooses the target where there are several; `lasts_s` is until the harness makes it good."""

    at_s: float
    kind: str
    pick: float
    lasts_s: float
    variant: str = ""
    #: How long whoever died by it stays dead.
    restart_s: float = 0.0


@dataclass(frozen=True)
class Submission:
    """One run to submit. `cancel_after_s` None: nobody cancels it."""

    at_s: float
    seconds: float
    code: int
    flags: tuple[str, ...]
    queue: str
    priority: str
    retries: int
    retry_delay_s: float
    grace_s: float
    cancel_after_s: float | None
    #: Whole devices, of the DEVICES of each worker; and a key of which one run goes at a time.
    gpus: int = 0
    key: str = ""
    #: Cancelled at the instant of its end, give or take so many seconds; None: not so.
    cancel_off_s: float | None = None
    #: Seconds until it may start.
    delay_s: float = 0.0
    #: Its code is fetched from a slow git host.
    has_code: bool = False
    is_container: bool = False
    #: What it asks to be told, '' for nothing.
    notify: str = ""
    #: What is tried again, in place of `retries`; '' for those.
    rules: str = ""
    #: It gets the outputs of a run that was submitted before.
    takes: bool = False
    #: Time limit, after which it goes on ON_TIMEOUT times, and of which SIGNAL tells it; 0 for none.
    timeout_s: float = 0.0


def plan_faults(
    seed: int, duration_s: float, *, skip: frozenset[str] = frozenset(), per_s: float = _PER_S
) -> list[Fault]:
    """The faults in the order of their times, each kind spread over the whole duration.

    `per_s`: seconds in which there are as many of a kind as FAULTS says.
    Many follow upon another one and aim at the same worker: it is two at once that systems are bad at.
    """
    rng = Random(f"faults {seed}")
    faults = []
    for kind, count in FAULTS.items():
        if kind in skip:
            continue
        number = max(1, round(count * duration_s / per_s))
        room_s = max(1.0, duration_s - 2 * _QUIET_S)
        for index in range(number):
            at_s = _QUIET_S + (index + rng.random()) / number * room_s
            lasts_s, variant = _DETAILS[kind](rng) if kind in _DETAILS else (0.0, "")
            restart_s = rng.uniform(0.05, 0.5) if kind in _SOON_BACK else rng.uniform(0.1, 2.5)
            faults.append(Fault(at_s, kind, rng.random(), lasts_s, variant, restart_s))
    faults.sort(key=lambda fault: fault.at_s)
    for index in range(1, len(faults)):
        if rng.random() < _IN_COMPANY:
            at_s = faults[index - 1].at_s + rng.uniform(0, _COMPANY_S)
            faults[index] = replace(faults[index], at_s=at_s, pick=faults[index - 1].pick)
    return sorted(faults, key=lambda fault: fault.at_s)


def _cut(rng: Random, most_s: float) -> tuple[float, str]:
    return rng.uniform(0.3, most_s), rng.choice(("refuse", "hang", "lose", "mute"))


_DETAILS: dict[str, Callable[[Random], tuple[float, str]]] = {
    "stop worker": lambda rng: (rng.uniform(LEASE_S + 0.6, LEASE_S + 4), ""),
    "cut network": lambda rng: (
        rng.choice((rng.uniform(0.3, 3), rng.uniform(LEASE_S + 1, LEASE_S + 5))),
        rng.choice(("refuse", "hang", "lose")),
    ),
    "cut server": lambda rng: _cut(rng, LEASE_S + 3),
    # One in which nothing is answered for long would only have people wait.
    "cut people": lambda rng: _cut(rng, 3),
    "restart redis": lambda rng: (
        rng.uniform(0, 1) if rng.random() < 0.65 else rng.uniform(LEASE_S, LEASE_S + 3),
        rng.choice(("kill", "shutdown")),
    ),
    "spoil receiver": lambda rng: (rng.uniform(0.5, 5), rng.choice(("500", "429", "hang", "close"))),
    "fill disk": lambda rng: (rng.uniform(1.5, 4), ""),
    "squeeze disk": lambda rng: (rng.uniform(2, 6), ""),
    "mute network": lambda rng: (rng.choice((rng.uniform(0.3, 3), rng.uniform(LEASE_S + 1, LEASE_S + 4))), ""),
    "freeze engine": lambda rng: (rng.choice((rng.uniform(0.5, 3), rng.uniform(LEASE_S + 1, LEASE_S + 8))), ""),
    "mute engine": lambda rng: (rng.choice((rng.uniform(0.5, 3), rng.uniform(LEASE_S + 1, LEASE_S + 8))), ""),
    "kill engine": lambda rng: (rng.uniform(0, 3), ""),
    "term worker": lambda rng: (rng.uniform(0.3, 3), rng.choice(("once", "twice"))),
    "double message": lambda rng: (rng.choice((0.0, rng.uniform(0.5, 6))), ""),
}


def plan_submissions(seed: int, duration_s: float, *, with_engine: bool = True) -> Iterator[Submission]:
    """Runs in bursts, so that there is often something in the queues; about two a second."""
    rng = Random(f"submissions {seed}")
    at_s = 0.5
    while at_s < duration_s - _QUIET_S:
        for _ in range(rng.randint(6, 22)):
            at_s += rng.expovariate(20)
            planned = _submission(rng, at_s)
            if planned.is_container and not with_engine:
                planned = replace(planned, is_container=False, queue=QUEUES[0])
            yield planned
        at_s += rng.expovariate(1 / 5)


def plan_told(seed: int, duration_s: float, count: int) -> Iterator[Submission]:
    """So many plain runs, all of which tell their ends."""
    rng = Random(f"told {seed}")
    for number in range(count):
        at_s = 0.5 + number / count * max(1.0, duration_s - 2 * _QUIET_S)
        yield replace(_brief(rng, at_s), seconds=0.0, notify=rng.choice(_NOTIFY[1:]))


@dataclass(frozen=True)
class GroupSubmission:
    """Runs that are submitted as one, and another one that waits for the end of all of them."""

    at_s: float
    runs: tuple[Submission, ...]
    #: Failed runs after which the rest is not started; 0 for no such number.
    max_fails: int = 0


def plan_groups(seed: int, duration_s: float) -> Iterator[GroupSubmission]:
    """A group of brief runs every few seconds."""
    rng = Random(f"groups {seed}")
    at_s = 2.0
    while at_s < duration_s - _QUIET_S:
        max_fails = rng.choice((0, 0, 1, 2))
        # Of many runs some wait when others have failed.
        runs = tuple(_brief(rng, at_s) for _ in range(rng.randint(2, 6) * (2 if max_fails else 1)))
        yield GroupSubmission(at_s, runs, max_fails)
        at_s += rng.uniform(3, 9)


@dataclass(frozen=True)
class Request:
    """What a person submits through a server, and does with it afterwards."""

    at_s: float
    person: str
    manner: str
    project: str
    #: One run; in bulk several.
    runs: tuple[Submission, ...]
    #: Its states and its output are followed until its end.
    is_followed: bool = False
    #: Asked for again once it has ended.
    is_retried: bool = False


def plan_requests(seed: int, duration_s: float, person: str) -> Iterator[Request]:
    """What one person asks for, about every two seconds."""
    rng = Random(f"requests {seed} {person}")
    at_s = 0.5
    while at_s < duration_s - _QUIET_S:
        manner = rng.choice(MANNERS)
        runs = tuple(_by_person(rng, at_s) for _ in range(rng.randint(2, 6) if manner == "bulk" else 1))
        is_one = manner != "bulk"
        yield Request(
            at_s=at_s,
            person=person,
            manner=manner,
            project=HIDDEN if person == PEOPLE[0] and rng.random() < 0.4 else OPEN,
            runs=runs,
            is_followed=is_one and rng.random() < 0.5,
            is_retried=is_one and runs[0].cancel_after_s is None and rng.random() < 0.3,
        )
        at_s += rng.expovariate(0.5)


def _by_person(rng: Random, at_s: float) -> Submission:
    """A run of a person: a process on any worker, which often prints."""
    flags = rng.choices(((), (f"print={rng.randint(1, 3000)}",), (f"flood={rng.randint(1, 3)}",)), (5, 6, 1))[0]
    cancel_after_s = rng.uniform(0, 3) if rng.random() < 0.2 else None
    planned = _brief(rng, at_s)
    # The highest priority is for operators.
    priority = "high" if planned.priority == _PRIORITIES[0] else planned.priority
    return replace(planned, flags=flags, cancel_after_s=cancel_after_s, priority=priority)


def _brief(rng: Random, at_s: float) -> Submission:
    """A plain process."""
    return Submission(
        at_s=at_s,
        seconds=round(rng.uniform(0, 2), 3),
        code=rng.choice((0, 0, 0, rng.randint(1, 5))),
        flags=(),
        queue=rng.choice(QUEUES),
        priority=rng.choice(_PRIORITIES),
        retries=rng.choice((0, 1, 2)),
        retry_delay_s=rng.choice((0.0, rng.uniform(0.1, 1.5))),
        grace_s=1.0,
        cancel_after_s=None,
    )


def _submission(rng: Random, at_s: float) -> Submission:
    seconds, code, flags = rng.choices(
        (
            (0.0, 0, ()),
            (0.0, rng.randint(1, 5), ()),
            (rng.uniform(0.1, 3), 0, ()),
            (rng.uniform(0.1, 2), rng.randint(1, 5), ()),
            (rng.uniform(0.5, 4), 0, ("stubborn",)),
            (rng.uniform(0.1, 3), 0, ("polite",)),
            (rng.uniform(0.1, 2), 0, (f"{rng.choice(('child', 'daemon'))}={rng.uniform(0.1, 30):.2f}",)),
            (rng.uniform(0.1, 2), 0, (f"{rng.choice(('child', 'daemon'))}=30", "hardchild", "stubborn")),
            (rng.uniform(0, 1), 0, (f"print={rng.randint(1, 2000)}",)),
            (rng.uniform(5, 12), 0, ()),
            (rng.uniform(5, 12), 0, ("stubborn",)),
            (rng.uniform(0.0, 0.5), 1, ("until=2",)),
            (rng.uniform(0.0, 1.0), 0, (f"preempt={rng.randint(2, 4)}",)),
            (rng.uniform(0.0, 1.0), 0, (f"flood={rng.randint(1, 6)}",)),
            (rng.uniform(0.0, 0.5), 0, (f"hops={rng.uniform(0.2, 2):.2f}",)),
            (rng.uniform(2, 8), 0, (f"epochs={rng.uniform(0.05, 0.5):.2f}",)),
            (rng.uniform(0.5, 3), rng.randint(1, 5), (f"epochs={rng.uniform(0.05, 0.3):.2f}",)),
            (rng.uniform(0.1, 2), 0, (f"outputs={rng.randint(1, 12)}",)),
            (rng.uniform(0.1, 2), rng.randint(1, 5), (f"outputs={rng.randint(1, 12)}",)),
            (rng.uniform(0.0, 1), 0, ("takes",)),
            (rng.uniform(1, 9), 0, ("ahead",)),
            (rng.uniform(0, 1), 0, (f"wheel={rng.choice(WHEELS)}",)),
        ),
        weights=(26, 8, 24, 6, 6, 6, 6, 3, 7, 4, 3, 6, 4, 2, 2, 10, 4, 12, 6, 8, 6, 6),
    )[0]
    kind = rng.choices(("plain", "cancelled at its end", "later", "code", "container"), (78, 5, 6, 5, 6))[0]
    needs_environment = any(flag.startswith("wheel=") for flag in flags)
    is_container = kind == "container" and not needs_environment and not {"takes", "ahead"}.intersection(flags)
    has_rules = rng.random() < 0.15
    return Submission(
        at_s=at_s,
        seconds=round(seconds, 3),
        code=code,
        flags=flags,
        queue=CONTAINER_QUEUE if is_container else rng.choice(QUEUES),
        priority=rng.choice(_PRIORITIES),
        retries=rng.choice((0, 0, 1, 2, 3)),
        retry_delay_s=rng.choice((0.0, 0.0, rng.uniform(0.1, 1.5))),
        grace_s=rng.choice((0.5, 1.0, 2.0, 10.0)),
        cancel_after_s=rng.uniform(0, 4) if rng.random() < 0.08 else None,
        gpus=0 if is_container else rng.choices((0, 1, 2), (80, 14, 6))[0],
        key=rng.choices(("", "licence"), (92, 8))[0],
        cancel_off_s=rng.uniform(-0.03, 0.03) if kind == "cancelled at its end" else None,
        delay_s=round(rng.uniform(1, 6), 2) if kind == "later" else 0.0,
        has_code=kind == "code" and not needs_environment,
        is_container=is_container,
        notify=rng.choice(_NOTIFY),
        rules=f"{code or 1}={rng.randint(1, 2)},crashed={rng.randint(1, 3)}" if has_rules else "",
        takes="takes" in flags,
        timeout_s=3.0 if "ahead" in flags else 0.0,
    )
