"""Makes, shows, changes, pauses and deletes queues and pools, for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from launch_worker.api.connection import Connection
from launch_worker.queues.described import Pool, PoolSettings, Queue, QueueSettings
from launch_worker.submission.resolve import refuse_unsigned


class QueueApi(Connection):
    """The part of `Api` that is about queues and pools.

    A setting that is not given stays as it is. Everything raises InputError before anything is written, and
    BrokerUnavailableError.
    """

    # -- queues --------------------------------------------------------------------------------------------------

    def create_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue:
        """Make a queue; refused where it is there already. (The first run submitted to a queue makes it, too.)"""
        self.transport.configure("queue", name, _given(settings, QueueSettings), create=True)
        return self.queue(name)

    def set_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Queue:
        """Change some of a queue's settings. Runs that were submitted keep the defaults that they got."""
        self.transport.configure("queue", name, _given(settings, QueueSettings), create=False)
        return self.queue(name)

    def queue(self, name: str) -> Queue:
        """The queue of this name. Raises InputError when there is none."""
        return self.transport.queue(name)

    def queues(self) -> list[Queue]:
        """Every queue that was made, or submitted to, by name."""
        return self.transport.queues()

    def pause_queue(self, name: str) -> None:
        """Let nothing of the queue start any more. Running runs go on."""
        self.transport.pause("queue", name, paused=True)

    def resume_queue(self, name: str) -> None:
        """Let a paused queue go on: waiting runs start at once where there is place."""
        self.transport.pause("queue", name, paused=False)

    def delete_queue(self, name: str) -> None:
        """Take a queue and its settings away. Raises RefusedError while runs wait in it; those that run go on."""
        self.transport.drop("queue", name)

    def check_unsigned(self, name: str, *, what: str) -> None:
        """Raises InputError where a queue takes signed runs only: nobody signs the runs of `what`, which recur.

        Asked before what says that the submitter has no key: with one they would be refused too.
        """
        if name in self.transport.queue_names():
            refuse_unsigned(name, self.transport.queue(name).config_json, what=what)

    # -- pools ---------------------------------------------------------------------------------------------------

    def create_pool(self, name: str, **settings: Unpack[PoolSettings]) -> Pool:
        """Make a pool; refused where it is there already. Queues are put into it with `set_queue(…, pool=…)`."""
        self.transport.configure("pool", name, _given(settings, PoolSettings), create=True)
        return self.pool(name)

    def set_pool(self, name: str, **settings: Unpack[PoolSettings]) -> Pool:
        """Change some of a pool's settings."""
        self.transport.configure("pool", name, _given(settings, PoolSettings), create=False)
        return self.pool(name)

    def pool(self, name: str) -> Pool:
        """The pool of this name. Raises InputError when there is none."""
        return self.transport.pool(name)

    def pools(self) -> list[Pool]:
        """Every pool, by name."""
        return self.transport.pools()

    def pause_pool(self, name: str) -> None:
        """Let nothing of any queue of the pool start any more. Running runs go on."""
        self.transport.pause("pool", name, paused=True)

    def resume_pool(self, name: str) -> None:
        """Let a paused pool go on; a queue that is paused itself stays paused."""
        self.transport.pause("pool", name, paused=False)

    def delete_pool(self, name: str) -> None:
        """Take a pool away. Raises RefusedError while queues are in it."""
        self.transport.drop("pool", name)


def _given(settings: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The settings by themselves. Raises TypeError for one that is not known, as a call does."""
    for name in settings:
        if name not in known.__annotations__:
            raise TypeError(f"there is no setting {name!r}; there are: {', '.join(sorted(known.__annotations__))}")
    return dict(settings)
