"""Sweeps on a real Redis: each run is made once, whoever makes it, and a sweep ends when its runs did."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.api.sweeps import Sweep
from launch_worker.errors import InputError, LaunchError, RefusedError
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import PASSES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.sweep import SweepRecord, Trial
from launch_worker.store.store import Store
from launch_worker.store.submit import ConfigChanged
from launch_worker.sweeps.config import SweepConfigError, config_from_json
from launch_worker.sweeps.drive import advance, advance_sweeps, check_sweep, judge, look_after
from launch_worker.sweeps.search import suggest
from tests.support.arrows import create, enlist_for, seq_of, try_crash

S = RunState
LOSS = {"name": "loss"}
#: It is there, which is looked at.
PROGRAM = __file__
UNIFORM = {"x": {"min": 0.0, "max": 1.0}}


def grid(api: Api, size: int, *, workers: int = 2, **more: Any) -> Sweep:
    said = {"method": "grid", "program": PROGRAM, "parameters": {"x": {"values": list(range(size))}}, **more}
    return api.create_sweep(said, workers=workers)


def bayes(api: Api, *, workers: int = 2, run_cap: int = 10, **more: Any) -> Sweep:
    said = {"method": "bayes", "metric": LOSS, "program": PROGRAM, "parameters": UNIFORM, "run_cap": run_cap, **more}
    return api.create_sweep(said, workers=workers)


def live(store: Store, sweep: Sweep) -> list[str]:
    return [trial.run_id for trial in store.trials(sweep.id)[0] if trial.live]


def claim(store: Store, run_id: str) -> Record:
    enlist_for(store, "o", run_id)
    record, why = store.claim(run_id, seq_of(store, run_id), owner="o", worker="w", host="h", lease_s=30)
    assert record is not None, why
    return record


def end(store: Store, run_id: str, *, loss: float | None = None, state: RunState = S.FINISHED, **more: Any) -> None:
    record = store.peek(run_id)
    if record is None or record.state is S.PENDING:
        record = claim(store, run_id)
    if loss is not None:
        store.tell(run_id, record.token, {"loss": loss, **more}, [], "", end=1)
    assert store.finish(record, NextStep(Outcome(state, exit_code=0 if state is S.FINISHED else 1)))


def values_of(store: Store, sweep: Sweep) -> list[Any]:
    trials, _ = store.trials(sweep.id)
    return [json.loads(store.get(trial.run_id).spec)["config"]["x"] for trial in trials]


# -- making runs -------------------------------------------------------------------------------------------------------


def test_a_new_sweep_has_as_many_pending_runs_as_workers(api: Api, store: Store) -> None:
    sweep = grid(api, 5, workers=3, name="widths")
    runs = [store.get(run_id) for run_id in live(store, sweep)]
    assert [run.state for run in runs] == [S.PENDING] * 3
    assert [run.name for run in runs] == ["widths-0", "widths-1", "widths-2"]
    spec = json.loads(runs[1].spec)
    assert (spec["sweep"], spec["sweep_index"], spec["config"]) == (sweep.id, 1, {"x": 1})
    assert spec["command"] == ["/usr/bin/env", "python", PROGRAM, "--x=1"]
    assert [run.sweep for run in runs] == [sweep.id] * 3


def test_the_end_of_a_run_makes_room_for_the_next(api: Api, store: Store) -> None:
    sweep = grid(api, 5)
    first, second = live(store, sweep)
    assert advance(store, api.settings, sweep.id) == 0
    end(store, first)
    assert advance(store, api.settings, sweep.id) == 1
    assert live(store, sweep)[0] == second
    assert values_of(store, sweep) == [0, 1, 2]


def test_runs_take_outputs_of_a_run_that_is_gone_meanwhile(api: Api, store: Store) -> None:
    taken = create(store)
    said = {"method": "grid", "program": PROGRAM, "parameters": {"x": {"values": [1, 2]}}}
    sweep = api.create_sweep(said, workers=1, inputs=[f"{taken}:model.pt"])
    (first,) = live(store, sweep)
    assert store.get(first).waits_for == {taken: "ok"}
    end(store, taken)
    store.delete(taken, who="somebody", keep_s=60)
    end(store, first)
    assert advance(store, api.settings, sweep.id) == 1
    assert [(run.state, run.waits_for) for run in map(store.get, live(store, sweep))] == [(S.PENDING, {})]


def test_a_grid_is_complete_in_order_and_without_doubles_whatever_becomes_of_its_runs(api: Api, store: Store) -> None:
    """W21."""
    sweep = grid(api, 7, workers=3)
    ends = [S.FINISHED, S.FAILED, S.FINISHED]
    while running := live(store, sweep):
        for run_id, state in zip(running, ends, strict=False):
            end(store, run_id, state=state)
        # Another worker, with nothing in its memory.
        other = Store(store.url)
        advance_sweeps(other, api.settings)
        other.close()
    assert values_of(store, sweep) == list(range(7))
    assert sweep.state == "FINISHED"


@pytest.mark.parametrize("cap", [1, 13])
def test_the_run_cap_is_exact_under_8_racing_workers(api: Api, store: Store, cap: int) -> None:
    """W20: and the sweep ends FINISHED when its runs did."""
    sweep = grid(api, 40, workers=4, run_cap=cap)
    barrier = threading.Barrier(8)
    most: list[int] = []

    def work(number: int) -> None:
        mine = Store(store.url)
        barrier.wait()
        while not (record := mine.sweep(sweep.id)) or not record.is_over:
            # Without the lock that spares work: the script alone must hold.
            mine.unlock_sweep(sweep.id, "making")
            advance(mine, api.settings, sweep.id)
            pending = live(mine, sweep)
            most.append(len(pending))
            for run_id in pending[number % 2 : number % 2 + 1]:
                enlist_for(mine, f"o{number}", run_id)
                found, _ = mine.claim(
                    run_id, seq_of(mine, run_id), owner=f"o{number}", worker="w", host="h", lease_s=30
                )
                if found is not None:
                    mine.finish(found, NextStep(Outcome(S.FINISHED, exit_code=0)))
        mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    trials, ended = store.trials(sweep.id)
    assert len(trials) == cap
    assert sorted(ended) == list(range(cap))
    assert Counter(values_of(store, sweep)) == Counter(range(cap))
    assert max(most) <= 4
    assert store.counts()[S.FINISHED] == cap
    assert sweep.state == "FINISHED"


def test_a_repeated_call_makes_one_run_and_another_number_none(api: Api, store: Store) -> None:
    sweep = grid(api, 9, workers=1)
    end(store, live(store, sweep)[0])
    spec = RunSpec(command=("true",), sweep=sweep.id, sweep_index=1)
    trial = Trial(1, new_run_id())
    configs = {"queue_config": "", "pool_config": ""}
    assert "another" in store.next_run(sweep.id, Trial(0, new_run_id()), spec, **configs)
    assert "another" in store.next_run(sweep.id, Trial(2, new_run_id()), spec, **configs)
    assert store.next_run(sweep.id, trial, spec, **configs) == ""
    assert store.next_run(sweep.id, trial, spec, **configs) == ""
    assert "as many live runs" in store.next_run(sweep.id, Trial(2, new_run_id()), spec, **configs)
    assert "no such sweep" in store.next_run("nosuch", Trial(0, new_run_id()), spec, **configs)
    assert len(store.trials(sweep.id)[0]) == 2


def test_a_queue_that_was_configured_meanwhile_is_asked_again(api: Api, store: Store) -> None:
    sweep = grid(api, 3, workers=1)
    end(store, live(store, sweep)[0])
    api.set_queue("default", defaults={"timeout": "5m"})
    spec = RunSpec(command=("true",), sweep=sweep.id, sweep_index=1)
    with pytest.raises(ConfigChanged):
        store.next_run(sweep.id, Trial(1, new_run_id()), spec, queue_config="", pool_config="")
    assert advance(store, api.settings, sweep.id) == 1
    assert json.loads(store.get(live(store, sweep)[0]).spec)["timeout_s"] == 300


def test_a_queue_that_refuses_the_runs_is_noted_with_the_sweep_until_it_takes_them(api: Api, store: Store) -> None:
    sweep = grid(api, 3, workers=1)
    api.set_queue("default", variables={"type": "object", "required": ["lr"], "properties": {"lr": {"type": "number"}}})
    end(store, live(store, sweep)[0])
    assert advance(store, api.settings, sweep.id) == 0
    assert "lr" in sweep.refresh().problem
    api.set_queue("default", variables=None)
    assert PASSES["advance_sweeps"](store, api.settings) == 1
    assert sweep.refresh().problem == ""


def test_one_damaged_sweep_does_not_hold_up_the_others(api: Api, store: Store, redis_client: Any) -> None:
    broken, whole = grid(api, 3, workers=1), grid(api, 3, workers=1)
    end(store, live(store, broken)[0])
    end(store, live(store, whole)[0])
    redis_client.hset(f"launch:sweep:{broken.id}", "config", "no JSON")
    redis_client.sadd("launch:sweeps:live", "gone")
    assert advance_sweeps(store, api.settings) == 1
    assert "damaged" in broken.refresh().problem
    assert set(store.live_sweep_ids()) == {broken.id, whole.id}


def test_a_damaged_sweep_does_not_hold_up_the_end_of_its_runs(api: Api, store: Store, redis_client: Any) -> None:
    sweep = grid(api, 3, workers=1)
    (run_id,) = live(store, sweep)
    record = claim(store, run_id)
    redis_client.delete(f"launch:sweep:{sweep.id}:ended")
    redis_client.set(f"launch:sweep:{sweep.id}:ended", "not a list")
    assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    assert store.get(run_id).state is S.FINISHED
    assert any("damaged" in entry["reason"] for entry in store.refused())


# -- results -----------------------------------------------------------------------------------------------------------


def test_the_same_results_make_the_same_parameters_in_every_worker(api: Api, store: Store) -> None:
    sweep = bayes(api, run_cap=20, seed=7)
    for step in range(14):
        end(store, live(store, sweep)[step % 2], loss=1.0 / (step + 1))
        trials, ended = store.trials(sweep.id)
        config = config_from_json(sweep.refresh().config)
        wanted = suggest(config, trials, seed=7, ended=ended, study=sweep.id)
        assert advance(store, api.settings, sweep.id) == 1
        assert store.trials(sweep.id)[0][-1].drawn == wanted.drawn


def test_the_metric_comes_from_the_summary_else_from_the_last_row(api: Api, store: Store) -> None:
    sweep = bayes(api, workers=4, metric={"name": "val.loss", "goal": "maximize"})
    nested, dotted, rows, none = live(store, sweep)
    for run_id, summary, metrics in (
        (nested, {"val": {"loss": 0.123456789012345678}}, []),
        (dotted, {"val.loss": 2, "other": "x"}, [json.dumps({"val.loss": 9})]),
        (rows, {"val": "text"}, [json.dumps({"val.loss": 4.0}), json.dumps({"val.loss": 5.0}), json.dumps({"z": 1})]),
        (none, {"val.loss": "high"}, []),
    ):
        record = claim(store, run_id)
        assert store.tell(run_id, record.token, summary, metrics, "", end=1)
        assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    trials, _ = store.trials(sweep.id)
    assert [trial.value for trial in trials] == [0.123456789012345678, 2.0, 5.0, None]
    best = sweep.best_run()
    assert best is not None
    assert best.id == rows


def test_a_failed_run_is_never_the_best(api: Api, store: Store) -> None:
    sweep = bayes(api, workers=3)
    good, better, failed = live(store, sweep)
    end(store, good, loss=0.5)
    end(store, better, loss=0.4)
    end(store, failed, loss=0.1, state=S.FAILED)
    best = sweep.best_run()
    assert best is not None
    assert best.id == better


def test_a_target_that_was_reached_ends_the_sweep(api: Api, store: Store) -> None:
    sweep = bayes(api, metric=LOSS | {"target": 0.1})
    first, second = live(store, sweep)
    end(store, first, loss=0.05)
    assert advance(store, api.settings, sweep.id) == 0
    assert sweep.state == "RUNNING"
    end(store, second, loss=0.5)
    assert sweep.state == "FINISHED"
    assert first in sweep.record.reason


def test_a_run_that_is_retried_by_its_policy_keeps_its_place(api: Api, store: Store) -> None:
    sweep = grid(api, 3, workers=1)
    (run_id,) = live(store, sweep)
    again = NextStep(Outcome(S.FAILED, exit_code=1), retry_delay_s=0.0, retry_reason="retry 1 of 1")
    assert store.finish(claim(store, run_id), again)
    assert live(store, sweep) == [run_id]
    assert advance(store, api.settings, sweep.id) == 0
    end(store, run_id)
    assert advance(store, api.settings, sweep.id) == 1


def test_a_run_that_proves_alive_after_its_crash_counts_again(api: Api, store: Store, redis_client: Any) -> None:
    sweep = bayes(api, workers=1, run_cap=2)
    (run_id,) = live(store, sweep)
    record = claim(store, run_id)
    store.tell(run_id, record.token, {"loss": 3.0}, [], "", end=1)
    redis_client.zadd("launch:leases", {run_id: 1})
    assert try_crash(store, run_id, record.token, NextStep(Outcome(S.CRASHED, reason="gone")))
    assert store.trials(sweep.id)[0][0].state == "Crashed"
    assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    trial = store.trials(sweep.id)[0][0]
    assert (trial.state, trial.value, trial.live) == ("Finished", 3.0, False)
    assert store.trials(sweep.id)[1] == [0]


# -- pause, stop, cancel ----------------------------------------------------------------------------------------------


def test_a_paused_sweep_makes_no_runs_and_leaves_those_it_has(api: Api, store: Store) -> None:
    """W19."""
    sweep = grid(api, 5)
    running, pending = live(store, sweep)
    record = claim(store, running)
    assert sweep.pause() == "PAUSED"
    assert sweep.pause() == "PAUSED"
    assert store.get(running).cancel_at is None
    assert store.get(pending).state is S.PENDING
    end(store, pending)
    assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    assert advance(store, api.settings, sweep.id) == 0
    assert sweep.resume() == "RUNNING"
    assert len(live(store, sweep)) == 2


def test_a_stopped_sweep_lets_its_running_runs_finish(api: Api, store: Store) -> None:
    """W19: then it is FINISHED. What had not started never does."""
    sweep = grid(api, 5)
    running, pending = live(store, sweep)
    record = claim(store, running)
    assert sweep.stop() == "STOPPED"
    assert store.get(running).cancel_at is None
    assert store.get(pending).state is S.KILLED
    assert sweep.id in store.get(pending).reason
    for word in ("pause", "resume"):
        with pytest.raises(RefusedError, match="STOPPED"):
            sweep.steer(word)
    assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    assert sweep.state == "FINISHED"
    assert advance(store, api.settings, sweep.id) == 0
    with pytest.raises(RefusedError, match="FINISHED"):
        sweep.cancel()
    assert sweep.stop() == "FINISHED"


def test_a_cancelled_sweep_is_canceled_when_its_runs_were_killed(api: Api, store: Store) -> None:
    """W19: running and pending ones."""
    sweep = grid(api, 5)
    running, pending = live(store, sweep)
    record = claim(store, running)
    assert sweep.cancel() == "STOPPED"
    assert sweep.refresh().cancelling
    assert store.get(pending).state is S.KILLED
    assert store.get(running).cancel_at is not None
    assert store.finish(record, NextStep(Outcome(S.KILLED, reason="cancelled")))
    assert sweep.state == "CANCELED"
    assert sweep.cancel() == "CANCELED"
    with pytest.raises(RefusedError):
        sweep.stop()


def test_a_stopped_sweep_without_running_runs_is_finished_at_once(api: Api) -> None:
    assert grid(api, 5).stop() == "FINISHED"
    assert grid(api, 5).cancel() == "CANCELED"


def test_a_stopped_sweep_can_still_be_cancelled(api: Api, store: Store) -> None:
    sweep = grid(api, 5, workers=1)
    (run_id,) = live(store, sweep)
    record = claim(store, run_id)
    assert sweep.stop() == "STOPPED"
    assert check_sweep(store, sweep.id) == ""
    assert sweep.cancel() == "STOPPED"
    assert store.get(run_id).cancel_at is not None
    assert store.finish(record, NextStep(Outcome(S.KILLED)))
    assert sweep.state == "CANCELED"


def test_only_runs_of_running_and_paused_sweeps_start(api: Api, store: Store) -> None:
    """W18."""
    sweep = grid(api, 5)
    assert check_sweep(store, sweep.id) == ""
    sweep.pause()
    assert check_sweep(store, sweep.id) == ""
    sweep.stop()
    assert "FINISHED" in check_sweep(store, sweep.id)
    other = grid(api, 5)
    other.cancel()
    assert "CANCELED" in check_sweep(store, other.id)
    assert "unknown" in check_sweep(store, "nosuch")
    assert "unknown" in check_sweep(store, "a/b:c")


def test_the_pass_ends_a_sweep_whose_last_run_was_deleted(api: Api, store: Store, redis_client: Any) -> None:
    sweep = grid(api, 1)
    (run_id,) = live(store, sweep)
    claim(store, run_id)
    redis_client.delete(f"launch:run:{run_id}")
    for index in ("", ":queue:default", ":state:Running", f":sweep:{sweep.id}"):
        redis_client.zrem(f"launch:runs{index}", run_id)
    redis_client.zrem("launch:leases", run_id)
    redis_client.srem("launch:places:queue:default", run_id)
    assert sweep.state == "RUNNING"
    advance_sweeps(store, api.settings)
    assert sweep.state == "FINISHED"


def test_ended_sweeps_are_deleted_after_the_retention(api: Api, store: Store, redis_client: Any) -> None:
    ended, running = grid(api, 1), grid(api, 1)
    end(store, live(store, ended)[0])
    assert store.retire_sweeps(retention_s=3600) == 0
    assert store.retire_sweeps(retention_s=0) == 1
    assert [sweep.id for sweep in api.sweeps()] == [running.id]
    assert not redis_client.keys(f"launch:sweep:{ended.id}*")
    with pytest.raises(InputError, match="no sweep"):
        api.sweep(ended.id)


# -- stopping early ----------------------------------------------------------------------------------------------------


def watched(api: Api, **more: Any) -> Sweep:
    return bayes(api, workers=6, **more)


def report(store: Store, record: Record, values: list[float]) -> None:
    rows = [json.dumps({"loss": value, "_step": step}) for step, value in enumerate(values)]
    assert store.tell(record.id, record.token, None, rows, "", end=len(values))


def test_hyperband_stops_the_runs_that_are_clearly_worse(api: Api, store: Store) -> None:
    sweep = watched(api, early_terminate={"type": "hyperband", "min_iter": 3})
    records = [claim(store, run_id) for run_id in live(store, sweep)]
    for number, record in enumerate(records[:5]):
        report(store, record, [5.0 + number, 4.0 + number, 3.0 + number])
    report(store, records[5], [90.0, 90.0])
    assert judge(store, sweep.id) == 4
    asked = [store.get(record.id).cancel_at is not None for record in records]
    assert asked == [False, True, True, True, True, False]
    assert "hyperband" in store.get(records[1].id).reason
    store.unlock_sweep(sweep.id, "judging")
    assert judge(store, sweep.id) == 0
    # Their end is a normal one, with the value so far.
    assert store.finish(records[1], NextStep(Outcome(S.KILLED, reason="stopped early")))
    trial = store.trials(sweep.id)[0][1]
    assert (trial.value, trial.counts, trial.live) == (4.0, True, False)
    assert advance(store, api.settings, sweep.id) == 1


@pytest.mark.parametrize("name", ["MedianPruner", "SuccessiveHalvingPruner"])
def test_a_pruner_of_optunas_stops_runs(api: Api, store: Store, name: str) -> None:
    arguments = {"n_startup_trials": 2} if name == "MedianPruner" else {"min_resource": 1, "reduction_factor": 2}
    sweep = watched(api, pruner={"name": name, **arguments})
    records = [claim(store, run_id) for run_id in live(store, sweep)]
    for number, record in enumerate(records[:5]):
        report(store, record, [1.0 + number] * 4)
    for record in records[:4]:
        assert store.finish(record, NextStep(Outcome(S.FINISHED, exit_code=0)))
    assert judge(store, sweep.id) == 1
    assert name in store.get(records[4].id).reason


def test_a_new_attempt_is_judged_by_what_it_tells_itself(api: Api, store: Store) -> None:
    sweep = watched(api, early_terminate={"type": "hyperband", "min_iter": 3})
    record = claim(store, live(store, sweep)[0])
    report(store, record, [5.0, 4.0])
    again = NextStep(Outcome(S.FAILED, exit_code=1), retry_delay_s=0.0, retry_reason="retry 1 of 1")
    assert store.finish(record, again)
    assert len(store.trials(sweep.id, curves=True)[0][0].curve) == 2
    report(store, claim(store, record.id), [7.0])
    assert [value for _, value in store.trials(sweep.id, curves=True)[0][0].curve] == [7.0]


def test_a_sweep_that_stops_nothing_early_keeps_no_curves(api: Api, store: Store) -> None:
    sweep = bayes(api)
    report(store, claim(store, live(store, sweep)[0]), [5.0, 4.0])
    assert store.trials(sweep.id, curves=True)[0][0].curve == ()
    assert look_after(store, api.settings, sweep.id) == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_there_is_a_sweep(api: Api, store: Store) -> None:
    """W22."""
    said = {"parameters": {"x": {"min": 3, "max": 1}}, "program": PROGRAM}
    with pytest.raises(SweepConfigError) as caught:
        api.create_sweep(said)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["method", "parameters.x"]
    fine = {"method": "grid", "program": PROGRAM, "parameters": {"x": {"values": [1]}}}
    for options, words in (
        ({"workers": 0}, "workers"),
        ({"count": 0}, "count"),
        ({"gpu": 1}, "gpus"),
        ({"queue": "a/b"}, "queue"),
        ({"queue": "nosuch", "strict": True}, "no queue"),
        ({"command": ["x"]}, "command is not"),
        ({"after": ["x"]}, "after"),
    ):
        with pytest.raises(InputError, match=words):
            api.create_sweep(fine, **options)
    with pytest.raises(SweepConfigError, match="NoSuchSampler"):
        api.create_sweep(fine | {"method": "bayes", "metric": LOSS, "sampler": {"name": "NoSuchSampler"}})
    with pytest.raises(LaunchError, match="MedianPruner does not take"):
        api.create_sweep(fine | {"metric": LOSS, "pruner": {"name": "MedianPruner", "nosuch": 1}})
    assert api.sweeps() == []
    assert list(store.runs()) == []


def test_an_unknown_sweep_is_an_error_in_one_sentence(api: Api) -> None:
    for path in ("nosuch", "lab/iris/nosuch", "", "a:b"):
        with pytest.raises(InputError, match="there is no sweep"):
            api.sweep(path)


def test_a_sweep_is_found_by_its_path_and_shown(api: Api, store: Store) -> None:
    sweep = bayes(api, project="iris", entity="lab", name="first")
    end(store, live(store, sweep)[0], loss=0.5)
    found = api.sweep(f"lab/iris/{sweep.id}")
    assert found.state == "RUNNING"
    assert found.config["method"] == "bayes"
    assert [run.id for run in found.runs] == [trial.run_id for trial in found.trials]
    assert found.runs[0].record.project == "lab/iris"
    shown = found.as_json(runs=True)
    assert (shown["best"]["value"], shown["counts"]["Finished"], shown["counts"]["Pending"]) == (0.5, 1, 1)
    assert (shown["run_cap"], shown["metric"], shown["goal"], shown["name"]) == (10, "loss", "minimize", "first")


def test_a_wait_ends_with_the_sweep(api: Api, store: Store) -> None:
    sweep = grid(api, 1)
    with pytest.raises(TimeoutError):
        sweep.wait(timeout=0.1)
    timer = threading.Timer(0.2, end, args=(store, live(store, sweep)[0]))
    timer.start()
    assert sweep.wait(timeout=20) == "FINISHED"
    timer.join()


def test_a_record_without_room_makes_nothing() -> None:
    record = SweepRecord(
        "s", "RUNNING", "", "", "", workers=3, made=5, cap=7, live=2, seed=0, created_at=0, ended_at=None
    )
    assert record.room == 1


# -- first runs that fail, metrics that nobody tells ------------------------------------------------------------------


def fail(store: Store, run_id: str, *, reason: str = "exit code 2") -> None:
    record = claim(store, run_id)
    assert store.finish(record, NextStep(Outcome(S.FAILED, exit_code=2, reason=reason)))


def test_a_sweep_whose_first_five_runs_fail_pauses_and_says_why(api: Api, store: Store) -> None:
    sweep = grid(api, 60, workers=3)
    for _ in range(4):
        run_id = live(store, sweep)[0]
        fail(store, run_id)
        advance(store, api.settings, sweep.id)
    assert (sweep.state, sweep.record.problem) == ("RUNNING", "")
    run_id = live(store, sweep)[0]
    fail(store, run_id)
    advance(store, api.settings, sweep.id)
    assert sweep.state == "PAUSED"
    assert sweep.record.made == 7, "those that were live then"
    said = f"its first 5 runs all failed, the last one ({run_id}) with: exit code 2"
    assert sweep.record.problem == f"{said}; mend that, and then: launch-worker sweep resume {sweep.id}"
    with pytest.raises(LaunchError, match="its first 5 runs all failed"):
        sweep.wait(timeout=5)


def test_a_sweep_that_is_resumed_after_its_first_failures_may_fail_anew(api: Api, store: Store) -> None:
    sweep = grid(api, 60, workers=1)
    for _ in range(5):
        fail(store, live(store, sweep)[0])
        advance(store, api.settings, sweep.id)
    assert sweep.state == "PAUSED"
    assert sweep.resume() == "RUNNING"
    assert sweep.refresh().problem == ""
    for expected in ("RUNNING", "RUNNING", "RUNNING", "RUNNING", "PAUSED"):
        fail(store, live(store, sweep)[0])
        advance(store, api.settings, sweep.id)
        assert sweep.state == expected


def test_failures_after_a_run_that_finished_do_not_pause_a_sweep_and_killed_runs_are_none(
    api: Api, store: Store
) -> None:
    sweep = grid(api, 60, workers=1)
    for _ in range(5):
        store.cancel(live(store, sweep)[0], reason="by hand")
        advance(store, api.settings, sweep.id)
    assert sweep.state == "RUNNING"
    fail(store, live(store, sweep)[0])
    advance(store, api.settings, sweep.id)
    end(store, live(store, sweep)[0])
    for _ in range(8):
        advance(store, api.settings, sweep.id)
        fail(store, live(store, sweep)[0])
    assert (sweep.state, sweep.record.problem) == ("RUNNING", "")


def test_a_sweep_pauses_after_as_many_failures_as_it_says_and_names_the_common_reason(api: Api, store: Store) -> None:
    said = {"method": "grid", "program": PROGRAM, "parameters": {"x": {"values": list(range(60))}}}
    sweep = api.create_sweep(said, workers=1, max_fails=3)
    end(store, live(store, sweep)[0])
    for reason in ("ValueError: bad 1 (exit code 1)", "KeyError: 'x' (exit code 1)", "ValueError: bad 2 (exit code 1)"):
        advance(store, api.settings, sweep.id)
        assert sweep.state == "RUNNING"
        (run_id,) = live(store, sweep)
        fail(store, run_id, reason=reason)
    assert sweep.state == "PAUSED"
    problem = f"3 of its runs failed, 2 of them, as the last of these ({run_id}) with: ValueError: bad 2 (exit code 1)"
    assert sweep.refresh().problem == f"{problem}; mend that, and then: launch-worker sweep resume {sweep.id}"
    assert sweep.resume() == "RUNNING"
    for expected in ("RUNNING", "RUNNING", "PAUSED"):
        advance(store, api.settings, sweep.id)
        fail(store, live(store, sweep)[0])
        assert sweep.state == expected


def test_a_short_sweep_of_which_all_runs_failed_says_so_when_it_is_over(api: Api, store: Store) -> None:
    sweep = grid(api, 2)
    for run_id in live(store, sweep):
        fail(store, run_id)
    assert sweep.state == "FINISHED"
    assert sweep.record.problem.startswith("its first 2 runs all failed, the last one")
    assert sweep.record.problem.endswith("exit code 2")


def test_a_metric_that_nobody_tells_is_said_after_the_first_end(api: Api, store: Store) -> None:
    sweep = bayes(api, workers=1)
    run_id = live(store, sweep)[0]
    end(store, run_id)
    advance(store, api.settings, sweep.id)
    assert sweep.state == "RUNNING"
    assert f"run {run_id} Finished without a number 'loss' in its summary" in sweep.refresh().problem
    end(store, live(store, sweep)[0], loss=1.0)
    advance(store, api.settings, sweep.id)
    assert sweep.refresh().problem == ""
    end(store, live(store, sweep)[0])
    assert sweep.refresh().problem == "", "it was told once"
