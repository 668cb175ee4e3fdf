"""What a follower of a run is told, however the run changes meanwhile."""

from __future__ import annotations

import time

import pytest

from launch_worker.api.client import Api
from launch_worker.model.history import Transition
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.support.arrows import claim, create


def test_a_change_between_two_readings_of_a_run_is_told_once_and_by_its_own_number(
    api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, read = create(store), api.store.history

    def history(of: str) -> list[Transition]:
        found = read(of)
        if found[-1].state is RunState.PENDING:
            claim(store, of)
        return found

    monkeypatch.setattr(api.store, "history", history)
    # Over after one look.
    seen = api.transport.follow(run_id, None, logs=False, attempt=None, deadline=time.monotonic())
    assert [(one.place.seen, one.state) for one in seen] == [(None, RunState.PENDING), (2, RunState.RUNNING)]
