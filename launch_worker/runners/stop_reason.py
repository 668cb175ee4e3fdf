"""Names the reasons for which a job is signalled. Standard library only: the guard imports this module."""

from __future__ import annotations

from typing import Literal

#: '' for a job that was not signalled; its worker asked for it; its lease was over; its worker died.
StopReason = Literal["", "asked", "lease", "worker"]
