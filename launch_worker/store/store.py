"""Joins the parts of the store to `Store`, the one gate to all that the system keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch_worker.store.allowances import Allowances
from launch_worker.store.attempts import Attempts
from launch_worker.store.changes import Changes
from launch_worker.store.files import Files
from launch_worker.store.groups import Groups
from launch_worker.store.health import Health
from launch_worker.store.logs import Logs
from launch_worker.store.names import Names
from launch_worker.store.notices import Notices
from launch_worker.store.outlines import Outlines
from launch_worker.store.passes import Passes
from launch_worker.store.queues import Queues
from launch_worker.store.requests import Requests
from launch_worker.store.schedules import Schedules
from launch_worker.store.submit import Creator
from launch_worker.store.suggestions import Suggestions
from launch_worker.store.sweeps import Sweeps
from launch_worker.store.talk import Talk
from launch_worker.store.trusted_keys import TrustedKeys
from launch_worker.store.uploads import Uploads
from launch_worker.store.usage import Usages
from launch_worker.store.workers import Workers

if TYPE_CHECKING:
    from launch_worker.store.figures import Figures


class Store(
    Allowances,
    Attempts,
    Changes,
    Creator,
    Files,
    Groups,
    Health,
    Logs,
    Names,
    Notices,
    Outlines,
    Passes,
    Queues,
    Requests,
    Schedules,
    Suggestions,
    Sweeps,
    Talk,
    TrustedKeys,
    Uploads,
    Usages,
    Workers,
):
    """All parts of the store over one connection. Thread-safe; every method raises BrokerUnavailableError."""

    def figures(self) -> Figures:
        """The figures of the whole system for metrics, in three round trips."""
        # Imported here: only what tells metrics needs them.
        from launch_worker.store.figures import read_figures

        return read_figures(self._redis, self.url)
