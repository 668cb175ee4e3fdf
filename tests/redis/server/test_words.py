"""Commands take runs and groups by the words that people use, through both doors."""

from __future__ import annotations

import json
from collections.abc import Callable

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.cli.words import ids_of
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.redis.server.conftest import Said


def test_an_id_is_not_looked_up(store: Store) -> None:
    words = ("1m83cyvtfq1tc69", "b1m83cyvtfq1tc69", "lab/vision/1m83cyvtfq1tc69", "1m83cyvtfq1tc69")
    assert ids_of(None, words) == words[:3]  # type: ignore[arg-type]


def test_commands_take_names(through: Api, call: Callable[..., Said]) -> None:
    first = submit(["true"], name="train", api=through)
    assert call("cancel", "train") == (0, f"run {first.id} is Killed; it had not started\n", "")
    second = submit(["true"], name="train", api=through)
    for words in (("cancel",), ("retry",), ("delete",)):
        code, out, err = call(*words, "train")
        assert (code, out) == (2, "")
        head, newest, oldest = err.splitlines()
        assert head.startswith("launch-worker: 2 runs have the name 'train'; name one of them by its id")
        assert newest.startswith(f"  {second.id}   Pending, ")
        assert oldest.startswith(f"  {first.id}   Killed, ")
    code, out, err = call("show", "train", "--json")
    assert (code, err) == (0, f"launch-worker: 2 runs have the name 'train'; this is the newest, run {second.id}\n")
    assert f'"id": "{second.id}"' in out
    code, _, err = call("wait", first.id, "nosuch")
    assert (code, err.count("\n")) == (2, 1)
    assert call("delete", "@")[:2] == (0, f"run {second.id} is deleted\n")
    assert call("retry", first.id[:14])[0] == 0
    assert through.run(first.id).state is RunState.PENDING


def test_a_group_is_one_thing_for_acts_and_the_last_of_its_runs_for_looks(
    through: Api, call: Callable[..., Said]
) -> None:
    runs = submit_many([{"command": ["true"], "name": "part", "array": "0-2"}], api=through)
    array = runs[0].group
    code, out, err = call("logs", "@")
    assert (code, out) == (0, "")
    assert f"launch-worker: array {array} has 3 runs; this is the last one, {runs[2].id}" in err
    code, out, err = call("preempt", "part")
    assert (code, out) == (2, "")
    assert f"array {array} has 3 runs; name one of them, as listed by: launch-worker runs --group {array}" in err
    assert (
        call("cancel", "part")[1] == f"array {array}: 3 runs are Killed, which had not started; 0 are being stopped\n"
    )
    assert call("wait", "@")[0] == 143
    listed = call("runs", "--group", "part", "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in listed] == [run.id for run in reversed(runs)]
    assert call("runs", "--group", "nosuch", "--sweep", "nosuch")[:2] == (0, "")
    assert call("retry", "part")[1] == f"array {array}: 3 runs are Pending again\n"


def test_a_sweep_is_found_by_its_name_and_waited_for(through: Api, call: Callable[..., Said]) -> None:
    given = {"method": "grid", "command": ["true"], "name": "lr", "parameters": {"x": {"values": [1]}}}
    sweep = through.create_sweep(given)
    assert call("sweep", "cancel", "lr")[1] == f"sweep {sweep.id} is Cancelled\n"
    code, out, _ = call("sweep", "wait", "@")
    assert (code, out) == (143, f"sweep {sweep.id} is Cancelled, with 1 run\n")
    submit(["true"], name="lr-x", api=through)
    assert call("sweep", "status", "lr-x")[2].startswith("launch-worker: there is no sweep lr-x")
