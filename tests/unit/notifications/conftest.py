"""A receiver of notices."""

from __future__ import annotations

from tests.support.receivers import receiver

__all__ = ["receiver"]
