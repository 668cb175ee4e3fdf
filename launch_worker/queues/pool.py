"""Defines and checks what an admin configures of a pool: several queues under one name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import QUEUE
from launch_worker.queues.defaults import changed, check_defaults
from launch_worker.untrusted.text import read_json

MAX_DESCRIPTION = 1000


@dataclass(frozen=True)
class PoolConfig:
    """The configuration of a pool. Constructing one validates it."""

    #: Defaults of the runs of its queues, behind those of the queue: fields of a RunSpec.
    defaults: dict[str, Any] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        check_description(self.description)
        object.__setattr__(self, "defaults", check_defaults(self.defaults))

    @classmethod
    def from_json(cls, text: str) -> PoolConfig:
        """The configuration from its JSON; '' is none. Raises InputError for what is damaged, or of a newer release."""
        if not text:
            return cls()
        try:
            return cls(**read_json(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"the pool's configuration is damaged: {error}") from None

    def to_json(self) -> str:
        kept = {"defaults": self.defaults, "description": self.description}
        return json.dumps({name: value for name, value in kept.items() if value}, sort_keys=True, allow_nan=False)

    def changed(self, *, defaults: dict[str, Any] | None = None, description: str | None = None) -> PoolConfig:
        """The configuration with these settings; None leaves one as it is. In `defaults` None takes one away."""
        return PoolConfig(
            defaults=changed(self.defaults, defaults),
            description=self.description if description is None else description,
        )


def check_pool_name(name: str) -> None:
    """Raises InputError for a name that no pool may have."""
    if not isinstance(name, str) or not QUEUE.fullmatch(name):
        shown = repr(str(name)[:60])
        raise InputError(f"pool {shown} is not allowed: letters, digits, and . _ - after the first, at most 100")


def check_description(text: Any) -> None:
    if not isinstance(text, str) or len(text) > MAX_DESCRIPTION:
        raise InputError(f"the description must be a text of at most {MAX_DESCRIPTION} characters")
