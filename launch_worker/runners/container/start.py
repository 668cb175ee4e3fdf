"""Orders an engine to start one container, once, and finds whether it runs, may run, or never will.

An engine's answer may be lost, and the thing be done all the same, now or when the engine goes on. So a container has
never run only when it is known to be removed: then it cannot start any more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from launch_worker.errors import EngineAwayError, NoContainerError, StartError
from launch_worker.runners.container.engine import clear_errors
from launch_worker.runners.container.life import Containers, Life
from launch_worker.runners.container.state import ContainerState

log = logging.getLogger("launch_worker.container")

#: Seconds to wait for an engine that does not answer, before a start is watched as a running container is.
PATIENCE_S = 5.0
#: Seconds between two looks at a start that was not answered.
_LOOK_AGAIN_S = 1.0
#: Seconds until the next attempt to remove a container that could not be removed.
_REMOVE_AGAIN_S = 0.1
_NEVER_RAN = "the container engine did not start the container, and it is removed"
_FORGOTTEN = (
    "the container engine was killed while it started the container, and has forgotten it: its job may have run, "
    "and is ended"
)


class Start:
    """The start of one container. Thread-safe."""

    def __init__(self, life: Life, runner: Containers) -> None:
        self._life = life
        self._runner = runner
        #: This worker has ordered the start; False for a container that another worker made.
        self.is_ordered = False
        #: Monotonic time after which the container must not start any more.
        self._deadline = math.inf
        #: The order was answered, or its connection is closed: none is on its way, as far as this worker knows.
        self._is_answered = False
        #: Engine's answer that it cannot start the container.
        self._error: StartError | None = None
        #: Why the container never starts: it does not run, and is being removed.
        self._refusal: StartError | None = None
        self._is_awaited = False
        #: The engine has forgotten a start, whose job may have run.
        self._is_forgotten = False

    def order(self, *, program: str, image: str, deadline: float) -> None:
        """Have the engine start the container before the deadline; to be called once: two orders might start it twice.

        `program` and `image` are named in errors.
        """
        self.is_ordered = self._is_awaited = True
        self._deadline = deadline
        threading.Thread(target=self._order, args=(program, image), name=f"start-{self._life.key}", daemon=True).start()

    def wait(self, unwanted: Callable[[], bool]) -> None:
        """Block until the container has run, the engine is silent, or `unwanted` is true.

        Raises StartError: the container never runs. In all other cases it must be watched: it runs, or may.
        """
        life = self._life
        with life.changed:
            while not (life.has_run or life.exited or unwanted() or self._is_engine_silent()):
                if self._refusal is not None:
                    raise self._refusal
                life.changed.wait(0.05)
            self._is_awaited = False
            if self._refusal is not None and life.exited is None:
                raise self._refusal

    @property
    def is_refused(self) -> bool:
        """Whether the engine has answered that it cannot start the container."""
        return self._error is not None

    @property
    def never_ran(self) -> bool:
        """Whether this worker ordered the start, and knows that nothing of the job has run."""
        return self.is_ordered and not self._life.has_run and not self._is_forgotten

    @property
    def is_by_engine(self) -> bool:
        """Whether the engine is to blame for a container that never ran."""
        return self.is_ordered and self._refusal is None

    @property
    def is_raised(self) -> bool:
        """Whether the caller of `wait` gets the error, and so nobody needs to be told of an end."""
        return self._refusal is not None and self._is_awaited

    @property
    def problem(self) -> str:
        """Why a container whose start was ordered is gone and was not seen to run."""
        return _FORGOTTEN if self._is_forgotten else str(self._refusal or _NEVER_RAN)

    def is_pending(self, state: ContainerState) -> bool:
        """Whether the container is made, and does not run yet."""
        # Some engines call a container exited that they could not start.
        failed = self.is_refused and not state.is_running and not self._life.has_run
        return state.status == "created" or failed

    def give_up(self) -> bool:
        """Remove a container that is made and does not run, unless it may still start; whether it is removed.

        Once it is removed it can never start, also when the engine serves an order to start it that came before.
        Raises EngineAwayError, and NoContainerError when another process has removed it.
        """
        may_start, refusal = self._judge() if self.is_ordered else (False, None)
        if may_start or (self.is_ordered and self._life.is_left):
            return False
        try:
            may_have_run = self._runner.remove_unstarted(self._life.container)
        except (EngineAwayError, NoContainerError):
            raise
        except StartError as error:
            # It runs after all, or is removed a little later.
            log.debug("container.not_removed run=%s: %s", self._life.key, error)
            self._life.pause(_REMOVE_AGAIN_S)
            return False
        # An engine that has refused to start it has forgotten nothing.
        self._is_forgotten = may_have_run and not self.is_refused
        if self.is_ordered and not self._is_forgotten:
            with self._life.changed:
                self._refusal = refusal
                self._life.changed.notify_all()
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _judge(self) -> tuple[bool, StartError | None]:
        """Whether the container may still start and is wanted, else why it must not start any more (None: a stop)."""
        life = self._life
        with life.changed:
            life.changed.wait_for(lambda: self._is_answered or life.kill_at is not None or life.is_left, _LOOK_AGAIN_S)
            if life.is_left or life.kill_at is not None or life.stopped_by:
                return False, None
        if time.monotonic() > self._deadline:
            return False, StartError("the container did not start in time")
        if not self._is_answered:
            return True, None
        # The answer may have come since the look.
        return not self.is_pending(life.look()), self._error

    def _order(self, program: str, image: str) -> None:
        error: StartError | None = None
        try:
            with clear_errors(image=image, program=program):
                self._runner.engine.worker().start(self._life.container)
        except EngineAwayError as away:
            log.warning("container.start_unanswered run=%s: it is looked for. %s", self._life.key, away)
        except StartError as refused:
            error = refused
        except Exception as failure:
            log.exception("container.start_failed run=%s", self._life.key)
            error = StartError(f"{type(failure).__name__} in the worker: {failure}")
        with self._life.changed:
            self._is_answered = True
            self._error = error
            self._life.changed.notify_all()

    def _is_engine_silent(self) -> bool:
        since = self._runner.watch.away_since
        return since is not None and time.monotonic() - since > PATIENCE_S
