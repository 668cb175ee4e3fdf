"""Fetches what a run takes of other runs' outputs into a folder of its attempt: verified, and whole or not at all."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError, DamagedError, LaunchError
from launch_worker.model.inputs import INPUTS, WHOLE, Input, parse_input
from launch_worker.model.kept_outputs import read_outputs
from launch_worker.model.links import resolved
from launch_worker.untrusted.text import plain_line

if TYPE_CHECKING:
    from launch_worker.outputs.manifest import Link, Manifest, StoredFile
    from launch_worker.outputs.stored import StoredOutputs

T = TypeVar("T")

#: Seconds between two looks for outputs that another worker is still to send.
_TURN_S = 0.5
#: Files that an error names.
_NAMED = 10


def fetch_inputs(attempt: Attempt, context: WorkerContext, patience: Patience) -> Path:
    """Fetch the inputs of an attempt; returns their folder. Raises CodeError, StartGivenUpError, OSError."""
    patience = replace(patience, what="the input")
    url = context.settings.output_url
    if not url:
        raise CodeError(
            "the run takes outputs of others (--input), and this worker knows no place of outputs: "
            "set LAUNCH_OUTPUT_URL where it is started"
        )
    # Imported where a run has inputs: it imports fsspec.
    from launch_worker.outputs.content import fetch_folder
    from launch_worker.outputs.manifest import check_together
    from launch_worker.outputs.stored import StoredOutputs

    stored = StoredOutputs(url)
    files: list[StoredFile] = []
    links: list[Link] = []
    manifests: dict[str, Manifest] = {}
    for wanted in map(parse_input, attempt.spec.inputs):
        if wanted.run_id not in manifests:
            manifests[wanted.run_id] = _manifest(wanted.run_id, stored, context, patience)
        more_files, more_links = _placed(wanted, manifests[wanted.run_id])
        files, links = files + more_files, links + more_links
    try:
        check_together([*(file.path for file in files), *(link.path for link in links)])
    except ValueError as error:
        raise CodeError(
            f"the inputs of the run do not go together: {error}; give another DEST to one of them"
        ) from None
    folder = attempt.folder.path / INPUTS
    _ask(patience, lambda: fetch_folder(stored, files, folder, links=links, mode=0o700, check=patience.check))
    return folder


def _manifest(run_id: str, stored: StoredOutputs, context: WorkerContext, patience: Patience) -> Manifest:
    """The newest outputs of a run, once they are there. Raises CodeError, StartGivenUpError."""
    while True:
        record = patience.outlast_redis(lambda: context.store.peek(run_id))
        if record is None:
            # Redis has forgotten the run; what it left may be kept for longer.
            numbers = _ask(patience, lambda: stored.attempts(run_id))
            break
        kept = read_outputs(record.outputs)
        if not any(one.is_sending for one in kept.values()):
            numbers = list(kept)
            break
        patience.pause(_TURN_S)
    if not numbers:
        raise CodeError(f"run {run_id} left no outputs, and this run takes some of it (--input)")
    manifest = _ask(patience, lambda: stored.manifest(run_id, numbers[-1]))
    if manifest is None:
        raise CodeError(f"the outputs of run {run_id}, attempt {numbers[-1]}, are gone from {stored.objects.shown}")
    return manifest


def _placed(wanted: Input, manifest: Manifest) -> tuple[list[StoredFile], list[Link]]:
    """The files and links that an input means, each with the path below the folder of inputs. Raises CodeError.

    A link to a file that is not among them is that file; one to such a folder is left out.
    """
    from launch_worker.outputs.manifest import Link, why_no_link

    by_path = {file.path: file for file in manifest.files}
    targets = {link.path: link.target for link in manifest.links}
    real = _resolved("" if wanted.path == WHOLE else wanted.path, targets)
    if real in by_path:
        # A file, into the folder of inputs itself under its own name.
        name = wanted.dest if wanted.dest != WHOLE else wanted.path.rpartition("/")[2]
        return [by_path[real]._replace(path=name)], []
    above = f"{real}/" if real else ""

    def placed(path: str) -> str:
        inside = path.removeprefix(above)
        return inside if wanted.dest == WHOLE else f"{wanted.dest}/{inside}"

    files = [file._replace(path=placed(file.path)) for file in manifest.files if file.path.startswith(above)]
    if real is None or not files:
        known = ", ".join(plain_line(file.path) for file in manifest.files[:_NAMED]) or "nothing"
        more = f" and {len(manifest.files) - _NAMED:,} more" if len(manifest.files) > _NAMED else ""
        raise CodeError(
            f"run {wanted.run_id} has no output {plain_line(wanted.path)!r}; its attempt {manifest.attempt} left: "
            f"{known}{more}"
        )
    links: list[Link] = []
    #: Places of files that are not in the folder, by their paths: each comes once, whatever leads to it.
    places: dict[str, str] = {}
    for link in manifest.links:
        leads_to = _resolved(link.path, targets) if link.path.startswith(above) else None
        if leads_to is None:
            continue
        path, place = placed(link.path), placed(leads_to) or "."
        if not leads_to.startswith(above):
            if leads_to not in by_path:
                continue
            place = places.setdefault(leads_to, path)
            if place == path:
                files.append(by_path[leads_to]._replace(path=path))
                continue
        moved = Link(path, posixpath.relpath(place, posixpath.dirname(path) or "."))
        links += () if why_no_link(moved) else (moved,)
    return files, links


def _resolved(path: str, targets: Mapping[str, str]) -> str | None:
    """The path without links; None where that is none."""
    try:
        return resolved(path, targets)
    except ValueError:
        return None


def _ask(patience: Patience, call: Callable[[], T]) -> T:
    """The store's answer. Raises CodeError: through the worker where the store does not answer."""
    try:
        return patience.await_thread(call)
    except CodeError:
        raise
    except ValueError as error:
        raise CodeError(f"a list of outputs that the run takes is damaged: {error}") from None
    except DamagedError as error:
        raise CodeError(str(error)) from None
    except LaunchError as error:
        raise CodeError(str(error), worker_fault=True) from None
