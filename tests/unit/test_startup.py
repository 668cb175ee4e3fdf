"""What of Celery's other commands a worker's process does without."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import sys
sys.argv = ["celery", "-A", "launch_worker", {command!r}]
import celery.bin.celery
print("prompt_toolkit" in sys.modules, "tornado" in sys.modules)
import launch_worker.celery
"""


def imports_of(command: str) -> str:
    argv = [sys.executable, "-c", _LOOK.format(command=command)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def test_a_worker_starts_without_the_prompt_and_plugins() -> None:
    assert imports_of("worker") == imports_of("beat") == "False False"


def test_other_commands_have_them() -> None:
    assert imports_of("flower") == "True True"


def test_a_module_for_later_is_imported_when_something_of_it_is_asked_for() -> None:
    look = """
import sys
from launch_worker.startup import import_later
import_later("inspect")
import inspect, click
print("dis" in sys.modules)
assert inspect.cleandoc("  a") == "a" and "dis" in sys.modules
import inspect
from inspect import isfunction
assert inspect.isfunction is isfunction and inspect.__spec__.name == "inspect"
"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "False"
