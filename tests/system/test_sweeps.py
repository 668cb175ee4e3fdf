"""Sweeps from end to end: commands, workers, jobs; everything is killed in the middle."""

from __future__ import annotations

import json
import random
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

import launch_worker
from launch_worker.api.sweeps import Sweep
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.model.sweep import Trial
from launch_worker.sweeps.config import parse_config, read_yaml
from launch_worker.sweeps.search import suggest
from tests.conftest import wait_until
from tests.system.conftest import Cluster, job_processes, stamps, through_both_doors

EXAMPLES = Path(launch_worker.__file__).parent.parent / "examples"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, which keeps what it acknowledged."""
    made = RedisServer(aof="always")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lasting(server: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    """A system whose Redis can be killed too."""
    made = Cluster(server.url, tmp_path)
    yield made
    ids = [record.id for record in made.api.store.runs()]
    made.close()
    wait_until(lambda: not any(job_processes(run_id) for run_id in ids), what="no job process is left")


def write(cluster: Cluster, **said: Any) -> None:
    """A sweep's file; JSON is YAML."""
    cluster.folder.joinpath("sweep.yaml").write_text(json.dumps(said))


def create(cluster: Cluster, *arguments: str, file: str = "sweep.yaml") -> Sweep:
    done = cluster.run("launch-worker", "sweep", "create", file, "--quiet", *arguments)
    assert done.code == 0, done
    return cluster.api.sweep(done.out.strip())


def steer(cluster: Cluster, word: str, sweep: Sweep) -> dict[str, Any]:
    done = cluster.run("launch-worker", "sweep", word, sweep.id, "--json")
    assert done.code == 0, done
    shown: dict[str, Any] = json.loads(done.out)
    return shown


def status(cluster: Cluster, sweep: Sweep) -> dict[str, Any]:
    return steer(cluster, "status", sweep)


def kill_everything(cluster: Cluster, server: RedisServer) -> None:
    """Workers, beat and Redis at once; then only Redis is back."""
    for part in cluster.parts:
        part.process.kill()
    server.kill()
    for part in cluster.parts:
        part.process.wait()
    server.start()


def random_losses(said: dict[str, Any]) -> list[float]:
    """What as many runs find whose parameters are drawn at random."""
    config = parse_config(said | {"method": "random"})
    drawn: list[Trial] = []
    losses: list[float] = []
    iris = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "train_iris.py")))
    for index in range(said["run_cap"]):
        suggestion = suggest(config, drawn, seed=1, ended=())
        drawn.append(Trial(index, "", suggestion.drawn))
        losses.append(loss_of(iris, suggestion.config["lr"], suggestion.config["epochs"]))
    return losses


def loss_of(iris: Any, lr: float, epochs: int) -> float:
    """What the example's job reports for these."""
    rng = random.Random(0)
    training, validation = iris.split(iris.load(iris.DATA), rng)
    training, validation = iris.standardise(training, training), iris.standardise(validation, training)
    model = iris.Model([[0.0] * 4 for _ in range(3)], [0.0] * 3)
    loss = 0.0
    for _ in range(epochs):
        rng.shuffle(training)
        size = iris.BATCH_SIZE
        loss = sum(model.step(training[at : at + size], lr) for at in range(0, len(training), size)) / len(training)
    return loss


def test_the_iris_sweep_beats_random_and_survives_the_death_of_every_process(
    lasting: Cluster, server: RedisServer
) -> None:
    """Issue 6; W20: it ends with exactly as many runs as it shall."""
    for name in ("train_iris.py", "iris.csv", "sweep_iris.yaml"):
        shutil.copy(EXAMPLES / name, lasting.folder)
    said = read_yaml((EXAMPLES / "sweep_iris.yaml").read_text(), where="sweep_iris.yaml")

    def start(number: int) -> None:
        lasting.worker(name=f"a{number}", slots=2, wait=False)
        lasting.worker(name=f"b{number}", slots=2, wait=False)
        lasting.beat()

    start(1)
    sweep = create(lasting, "--workers", "4", file="sweep_iris.yaml")
    wait_until(lambda: sweep.refresh().made >= 25, timeout_s=40, what="25 runs were made")
    kill_everything(lasting, server)
    assert sweep.state == "RUNNING"
    start(2)
    assert sweep.wait(timeout=60) == "FINISHED"

    trials = sweep.trials
    assert len(trials) == len(sweep.runs) == 60
    counts = status(lasting, sweep)["counts"]
    assert counts["Finished"] + counts["Crashed"] == 60
    assert counts["Crashed"] <= 8
    losses = [trial.value for trial in trials if trial.value is not None]
    by_chance = random_losses(said)
    best = sweep.best_run()
    assert best is not None
    assert best.summary["loss"] == min(losses) < median(by_chance) / 5
    assert median(losses) < median(by_chance)


def test_a_grid_is_complete_and_without_doubles_after_everything_was_killed(
    lasting: Cluster, server: RedisServer
) -> None:
    """W21: each of its points has one run, in order, and each was run to its end once."""
    write(
        lasting,
        method="grid",
        parameters={"x": {"min": 0, "max": 3}, "y": {"values": ["a", "b", "c"]}},
        command=["sh", "-c", 'sleep 0.2; echo "$1$2" >> done', "job", "${args_no_hyphens}"],
    )
    lasting.worker(name="a", slots=2)
    lasting.beat()
    sweep = create(lasting, "--workers", "3", "--retries", "5", "--retry-on", "crashed")
    wait_until(lambda: sweep.refresh().made >= 6, what="half of it was made")
    kill_everything(lasting, server)
    lasting.worker(name="b", slots=2)
    lasting.beat()
    assert sweep.wait(timeout=40) == "FINISHED"
    points = [f"x={x}y={y}" for x in range(4) for y in "abc"]
    assert [f"x={run.config['x']}y={run.config['y']}" for run in sweep.runs] == points
    assert {run.state for run in sweep.runs} == {RunState.FINISHED}
    assert sorted(set(stamps(lasting.folder / "done"))) == points
    # A job that was killed after its last word has said it, and says it again.
    assert len(stamps(lasting.folder / "done")) <= len(points) + 2


def sleeping(cluster: Cluster, *arguments: str, method: str = "grid") -> Sweep:
    write(
        cluster,
        method=method,
        parameters={"x": {"min": 1, "max": 50}},
        command=["sh", "-c", "until [ -e go ]; do sleep 0.05; done"],
    )
    return create(cluster, "--workers", "2", *arguments)


def one_runs_one_waits(cluster: Cluster, sweep: Sweep) -> tuple[str, str]:
    """The ids of a sweep's first two runs, on a worker with one slot."""
    wait_until(lambda: cluster.api.store.counts()[RunState.RUNNING] == 1, what="one runs")
    runs = sorted(sweep.runs, key=lambda run: run.record.state is RunState.PENDING)
    assert [run.record.state.value for run in runs] == ["Running", "Pending"]
    return runs[0].id, runs[1].id


@through_both_doors
def test_a_paused_sweep_goes_on_when_it_is_resumed(cluster: Cluster) -> None:
    """W19, W18: the runs that it has go on, those that wait start too."""
    cluster.worker(slots=1)
    sweep = sleeping(cluster, "--count", "4")
    running, waiting = one_runs_one_waits(cluster, sweep)
    assert steer(cluster, "pause", sweep)["state"] == "PAUSED"
    (cluster.folder / "go").touch()
    assert cluster.api.run(running).wait(timeout=20) is RunState.FINISHED
    assert cluster.api.run(waiting).wait(timeout=20) is RunState.FINISHED
    shown = status(cluster, sweep)
    assert (shown["state"], shown["made"], shown["live"]) == ("PAUSED", 2, 0)
    # Its last runs take no time.
    assert steer(cluster, "resume", sweep)["state"] in ("RUNNING", "FINISHED")
    assert sweep.wait(timeout=20) == "FINISHED"
    assert [run.state for run in sweep.runs] == [RunState.FINISHED] * 4


@through_both_doors
def test_a_stopped_sweep_finishes_with_its_running_run(cluster: Cluster) -> None:
    """W19: that is left alone."""
    cluster.worker(slots=1)
    sweep = sleeping(cluster)
    running, waiting = one_runs_one_waits(cluster, sweep)
    assert steer(cluster, "stop", sweep)["state"] == "STOPPED"
    assert cluster.api.run(waiting).state is RunState.KILLED
    assert cluster.api.run(running).state is RunState.RUNNING
    (cluster.folder / "go").touch()
    assert sweep.wait(timeout=20) == "FINISHED"
    assert cluster.api.run(running).state is RunState.FINISHED
    assert len(sweep.runs) == 2
    refused = cluster.run("launch-worker", "sweep", "resume", sweep.id)
    assert refused.code == 1
    assert "FINISHED" in refused.err
    assert "Traceback" not in refused.err


@through_both_doors
def test_a_cancelled_sweep_kills_its_runs(cluster: Cluster) -> None:
    """W19: running and pending ones; then it is CANCELED."""
    cluster.worker(slots=1)
    sweep = sleeping(cluster)
    one_runs_one_waits(cluster, sweep)
    assert steer(cluster, "cancel", sweep)["state"] in ("STOPPED", "CANCELED")
    assert sweep.wait(timeout=20) == "CANCELED"
    assert [run.state for run in sweep.runs] == [RunState.KILLED] * 2
    assert all(sweep.id in run.record.reason for run in sweep.runs)


def test_a_run_of_a_sweep_that_is_over_is_killed_without_running_code(cluster: Cluster) -> None:
    """W18: by whatever way it came back to its queue."""
    sweep = sleeping(cluster)
    steer(cluster, "cancel", sweep)
    assert sweep.state == "CANCELED"
    (cluster.folder / "go").touch()
    run = sweep.runs[0]
    assert cluster.run("launch-worker", "retry", run.id).code == 0
    cluster.worker(slots=1)
    assert run.wait(timeout=20) is RunState.KILLED
    assert f"sweep {sweep.id} is CANCELED" in run.refresh().reason
    assert run.logs() == b""


@pytest.mark.main_path
def test_jobs_get_their_parameters_and_tell_their_metric(cluster: Cluster) -> None:
    """By `current_run` or by a line of JSON at the end, by arguments or by the file with all of them."""
    (cluster.folder / "job.py").write_text(
        "import json, sys\n"
        "from launch_worker import current_run\n"
        "told = json.load(open(sys.argv[1]))\n"
        "assert told == current_run().config == json.loads(sys.argv[2]), (told, current_run().config)\n"
        "assert sys.argv[3:] == ['opt.lr=${run_id}', 'n=' + str(told['n'])], sys.argv\n"
        "if told['n'] == 1: current_run().summary['score'] = 0.25\n"
        "print(json.dumps({'score': told['n']}))\n"
    )
    write(
        cluster,
        method="grid",
        program="job.py",
        metric={"name": "score", "goal": "maximize"},
        parameters={"opt": {"parameters": {"lr": {"value": "${run_id}"}}}, "n": {"values": [1, 2]}},
        command=[sys.executable, "${program}", "${args_json_file}", "${args_json}", "${args_no_hyphens}"],
    )
    cluster.worker(slots=2)
    sweep = create(cluster, "--workers", "2")
    assert sweep.wait(timeout=30) == "FINISHED"
    assert [run.state for run in sweep.runs] == [RunState.FINISHED] * 2, [run.logs() for run in sweep.runs]
    assert [trial.value for trial in sweep.trials] == [0.25, 2.0]
    shown = status(cluster, sweep)
    assert shown["best"]["config"] == {"opt": {"lr": "${run_id}"}, "n": 2}
    text = cluster.run("launch-worker", "sweep", "status", sweep.id)
    assert "maximize score" in text.out
    assert sweep.id in cluster.run("launch-worker", "sweep", "list").out


def test_a_sweep_of_containers_has_its_parameters_in_a_file(cluster: Cluster, busybox_image: str) -> None:
    write(
        cluster,
        method="grid",
        metric={"name": "x"},
        parameters={"x": {"values": [5]}},
        command=["sh", "-c", 'cat "$1"', "job", "${args_json_file}"],
    )
    cluster.worker(slots=1)
    sweep = create(cluster, "--image", busybox_image, "--pull", "never")
    assert sweep.wait(timeout=60) == "FINISHED"
    assert sweep.runs[0].logs() == b'{"x": 5}', sweep.runs[0].record
    assert sweep.trials[0].value == 5


def test_hyperband_ends_a_bad_job_early(cluster: Cluster) -> None:
    (cluster.folder / "job.py").write_text(
        "import sys, time\n"
        "from launch_worker import current_run\n"
        "run, x = current_run(), int(sys.argv[1].partition('=')[2])\n"
        "for epoch in range(9 if x else 10000):\n"
        "    run.log({'loss': 1.0 if x else 100.0})\n"
        "    time.sleep(0.1)\n"
    )
    write(
        cluster,
        method="grid",
        program="job.py",
        metric={"name": "loss"},
        parameters={"x": {"values": [0, 1, 2, 3]}},
        early_terminate={"type": "hyperband", "min_iter": 3, "eta": 2},
        command=[sys.executable, "${program}", "${args}"],
    )
    cluster.worker(slots=4)
    sweep = create(cluster, "--workers", "4")
    assert sweep.wait(timeout=40) == "FINISHED"
    assert [run.state for run in sweep.runs] == [RunState.KILLED, *[RunState.FINISHED] * 3]
    assert "hyperband" in sweep.runs[0].record.reason
    assert [trial.value for trial in sweep.trials] == [100.0, 1.0, 1.0, 1.0]


@through_both_doors
def test_every_error_of_a_file_is_named(cluster: Cluster) -> None:
    """W22: one by one, before anything starts."""
    write(cluster, method="grids", parameters={"lr": {"min": 2, "max": 1}, "n": {"valuse": [1]}}, run_cap=0)
    done = cluster.run("launch-worker", "sweep", "create", "sweep.yaml")
    assert done.code == 2
    for words in ("method", "parameters.lr: min 2 is above max 1", "'valuse' is unknown", "run_cap", "program"):
        assert words in done.err
    assert "Traceback" not in done.err
    assert "\n  method: " in done.err, "one a line"
    assert cluster.run("launch-worker", "sweep", "create", "nosuch.yaml").code == 2
    assert cluster.run("launch-worker", "sweep", "status", "nosuch").code == 2
    assert list(cluster.api.store.runs()) == []


def test_without_optuna_other_methods_than_grid_say_what_to_install(cluster: Cluster) -> None:
    (cluster.folder / "optuna.py").write_text("raise ImportError('hidden by the test')\n")
    said = {"program": __file__, "metric": {"name": "loss"}, "parameters": {"x": {"values": [1, 2]}}}
    write(cluster, method="random", **said)
    program = "import sys; sys.argv[0] = 'launch-worker'; from launch_worker.cli.main import main; main()"
    command = (sys.executable, "-c", program, "sweep", "create", "sweep.yaml")
    refused = cluster.run(*command)
    assert refused.code == 1
    assert "launch_worker[sweeps]" in refused.err
    assert "Traceback" not in refused.err
    write(cluster, method="grid", **said)
    assert cluster.run(*command).code == 0


@through_both_doors
@pytest.mark.parametrize("options", [(), ("--upload", "code")], ids=["folder", "upload"])
def test_the_program_of_a_sweep_is_found_beside_its_file(cluster: Cluster, options: tuple[str, ...]) -> None:
    """And so is what lies there beside it."""
    examples = cluster.folder / "code" / "examples"
    examples.mkdir(parents=True)
    (examples / "job.py").write_text("print(open('data.txt').read())")
    (examples / "data.txt").write_text('{"loss": 0.5}')
    said = {"method": "grid", "program": "job.py", "metric": {"name": "loss"}, "parameters": {"x": {"values": [1]}}}
    (examples / "sweep.yaml").write_text(json.dumps(said | {"command": [sys.executable, "${program}"]}))
    cluster.worker(slots=1)
    done = cluster.run("launch-worker", "sweep", "create", "code/examples/sweep.yaml", *options, "--quiet")
    assert done.code == 0, done.err
    sweep = cluster.api.sweep(done.out.strip())
    assert sweep.wait(timeout=30) == "FINISHED"
    assert [trial.value for trial in sweep.trials] == [0.5], sweep.runs[0].logs()


@through_both_doors
def test_a_program_that_is_nowhere_is_refused_when_the_sweep_is_created(cluster: Cluster) -> None:
    write(cluster, method="grid", program="nosuch.py", parameters={"x": {"values": [1]}})
    (cluster.folder / "other").mkdir()
    for options, folder in (((), cluster.folder), (("--cwd", "other"), cluster.folder / "other")):
        done = cluster.run("launch-worker", "sweep", "create", "sweep.yaml", *options)
        assert done.code == 2
        assert f"the program 'nosuch.py' is not in {folder}" in done.err
    assert cluster.api.sweeps() == []
    # What only the worker's machine has can't be looked at.
    assert cluster.run("launch-worker", "sweep", "create", "sweep.yaml", "--cwd", "/no/such/folder").code == 0


@through_both_doors
def test_the_status_of_a_sweep_whose_first_runs_all_fail_shows_what_they_printed(cluster: Cluster) -> None:
    (cluster.folder / "job.py").write_text("raise SystemExit('no such data set: iris')")
    write(
        cluster,
        method="grid",
        program="job.py",
        parameters={"x": {"min": 1, "max": 60}},
        command=[sys.executable, "${program}"],
    )
    cluster.worker(slots=4)
    sweep = create(cluster, "--workers", "4")
    wait_until(lambda: sweep.state == "PAUSED")
    wait_until(lambda: not sweep.refresh().live)
    assert sweep.record.made < 15
    shown = cluster.run("launch-worker", "sweep", "status", sweep.id).out
    assert "runs all failed" in shown
    assert "exit code 1" in shown
    assert "| no such data set: iris" in shown
    assert "all failed" in cluster.run("launch-worker", "sweep", "list").out
