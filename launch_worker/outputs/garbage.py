"""Deletes content that no manifest names any more: by reference, mark and sweep.

Content that is younger than the grace stays: a worker may be about to write the manifest that names it. A worker takes
content for stored only while it is younger than half of the grace, and sends it again else.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple

from launch_worker.errors import DamagedError
from launch_worker.outputs.content import for_each
from launch_worker.outputs.stored import CONTENT, GARBAGE, GRACE_S, OUTPUTS, StoredOutputs, content_name

log = logging.getLogger("launch_worker.outputs")

#: Object that is written after each collection.
_COLLECTED = "collected"
#: Seconds between two collections: where manifests were deleted, and in any case, for what dead machines have left.
_EVERY_S, _AT_LEAST_S = 24 * 3600.0, 30 * 24 * 3600.0


class Collected(NamedTuple):
    """What a collection has deleted."""

    objects: int = 0
    bytes: int = 0


def is_due(stored: StoredOutputs) -> bool:
    """Whether a collection is worth its cost now: it reads all manifests. Raises LaunchError."""
    last = stored.objects.facts(_COLLECTED)
    garbage = stored.objects.facts(GARBAGE)
    if last is None:
        # A store that is new has nothing to collect but what was deleted.
        return garbage is not None
    age_s = time.time() - last.written_s
    return age_s > (_AT_LEAST_S if garbage is None else _EVERY_S)


def collect(stored: StoredOutputs, *, stopping: threading.Event, grace_s: float = GRACE_S) -> Collected:
    """Delete all content that no manifest of outputs names and that is older than the grace.

    Raises LaunchError, and DamagedError where a manifest cannot be read: what it names is not known then.
    """
    begun_s = time.time()
    named = _mark(stored, stopping)
    done = Collected()
    for start in range(256):
        if stopping.is_set():
            return done
        found = _sweep(stored, f"{start:02x}", named, begun_s - grace_s)
        done = Collected(done.objects + found.objects, done.bytes + found.bytes)
    garbage = stored.objects.facts(GARBAGE)
    # Content of manifests that were deleted meanwhile, or lately, is for the next collection.
    if garbage is not None and garbage.written_s < begun_s - grace_s:
        stored.objects.delete([GARBAGE])
    stored.objects.put(_COLLECTED, [b"%d objects, %d bytes\n" % done])
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
