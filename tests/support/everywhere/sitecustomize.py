"""Gives queues that ask for nothing the sandbox of LAUNCH_TEST_SANDBOX, whose jobs write in the test's folder.

Python imports this module at the start of each process of a test's system, which has this folder on its PYTHONPATH.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

_QUEUE = "launch_worker.queues.queue"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module of queues as ever, and changes the defaults of a queue's settings once that is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _QUEUE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            confine(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def confine(module: ModuleType) -> None:
    """Have the queues' demands be those of the environment."""
    usual = module.QueueConfig.demands.func

    def demands(config: object) -> object:
        asked = usual(config)
        folders = tuple(filter(None, os.environ.get("LAUNCH_TEST_WRITABLE", "").split(":")))
        return asked or type(asked)(os.environ["LAUNCH_TEST_SANDBOX"], writable=folders)

    module.QueueConfig.demands = property(demands)


if os.environ.get("LAUNCH_TEST_SANDBOX"):
    sys.meta_path.insert(0, _Finder())
