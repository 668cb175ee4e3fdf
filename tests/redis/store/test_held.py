"""Held attempts: nobody knows whether their job has ended, so no script gives the run to anybody else."""

from __future__ import annotations

import errno
import os
import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch_worker.agent.adoption import Adopter
from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.identity import Identity
from launch_worker.agent.outage import Outage
from launch_worker.api.client import Api, Run
from launch_worker.api.doctor.diagnosis import problems
from launch_worker.api.overview import overview
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.errors import RefusedError
from launch_worker.maintenance.passes import crash_stale_runs
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.runners.container.config import Labels
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.support.arrows import (
    CRASHED_AGAIN,
    FINISHED,
    adopt,
    beat,
    claim,
    create,
    expire_lease,
    running,
    snapshot,
    states,
    try_crash,
)

S = RunState


def held(store: Store, **options: object) -> Record:
    record = running(store, **options)
    assert store.hold(record.id, record.token, owner="owner1") == "held"
    return record


def test_the_lease_of_a_held_attempt_does_not_run_out(store: Store, api: Api) -> None:
    record = held(store, retries=1)
    assert crash_stale_runs(store, api.settings) == 0
    assert not try_crash(store, record.id, record.token, CRASHED_AGAIN)
    assert store.get(record.id).is_held
    assert states(store, record.id) == [S.PENDING, S.RUNNING]


def test_no_pass_hands_on_a_held_attempt_whose_lease_was_lost(store: Store, api: Api) -> None:
    record = held(store, retries=1)
    expire_lease(store, record.id)
    assert crash_stale_runs(store, api.settings) == 0
    assert [found.id for found in store.held()] == [record.id]


def test_holding_twice_changes_nothing(store: Store) -> None:
    record = held(store)
    before = snapshot(store)
    assert store.hold(record.id, record.token, owner="owner1") == "held"
    assert snapshot(store) == before


def test_a_run_that_another_worker_has_taken_over_is_not_held(store: Store) -> None:
    record = running(store)
    adopt(store, record)
    before = snapshot(store)
    assert store.hold(record.id, record.token, owner="owner1") == "adopted"
    assert snapshot(store) == before


@pytest.mark.parametrize("how", ["finished", "superseded", "pending", "unknown"])
def test_an_attempt_that_does_not_run_is_not_held(store: Store, how: str) -> None:
    record = running(store, retries=1)
    run_id = record.id if how != "unknown" else "1m83cyvtfq1tc69"
    if how == "finished":
        store.finish(record, FINISHED)
    elif how in ("superseded", "pending"):
        expire_lease(store, record.id)
        try_crash(store, record.id, record.token, CRASHED_AGAIN)
        if how == "superseded":
            claim(store, record.id)
    before = snapshot(store)
    assert store.hold(run_id, record.token, owner="owner1") == "over"
    assert not store.release(run_id, record.token)
    assert snapshot(store) == before


def test_a_heartbeat_of_its_worker_ends_the_holding(store: Store) -> None:
    record = held(store, retries=1)
    assert [answer.word for answer in beat(store, record)] == ["ok"]
    assert not store.get(record.id).is_held
    expire_lease(store, record.id)
    assert try_crash(store, record.id, record.token, CRASHED_AGAIN)


def test_the_next_worker_takes_a_held_attempt_over(store: Store) -> None:
    record = held(store, retries=1)
    adopted, why = adopt(store, record)
    assert adopted is not None, why
    assert not store.get(record.id).is_held
    assert not store.release(record.id, record.token), "its new worker tells"


def test_an_end_that_is_told_ends_the_holding(store: Store) -> None:
    record = held(store)
    assert store.finish(record, FINISHED, owner="owner1")
    assert not store.get(record.id).is_held
    assert store.held() == []


def test_a_released_attempt_is_called_crashed_by_the_next_pass(store: Store, api: Api) -> None:
    record = held(store, retries=1)
    assert store.release(record.id, record.token)
    assert not store.release(record.id, record.token), "once"
    assert crash_stale_runs(store, api.settings) == 1
    assert states(store, record.id) == [S.PENDING, S.RUNNING, S.CRASHED, S.PENDING]


def test_a_mark_of_an_earlier_attempt_holds_no_later_one(store: Store, redis_client: Any) -> None:
    record = held(store, retries=1)
    store.release(record.id, record.token)
    try_crash(store, record.id, record.token, CRASHED_AGAIN)
    redis_client.hset(f"launch:run:{record.id}", "held", str(record.token))
    later = claim(store, record.id)
    assert not store.get(later.id).is_held
    expire_lease(store, later.id)
    assert try_crash(store, later.id, later.token, CRASHED_AGAIN)


# -- what people see and say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "after"), [(0, S.CRASHED), (1, S.PENDING)])
def test_a_person_confirms_that_the_job_has_ended(store: Store, api: Api, retries: int, after: RunState) -> None:
    record = held(store, retries=retries)
    run = Run(api, record.id)
    assert run.confirm_ended() is after
    assert "confirmed that its job on" in run.transitions[2].reason
    with pytest.raises(RefusedError, match=f"is {after}, and it does not run; there is nothing to confirm"):
        run.confirm_ended()


def test_a_run_whose_worker_reports_on_it_is_not_to_be_confirmed(store: Store, api: Api) -> None:
    record = running(store, retries=1)
    before = snapshot(store)
    with pytest.raises(RefusedError, match=f"is Running, and worker {record.worker} reports on it"):
        Run(api, record.id).confirm_ended()
    assert snapshot(store) == before


def test_show_and_doctor_and_status_tell_of_a_held_run_and_what_to_do(store: Store, api: Api) -> None:
    record = held(store)
    shown = Run(api, record.id).as_json()
    assert shown["held"] is True
    assert f"may live on {record.host}" in shown["reason"]
    assert f"launch-worker confirm {record.id} ended" in shown["reason"]
    assert any(shown["reason"] in finding.text and finding.level == "error" for finding in api.findings())
    assert any(shown["reason"] in problem.text for problem in problems(api.store, api.settings, overview(api.store)))


def test_a_retry_of_a_held_run_is_refused_with_the_reason(store: Store, api: Api) -> None:
    record = held(store)
    with pytest.raises(RefusedError, match="may live on"):
        Run(api, record.id).retry()


def test_a_held_run_that_was_asked_to_stop_says_so(store: Store, api: Api) -> None:
    record = held(store, retries=1)
    run = Run(api, record.id)
    run.cancel()
    assert "it was asked to stop" in run.refresh().why_held()
    assert run.confirm_ended() is S.CRASHED, "what was asked to end is not tried again"


def test_a_pending_run_is_not_held(store: Store) -> None:
    run_id = create(store)
    assert not store.get(run_id).is_held


# -- being taken over --------------------------------------------------------------------------------------------------


class Adopting:
    """In place of an engine, which is not asked anything here."""

    def adopt(self, labels: Labels, **_: object) -> SimpleNamespace:
        return SimpleNamespace(events=queue.SimpleQueue())

    def find(self, *_: object) -> list[tuple[str, Labels]]:
        return []


def test_a_container_is_taken_over_though_the_disk_is_full(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is this worker's by then: nobody else would renew it."""
    record = held(store, retries=1)
    folder = AttemptFolder(tmp_path / f"{record.id}.{record.attempt}.{record.token}")
    folder.make(for_process=False)
    folder.mark_container(record)
    carried: list[Attempt] = []
    attempts = Attempts(slots=2, capacity=Capacity([], cpus=1, memory=1), most_grace_s=None)
    adopter = Adopter(
        Identity(owner="next", worker="w2", host="h"),
        store=store,
        settings=Settings.from_env({"LAUNCH_WORK_DIR": str(tmp_path)}, redis_url=store.url),
        outage=Outage(threading.Event()),
        containers=SimpleNamespace(runner=Adopting, system=lambda: "it"),  # type: ignore[arg-type]
        attempt_folder=lambda _: pytest.fail("it has a folder"),
        attempts=attempts,
        carry_on=carried.append,
    )
    free: list[int] = []
    adopt = store.adopt

    def noted(*args: Any, **named: Any) -> tuple[Record | None, str]:
        free.append(attempts.free_slots)
        return adopt(*args, **named)

    monkeypatch.setattr(store, "adopt", noted)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(AttemptFolder, "keep_record", full)
    adopter._adopt_container(folder, [record.owner])
    assert [attempt.record.id for attempt in carried] == [record.id]
    # No claim may have the slot meanwhile; it is the attempt's until that is concluded.
    assert (free, attempts.free_slots) == ([1], 1)
    other = AttemptFolder(tmp_path / f"{record.id}.{record.attempt}.{record.token - 1}")
    adopter._adopt_container(other, ["somebody"])
    assert (len(carried), free, attempts.free_slots) == (1, [1, 0], 1), "a refused adoption leaves its slot"
