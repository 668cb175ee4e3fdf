"""Screens of commands, as functions of what was read and the width of the terminal."""

from __future__ import annotations

from typing import Any

from launch_worker.cli import status, workers
from launch_worker.terminal import Screen
from launch_worker.terminal.cells import unstyled

GIB = 1 << 30
WORKER: dict[str, Any] = {
    "worker": "celery@gpu1",
    "host": "gpu1",
    "pid": 31578,
    "queues": ["default", "gpu"],
    "slots": 4,
    "running": 1,
    "state": "quarantined",
    "problem": "takes no runs for 30 s more: no image",
    "devices": [{"id": "0", "name": "H200", "memory": 139 * GIB, "runs": ["1m83cyvtfq1tc69"], "use": None}],
    "cpus": {"total": 8, "free": 6.5},
    "memory": {"total": 24 * GIB, "free": 24 * GIB},
}
QUEUE = {
    "name": "gpu",
    "state": "Idle",
    "waiting": 3056,
    "later": 0,
    "running": 0,
    "limit": 4,
    "pool": None,
    "workers": 0,
}
STATUS: dict[str, Any] = {
    "problems": [
        {"level": "warning", "text": "queue gpu is Idle: no worker consumes queue gpu; start one with: " + "x" * 30}
    ],
    "runs": {"Pending": 3056, "Running": 1, "Finished": 0},
    "passes": {"mend": 12.0},
    "queues": [QUEUE],
    "pools": [],
    "workers": [WORKER],
}


def test_status_says_first_what_is_wrong_and_always_how_many_gpus_are_held() -> None:
    lines = [unstyled(line) for line in status.lines(STATUS, Screen(80, is_terminal=True))]
    assert lines[:6] == [
        "problem: queue gpu is Idle: no worker consumes queue gpu; start one with:",
        "         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "",
        "runs      ◌ Pending 3,056  ▶ Running 1",
        "GPUs      1 of 1 held",
        "passes    done 12 s ago",
    ]
    assert "QUEUE  STATE  WAITING  RUNNING  WORKERS" in lines
    assert "gpu    Idle     3,056      0/4        0" in lines
    assert not [at for at in range(1, len(lines)) if lines[at - 1] == lines[at] == ""], "two empty lines"
    without = STATUS | {"workers": [], "problems": []}
    assert "GPUs      none" in [unstyled(line) for line in status.lines(without, Screen(80, is_terminal=True))]


def test_workers_that_are_gone_stand_below_those_that_live() -> None:
    gone = {
        "worker": "celery@old",
        "host": "old",
        "queues": ["gpu"],
        "state": "lost",
        "at": "2030-01-01T00:00:00+00:00",
    }
    lines = [unstyled(line) for line in workers._lines(([WORKER], [gone]), Screen(80, is_terminal=True))]
    assert lines[1].split()[:6] == ["celery@gpu1", "quarantined", "1/4", "1/1", "1.5/8", "0/24"]
    assert lines[2] == "  takes no runs for 30 s more: no image"
    assert lines[3].split()[:2] == ["celery@old", "lost"]
    assert lines[4].startswith("  lost in ")
