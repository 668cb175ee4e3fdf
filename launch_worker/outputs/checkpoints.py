"""Keeps checkpoints of runs below LAUNCH_OUTPUT_URL, finds the newest of a run, and makes a folder of it again.

A manifest is written after all content that it names, so each checkpoint that has one is complete. Redis names the
newest, and may have lost its last writes when it was killed. So the newest manifest counts, and it must not be older
than the one that Redis names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from launch_worker.errors import DamagedError
from launch_worker.outputs.content import Bounds, Hashes, fetch_folder, store_folder
from launch_worker.outputs.manifest import MAX_FILES, Manifest
from launch_worker.outputs.snapshot import Snapshot, belongs
from launch_worker.outputs.stored import CHECKPOINTS, StoredOutputs

_ALL = Bounds(max_bytes=1 << 62, max_files=MAX_FILES)


class Place(NamedTuple):
    """An attempt, and the number of one of its checkpoints; a later checkpoint is greater."""

    attempt: int
    number: int


def store(
    snapshot: Snapshot,
    stored: StoredOutputs,
    *,
    run_id: str,
    attempt: int,
    earlier: Mapping[str, str],
    executed: str = "",
    hashes: Hashes | None = None,
    check: Callable[[], None] = lambda: None,
) -> Manifest:
    """Store a state, and then its manifest, which is returned. A repeated call sends only what is missing.

    `executed` is `Manifest.executed`. `earlier` has the objects, by hash, that the newest checkpoint names: they are
    not sent again. `check` is called between pieces, and may raise. Raises LaunchError, OSError.
    """
    sent = store_folder(
        snapshot.files,
        stored,
        run_id=run_id,
        attempt=attempt,
        wanted=belongs,
        bounds=_ALL,
        hashes=hashes,
        name_of=lambda sha256: f"{CHECKPOINTS}/{run_id}/{attempt}/{sha256}",
        earlier=earlier,
        is_strict=True,
        check=check,
    )
    files = tuple(sorted((*sent.files, *snapshot.rest.files)))
    rest = snapshot.rest
    manifest = replace(
        sent,
        files=files,
        left_out=rest.left_out,
        left_out_count=rest.left_out_count,
        links=rest.links,
        executed=executed,
    )
    stored.objects.put(_manifest_name(run_id, Place(attempt, snapshot.number)), [manifest.to_json()], on_disk=True)
    return manifest


def newest(stored: StoredOutputs, run_id: str, *, before: int, since: int = 0) -> Place | None:
    """The newest checkpoint of the attempts from `since` on and before `before`; None for none. Raises LaunchError."""
    pattern = re.compile(rf"{CHECKPOINTS}/{re.escape(run_id)}/([0-9]{{1,9}})/([0-9]{{1,18}})\.json")
    names = stored.objects.names(f"{CHECKPOINTS}/{run_id}")
    places = [Place(int(match[1]), int(match[2])) for name in names if (match := pattern.fullmatch(name))]
    return max((place for place in places if since <= place.attempt < before), default=None)


def manifest_of(stored: StoredOutputs, run_id: str, place: Place) -> Manifest:
    """The files of a checkpoint. Raises LaunchError, DamagedError."""
    name = _manifest_name(run_id, place)
    try:
        manifest = stored.manifest_at(name)
    except ValueError as error:
        raise DamagedError(f"the checkpoint {name} is damaged: {error}") from None
    if manifest is None:
        raise DamagedError(f"the checkpoint {name} is gone from the store")
    return manifest


def restore(
    stored: StoredOutputs, manifest: Manifest, folder: Path, *, check: Callable[[], None] = lambda: None
) -> None:
    """Make the folder, which is empty, as it was: verified, whole or not at all. Raises LaunchError, OSError."""
    fetch_folder(stored, manifest.files, folder, links=manifest.links, mode=0o700, check=check)


def delete_superseded(
    stored: StoredOutputs, place: Place, manifest: Manifest, *, check: Callable[[], None] = lambda: None
) -> None:
    """Delete what the newest checkpoint does not name, of its attempt and earlier ones. Raises LaunchError.

    Only for whom Redis has told that this checkpoint is the newest: nobody goes on from an earlier one then. What was
    written after its manifest is left alone: another worker may have the attempt by now. `check` may raise.
    """
    run_id, own = manifest.run_id, _manifest_name(manifest.run_id, place)
    keep = {*manifest.contents.values(), own}
    of_attempt = re.compile(rf"{CHECKPOINTS}/{re.escape(run_id)}/([0-9]{{1,9}})/[^/]+")
    facts = stored.objects.all_facts(f"{CHECKPOINTS}/{run_id}")
    written_s = facts[own].written_s if own in facts else 0.0
    for name, found in facts.items():
        match = of_attempt.fullmatch(name)
        if match is None or name in keep or int(match[1]) > place.attempt:
            continue
        if found.written_s < written_s or not written_s:
            check()
            stored.objects.delete([name])


def _manifest_name(run_id: str, place: Place) -> str:
    return f"{CHECKPOINTS}/{run_id}/{place.attempt}/{place.number}.json"
