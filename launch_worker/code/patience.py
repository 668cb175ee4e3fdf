"""Bounds how long bringing a run's code and environment may take, and ends it when nobody wants it any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from launch_worker.errors import BrokerUnavailableError, CodeError, StartGivenUpError
from launch_worker.model.units import format_duration

T = TypeVar("T")

#: Seconds between two looks whether a wait may go on.
TURN_S = 0.05
_REDIS_AGAIN_S = 1.0


@dataclass(frozen=True)
class Patience:
    """A deadline (monotonic seconds). Call `check` often: it raises CodeError then, StartGivenUpError when unwanted."""

    deadline: float
    limit_s: float
    unwanted: Callable[[], bool] = lambda: False
    #: Thing that is waited for, in a word for people.
    what: str = "the code"

    @classmethod
    def of(cls, limit_s: float, *, unwanted: Callable[[], bool] = lambda: False) -> Patience:
        """A patience of this duration, from now on."""
        return cls(time.monotonic() + limit_s, limit_s, unwanted)

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        if self.unwanted():
            raise StartGivenUpError
        if time.monotonic() >= self.deadline:
            raise CodeError(
                f"{self.what} was not there within the start timeout of {format_duration(self.limit_s)}; "
                f"raise it with --start-timeout if {self.what} is that large"
            )

    def pause(self, seconds: float = TURN_S) -> None:
        self.check()
        time.sleep(min(seconds, self.left_s))

    def outlast_redis(self, call: Callable[[], T]) -> T:
        """The result of `call`, repeated until Redis answers."""
        while True:
            try:
                return call()
            except BrokerUnavailableError as error:
                again_at = time.monotonic() + _REDIS_AGAIN_S
                while time.monotonic() < again_at:
                    if not self.left_s:
                        raise CodeError(f"{self.what} was not there within the start timeout: {error}") from None
                    self.pause()

    def await_thread(self, call: Callable[[], T]) -> T:
        """The result of `call`, or its error. A call that hangs (a dead mount) is abandoned with its thread."""
        answer: list[T] = []
        problem: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(call())
            except BaseException as error:  # noqa: BLE001 (raised again below)
                problem.append(error)

        thread = threading.Thread(target=run, name="launch-code", daemon=True)
        thread.start()
        while thread.is_alive():
            self.check()
            thread.join(TURN_S)
        if problem:
            raise problem[0]
        return answer[0]
