"""Checks which of its files a run has kept: `--output PATTERN`."""

from __future__ import annotations

from launch_worker.errors import InputError

#: Number of patterns of a run at most, and characters of each.
MAX_PATTERNS = 50
MAX_PATTERN = 500


def check_outputs(outputs: tuple[str, ...]) -> None:
    """Raises InputError for patterns that no run can have."""
    if len(outputs) > MAX_PATTERNS:
        raise InputError(f"a run can have at most {MAX_PATTERNS} patterns of outputs, not {len(outputs)}")
    for pattern in outputs:
        if not pattern.strip() or len(pattern) > MAX_PATTERN or "\0" in pattern:
            raise InputError(f"{pattern[:60]!r} is no pattern of outputs: it must have 1 to {MAX_PATTERN} characters")
