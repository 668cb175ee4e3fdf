"""Says what an agent does now, by W&B's names: its status, and one line for people."""

from __future__ import annotations

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.identity import Identity
from launch_worker.agent.registration import STATUSES, Registration
from launch_worker.agent.tracker import InternalAgentLogger, say
from launch_worker.errors import BrokerUnavailableError, InputError
from launch_worker.model.checks import MAX_LIMIT
from launch_worker.model.units import format_duration
from launch_worker.store.store import Store


class AgentStatus:
    """The status of one agent. `LaunchAgent` has the same methods, and says what each does."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        slots: int,
        verbosity: int,
        attempts: Attempts,
        capacity: Capacity,
        registration: Registration,
    ) -> None:
        self._identity = identity
        self._store = store
        self._slots = slots
        self._verbosity = verbosity
        self._attempts = attempts
        self._capacity = capacity
        self._registration = registration
        self.logger = InternalAgentLogger(verbosity)

    @property
    def current(self) -> str:
        """What the agent says that it does, one of `STATUSES`."""
        return self._registration.status

    def update(self, status: str) -> None:
        """Change the status; see `LaunchAgent.update_status`."""
        if status not in STATUSES:
            raise InputError(f"status {status!r} is unknown; use one of: {', '.join(STATUSES)}")
        if status == self.current:
            return
        self._registration.status = status
        self.logger.debug(f"status {status}")
        if self._verbosity >= 1:
            say(self.line())

    def line(self) -> str:
        """What `LaunchAgent.print_status` prints."""
        free, total = self._capacity.free().devices, self._capacity.total.devices
        parts = [
            f"queues {', '.join(self._registration.queues) or 'none'}",
            f"running {self._attempts.num_running_jobs} of {_most(self._slots)} jobs",
            f"{self._attempts.num_running_schedulers} of {_most(self._capacity.max_schedulers)} schedulers",
            f"{len(free)} of {len(total)} GPUs free",
            f"oldest wait {self._oldest_wait()}",
        ]
        return f"agent {self._identity.worker} {self.current}: {'; '.join(parts)}"

    def _oldest_wait(self) -> str:
        try:
            waited_s = self._store.oldest_wait_s(self._registration.queues)
        except BrokerUnavailableError:
            return "unknown (Redis does not answer)"
        return "none" if waited_s is None else format_duration(waited_s)


def _most(limit: int) -> str:
    return "any number of" if limit >= MAX_LIMIT else str(limit)
