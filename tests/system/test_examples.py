"""Each example, run as its head says, shows what its head says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from launch_worker import Run
from tests.conftest import wait_until
from tests.system.conftest import Cluster, Result, through_both_doors, wait_for_output

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yaml"))


def commands_of(name: str) -> list[str]:
    """The command lines in the head of an example: they are indented by four."""
    text = (EXAMPLES / name).read_text()
    head = text.split('"""')[1] if name.endswith(".py") else re.sub("^# ?", "", text, flags=re.MULTILINE)
    return re.findall(r"^ {4}(\S.*)$", head.partition("program:")[0], re.MULTILINE)


def run(cluster: Cluster, command: str, *more: str) -> Result:
    done = cluster.run(*shlex.split(command), *more)
    assert done.code == 0, done
    return done


def named(cluster: Cluster, name: str) -> Run:
    """Return the run of this name, once it is submitted."""
    return wait_until(lambda: cluster.runs(name=name), what=f"a run {name}")[0]


@pytest.fixture
def user(cluster: Cluster) -> Cluster:
    """A person in a folder with the examples, and a worker as that of `launch-worker dev`."""
    shutil.copytree(EXAMPLES, cluster.folder / "examples")
    cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{cluster.folder}/outputs"
    cluster.worker("default,gpu", slots=4)
    return cluster


@through_both_doors
def test_a_training_shows_its_epochs(user: Cluster) -> None:
    (command,) = commands_of("train_iris.py")
    lines = run(user, command, "--pause", "0").out.splitlines()
    assert lines[0].startswith("run ")
    assert sum(line.startswith("epoch ") for line in lines) == 20
    assert "final loss=" in lines[-2]


def test_metrics_are_seen_while_the_job_runs_and_it_stops_by_itself(user: Cluster) -> None:
    (command,) = commands_of("metrics.py")
    follower = user.open(*shlex.split(command), "--steps", "1000", "--pause", "0.01")
    job = named(user, "metrics")
    wait_until(lambda: job.summary.get("loss", 9) < 0.001, what="the last loss is shown")
    job.cancel()
    out, _ = follower.communicate(timeout=20)
    assert re.search(r"step 1 loss 3\.24\d+\n", out.decode())
    assert re.search(r"stops after step \d+: cancelled", out.decode())


def test_a_preempted_training_goes_on_at_its_checkpoint(user: Cluster) -> None:
    command, preempt = commands_of("checkpoints.py")
    follower = user.open(*shlex.split(command), "--epochs", "15", "--pause", "0.1")
    job = named(user, "checkpoints")
    wait_for_output(job, b"epoch 2\n")
    assert preempt == "launch-worker preempt RUN"
    job.preempt()  # the same, and at once
    out, _ = follower.communicate(timeout=30)
    before, saved, after = re.split(r"goes on after epoch (\d+)\n", out.decode())
    # It may have been ended between the checkpoint of an epoch and its print.
    assert int(saved) - 1 <= len(re.findall(r"^epoch", before, re.MULTILINE)) <= int(saved)
    assert [int(epoch) for epoch in re.findall(r"^epoch (\d+)$", after, re.MULTILINE)] == [*range(int(saved) + 1, 16)]
    assert (follower.returncode, job.refresh().attempt) == (0, 2)


def test_a_killed_training_ends_with_the_weights_of_one_that_was_not_disturbed(user: Cluster) -> None:
    (command,) = commands_of("torch_style.py")
    disturbed = run(user, command).out
    assert "goes on after epoch 12\n" in disturbed
    [weights] = re.findall(r"^weight .*$", disturbed, re.MULTILINE)
    assert weights.startswith("weight 2.99")
    undisturbed = run(user, command.partition(" --fails-after")[0]).out
    assert "goes on" not in undisturbed
    assert weights in undisturbed.splitlines()


def test_an_array_does_its_parts(user: Cluster) -> None:
    command, look = commands_of("pi_array.py")
    run(user, command)
    found = [json.loads(line) for line in run(user, look).out.splitlines()]
    assert len(found) == 8
    assert all(abs(part["summary"]["pi"] - 3.1416) < 0.05 for part in found)


@through_both_doors
def test_many_runs_are_waited_for_and_compared(user: Cluster) -> None:
    (command,) = commands_of("many.py")
    lines = run(user, command).out.splitlines()
    assert lines[0].startswith("lr 0.01  Finished loss ")
    assert lines[6] == "the best learning rate is 0.3"


def test_a_sweep_finds_parameters(user: Cluster) -> None:
    (command,) = commands_of("sweep_iris.yaml")
    run(user, command, "--count", "3")
    (sweep,) = user.api.sweeps()
    sweep.wait(timeout=60)
    assert "3" in run(user, f"launch-worker sweep status {sweep.id}").out


def test_a_container_is_closed_in(user: Cluster, busybox_image: str) -> None:
    (command,) = commands_of("container.py")
    lines = run(user, command, "--image", busybox_image).out.splitlines()
    assert [line for line in lines if not line.startswith("--")][1:] == [
        *("it can write to /tmp", "it cannot write to /"),
    ]
    assert lines[-1] == "-- Finished"


def test_an_agent_of_ones_own_empties_its_queue_and_leaves(user: Cluster) -> None:
    submit, agent = commands_of("own_agent.py")
    run(user, submit)
    out = run(user, agent).out
    assert out.count("of queue lab") == 3
    assert {line.split(": ")[1] for line in out.splitlines() if " Finished: " in line} == {
        *("experiment 1", "experiment 2", "experiment 3"),
    }


def test_every_example_is_listed_and_says_how_it_is_run() -> None:
    listed = re.findall(r"^\| \[(\S+)\]\(\1\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == PROGRAMS
    assert all(commands_of(name) for name in PROGRAMS)
