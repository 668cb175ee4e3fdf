"""Compares the outputs that are kept, and those that other runs were given, with what their jobs wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from launch_worker.errors import LaunchError
from launch_worker.model.kept_outputs import KeptOutputs, read_outputs
from launch_worker.model.states import RunState
from launch_worker.outputs.manifest import Manifest, StoredFile
from launch_worker.outputs.stored import StoredOutputs
from tests.chaos.evidence import Stamps
from tests.chaos.verify import RunFacts

#: Reason of a run that was to get outputs of a run which left none.
_NOTHING = "left no outputs"


def content(name: str, number: int) -> bytes:
    """The content of an output, as job.py writes it."""
    line = b"%s part %d\n" % (name.encode(), number)
    return (line * 1000)[: len(line) + 7919 * number % 12000]


def check_outputs(url: str, runs: Sequence[RunFacts], takes: Mapping[str, str]) -> Iterator[str]:
    """Outputs that were called kept and are lost, half or another's; and such inputs: `takes` says of which run."""
    stored, known = StoredOutputs(url), {run.record.id: run for run in runs}
    for run in runs:
        kept = read_outputs(run.record.outputs)
        for number, stamps in run.stamps.items():
            problem = _problem(stored, run, number, stamps, kept.get(number))
            if problem:
                yield f"{run.record.id}: attempt {number}: {problem}"
        if (other := takes.get(run.record.id)) in known:
            yield from (f"{run.record.id}: {text}" for text in _inputs(stored, run, known[other]))


def count_outputs(runs: Sequence[RunFacts]) -> int:
    """The number of attempts whose outputs are kept."""
    return sum(not one.is_sending for run in runs for one in read_outputs(run.record.outputs).values())


def _problem(stored: StoredOutputs, run: RunFacts, number: int, stamps: Stamps, kept: KeptOutputs | None) -> str:
    if kept is None or kept.is_sending:
        # What a container has left is lost with its engine's memory of it, and what a full disk could not keep is not.
        is_sure = stamps.left and stamps.code is not None and not (run.is_container or run.was_disk_full)
        return f"it left {stamps.left} outputs, which are not kept" if is_sure else ""
    manifest = _manifest(stored, run.record.id, number)
    if manifest is None:
        return "its outputs were called kept, and are lost"
    found = set()
    for file in _parts(manifest):
        part = int(file.path.removeprefix("part-"))
        try:
            data = b"".join(stored.pieces(file))
        except (LaunchError, OSError) as error:
            return f"its output {file.path} was called kept, and is lost: {error}"
        if data != content(f"{run.record.id}.{number}", part):
            return f"its output {file.path} was called kept, and is half or another's: {data[:60]!r}"
        found.add(part)
    left_out = {one.path for one in manifest.left_out}
    lacking = [part for part in range(stamps.left) if part not in found and f"part-{part}" not in left_out]
    return f"it left {stamps.left} outputs, and part-{lacking[0]} is not among those kept" if lacking else ""


def _inputs(stored: StoredOutputs, run: RunFacts, other: RunFacts) -> Iterator[str]:
    for number, stamps in run.stamps.items():
        if stamps.spoiled:
            yield f"attempt {number} was given {stamps.spoiled[0]} otherwise than it was left"
        if stamps.took is None:
            continue
        of, count = stamps.took
        name, _, attempt = of.rpartition(".")
        manifest = _manifest(stored, name, int(attempt)) if attempt.isdecimal() else None
        left = 0 if manifest is None else len(list(_parts(manifest)))
        if count and (name != other.record.id or left != count):
            yield f"attempt {number} was given {count} outputs of {of}, which has {left}; for run {other.record.id}"
    kept_at = [one.at for one in read_outputs(other.record.outputs).values() if not one.is_sending]
    for before, after in pairwise(run.history):
        is_refused = after.state is RunState.FAILED and _NOTHING in after.reason
        if is_refused and before.state is RunState.RUNNING and any(at < before.at for at in kept_at):
            yield f"attempt {after.attempt} Failed, as run {other.record.id} had left nothing, and it had"


def _parts(manifest: Manifest) -> Iterator[StoredFile]:
    """Its files but for one that was being written when its job was killed."""
    return (one for one in manifest.files if one.path.startswith("part-") and not one.path.endswith(".tmp"))


def _manifest(stored: StoredOutputs, run_id: str, attempt: int) -> Manifest | None:
    try:
        return stored.manifest(run_id, attempt)
    except (LaunchError, ValueError):
        return None
