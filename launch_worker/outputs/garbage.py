"""Deletes content that no manifest names any more: by reference, mark and sweep.

Content that is younger than the grace stays: a worker may be about to write the manifest that names it. A worker takes
content for stored only while it is younger than half of the grace, and sends it again else.

The grace spares work; what keeps content is an order of writes. A collection says that it is under way before it reads
any manifest, and that it is over after its last deletion. A worker reads that before it looks for content, and again
after its manifest is written: where it has changed, or a collection is under way, the worker keeps its files and sends
what is missing once more.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import NamedTuple

from launch_worker.errors import DamagedError, LaunchError
from launch_worker.outputs.content import for_each
from launch_worker.outputs.stored import (
    COLLECTED,
    CONTENT,
    GARBAGE,
    GRACE_S,
    OUTPUTS,
    UNDER_WAY,
    StoredOutputs,
    content_name,
)

log = logging.getLogger("launch_worker.outputs")

#: Beginning of the object COLLECTED after a collection that did not come to its end.
_STOPPED = b"stopped"
#: Seconds between two collections: where manifests were deleted, and in any case, for what dead machines have left.
_EVERY_S, _AT_LEAST_S = 24 * 3600.0, 30 * 24 * 3600.0


class Collected(NamedTuple):
    """What a collection has deleted."""

    objects: int = 0
    bytes: int = 0


def is_due(stored: StoredOutputs) -> bool:
    """Whether a collection is worth its cost now: it reads all manifests. Raises LaunchError."""
    last = stored.objects.facts(COLLECTED)
    garbage = stored.objects.facts(GARBAGE)
    if last is None:
        # A store that is new has nothing to collect but what was deleted.
        return garbage is not None
    if stored.collection().startswith((UNDER_WAY, _STOPPED)):
        return True
    age_s = time.time() - last.written_s
    return age_s > (_AT_LEAST_S if garbage is None else _EVERY_S)


def collect(stored: StoredOutputs, *, stopping: threading.Event, grace_s: float = GRACE_S) -> Collected:
    """Delete all content that no manifest of outputs names and that is older than the grace.

    It ends early when it is to stop, when another process has begun one, and after half of GRACE_S.
    Raises LaunchError, and DamagedError where a manifest cannot be read: what it names is not known then.
    """
    begun_s, until = time.time(), time.monotonic() + GRACE_S / 2
    number = secrets.token_hex(8).encode()
    mine, last = UNDER_WAY + b" " + number, _STOPPED + b" " + number
    done = Collected()
    stored.objects.put(COLLECTED, [mine], on_disk=True)
    try:
        named = _mark(stored, stopping)
        for start in range(256):
            if stopping.is_set() or time.monotonic() > until or stored.collection() != mine:
                return done
            found = _sweep(stored, f"{start:02x}", named, begun_s - grace_s)
            done = Collected(done.objects + found.objects, done.bytes + found.bytes)
        garbage = stored.objects.facts(GARBAGE)
        # Content of manifests that were deleted meanwhile, or lately, is for the next collection.
        if garbage is not None and garbage.written_s < begun_s - grace_s:
            stored.objects.delete([GARBAGE])
        last = b"%b: %d objects, %d bytes\n" % (number, *done)
    finally:
        # A store that is away is asked again by the next collection.
        with contextlib.suppress(LaunchError):
            if stored.collection() == mine:
                stored.objects.put(COLLECTED, [last], on_disk=True)
    return done


def _mark(stored: StoredOutputs, stopping: threading.Event) -> set[bytes]:
    """The hashes of all content that a manifest names."""
    named: set[bytes] = set()

    def read(name: str) -> None:
        if stopping.is_set():
            return
        try:
            manifest = stored.manifest_at(name)
        except ValueError as error:
            raise DamagedError(
                f"no content of outputs is collected, for {name} at {stored.objects.shown} cannot be read ({error}); "
                "delete that object, or its run"
            ) from None
        if manifest is not None:
            named.update(bytes.fromhex(file.sha256) for file in manifest.files)

    for_each(read, (name for name in stored.objects.names(OUTPUTS) if name.endswith(".json")))
    return named


def _sweep(stored: StoredOutputs, start: str, named: set[bytes], before_s: float) -> Collected:
    """Delete content of which the hash begins so."""
    count = size = 0
    for name, facts in stored.objects.all_facts(f"{CONTENT}/{start}").items():
        sha256 = name.rpartition("/")[2]
        if name != content_name(sha256) or len(sha256) != 64:
            continue  # nothing of ours, or a file that is being written
        if facts.written_s > before_s or bytes.fromhex(sha256) in named:
            continue
        # A worker may have sent it again since it was listed.
        facts_now = stored.objects.facts(name)
        if facts_now is not None and facts_now.written_s <= before_s:
            stored.objects.delete([name])
            count, size = count + 1, size + facts_now.size
    return Collected(count, size)
