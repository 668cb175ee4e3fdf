"""Describes where lines are shown: how wide it is, and which signs it can show."""

from __future__ import annotations

import sys
from typing import NamedTuple, TextIO

#: Sign of each state, one cell wide, for terminals that have it and for those of ASCII.
_SIGNS = {"Pending": "◌.", "Running": "▶>", "Finished": "✓+", "Failed": "✗x", "Killed": "■#", "Crashed": "↯!"}
#: Cells of a terminal that says no width, and of the narrowest one for which lines are made.
_USUAL_WIDTH, _LEAST_WIDTH = 80, 20


class Screen(NamedTuple):
    """A terminal, or a pipe: there nothing is cut, and each column is shown, even an empty one."""

    #: Width in cells; None for lines as long as they are.
    width: int | None = None
    is_terminal: bool = False
    encoding: str = "utf-8"

    @classmethod
    def of(cls, stream: TextIO | None = None, *, is_wide: bool = False) -> Screen:
        """The screen behind a stream, standard output for None; `is_wide` lets lines be longer than a terminal."""
        stream = sys.stdout if stream is None else stream
        encoding = stream.encoding or "ascii"
        if not stream.isatty():
            return cls(encoding=encoding)
        # Not at the top: `launch-submit` does without what it imports.
        import shutil

        columns = shutil.get_terminal_size((_USUAL_WIDTH, 24)).columns
        return cls(None if is_wide else max(_LEAST_WIDTH, columns), True, encoding)

    @property
    def has_signs(self) -> bool:
        return self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") or self._can("".join(_SIGNS.values()) + "…")

    @property
    def ellipsis(self) -> str:
        """What stands for the rest of a text that was cut, one cell wide."""
        return "…" if self.has_signs else "~"

    def sign(self, state: str) -> str:
        """The sign of a state; '' for a word that is none."""
        return _SIGNS.get(state, "  ")[not self.has_signs].strip()

    def writable(self, text: str) -> str:
        """The text with a number for each letter that the encoding lacks, so that its width is known."""
        if text.isascii() or self._can(text):
            return text
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def _can(self, text: str) -> bool:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return False
        return True
