"""Carries out commands of `launch-worker` in the process of the test."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from launch_worker.cli.main import group


def run_here(*words: str, given: str | None = None) -> str:
    """What a command prints on standard output, with `given` on its standard input. Raises what the command raises."""
    result = CliRunner().invoke(group, words, standalone_mode=False, input=given)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]
