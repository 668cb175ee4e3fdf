"""Finds the workers that were lost or left a short while ago, as the archive knows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds for which a worker that is gone is shown.
_GONE_S = 3600
#: Lines of the audit that are looked through for workers, and workers that are shown.
_MOST_LINES, _MOST_WORKERS = 200, 50


def gone_workers(acts: Callable[..., list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The workers that were lost or left in the last hour, the newest first; `acts` is a transport's."""
    since_us = int((time.time() - _GONE_S) * 1e6)
    lines = [
        line
        for what in ("lost", "left")
        for line in acts(who="", what=what, target="", since_us=since_us, limit=_MOST_LINES)
        if line["kind"] == "worker"
    ]
    found = []
    for line in sorted(lines, key=lambda line: str(line["at"]), reverse=True)[:_MOST_WORKERS]:
        owner = line["target"]
        [came, *_] = acts(who="", what="appeared", target=owner, since_us=None, limit=1) or [{"detail": {}}]
        known = came["detail"]
        host = str(known.get("host") or owner.split(".")[0])
        found.append(
            {
                "worker": str(known.get("worker") or f"?@{host}"),
                "host": host,
                "queues": known.get("queues") or [],
                "state": line["what"],
                "at": line["at"],
            }
        )
    return found
