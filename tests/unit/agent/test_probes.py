"""What a worker's probes say, decided by times and facts that are passed in."""

from __future__ import annotations

import os
import time
from pathlib import Path

from launch_worker.agent.probes import Vitals


class Worker:
    """A clock that a test turns, and what the worker would say."""

    def __init__(self, file: Path | None = None) -> None:
        self.now = 1000.0
        self.is_away = False
        self.why = ""
        self.vitals = Vitals(
            heartbeat_s=5.0,
            file=file,
            is_away=lambda: self.is_away,
            why_no_runs=lambda: self.why,
            clock=lambda: self.now,
        )


def test_a_worker_that_has_just_started_is_healthy_and_not_ready() -> None:
    vitals = Worker().vitals
    assert vitals.live().ok
    assert vitals.healthy().ok
    assert not vitals.ready().ok
    assert vitals.ready().reason == "the worker has not reached Redis yet"


def test_after_30_s_without_redis_a_worker_is_not_healthy_but_it_lives() -> None:
    worker = Worker()
    worker.vitals.note_reached()
    worker.now += 30
    assert worker.vitals.healthy().ok
    worker.now += 1
    worker.vitals.note_turn()
    assert not worker.vitals.healthy().ok
    assert worker.vitals.healthy().reason.startswith("Redis has not been reached for 31 s")
    assert worker.vitals.live().ok
    worker.vitals.note_reached()
    assert worker.vitals.healthy().ok


def test_a_worker_is_not_ready_from_the_first_failed_call_on() -> None:
    worker = Worker()
    worker.vitals.note_reached()
    assert worker.vitals.ready().ok
    worker.is_away = True
    assert not worker.vitals.ready().ok


def test_a_worker_that_takes_no_runs_is_not_ready_and_says_why() -> None:
    worker = Worker()
    worker.vitals.note_reached()
    worker.why = "the worker drains"
    assert worker.vitals.healthy().ok
    assert (worker.vitals.ready().ok, worker.vitals.ready().reason) == (False, "the worker drains")


def test_heartbeats_that_stand_still_are_not_alive() -> None:
    worker = Worker()
    worker.vitals.note_turn()
    worker.now += 66
    assert not worker.vitals.live().ok


def test_the_file_is_touched_at_each_heartbeat_that_reached_redis_and_gone_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    vitals = Worker(file).vitals
    vitals.note_turn()
    assert not file.exists()
    vitals.note_reached()
    os.utime(file, (0, 0))
    vitals.note_reached()
    assert time.time() - file.stat().st_mtime < 60
    vitals.forget()
    assert not file.exists()


def test_a_file_that_cannot_be_touched_ends_no_heartbeat(tmp_path: Path) -> None:
    Worker(tmp_path / "no" / "folder").vitals.note_reached()


def test_a_worker_whose_loop_stands_still_is_neither_alive_nor_healthy_and_its_file_grows_old(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "alive")
    worker.vitals.note_loop(True)
    worker.vitals.note_reached()
    touched_at = (tmp_path / "alive").stat().st_mtime_ns
    worker.now += 61
    worker.vitals.note_turn()
    worker.vitals.note_reached()
    assert (tmp_path / "alive").stat().st_mtime_ns == touched_at
    for probe in (worker.vitals.live, worker.vitals.healthy, worker.vitals.ready):
        assert not probe().ok
        assert "the worker's loop has stood still for 61 s" in probe().reason
    worker.vitals.note_loop(True)
    assert worker.vitals.live().ok


def test_a_loop_that_waits_for_redis_or_has_ended_is_no_fault() -> None:
    worker = Worker()
    worker.vitals.note_loop(True)
    worker.is_away = True
    worker.now += 300
    worker.vitals.note_turn()
    assert worker.vitals.live().ok
    worker.vitals.note_reached()
    worker.is_away = False
    assert worker.vitals.live().ok
    worker.now += 61
    worker.vitals.note_turn()
    assert not worker.vitals.live().ok
    worker.vitals.note_loop(False)
    assert worker.vitals.live().ok
