"""Keeps the content and the manifests of outputs and checkpoints below LAUNCH_OUTPUT_URL, and reads them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator

from launch_worker.errors import DamagedError
from launch_worker.objects import Objects
from launch_worker.outputs.manifest import MAX_BYTES, Manifest, StoredFile

#: Folder of each kind of object.
CONTENT, OUTPUTS, CHECKPOINTS = "content", "outputs", "checkpoints"
#: Object that is there while content may be there that no manifest names.
GARBAGE = "garbage"
#: Object that tells each collection of content from the one before, and how it begins while one is under way.
COLLECTED, UNDER_WAY = "collected", b"under way"
#: Bytes that are read from the store at once.
PIECE_BYTES = 8 << 20
#: Seconds for which content is kept that no manifest names: a sender may be about to write one. After as many seconds a
#: collection is not under way any more, whatever its object says.
GRACE_S = 24 * 3600.0


class StoredOutputs:
    """The outputs and checkpoints below one URL. Each call raises LaunchError while the store does not answer."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url, setting="LAUNCH_OUTPUT_URL", what="outputs")

    # -- outputs -------------------------------------------------------------------------------------------------------

    def manifest(self, run_id: str, attempt: int) -> Manifest | None:
        """The manifest of an attempt's outputs; None for none. Raises ValueError for a damaged one."""
        return self.manifest_at(manifest_name(run_id, attempt))

    def put_manifest(self, manifest: Manifest) -> None:
        self.objects.put(manifest_name(manifest.run_id, manifest.attempt), [manifest.to_json()], on_disk=True)

    def attempts(self, run_id: str) -> list[int]:
        """The attempts of which outputs are stored, in order."""
        pattern = re.compile(rf"{OUTPUTS}/{re.escape(run_id)}/([0-9]{{1,9}})\.json")
        names = self.objects.names(f"{OUTPUTS}/{run_id}")
        return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))

    # -- what outputs and checkpoints share ----------------------------------------------------------------------------

    def manifest_at(self, name: str) -> Manifest | None:
        """The manifest in an object; None where there is none. Raises ValueError for a damaged one."""
        try:
            return Manifest.from_json(self.objects.get_small(name, most_bytes=MAX_BYTES))
        except FileNotFoundError:
            return None

    def has(self, content: str, size: int, *, younger_than_s: float | None = None) -> bool:
        """Whether the content is there, whole, and young enough to stay until a manifest names it."""
        facts = self.objects.facts(content)
        if facts is None or facts.size != size:
            return False
        return younger_than_s is None or time.time() - facts.written_s < younger_than_s

    def pieces(self, file: StoredFile) -> Iterator[bytes]:
        """The content of a file, piece by piece. Raises DamagedError, after the pieces, where it is another one."""
        seen, place = hashlib.sha256(), 0
        while place < file.size:
            data = self.part(file, place, min(place + PIECE_BYTES, file.size))
            seen.update(data)
            place += len(data)
            yield data
        if seen.hexdigest() != file.sha256:
            raise _damaged(file)

    def part(self, file: StoredFile, start: int, end: int) -> bytes:
        """A part of a file's content, which only its length checks. Raises DamagedError."""
        try:
            data = self.objects.get(file.content, start, end) if end > start else b""
        except FileNotFoundError:
            raise DamagedError(f"the content of {file.path!r} ({file.content}) is gone from the store") from None
        if len(data) != end - start:
            raise _damaged(file)
        return data

    # -- collections of content ----------------------------------------------------------------------------------------

    def collection(self) -> bytes:
        """What tells the latest collection of content from the one before; b"" for none."""
        try:
            return self.objects.get(COLLECTED)
        except FileNotFoundError:
            return b""

    def is_untouched_since(self, collection: bytes) -> bool:
        """Whether no content was collected since `collection` was read, and is not being collected now.

        Content that was there, or was written, meanwhile is there then; and a manifest that was written is seen by each
        collection that begins later.
        """
        return self.collection() == collection and not self.is_under_way(collection)

    def is_under_way(self, collection: bytes) -> bool:
        """Whether this collection, which was read just now, is not over."""
        if not collection.startswith(UNDER_WAY):
            return False
        begun = self.objects.facts(COLLECTED)
        return begun is None or time.time() - begun.written_s <= GRACE_S

    # -- runs ----------------------------------------------------------------------------------------------------------

    def runs(self) -> set[str]:
        """The runs of which something is stored."""
        return {run_id for folder in (OUTPUTS, CHECKPOINTS) for run_id in self.objects.folders(folder)}

    def delete_run(self, run_id: str) -> None:
        """Delete a run's manifests, and the content of its checkpoints.

        The content of its outputs may be another run's too: it is left to the garbage collection, which is told.
        """
        if self.objects.names(f"{OUTPUTS}/{run_id}"):
            self.objects.put(GARBAGE, [b"manifests were deleted\n"])
        for folder in (OUTPUTS, CHECKPOINTS):
            self.objects.delete_folder(f"{folder}/{run_id}")


def content_name(sha256: str) -> str:
    """The object with the content of outputs that has this hash."""
    return f"{CONTENT}/{sha256[:2]}/{sha256}"


def manifest_name(run_id: str, attempt: int) -> str:
    """The object with the manifest of an attempt's outputs."""
    return f"{OUTPUTS}/{run_id}/{attempt}.json"


def _damaged(file: StoredFile) -> DamagedError:
    return DamagedError(
        f"the content of {file.path!r} ({file.content}) is not what its manifest says: the store lost it"
    )
