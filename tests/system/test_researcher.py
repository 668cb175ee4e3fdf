"""A researcher's day: a project is sent, a sweep runs, one run makes room and goes on, the best one is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.api.client import Run
from tests.conftest import wait_until
from tests.support.http_servers import KEY, serving
from tests.system.conftest import NOWHERE, TIMES, Cluster, states, through_both_doors, wait_for_output

SWEEP = """
program: train_iris.py
method: grid
metric: {name: loss, goal: minimize}
parameters:
  lr: {values: [0.5, 0.1, 0.9]}
"""
#: Saves its state after each epoch, goes on from there, and leaves its model. One of them waits until it may end.
TRAIN = """
import argparse, json, os, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
lr = parser.parse_args().lr
saved, left = (Path(os.environ[f"LAUNCH_{name}_DIR"]) for name in ("CHECKPOINT", "OUTPUT"))
state = json.loads((saved / "state.json").read_text()) if (saved / "state.json").exists() else {"epochs": []}
print("goes on after epoch", len(state["epochs"]), flush=True)
while len(state["epochs"]) < 4:
    state["epochs"].append(os.environ["LAUNCH_ATTEMPT"])
    (saved / "state.tmp").write_text(json.dumps(state))
    (saved / "state.tmp").rename(saved / "state.json")
    with open(os.environ["LAUNCH_RUN_DIR"] + "/to_worker", "a") as tell:
        tell.write('{"checkpoint": true}\\n')
    print("epoch", len(state["epochs"]), flush=True)
    while lr == 0.1 and len(state["epochs"]) == 2 and not os.path.exists("GO"):
        time.sleep(0.05)
(left / "best").mkdir()
(left / "best" / "model.json").write_text(json.dumps({"lr": lr, **state}))
print(json.dumps({"loss": lr / 10}))
"""


@pytest.fixture
def system(cluster: Cluster, door: str) -> Iterator[Cluster]:
    """A system that keeps outputs, with a server in front of it or none."""
    cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{cluster.folder}/kept"
    if door == "redis":
        yield cluster
        return
    kept = {"LAUNCH_OUTPUT_URL": cluster.env["LAUNCH_OUTPUT_URL"]}
    with serving(cluster.redis_url, cluster.folder / "server", variables={**TIMES, **kept}) as server:
        door_of = {"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": KEY, "LAUNCH_REDIS_URL": NOWHERE}
        cluster.door = {**door_of, "LAUNCH_OUTPUT_URL": ""}
        yield cluster


def make_project(folder: Path, go: Path) -> None:
    examples = folder / "examples"
    examples.mkdir(parents=True)
    (examples / "sweep_iris.yaml").write_text(SWEEP)
    (examples / "train_iris.py").write_text(TRAIN.replace("GO", str(go)))


@through_both_doors
def test_a_researchers_day(system: Cluster) -> None:
    system.worker("gpu", slots=4)
    go, project = system.folder / "go", system.folder / "project"
    make_project(project, go)

    def sh(line: str) -> str:
        done = system.run("sh", "-ec", f"cd {project}; {line}")
        assert done.code == 0, done
        return done.out

    # The project goes along.
    sweep = sh("launch-worker sweep create examples/sweep_iris.yaml -q gpu --workers 8 --quiet --upload .").strip()
    runs = {run.config["lr"]: run for run in system.runs(sweep=sweep)}
    assert sorted(runs) == [0.1, 0.5, 0.9]

    # One makes room for others, and goes on where it was.
    best = runs[0.1]
    wait_for_output(best, b"epoch 2\n")
    sh(f"launch-worker preempt {best.id}")
    wait_until(lambda: best.refresh().attempt == 2, what="the run goes on")
    go.touch()
    sh(f"launch-worker wait {' '.join(run.id for run in runs.values())}")
    assert states(best) == ["Pending", "Running", "Killed", "Pending", "Running", "Finished"]
    assert b"goes on after epoch 2\n" in best.logs(attempt=2)

    compared = sh(f"launch-worker runs --sweep {sweep} -o id,config.lr,summary.loss --sort summary.loss")
    first = compared.splitlines()[1].split()
    assert first == [best.id, "0.1", "0.01"]

    # By one command, as soon as the run is over.
    sh(f"launch-worker files {first[0]} best --get results")
    model = json.loads((project / "results/best/model.json").read_text())
    assert model == {"lr": 0.1, "epochs": ["1", "1", "2", "2"]}
    assert {path.name for path in (project / "results").iterdir()} == {"best"}

    # What it has learned is another run's input.
    check = 'import json, os; print(json.load(open(os.environ["LAUNCH_INPUT_DIR"] + "/m.json"))["lr"])'
    submit = f"launch-submit -q gpu --quiet --wait --input {best.id}:best/model.json:m.json -- python3 -c '{check}'"
    after = Run(system.api, sh(submit).strip())
    assert after.logs() == b"0.1\n"
    gone = system.run("launch-submit", "-q", "gpu", "--wait", "--input", f"{best.id}:worst", "--", "true")
    assert gone.code == 1
    assert "has no output 'worst'; its attempt 2 left: best/model.json" in gone.err
