"""`python -m bench.kill [--systems NAME …] [--faults NAME …]`: play the scenes, print the table, keep it as JSON."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from bench.environments import install
from bench.kill.faults import FAULTS, Fault, play
from bench.kill.systems import SYSTEMS, System
from bench.kill.table import KEPT, PAGE, Comparison, Played, put_into
from bench.measure import facts
from launch_worker.dev.redis_server import find_redis_server

Named = TypeVar("Named", System, Fault)


def scenes_of(systems: Sequence[System], faults: Sequence[Fault]) -> list[tuple[System, Fault]]:
    """All pairs, those first that take longest: of scenes at the same time none shall remain alone at the end."""
    pairs = [(system, fault) for fault in faults for system in systems]
    return sorted(pairs, key=lambda pair: -pair[0].patience_s - pair[0].silence_s * pair[1].name.startswith("freeze"))


def played(system: System, fault: Fault) -> Played:
    """One scene. One that failed is played once more: a machine under load may have been too slow for it."""
    if fault.name in system.without:
        return Played(system.name, fault.name, None, why=system.without[fault.name])
    error = ""
    for _ in range(2):
        began = time.monotonic()
        try:
            verdict, notes = play(system, fault)
            return Played(system.name, fault.name, verdict, notes=tuple(notes), took_s=time.monotonic() - began)
        except Exception as problem:  # noqa: BLE001 (the other scenes are still of use)
            error = f"{type(problem).__name__}: {problem}"
    return Played(system.name, fault.name, None, why=f"the scene failed: {error}", is_failed=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description="The same faults on each system.")
    parser.add_argument(
        "--systems", nargs="*", default=[], metavar="NAME", help=f"of: {' '.join(s.name for s in SYSTEMS)}"
    )
    parser.add_argument(
        "--faults", nargs="*", default=[], metavar="NAME", help=f"of: {' '.join(f.name for f in FAULTS)}"
    )
    parser.add_argument("--at-once", type=int, default=3 * (os.cpu_count() or 1), help="scenes at the same time")
    parser.add_argument("--keep", action="store_true", help="put these scenes into the kept file and the page")
    parser.add_argument("--page", action="store_true", help="only write the page from the kept file")
    options = parser.parse_args()
    if options.page:
        _write_page(Comparison.read())
        return
    systems = _chosen(parser, options.systems, SYSTEMS)
    faults = _chosen(parser, options.faults, FAULTS)
    for system in systems:
        install(system.environment)
    known = facts() | _names() | {"commit": _commit()}
    began = time.monotonic()
    found: dict[tuple[str, str], Played] = {}
    pairs = scenes_of(systems, faults)
    with ThreadPoolExecutor(options.at_once) as pool:
        scenes = [pool.submit(played, *pair) for pair in pairs]
        try:
            for scene in as_completed(scenes):
                result = scene.result()
                found[result.fault, result.system] = result
                print(f"{len(found)} of {len(pairs)}: {result.fault}, {result.system}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted: the scenes that have begun are played to their end", file=sys.stderr, flush=True)
            pool.shutdown(cancel_futures=True)
            sys.exit(130)
    known["took_s"] = round(time.monotonic() - began, 1)
    comparison = Comparison(known)
    for fault in faults:
        for system in systems:
            comparison.add(found[fault.name, system.name])
    print(f"\n{comparison.text()}\n")
    path = KEPT.with_name(f"kill-{time.strftime('%Y%m%d-%H%M%S')}.json")
    comparison.save(path)
    print(f"{known['took_s']:.0f} s; kept in {path}")
    is_whole = len(pairs) == len(SYSTEMS) * len(FAULTS)
    if options.keep or is_whole:
        _keep(comparison, is_whole=is_whole)
    sys.exit(any(result.is_failed for result in found.values()))


def _chosen(parser: argparse.ArgumentParser, names: Sequence[str], all_of: Sequence[Named]) -> list[Named]:
    known = {thing.name: thing for thing in all_of}
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"there is no {min(unknown)}; known are: {' '.join(known)}")
    return [thing for name, thing in known.items() if not names or name in names]


def _names() -> dict[str, object]:
    said = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"(\w+) server v=([\d.]+)", said)
    return {
        "redis": f"{match[1]} {match[2]}" if match else said.strip(),
        "systems": {system.name: system.title for system in SYSTEMS},
        "faults": {fault.name: fault.title for fault in FAULTS},
        "versions": {system.environment: system.version for system in SYSTEMS if system.environment},
    }


def _keep(comparison: Comparison, *, is_whole: bool) -> None:
    if not is_whole and KEPT.exists():
        whole = Comparison.read()
        new = comparison.facts
        whole.facts |= {"faults": new["faults"], "systems": new["systems"], "versions": new["versions"]}
        whole.facts["played_again"] = {"at": new["at"], "commit": new["commit"]}
        for fault, scenes in comparison.scenes.items():
            whole.scenes.setdefault(fault, {}).update(scenes)
        comparison = whole
    comparison.save(KEPT)
    _write_page(comparison)


def _write_page(comparison: Comparison) -> None:
    PAGE.write_text(put_into(PAGE.read_text(), comparison.markdown()))
    print(f"written: {PAGE}")


def _commit() -> str:
    words = ["git", "-C", str(KEPT.parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
