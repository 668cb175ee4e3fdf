"""A terminal's window in which a command runs: what it writes, and what stands on its two screens."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import pyte

_OTHER_SCREEN = re.compile(rb"\x1b\[\?1049([hl])")


class Window:
    """A window of so many columns and rows, of which a command is the foreground job."""

    def __init__(self, *command: str, env: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self._ours, theirs = os.openpty()
        self._size = (rows, columns)
        self._set_size()
        self.settings = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            env={**env, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        # Kept open: its settings are looked at once the command has ended.
        self._theirs = theirs
        self.written = b""
        self._reader = threading.Thread(target=self._read, name="window")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)

    def resize(self, columns: int, rows: int) -> None:
        """As a person who drags its corner: the command gets SIGWINCH."""
        self._size = (rows, columns)
        self._set_size()

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def is_on_other_screen(self) -> bool:
        found = _OTHER_SCREEN.findall(self.written)
        return bool(found) and found[-1] == b"h"

    def shown(self) -> list[str]:
        """The rows of the screen on which the command draws now, without blanks at their ends."""
        return self._rows_of(_OTHER_SCREEN.split(self.written)[-1])

    def usual_screen(self) -> list[str]:
        """The rows of the usual screen."""
        parts = _OTHER_SCREEN.split(self.written)
        return self._rows_of(b"".join(parts[0::4]))

    def settings_now(self) -> list[object]:
        """The terminal's settings, as echo."""
        return termios.tcgetattr(self._theirs)

    def _rows_of(self, data: bytes) -> list[str]:
        screen = pyte.Screen(self._size[1], self._size[0])
        pyte.ByteStream(screen).feed(data)
        rows = [row.rstrip() for row in screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def _set_size(self) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", *self._size, 0, 0))

    def _read(self) -> None:
        # Reading fails once both the command and this class have closed the other end.
        with suppress(OSError):
            while data := os.read(self._ours, 1 << 16):
                self.written += data
