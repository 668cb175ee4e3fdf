"""How soon the archive answers what a person asks of it: lists, searches, counts, facets, beside so many runs."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from bench.measure import BenchError, Results, time_ms
from launch_worker.api.filters import parse_filter, parse_order
from launch_worker.archive.bulk import upsert
from launch_worker.archive.query import Place, Question, count, facets, listed
from launch_worker.archive.rows import record_text, whole
from launch_worker.archive.schema import run_tags, runs
from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.model.run import Record

_STATES = ("Finished",) * 7 + ("Failed", "Killed", "Crashed")
_BEGAN_US = 1_700_000_000_000_000
_BATCH = 5000
#: One run in so many has the rare tag, and another one the rare text.
_RARE = 10_000


def measure(results: Results, *, sizes: tuple[int, ...], repeat: int) -> None:
    """Each question of a fresh SQLite file, asked of the query module and, once, on the command line's way."""
    with tempfile.TemporaryDirectory(prefix="launch-bench-") as folder:
        for size in sizes:
            database = Database(f"sqlite:///{folder}/{size}.db")
            began = time.monotonic()
            fill(database, size)
            name = f"{size:,} runs"
            results.metric("fill", "s").add(name, time.monotonic() - began)
            results.metric("bytes a run", "B").add(name, Path(database.url.database or "").stat().st_size / size)
            for what, goal, ask in _questions(database, size):
                metric = results.metric(what, "ms", goal=goal)
                ask()
                for _ in range(repeat):
                    began = time.process_time()
                    metric.add(name, time_ms(ask))
                    # What it would take on a quiet machine, about.
                    metric.add(f"… CPU of {name}", (time.process_time() - began) * 1000)
            database.close()


def _questions(database: Database, size: int) -> list[tuple[str, str, Callable[[], object]]]:
    def first(
        expected: int, wanted: Any = None, order: str = "-created_at", after: Place | None = None
    ) -> Callable[[], object]:
        question = _question(wanted, order)

        def ask() -> None:
            pages = listed(database, question, page=50, after=after)
            found = list(islice((one for page in pages for one in page), 50))
            if len(found) != expected:
                raise BenchError(f"{len(found)} runs, not {expected}, are found for {wanted}")

        return ask

    rare = size // _RARE
    every, some = _question({}, "-created_at"), _question({"state": "failed", "queue": "q3"}, "-created_at")
    deep = listed(database, every, page=size // 2)
    place = next(deep)[-1].place
    text = {"$contains": "needle in a haystack"}
    return [
        ("newest 50", "at most 1", first(50)),
        ("newest 50 of a state", "", first(50, {"state": "failed"})),
        ("newest 50 of a queue and a state", "", first(50, {"queue": "q3", "state": "failed"})),
        ("rare tag", "at most 50", first(min(50, rare), {"tags": "rare"})),
        ("rare text", "at most 50", first(min(50, rare), {"text": text})),
        ("text of two characters that few have", "", first(min(50, rare), {"text": {"$contains": "§§"}})),
        ("text that all have", "", first(50, {"text": {"$contains": "train.py"}})),
        ("text that none has", "", first(0, {"text": {"$contains": "nothing like it"}})),
        ("text of one run's config", "", first(1, {"text": {"$contains": f'"seed": {size // 3}}}'}})),
        ("50 by name", "", first(50, order="name")),
        ("50 by end, the latest", "", first(50, order="-ended_at")),
        ("50 by exit code", "", first(50, order="exit_code")),
        ("deep page by place", "at most 15", first(50, after=place)),
        ("value of one run's config", "", first(1, {"config.seed": size // 3})),
        ("comparison of a config that none passes", "", first(0, {"config.lr": {"$gt": 5}})),
        ("count of state and queue", "", lambda: count(database, some)),
        ("count of all", "", lambda: count(database, every)),
        ("facets queue x state", "at most 120", lambda: facets(database, every, ["queue", "state"])),
        ("facets name", "", lambda: facets(database, every, ["name"])),
        ("facets tag", "", lambda: facets(database, every, ["tag"])),
        ("facets state x tag", "", lambda: facets(database, every, ["state", "tag"])),
        ("facets of a text", "", lambda: facets(database, _question({"text": text}, "name"), ["queue", "state"])),
    ]


def _question(wanted: Any, order: str) -> Question:
    fits, by = parse_filter(wanted), parse_order(order)
    return Question(fits.tree, fits.matches, by.path, by.is_descending)


def fill(database: Database, size: int) -> None:
    """Have the archive hold so many runs that have ended and that Redis has forgotten."""
    migrate(database)
    dice = random.Random(15)
    for start in range(0, size, _BATCH):
        made, tags = [], []
        for number in range(start, min(size, start + _BATCH)):
            row, given = _row(number, dice)
            made.append(row)
            tags += [{"run_id": row["id"], "tag": tag} for tag in given]
        with database.writing() as connection:
            upsert(connection, runs, made)
            upsert(connection, run_tags, tags)


def _row(number: int, dice: random.Random) -> tuple[dict[str, Any], list[str]]:
    rare = number % _RARE
    tags = ["night", f"seed={number % 100}", *(["rare"] if rare == 17 else [])]
    words = ["python", "train.py", "--lr", f"{dice.random():.4f}", *(["needle in a haystack"] if rare == 23 else [])]
    words += ["§§"] if rare == 29 else []
    spec = {
        "command": words,
        "tags": tags,
        "author": f"user{dice.randrange(40)}@box",
        "config": {"lr": round(dice.random(), 4), "layers": dice.randrange(9), "seed": number},
        "env": {"OMP_NUM_THREADS": "4"},
        "cwd": "/home/user/experiments",
    }
    state = dice.choice(_STATES)
    created = _BEGAN_US + number * 1_000_000
    fields = {
        "name": f"train-{dice.randrange(2000)}",
        "project": f"team/p{dice.randrange(20)}",
        "queue": f"q{dice.randrange(8)}",
        "state": state,
        "reason": "" if state == "Finished" else "exit code 1",
        "attempt": "1",
        "exit_code": "0" if state == "Finished" else "1",
        "worker": f"w{dice.randrange(50)}",
        "host": "box",
        "created_at": str(created),
        "started_at": str(created + 1000),
        "ended_at": str(created + dice.randrange(10**9)),
        "tags": json.dumps(tags),
        "summary": json.dumps({"loss": dice.random()}),
    }
    record = Record.from_hash({"id": f"1{number:014}", "spec": json.dumps(spec), **fields})
    row, found = whole(record, 3)
    return row | {"record": record_text(fields), "sealed": record.ended_at, "forgotten_at": created}, found


if __name__ == "__main__":
    results = Results()
    measure(results, sizes=tuple(int(size) for size in sys.argv[1:]) or (10_000,), repeat=5)
    print(results.table(), f"\nload {os.getloadavg()}")
