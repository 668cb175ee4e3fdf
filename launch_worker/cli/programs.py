"""Starts the programs launch-submit and launch-worker. A person waits for them, so it imports nothing early."""

from __future__ import annotations

import gc
import importlib

from launch_worker import startup


def submit() -> None:
    # click imports it, and of what click does with it a submission needs nothing.
    startup.import_later("inspect")
    _run("launch_worker.cli.submit")


def worker() -> None:
    _run("launch_worker.cli.main")


def _run(module: str) -> None:
    startup.hurry()
    try:
        importlib.import_module(module).main()
    finally:
        # Frozen: else the interpreter's last collection goes through all modules.
        gc.freeze()
