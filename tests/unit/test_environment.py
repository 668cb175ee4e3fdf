"""What a job sees of its worker's environment: little, and nothing of the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch_worker.environment import INHERITED, job_environment
from launch_worker.errors import InputError
from launch_worker.run import Record
from launch_worker.spec import RunSpec

URL = "redis://:hunter2@broker.internal:6379/0"
WORKER_ENV = {
    "PATH": "/usr/bin",
    "HOME": "/home/worker",
    "LC_ALL": "C.UTF-8",
    "LAUNCH_REDIS_URL": URL,
    "CELERY_BROKER_URL": URL,
    "FLOWER_BASIC_AUTH": "admin:hunter2",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "LAUNCH_WORK_DIR": "/var/lib/launch",
    "LAUNCH_TOKEN": "of-the-worker-itself",
    "HF_TOKEN": "hf-value",
}


def environment(*, gpus: str = "[]", **options: Any) -> dict[str, str]:
    spec = RunSpec(command=("true",), **options)
    record = Record.from_hash(
        {
            "id": "run1",
            "attempt": "2",
            "token": "77",
            "queue": "gpu",
            "project": "me/iris",
            "name": "train.py",
            "state": "Running",
            "gpus": gpus,
        }
    )
    return job_environment(record, spec, worker_env=WORKER_ENV, redis_url=URL, config_path=Path("/w/config.json"))


def test_nothing_of_the_brokers_url_reaches_a_job() -> None:
    """W6, section 6."""
    env = environment()
    assert not any("hunter2" in value or "broker.internal" in value for value in env.values())
    assert not {"LAUNCH_REDIS_URL", "CELERY_BROKER_URL", "LAUNCH_WORK_DIR"} & set(env)


def test_of_the_workers_environment_only_what_programs_need_is_inherited() -> None:
    env = environment()
    assert (env["PATH"], env["HOME"], env["LC_ALL"]) == ("/usr/bin", "/home/worker", "C.UTF-8")
    own = {name for name in env if name.startswith("LAUNCH_")} | {"CUDA_VISIBLE_DEVICES"}
    assert {name for name in env if name not in own and not name.startswith("LC_")} <= set(INHERITED)


def test_the_run_sees_who_it_is() -> None:
    """Section 6."""
    env = environment()
    assert env["LAUNCH_RUN_ID"] == "run1"
    assert env["LAUNCH_ATTEMPT"] == "2"
    assert env["LAUNCH_TOKEN"] == "77"
    assert env["LAUNCH_QUEUE"] == "gpu"
    assert env["LAUNCH_PROJECT"] == "me/iris"
    assert env["LAUNCH_NAME"] == "train.py"
    assert env["LAUNCH_CONFIG"] == "/w/config.json"


@pytest.mark.parametrize(("gpus", "devices"), [("[]", ""), ('["2"]', "2"), ('["0", "3"]', "0,3")])
def test_exactly_the_given_gpus_are_visible(gpus: str, devices: str) -> None:
    """X1, section 6."""
    assert environment(gpus=gpus)["CUDA_VISIBLE_DEVICES"] == devices


def test_the_submitted_environment_arrives_and_wins_over_the_workers() -> None:
    """W9."""
    env = environment(env={"HOME": "/elsewhere", "A": "x y;$Z\n'\"", "EMPTY": ""})
    assert (env["HOME"], env["A"], env["EMPTY"]) == ("/elsewhere", "x y;$Z\n'\"", "")


def test_env_from_takes_the_workers_value_by_name() -> None:
    env = environment(env_from=("HF_TOKEN",))
    assert env["HF_TOKEN"] == "hf-value"
    assert "AWS_SECRET_ACCESS_KEY" not in env


def test_env_from_a_name_that_the_worker_lacks_is_an_error_with_the_name() -> None:
    """P8."""
    with pytest.raises(InputError, match="has no WANDB_API_KEY"):
        environment(env_from=("WANDB_API_KEY",))


def test_the_brokers_url_is_given_only_when_asked_for_by_name() -> None:
    env = environment(env_from=("LAUNCH_REDIS_URL",))
    assert [name for name, value in env.items() if "hunter2" in value] == ["LAUNCH_REDIS_URL"]


def test_a_submitted_url_is_the_submitters_own() -> None:
    assert environment(env={"LAUNCH_REDIS_URL": "redis://mine/0"})["LAUNCH_REDIS_URL"] == "redis://mine/0"


@pytest.mark.parametrize("name", ["LAUNCH_RUN_ID", "LAUNCH_TOKEN", "LAUNCH_PROJECT", "CUDA_VISIBLE_DEVICES"])
def test_a_submitter_cannot_pose_as_another_run_or_take_gpus(name: str) -> None:
    for options in ({"env": {name: "x"}}, {"env_from": (name,)}):
        with pytest.raises(InputError, match=name):
            environment(**options)
