"""Reads the configuration of a queue from its JSON, each text once. Imports little: `launch-submit` does."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launch_worker.queues.queue import QueueConfig


@lru_cache(maxsize=256)
def queue_of(text: str) -> QueueConfig:
    """The configuration of a queue; many runs come from few queues. Raises InputError for a damaged one."""
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.queues.queue import QueueConfig

    return QueueConfig.from_json(text)


def signers_of(text: str) -> tuple[str, ...]:
    """The names of keys of which one must have signed a queue's runs; () for none. Raises InputError."""
    return queue_of(text).signers if '"signers"' in text else ()
