"""The blocks of README and of the tutorial's first page run as they stand; `make walk` tries those of every page."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.walk.pages import REPO


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-run.md"])
def test_the_blocks_of_a_page_run_as_they_stand(page: str) -> None:
    walk = [sys.executable, "-m", "tests.walk", "--here", page]
    with subprocess.Popen(walk, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said, _ = process.communicate(timeout=280)
        finally:
            # It ends all that it has started before it ends.
            process.terminate()
    assert process.returncode == 0, said
