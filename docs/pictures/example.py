"""Starts a launch system with runs of all kinds in it, which the pictures of pages and of commands show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from launch_worker.untrusted.text import read_json

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
#: Seconds for the example runs to come to their ends.
_FILL_S = 60.0

SWEEP = """
method: random
run_cap: 24
metric: {name: loss, goal: minimize}
parameters:
  lr: {distribution: log_uniform_values, min: 0.0001, max: 0.1}
  width: {values: [64, 128, 256]}
command: [python3, sweep_job.py, "${args}"]
"""
JOB = """
import math, sys
from launch_worker import current_run
given = dict(part.lstrip("-").split("=", 1) for part in sys.argv[1:])
loss = abs(math.log10(float(given["lr"])) + 2.3) + 10 / float(given["width"])
for step in range(20):
    current_run().log({"loss": loss + 1 / (step + 1), "accuracy": 1 - 1 / (step + 2)})
"""


@contextmanager
def system(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A launch system in a folder: its page's address with the key, and the environment of commands."""
    variables = os.environ | {"XDG_STATE_HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [str(BIN / "launch-worker"), "dev", "--temporary", "--json", "-c", "4"]
    with (folder / "dev.log").open("w") as log:
        dev = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=variables)
    try:
        assert dev.stdout is not None
        said = next(read_json(line) for line in dev.stdout if "server_url" in line)
        address = urlsplit(said["server_url"])
        token = address.query.removeprefix("token=")
        through = {"LAUNCH_API_URL": f"http://{address.netloc}", "LAUNCH_API_TOKEN": token}
        yield said["server_url"], variables | through
    finally:
        dev.terminate()
        dev.wait()


def fill(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Submit runs of all kinds; returns the ids of those that are photographed, by what they show."""

    def run(*words: str, text: str | None = None) -> str:
        done = subprocess.run(words, env=env, cwd=folder, input=text, capture_output=True, text=True)
        return done.stdout.strip()

    def submit(*words: str) -> str:
        said = run("launch-submit", "--json", *words)
        found: str = read_json(said.splitlines()[0])["id"] if said else ""
        return found

    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "sweep_job.py").write_text(JOB)
    run("launch-worker", "pools", "create", "big", "--limit", "8")
    run(
        "launch-worker", "queues", "create", "gpu", "--pool", "big", "--limit", "4", "--description", "The big machines"
    )
    run("launch-worker", "schedules", "create", "nightly", "--cron", "0 3 * * *", "--", "python", "report.py")
    run("launch-worker", "users", "add", "ada", "--role", "member", text="correct horse battery\n")
    run("launch-worker", "users", "add", "lin", "--role", "operator", text="correct horse battery\n")
    run("launch-worker", "groups", "set", "ml", "--add", "ada")
    run("launch-worker", "allowances", "set", "user:ada", "--running", "4", "--gpus", "8")
    for name in ("metrics.py", "train_iris.py", "iris.csv"):
        shutil.copy(ROOT / "examples" / name, folder)
    ids = {
        "failed": submit(
            *("--name", "etl-clean", "--project", "team/etl", "--", "python3", "-c"),
            "for step in range(30): print('row', step)\nraise KeyError('label')",
        ),
        "finished": submit(
            "--name", "metrics", "--project", "team/vision", "--tag", "demo", "--", "python3", "metrics.py"
        ),
        "left": submit("--name", "iris", "--project", "team/iris", "--", "python3", "train_iris.py", "--epochs", "3"),
        "running": submit(
            *("--name", "resnet50-lr3e4", "--project", "team/vision", "--timeout", "2h", "--", "bash", "-c"),
            'for i in $(seq 1 7200); do echo "epoch $((i / 60 + 1)) loss 0.$((RANDOM % 900 + 100))"; sleep 1; done',
        ),
        "waiting": submit("--name", "big-7b", "--gpus", "8", "--queue", "gpu", "--", "python", "train.py"),
    }
    submit("--name", "not-there", "--", "no-such-program")
    submit("--name", "killed", "--", "bash", "-c", "kill -9 $$")
    submit("--name", "report", "--queue", "night", "--", "echo", "hi")
    cancelled = submit("--name", "sweep-cold", "--delay", "1h", "--", "true")
    run("launch-worker", "cancel", cancelled)
    task = "sleep 0.$((LAUNCH_ARRAY_INDEX % 7)); exit $((LAUNCH_ARRAY_INDEX % 13 == 7))"
    array = ("--name", "ablation", "--project", "team/vision", "--array", "0-39", "--", "bash", "-c", task)
    ids["array"] = read_json(run("launch-submit", "--json", *array).splitlines()[0])["id"]
    name = "日本語の名前の学習" + "-and-a-name-that-does-not-end" * 4
    project = "a-team-with-a-long-name/a-project-with-a-long-name"
    submit("--name", name, "--project", project, "--", "sh", "-c", "exit 3")
    run("launch-worker", "sweep", "create", "sweep.yaml", "-q", "default", "--workers", "3")
    for seed in range(3):
        run(
            "launch-submit",
            "--name",
            f"seed-{seed}",
            "--config",
            f"lr={0.1 / (seed + 1)}",
            "--config",
            f"seed={seed}",
            "--",
            "true",
        )
    deadline = time.monotonic() + _FILL_S
    while time.monotonic() < deadline:
        status = read_json(run("launch-worker", "status", "--json"))
        if status["runs"]["Running"] <= 1 and status["runs"]["Pending"] <= 3:
            break
        time.sleep(1)
    sweeps = run("launch-worker", "sweep", "list", "--json").splitlines()
    ids["sweep"] = read_json(sweeps[0])["id"] if sweeps else ""
    seeds = [read_json(line) for line in run("launch-worker", "runs", "--json", "--limit", "200").splitlines()]
    ids["compared"] = "&".join(f"id={one['id']}" for one in seeds if one["name"].startswith("seed-"))
    return ids
