"""Defines the error of a notice that was not sent, which says whether another try makes sense."""

from __future__ import annotations

from launch_worker.errors import LaunchError


class SendError(LaunchError):
    """A notice was not sent, or whether it was sent is not known. The text has neither addresses nor secrets."""

    def __init__(self, sentence: str, *, is_final: bool = False, retry_after_s: float | None = None) -> None:
        """`is_final`: another try would end the same. `retry_after_s`: seconds that the receiver asks to wait."""
        super().__init__(sentence)
        self.is_final = is_final
        self.retry_after_s = retry_after_s
