"""`pip install .` finds a wheel of everything, on each Python that is supported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch_worker.dev.redis_server import bundled_server, find_redis_server

REPO = Path(__file__).parents[2]
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (REPO / "pyproject.toml").read_text())


@pytest.mark.parametrize("version", PYTHONS)
def test_it_installs_on_every_supported_python_without_a_compiler(version: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"]
    options = ["--python-version", version, "--only-binary=:all:", "--target", str(tmp_path), ".[sweeps]"]
    if version != PYTHONS[0]:
        # What builds the package does not depend on the Python that it is for: it is fetched once.
        options.append("--no-build-isolation")
    done = subprocess.run([*command, *options], cwd=REPO, capture_output=True, text=True, timeout=100, check=False)
    if "NewConnectionError" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr


def test_the_oldest_supported_python_is_named_everywhere_alike() -> None:
    assert PYTHONS == ["3.11", "3.12", "3.13", "3.14"]
    oldest = PYTHONS[0]
    pyproject = (REPO / "pyproject.toml").read_text()
    assert f'requires-python = ">={oldest}"' in pyproject
    assert f'target-version = "py{oldest.replace(".", "")}"' in pyproject
    assert f'python_version = "{oldest}"' in pyproject
    assert f"a Python of {oldest} or newer" in (REPO / "Makefile").read_text()
    assert f"Python {oldest}" in (REPO / "README.md").read_text()


def test_a_server_that_is_too_old_gives_way_to_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == bundled_server()
    program.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n")
    assert find_redis_server() == str(program)
