"""Sandboxes for tests; with LAUNCH_TEST_SANDBOX=private in the environment all jobs of the tests run in one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from launch_worker.runners.process.confinement import Confinement

#: Sandbox in which all jobs of the tests run; '' for none.
OF_ALL = os.environ.get("LAUNCH_TEST_SANDBOX", "")


#: Mark of tests that need bubblewrap. In CI they fail without it.
needs_bubblewrap = pytest.mark.skipif(
    "CI" not in os.environ and shutil.which("bwrap") is None, reason="bubblewrap (bwrap) is not installed"
)


def in_bubblewrap(folder: Path, *, sandbox: str = "private", **more: tuple[str, ...]) -> Confinement:
    """A sandbox of bubblewrap in which a job can write in the folder of its test."""
    return Confinement(sandbox, shutil.which("bwrap") or "", **{"writable": (str(folder),)} | more)  # type: ignore[arg-type]


def variables_of_all(folder: Path) -> dict[str, str]:
    """The variables of a test's system whose jobs all run in that sandbox; none for no sandbox."""
    if not OF_ALL:
        return {}
    everywhere = str(Path(__file__).parent / "everywhere")
    return {"LAUNCH_TEST_SANDBOX": OF_ALL, "LAUNCH_TEST_WRITABLE": str(folder), "PYTHONPATH": everywhere}
