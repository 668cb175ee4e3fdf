"""Prometheus' own tool, of Debian's package prometheus, which checks texts, rules and expressions."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "launch.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "launch.json"


def program(name: str) -> str:
    """The path of `promtool` or `prometheus`; the test is skipped without, and fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not here: apt install prometheus")
    return found


def promtool(*words: str, text: bytes = b"") -> None:
    """Run promtool; fails with what it says."""
    done = subprocess.run([program("promtool"), *words], input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    # Advice on style ends with 0 or not, by version.
    assert not done.stderr, done.stderr.decode()
