"""Says how one job is confined: in which sandbox, as which user, within which limits, and what it may reach."""

from __future__ import annotations

from dataclasses import dataclass

from launch_worker.queues.confinement import NO_LIMITS, Limits


@dataclass(frozen=True)
class Confinement:
    """How the processes of one job are confined on this machine."""

    #: private, strict, or '' for no sandbox.
    sandbox: str = ""
    #: Account of the processes; '' for the worker's own.
    user: str = ""
    limits: Limits = NO_LIMITS
    #: Folder of the worker, of which a job in a sandbox sees only what is named here.
    hidden: tuple[str, ...] = ()
    #: Folders that a job in a sandbox can read though they are hidden.
    readable: tuple[str, ...] = ()
    #: Folders in which a job in a sandbox can write.
    writable: tuple[str, ...] = ()
