"""Compares what a receiver was told with the histories: each end that asked is told, once for who keeps ids."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from launch_worker.model.history import Transition
from launch_worker.model.states import RunState
from tests.chaos.evidence import Group
from tests.chaos.plan import CHANNEL
from tests.chaos.policies import NOT_STARTED
from tests.chaos.verify import RunFacts

#: A request as the receiver noted it: id, answer, type, data.
Told = Mapping[str, Any]


def read_told(path: Path) -> list[Told]:
    """What the receiver noted, without the line in which it was killed."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def ends_of(history: Sequence[Transition]) -> list[tuple[str, int]]:
    """The states and attempts of a run's real ends: not those after which the same step made it Pending again."""
    return [
        (step.state.value, step.attempt)
        for step, after in zip(history, [*history[1:], None], strict=True)
        if step.state.is_final and not (after and after.state is RunState.PENDING and after.at == step.at)
    ]


def told_otherwise_of(
    runs: Sequence[RunFacts],
    groups: Sequence[Group],
    told: Sequence[Told],
    left_out: Collection[str] = (),
    *,
    redis_kills: Sequence[float] = (),
) -> Iterator[str]:
    """What of the notices is missing, doubled or untrue. `redis_kills`: Unix times at which Redis was killed."""
    known = {run.record.id: run for run in runs}
    by_id: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        by_id[one["id"]].append(one)
    for notice_id, tries in by_id.items():
        if len({json.dumps(_facts(one)) for one in tries}) > 1 and not _is_told_anew(tries, known, redis_kills):
            yield f"notice {notice_id} was told in {len(tries)} tries, and not the same in each"
    ids: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for tries in by_id.values():
        first = tries[0]
        if first["type"].startswith("run.") and first["data"]["id"] not in left_out:
            ids[first["data"]["id"]][first["data"]["state"], first["data"]["attempt"]] += 1
            if first["data"]["id"] not in known:
                yield f"a notice tells of run {first['data']['id']}, which is not there"
    heard = {notice_id for notice_id, tries in by_id.items() if any(one["answer"] == "204" for one in tries)}
    for run in runs:
        yield from (f"{run.record.id}: {text}" for text in _of_run(run, ids[run.record.id], heard))
    for group in groups:
        yield from (f"group {group.id}: {text}" for text in _of_group(group, known, by_id, heard))


def delays(told: Sequence[Told]) -> list[float]:
    """Seconds from each end of a run until its notice was first taken, the shortest first."""
    first: dict[str, float] = {}
    for one in told:
        if one["answer"] == "204" and one["type"].startswith("run.") and one["data"]["ended_at"]:
            ended_s = datetime.fromisoformat(one["data"]["ended_at"]).timestamp()
            first.setdefault(one["id"], one["at"] - ended_s)
    return sorted(first.values())


def _facts(one: Told) -> list[Any]:
    """What a receiver that keeps ids would keep of a message."""
    data = one["data"]
    return [one["type"], *(data.get(name) for name in ("id", "state", "attempt", "exit_code", "counts", "reason"))]


def _is_told_anew(tries: Sequence[Told], runs: Mapping[str, RunFacts], redis_kills: Sequence[float]) -> bool:
    """Whether a run Crashed, and who found it next gave a reason of its own.

    It proved alive between the two, or a killed Redis had forgotten the first.
    """
    times = sorted(one["at"] for one in tries)
    but_reasons = {json.dumps(_facts(one)[:-1]) for one in tries}
    if len(but_reasons) > 1 or tries[0]["type"] != "run.crashed":
        return False
    run, attempt = runs.get(tries[0]["data"]["id"]), tries[0]["data"]["attempt"]
    steps = () if run is None else run.history
    reasons = {step.reason for step in steps if (step.state, step.attempt) == (RunState.CRASHED, attempt)}
    if all(one["data"].get("reason") in reasons for one in tries):
        return True
    return any(times[0] < killed_at < times[-1] for killed_at in redis_kills)


def _of_run(run: RunFacts, told: Counter[tuple[str, int]], heard: Collection[str]) -> Iterator[str]:
    asked = json.loads(run.record.spec).get("notify") or []
    if not asked or run.record.group:
        if told:
            yield f"it asked for no notice, and told {dict(told)}"
        return
    ends = Counter(ends_of(run.history))
    words = asked[0].partition(":")[2].split("+")
    for (state, attempt), count in ends.items():
        accepted = sum(one.startswith(f"{run.record.id}.{attempt}") and f".{state}." in one for one in heard)
        # One that was called Crashed twice, and was alive between, is Crashed: whoever was told knows it.
        wanted = 1 if state == "Crashed" else count
        if accepted < wanted:
            yield f"its end {state} of attempt {attempt} was told {accepted} times, not {wanted}"
        if told[state, attempt] > count:
            yield f"its end {state} of attempt {attempt} was told by {told[state, attempt]} ids"
    for state, attempt in told:
        if RunState(state).is_final and (state, attempt) not in ends:
            yield f"{state} of attempt {attempt} was told, and its ends are {dict(ends)}"
        if (state == "Running" and "running" not in words) or (state == "Pending" and "retry" not in words):
            yield f"{state} was told, and it asked for {asked}"
    if "running" in words:
        claimed = {step.attempt for step in run.history if step.state is RunState.RUNNING}
        if missing := claimed - {attempt for state, attempt in told if state == "Running"}:
            yield f"attempts {sorted(missing)} began, and nobody was told"


def _of_group(
    group: Group, runs: Mapping[str, RunFacts], by_id: Mapping[str, Sequence[Told]], heard: Collection[str]
) -> Iterator[str]:
    members = [runs[run_id] for run_id in group.runs if run_id in runs]
    if len(members) < len(group.runs) or not json.loads(members[0].record.spec).get("notify"):
        return
    ended = sorted(
        (int(one.split(".")[1]), one) for one in heard if one.startswith(f"{group.id}.") and ".group.ended." in one
    )
    if not ended:
        yield "its end was not told"
        return
    numbers = [number for number, _ in ended]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its ends {numbers} were told"
    last = by_id[ended[-1][1]][0]["data"]
    states = Counter(
        "Never" if run.record.state.value in ("Killed", "Failed") and not run.record.attempt else run.record.state.value
        for run in members
    )
    if {name: count for name, count in last["counts"].items() if count} != states:
        yield f"it was told with {last['counts']}, and it has {dict(states)}"
    is_halted = any(run.record.reason.startswith(NOT_STARTED) for run in members)
    if is_halted and not any(one.startswith(f"{group.id}.") and ".group.halted." in one for one in heard):
        yield "nobody was told that it was halted"
    failing = [one for one in by_id if one.startswith(f"{group.id}.1.group.failing.{CHANNEL}")]
    has_failed = any(state in ("Failed", "Crashed") for run in members for state, _ in ends_of(run.history))
    if bool(failing) != has_failed:
        yield f"its first failure was told {len(failing)} times, and {'some' if has_failed else 'none'} failed"
