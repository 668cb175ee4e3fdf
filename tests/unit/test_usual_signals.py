"""Programs that tests start have the usual signals, however the tests were started."""

from __future__ import annotations

import subprocess


def test_programs_that_tests_start_have_no_signal_blocked_or_ignored() -> None:
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [int(line.split()[1], 16) for line in shown.splitlines()] == [0, 0], shown
