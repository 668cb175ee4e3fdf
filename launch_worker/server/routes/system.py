"""Serves what is known of the whole: status, problems, the audit, sums of usage."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from launch_worker.errors import InputError, NotAllowedError
from launch_worker.model.totals import By
from launch_worker.model.units import since_ms
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.shared import SharedHere
from launch_worker.server.sight import Seen
from launch_worker.store.suggestions import KINDS

router = APIRouter(tags=["system"])


class Status(BaseModel):
    """The object of `launch-worker status --json`."""

    runs: dict[str, int] = Field(description="Numbers of runs by state.")
    queues: list[dict[str, Any]]
    pools: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    passes: dict[str, float | None] = Field(description="Seconds since each pass of beat last began.")
    problems: list[dict[str, Any]] = Field(description="What is wrong, for who sees all projects; empty for others.")


class Findings(BaseModel):
    """Every check of the installation, the most basic first."""

    findings: list[dict[str, Any]]


class Word(BaseModel):
    """A word, and what it is."""

    word: str
    said: str


class Words(BaseModel):
    """Words that a shell may offer."""

    words: list[Word]


class Acts(BaseModel):
    """Lines of the audit, the newest first."""

    acts: list[dict[str, Any]]


class Sums(BaseModel):
    """Sums of what attempts used, the largest first."""

    sums: list[dict[str, Any]]


@router.get("/status", response_model=Status)
def show_status(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """Runs by state, queues, pools, workers, and what is wrong."""
    return as_json(Seen(shared, asker.person).status(shared.connection.status()))


@router.get("/completion/{kind}")
def suggest_words(
    shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_RUNS)], kind: Annotated[str, Path(examples=["runs"])]
) -> Words:
    """Words with which a person may go on to type: ids of the newest runs, queues, workers and the like."""
    if kind not in KINDS:
        raise InputError(f"words are offered of: {', '.join(KINDS)}; not of {kind[:40]!r}")
    found = shared.connection.store.suggestions(kind, visible(asker.person).sees)
    return Words(words=[Word(word=one.word, said=one.said) for one in found])


@router.get("/problems", response_model=Findings)
def list_problems(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_PROBLEMS)]) -> Response:
    """Every check of the installation, as `launch-worker doctor` makes them."""
    return as_json({"findings": [finding.as_json() for finding in shared.connection.findings()]})


@router.get("/audit", response_model=Acts)
def list_audit(
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_AUDIT)],
    who: Annotated[str, Query(description="Part of the actor's name.")] = "",
    what: Annotated[str, Query(examples=["cancel"])] = "",
    target: Annotated[str, Query(description="Id or name of what it was done to.")] = "",
    since: Annotated[str | None, Query(description="A duration before now, or a time.", examples=["7d"])] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Who did what, from where, to what, and how it ended."""
    start = None if since is None else _moment(since, "since")
    found = shared.connection.acts(who=who, what=what, target=target, since_us=start, limit=limit)
    return as_json({"acts": found})


@router.get("/usage", response_model=Sums)
def sum_usage(
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_RUNS)],
    by: Annotated[list[By], Query(description="What the sums are of; several give one sum for each combination.")],
    since: Annotated[str, Query(description="A duration before now, or a time.", examples=["30d"])] = "30d",
    until: Annotated[str | None, Query(description="The same; now without it.")] = None,
    project: Annotated[str, Query(description="Only runs of this project.")] = "",
) -> Response:
    """What attempts used that ended in a time, in sums."""
    if project:
        asker.check(Act.SEE_RUNS, project=project)
    elif not visible(asker.person).is_everything:
        raise NotAllowedError(f"{asker.person.name} does not see all projects; name one of yours with project=")
    start = _moment(since, "since")
    end = None if until is None else _moment(until, "until")
    totals = shared.connection.sums(by, since_us=start, until_us=end, project=project)
    return as_json({"sums": [dict(zip(by, names, strict=True)) | asdict(total) for names, total in totals]})


def _moment(text: str, what: str) -> int:
    return since_ms(text, time.time_ns() // 1_000_000, what=what) * 1000
