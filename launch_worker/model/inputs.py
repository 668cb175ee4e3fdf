"""Reads what a run takes of another one's outputs: `--input RUN:PATH[:DEST]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from launch_worker.errors import InputError
from launch_worker.ids import RUN_ID
from launch_worker.model.checks import encodes, parse_after

#: Name of the folder of inputs, beside the file at LAUNCH_CONFIG.
INPUTS = "inputs"
#: Inputs that one run may have.
MAX_INPUTS = 100
_MOST_CHARS = 1000
#: The path of a whole folder of outputs, and the destination of what comes into the folder of inputs itself.
WHOLE = "."


class Input(NamedTuple):
    """A file or folder of another run's outputs, and where the job finds it."""

    run_id: str
    #: Path in that run's outputs, without `.` and `..`; WHOLE for all of them.
    path: str
    #: Path below LAUNCH_INPUT_DIR, likewise.
    dest: str

    def __str__(self) -> str:
        return f"{self.run_id}:{self.path}" + ("" if self.dest == self.path else f":{self.dest}")


def parse_input(text: str) -> Input:
    """Read `RUN:PATH[:DEST]`, with the id of a run. Raises InputError."""
    run_id, path, dest = split_input(text)
    if not RUN_ID.fullmatch(run_id):
        raise InputError(f"input {text[:80]!r} names no run by its id; write it as RUN:PATH or RUN:PATH:DEST")
    path = _path(text, path)
    return Input(run_id, path, path if dest is None else _path(text, dest))


def split_input(text: str) -> tuple[str, str, str | None]:
    """The three parts of an input as they stand there; the last may be missing. Raises InputError."""
    parts = text.split(":") if isinstance(text, str) else []
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InputError(
            f"input {str(text)[:80]!r} names no file of a run; write it as RUN:PATH or RUN:PATH:DEST, "
            "with . as PATH for all that the run has put out"
        )
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _path(text: str, path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\x00" in path or not encodes(path) or len(path) > _MOST_CHARS:
        raise InputError(f"input {text[:80]!r} has a path that is no relative one, without .. in it")
    return "/".join(parts) or WHOLE


def check_inputs(inputs: tuple[str, ...]) -> None:
    """Raises InputError for inputs that no run can have."""
    if len(inputs) > MAX_INPUTS:
        raise InputError(f"a run can have at most {MAX_INPUTS} inputs, not {len(inputs)}")
    for text in inputs:
        parse_input(text)


def waits_of(after: Iterable[str], inputs: Iterable[str]) -> Mapping[str, str]:
    """The runs and groups that are waited for, and how each must end: those of `after`, then the others of inputs."""
    waits = dict(map(parse_after, after))
    for text in inputs:
        waits.setdefault(parse_input(text).run_id, "ok")
    return waits
