"""`make compare`, shortened: the script sees a lost and a doubled job where there is one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bench.kill.faults import FAULTS, play
from bench.kill.systems import SYSTEMS


def test_the_same_faults_leave_launch_worker_clean_and_celery_not() -> None:
    # Celery is in this environment too: nothing is installed.
    ours, celery = (replace(system, environment="") for system in SYSTEMS if system.name in ("ours", "celery"))
    kill, doubled = (fault for fault in FAULTS if fault.name in ("kill", "doubled-message"))
    # What Celery calls running for ever is waited for 8 s only.
    killed = [(ours, kill), (replace(celery, patience_s=8), kill)]
    pairs = [*killed, *((system, replace(doubled, workers=1)) for system in (ours, celery))]
    with ThreadPoolExecutor(len(pairs)) as pool:
        ours_killed, celery_killed, ours_doubled, celery_doubled = (
            verdict for verdict, _ in pool.map(lambda pair: play(*pair), pairs)
        )
    assert ours_killed.is_clean, ours_killed
    assert ours_doubled.is_clean, ours_doubled
    assert celery_killed.stuck, celery_killed
    assert celery_killed.truth_s is None
    assert celery_doubled.twice == 1, celery_doubled
