"""Compares what people were answered and told by the servers with the records, the histories and the audit."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from launch_worker.database.audit import DONE, audit_lines
from launch_worker.database.database import Database
from launch_worker.model.states import RunState
from tests.chaos.evidence import Journal
from tests.chaos.plan import HIDDEN, PEOPLE
from tests.chaos.verify import RunFacts
from tests.chaos.whole_logs import printed


def check_served(
    folder: Path, journal: Journal, runs: Sequence[RunFacts], left_out: Collection[str], database_url: str
) -> Iterator[str]:
    """All that people found. `left_out`: runs of which nothing is known, as their records were damaged."""
    yield from journal.wrong
    yield from submitted_otherwise(journal, runs)
    database = Database(database_url)
    try:
        yield from unaudited(journal, database)
    finally:
        database.close()
    by_id = {run.record.id: run for run in runs}
    for path in sorted(folder.glob("*.followed")):
        if run := by_id.get(path.stem):
            yield from (f"{path.stem}: who followed it {text}" for text in followed_otherwise(run, _lines(path)))
    for person in PEOPLE:
        seen = {run_id: run for run_id, run in by_id.items() if person == PEOPLE[0] or run.record.project != HIDDEN}
        events = _lines(folder / f"{person}.events")
        yield from (f"events of {person}: {text}" for text in told_otherwise(events, seen, left_out))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def submitted_otherwise(journal: Journal, runs: Sequence[RunFacts]) -> Iterator[str]:
    """Each run that a person submitted is there once, with the id that the answer had, however often it was asked."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if run.mark:
            found[run.mark].append(run.record.id)
    for mark, ids in found.items():
        if len(ids) > 1:
            yield f"what was submitted once, {mark}, is {len(ids)} runs: {ids}"
    for mark, run_id in journal.submitted.items():
        if found.get(mark) != [run_id]:
            yield f"{mark} was answered with run {run_id}, and there is {found.get(mark, 'none')}"


def unaudited(journal: Journal, database: Database) -> Iterator[str]:
    """Each act that was answered is a line of the audit. How it ended is written later: a killed server has not."""
    with database.reading() as connection:
        lines = connection.execute(select(audit_lines).where(audit_lines.c.address != "")).all()
    found = Counter((line.actor, line.what, line.target, line.result in ("", DONE)) for line in lines)
    for act, count in journal.acts.items():
        if found[act] < count:
            person, what, run_id, is_done = act
            how = "done" if is_done else "refused"
            yield f"{what} of {run_id} by {person} was {how} {count} times, the audit has {found[act]}"


def followed_otherwise(run: RunFacts, told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a follower of a run was told: each state once and in order, and all output."""
    if not told or not told[-1]["is_end"]:
        yield "was not told its end"
        return
    states = [(line["number"], line["state"]) for line in told if line["state"] and line["number"] is not None]
    first = next(line["number"] for line in told if line["number"] is not None)
    numbers = [number for number, _ in states]
    if numbers != sorted(set(numbers)):
        yield f"was told of transitions {numbers}"
    for number, state in states:
        if run.history[number - 1].state.value != state:
            yield f"was told that transition {number} is to {state}, and it is to {run.history[number - 1].state}"
    # Of an end that another attempt follows at once nobody need be told.
    for number in range(first + 1, max(numbers, default=0) + 1):
        if number not in numbers and not run.history[number - 1].state.is_final:
            yield f"was not told of transition {number}, to {run.history[number - 1].state}"
    for attempt in run.attempts:
        if attempt.number in run.logs:
            is_whole = attempt is run.attempts[-1] and attempt.state is RunState.FINISHED
            yield from _output(run, attempt.number, told, is_whole=is_whole)


def _output(run: RunFacts, attempt: int, told: Sequence[Mapping[str, Any]], *, is_whole: bool) -> Iterator[str]:
    """The output of an attempt whose job has printed all of it."""
    lines = [line for line in told if line["attempt"] == attempt]
    pieces = [(line["missing"], base64.b64decode(line["data"])) for line in lines]
    end = 0
    for missing, data in pieces:
        begin, end = end + missing, end + missing + len(data)
        whole = printed(begin, end) if run.last_line else run.logs[attempt][begin:end]
        if data != whole or (missing and not run.last_line):
            yield f"was told bytes {begin} to {end} of attempt {attempt} otherwise than they were printed"
            return
    size = run.flood_bytes if run.last_line else len(run.logs[attempt])
    if lines and is_whole and end != size:
        yield f"was told {end} bytes of attempt {attempt}, which printed {size}"


def told_otherwise(
    events: Sequence[Mapping[str, Any]], runs: Mapping[str, RunFacts], left_out: Collection[str]
) -> Iterator[str]:
    """What a person was told of all that changed: each transition of each run that is seen, once and in order."""
    places = [tuple(map(int, event["id"].split("-"))) for event in events if event["id"]]
    if places != sorted(set(places)):
        yield "their ids do not rise"
    told: dict[str, list[str]] = defaultdict(list)
    for event in events:
        kind, data = event["kind"], event["data"]
        if kind in ("gap", "error") or (kind == "problem" and data["code"] != "BrokerUnavailableError"):
            yield f"there is a {kind}: {data}"
        elif kind in ("run", "act", "gone") and data["id"] not in runs and data["id"] not in left_out:
            yield f"there is one of run {data['id']}, which this person does not see"
        elif kind == "run" and "state" in data:
            # One without tells of no arrow: the outputs of an attempt are kept by now.
            told[data["id"]].append(data["state"])
    for run_id, run in runs.items():
        states = [step.state.value for step in run.history]
        if told[run_id] != states:
            yield f"of {run_id} they tell {told[run_id]}, and its history is {states}"
