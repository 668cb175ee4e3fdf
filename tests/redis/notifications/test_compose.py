"""What of the store a notice has besides its facts."""

from __future__ import annotations

from launch_worker.api.client import Api
from launch_worker.model.notice import Notice
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.states import RunState
from launch_worker.notifications.compose import Composer
from launch_worker.store.store import Store
from tests.support.arrows import claim


def test_the_notice_of_a_sweep_names_its_best_run(api: Api, store: Store) -> None:
    config = {
        "method": "grid",
        "parameters": {"x": {"values": [1, 2]}},
        "metric": {"name": "loss"},
        "command": ["true"],
    }
    sweep = api.create_sweep(config, queue="default", workers=2)
    first, second = [trial.run_id for trial in sweep.trials]
    for run_id, loss in ((first, 0.5), (second, 0.25)):
        record = claim(store, run_id)
        store.tell(run_id, record.token, {"loss": loss}, [], "", end=1)
        store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)))
    facts = {"type": "group.ended", "group": sweep.id, "kind": "sweep", "size": "2", "Finished": "2", "at": "1"}
    message = Composer(store).message(Notice("n", 0, 0, "", facts), has_output=True)
    assert message.ended is not None
    best = message.ended.best
    assert best is not None
    assert (best.run.id, best.metric, best.value) == (second, "loss", 0.25)
