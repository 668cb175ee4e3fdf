"""Programs that tests start have the usual signals, however the tests were started."""

from __future__ import annotations

import subprocess


def test_programs_that_tests_start_have_no_signal_blocked_or_ignored() -> None:
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    blocked, ignored = (int(line.split()[1], 16) for line in shown.splitlines())
    assert not blocked, shown
    # 32 and 33 are the C library's own: its posix_spawn leaves them ignored, and it sets them where threads need them.
    assert not ignored & ~(0b11 << 31), shown
