"""Makes programs start fast: without imports that only other commands need, and without garbage collection.

`celery` imports every plugin (Flower, and tornado with it) and the prompt of `celery amqp` before it looks at its
command line, so before `-A launch_worker`. Without them an idle worker with its guard has 50 MiB in place of 62, and
starts with 0.15 s of CPU less. Of this package `celery` has imported only this module by then: kombu takes it for a
serializer (the entry point in pyproject.toml).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Commands that need no plugin and no prompt.
_LEAN = {"worker", "beat"}
_USUAL = gc.get_threshold()


def hurry() -> None:
    """Raise the collector's threshold during start-up: collection is a fifth of the import time and finds nothing."""
    gc.set_threshold(100_000)


def import_later(name: str) -> None:
    """Have a module imported when something in it is first asked for, and not by who imports it before.

    `importlib.util.LazyLoader` is for that, but Python 3.11 loads at the import.
    """
    if name in sys.modules:
        return
    late = ModuleType(name)

    def load(wanted: str) -> Any:
        if sys.modules.get(name) is late:
            del sys.modules[name]
        return getattr(importlib.import_module(name), wanted)

    late.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = late


def started() -> None:
    """Take all that was imported out of garbage collection, and restore the collector's threshold."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


def _named_plugins(group: str) -> list[EntryPoint]:
    from importlib.metadata import entry_points

    return [plugin for plugin in entry_points(group=group) if plugin.name in sys.argv]


def _is_our_command() -> bool:
    """Whether this process is `celery -A launch_worker …`."""
    return "celery.bin.celery" in sys.modules and any("launch_worker" in word for word in sys.argv[1:])


def _start_lean() -> None:
    if not _is_our_command() or not _LEAN.intersection(sys.argv):
        return
    command = sys.modules["celery.bin.celery"]
    hurry()
    # Both changes are for this process only, made before that module first looks for plugins.
    command.entry_points = _named_plugins  # type: ignore[attr-defined]
    if "amqp" not in sys.argv:
        prompt = ModuleType("click_repl")
        prompt.register_repl = lambda group: None  # type: ignore[attr-defined]
        sys.modules.setdefault("click_repl", prompt)


def leave_working_folder() -> None:
    """Import nothing more from the folder that a command was started in: a stranger may have put a `redis.py` there.

    `celery` puts it first while it imports an app, and later on for whatever its settings name.
    """
    if not _is_our_command():
        return
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]
    imports = sys.modules.get("celery.utils.imports")
    if imports is not None:
        imports.cwd_in_path = contextlib.nullcontext  # type: ignore[attr-defined]


def _keep_flower_at_home() -> None:
    """Have Flower listen on loopback, and not on every address, where it has no login and nothing says otherwise."""
    if not _is_our_command() or "flower" not in sys.argv:
        return
    logins = ("--basic_auth", "--basic-auth", "--auth_provider", "--auth-provider", "--auth=")
    has_login = any(word.startswith(logins) for word in sys.argv) or "FLOWER_BASIC_AUTH" in os.environ
    if not has_login and "FLOWER_AUTH_PROVIDER" not in os.environ:
        os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")


_start_lean()
_keep_flower_at_home()

#: Value of kombu's entry point. Nothing is sent by it: workers accept "json" only.
SERIALIZER = (json.dumps, json.loads, "application/x-launch-worker", "utf-8")  # noqa: TID251 (never used)
