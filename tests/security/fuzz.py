"""How many examples a property is tried with: few in every test run, and many by `make fuzz`."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    return int(os.environ.get("FUZZ") or usual)
