"""Defines the result of one check of an installation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    #: Level: ok, warning, or error (something must be mended).
    level: str
    #: Name of the check for machines: `redis.full`.
    name: str
    cause: str
    #: Advice what to do; '' where all is well.
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.cause}; {self.advice}" if self.advice else self.cause

    def as_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "name": self.name,
            "text": self.text,
            "cause": self.cause,
            "advice": self.advice or None,
        }
