"""`python -m bench [--quick] [--server NAME] [GROUP …]`: measure, print tables, keep them as JSON in bench/results."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    archive,
    fleet,
    following,
    footprint,
    growth,
    list_page,
    log_page,
    parked,
    producing,
    questions,
    reaction,
    server,
    servers,
    service,
    speed,
    sweep_page,
    whole_logs,
    workers,
)
from bench.measure import Results, commit, facts
from bench.systems import ALL, CELERY, LAUNCH, make

log = logging.getLogger("bench")

_FOLDER = Path(__file__).parent / "results"
#: Those of `--quick`.
_FEW = (CELERY, LAUNCH)


def _producing(results: Results, quick: bool) -> None:
    if quick:
        producing.bulk(results, rounds=1, runs=1000, systems=_FEW)
    else:
        producing.bulk(results, rounds=3, runs=5000)
    producing.command(results, rounds=5, repeat=1 if quick else 3)


def _footprint(results: Results, quick: bool) -> None:
    if quick:
        footprint.boot(results, rounds=2, systems=_FEW)
        footprint.idle(results, rounds=1, seconds=10, systems=_FEW)
    else:
        footprint.boot(results, rounds=3)
        footprint.idle(results, rounds=1, seconds=30)
    footprint.busy(results, rounds=1, seconds=3 if quick else 10)


def _reaction(results: Results, quick: bool) -> None:
    reaction.cancel(results, rounds=1, repeat=5 if quick else 30)
    reaction.log_latency(results, rounds=1, repeat=10 if quick else 50)
    reaction.flood(results, rounds=1 if quick else 5)


def _growth(results: Results, quick: bool) -> None:
    growth.queued_bytes(results, runs=500 if quick else 5000)
    growth.measure(results, sizes=(5_000, 50_000) if quick else (10_000, 100_000, 1_000_000), repeat=3)


def _speed(results: Results, quick: bool) -> None:
    if quick:
        speed.measure(results, rounds=3, jobs=300, singles=20, systems=_FEW)
    else:
        speed.measure(results, rounds=3, jobs=2000, singles=60)
    for pauses_ms in ((0, 0), (5, 50)):
        speed.in_turns(results, pairs=40 if quick else 150, pauses_ms=pauses_ms)


def _service(results: Results, quick: bool) -> None:
    service.orphans(results, systems=_FEW if quick else ALL)


def _fleet(results: Results, quick: bool) -> None:
    fleet.measure(results, sizes=(10, 1000) if quick else (10, 100, 1000), seconds=2 if quick else 8)


def _parked(results: Results, quick: bool) -> None:
    parked.measure(results, runs=1000 if quick else 10_000, seconds=5 if quick else 30)


def _logs(results: Results, quick: bool) -> None:
    whole_logs.measure(results, rounds=1 if quick else 5, repeat=5 if quick else 30)


def _page(results: Results, quick: bool) -> None:
    log_page.measure(results, opens=3 if quick else 10, jumps=20 if quick else 100, seconds=10 if quick else 60)
    sweep_page.measure(results, runs=10_000, drags=1 if quick else 5)
    size = 10_000 if quick else 100_000
    list_page.measure(results, runs=size, repeat=3 if quick else 15, pages=100, rate=50, seconds=5 if quick else 20)


def _archive(results: Results, quick: bool) -> None:
    archive.measure(results, runs=5_000 if quick else 100_000, transitions=3_000 if quick else 30_000)


def _questions(results: Results, quick: bool) -> None:
    questions.measure(results, sizes=(10_000,) if quick else (100_000,), repeat=5 if quick else 15)


def _workers(results: Results, quick: bool) -> None:
    workers.measure(results, sizes=(2, 5) if quick else (20, 50, 100, 200), seconds=25 if quick else 30)


def _server(results: Results, quick: bool) -> None:
    server.bulk(results, rounds=3 if quick else 9, runs=10_000)
    server.bulk_cpu(results, rounds=3 if quick else 9, runs=10_000)
    server.single(results, rounds=1 if quick else 5, repeat=100 if quick else 200)
    server.command(results, rounds=3 if quick else 15)
    following.measure(
        results, transitions=100 if quick else 300, clients=50 if quick else 200, rate=50, seconds=5 if quick else 20
    )


_GROUPS: dict[str, Callable[[Results, bool], None]] = {
    "speed": _speed,
    "service": _service,
    "producing": _producing,
    "footprint": _footprint,
    "reaction": _reaction,
    "growth": _growth,
    "fleet": _fleet,
    "parked": _parked,
    "archive": _archive,
    "logs": _logs,
    "page": _page,
    "questions": _questions,
    "server": _server,
    "workers": _workers,
}
#: Those that are measured when they are named only: 200 real workers take 12 GiB.
_NAMED_ONLY = ("workers",)
#: Those that are measured on each server that is found where none is named.
_ON_EACH = ("speed",)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure launch_worker beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer systems, smaller numbers: under 2 minutes")
    parser.add_argument(
        "--server",
        choices=[*servers.KINDS, "both"],
        help="do all groups on this server (default: speed on both, the rest on Redis where it is found)",
    )
    known = " ".join(_GROUPS)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {known} (default: all but workers)")
    options = parser.parse_args()
    unknown = set(options.groups) - set(_GROUPS)
    if unknown:
        parser.error(f"there is no group {min(unknown)}; known are: {known}")
    found = servers.found()
    wanted = servers.KINDS if options.server == "both" else (options.server,) if options.server else ()
    missing = [kind for kind in wanted if kind not in found]
    if missing:
        parser.error(f"no {missing[0]} server is on PATH or in the installed wheel")
    make(_FEW if options.quick else ALL)
    groups = options.groups or [name for name in _GROUPS if name not in _NAMED_ONLY]
    failed = []
    for number, (kind, program) in enumerate(found.items()):
        if kind in (wanted or found):
            mine = groups if wanted or not number else [name for name in groups if name in _ON_EACH]
            with servers.chosen(program):
                failed += _measure(kind, servers.version(program), mine, quick=options.quick)
    sys.exit(bool(failed))


def _measure(kind: str, version: str, groups: list[str], *, quick: bool) -> list[str]:
    """Measure groups on the chosen server, print and keep them; returns those that are not complete."""
    results, done = Results(), dict[str, dict[str, Any]]()
    failed = []
    for name in groups:
        results.group = name
        before, started = facts(), time.monotonic()
        try:
            _GROUPS[name](results, quick)
        except Exception as error:
            # The others are still of use, and so is what this one had measured until then.
            log.exception("%s is not complete", name)
            results.note(f"{name} is not complete: {type(error).__name__}: {error}".partition("\n")[0])
            failed.append(name)
        except KeyboardInterrupt:
            results.note(f"{name} was interrupted")
            failed.append(name)
        took_s = round(time.monotonic() - started, 1)
        done[name] = before | {"quick": quick, "took_s": took_s, "load_after": facts()["load"], "server": version}
        print(f"{name} on {version} took {took_s:.0f} s", flush=True)
        if failed and results.notes[-1][1].endswith("was interrupted"):
            break
    if not done:
        return failed
    print(f"\n{results.table()}\n")
    if {"speed", "service"} & set(done):
        print(f"{service.services(_FEW if quick else ALL)}\n")
    load = next(iter(done.values()))["load"][0]
    print(f"{sum(one['took_s'] for one in done.values()):.0f} s on {version}; load {load:.1f} before", end="; ")
    print("more than 0.5 beside this benchmark makes times worthless, not counts")
    it = commit()
    path = _FOLDER / f"{it['commit']}-{kind}.json"
    results.save(path, facts=it | {"server": version}, groups=done)
    print(f"kept in {path}")
    return failed


if __name__ == "__main__":
    # What is said of each stale run costs here what it costs a beat, and is not for reading.
    logging.getLogger("launch_worker").addHandler(logging.FileHandler(os.devnull))
    logging.getLogger("launch_worker").propagate = False
    main()
