"""Defines every error that a caller may meet, in one tree. The text of each is the sentence that the user reads."""

from __future__ import annotations


class LaunchError(Exception):
    """Something that a person can act on; its text says what was wrong and what to do."""

    exit_code = 1


class InputError(LaunchError):
    """The input was refused before anything was written."""

    exit_code = 2


class SettingsError(InputError):
    """A setting, or two settings together, make no sense."""


class NotFoundError(InputError):
    """Nothing of that kind has this name."""


class AmbiguousNameError(InputError):
    """Several runs or groups have this name, or ids that begin so; nothing was changed."""

    #: Each of them (the newest ones), its state and its age, as lines for people.
    things: tuple[str, ...] = ()

    def __init__(self, sentence: str, things: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join((sentence, *things)))
        self.things = things


class UnknownRunError(NotFoundError):
    """No run has this id (never submitted, or older than the retention)."""


class DeletedRunError(UnknownRunError):
    """A person has deleted the run."""

    #: Project of the run, '' for none; None where it is not known any more.
    project: str | None = None


class UnenforcedError(LaunchError):
    """This machine cannot confine the run's processes as its queue asks."""


class BrokerUnavailableError(LaunchError):
    """Redis did not answer; nothing is known to have been written."""

    exit_code = 69


class RedisFullError(BrokerUnavailableError):
    """Redis is full: it takes no new runs or attempts, and all else goes on; nothing was written."""


class ForbiddenError(BrokerUnavailableError):
    """The Redis user may not do this; nothing was written."""


class ServerUnavailableError(LaunchError):
    """The server of the API, or the identity provider that it asked, did not answer; what was done is not known."""

    exit_code = 69


class LoginError(LaunchError):
    """Nobody is logged in: the login is missing, wrong, expired or revoked."""

    exit_code = 77


class NotAllowedError(LaunchError):
    """The person who is logged in may not do this; nothing was done."""

    exit_code = 77


class ArchiveError(LaunchError):
    """The archive cannot be used until a person does something; runs go on without it."""


class ArchiveUnavailableError(ArchiveError):
    """The archive's database does not answer now, or has no room."""

    exit_code = 69


class DamagedError(LaunchError):
    """A key of this system holds something that this system did not write."""


class RefusedError(LaunchError):
    """The run's state does not allow the arrow that was asked for; nothing was changed."""


class SweepOverError(LaunchError):
    """The state of a run's sweep does not let the run start; it is Killed for that reason."""


class CodeError(LaunchError):
    """A run's code could not be fetched. `detail` has git's words; `worker_fault`: other runs would fail here too."""

    def __init__(self, text: str, *, detail: str = "", worker_fault: bool = False) -> None:
        super().__init__(text)
        self.detail = detail
        self.worker_fault = worker_fault


class StartError(LaunchError):
    """The job could not be started. `worker_fault`: other jobs could not be started here either."""

    def __init__(self, text: str = "", *, worker_fault: bool = False) -> None:
        super().__init__(text)
        self.worker_fault = worker_fault


class StartGivenUpError(Exception):
    """An event (a cancel, a lost lease) arrived before the job had started; it is in the queue of events.

    It is no LaunchError: who reports one as the reason why a start failed must not take a cancel for it.
    """


class LeaseLostError(StartError):
    """The worker could not renew the attempt's lease until its job was to begin: another worker may have the run."""


class EngineAwayError(StartError):
    """The container engine did not answer; whether it did what was asked is not known."""


class NoContainerError(StartError):
    """There is no such container (any more)."""
