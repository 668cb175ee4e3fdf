"""What a job sees of its worker's environment: little, and nothing of the broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pytest

from launch_worker.attempt.environment import INHERITED, container_environment, job_environment
from launch_worker.errors import InputError
from launch_worker.model.container_options import ContainerPlan
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.runners.container.config import EngineFacts, host_config
from launch_worker.settings import Settings

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


def record(gpus: str) -> Record:
    return Record.from_hash(
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


def environment(
    *, gpus: str = "[]", wandb_env: bool = False, of_worker: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> dict[str, str]:
    spec = RunSpec(command=("true",), **options)
    path = "/w/config.json"
    settings = Settings(**{"redis_url": URL, "wandb_env": wandb_env, **of_worker})
    return job_environment(record(gpus), spec, worker_env=WORKER_ENV, settings=settings, config_path=path)


def container(*, gpus: str = "[]", **options: Any) -> dict[str, str]:
    spec = RunSpec(command=("true",), image="train:7", **options)
    path = "/launch/config.json"
    settings = Settings(redis_url=URL)
    return container_environment(record(gpus), spec, worker_env=WORKER_ENV, settings=settings, config_path=path)


def test_nothing_of_the_brokers_url_reaches_a_job() -> None:
    """W6, section 6."""
    env = environment()
    assert not any("hunter2" in value or "broker.internal" in value for value in env.values())
    assert not {"LAUNCH_REDIS_URL", "CELERY_BROKER_URL", "LAUNCH_WORK_DIR"} & set(env)


def test_of_the_workers_environment_only_what_programs_need_is_inherited() -> None:
    env = environment()
    assert (env["PATH"], env["HOME"], env["LC_ALL"]) == ("/usr/bin", "/home/worker", "C.UTF-8")
    own = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "PYTHONUNBUFFERED"}
    own |= {name for name in env if name.startswith("LAUNCH_")}
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
    env = environment(gpus=gpus)
    assert env["CUDA_VISIBLE_DEVICES"] == devices
    assert env["NVIDIA_VISIBLE_DEVICES"] == (devices or "void")


def test_a_job_without_gpus_sees_none_and_not_all() -> None:
    """The container toolkit takes an empty list for all."""
    env = environment()
    assert (env["CUDA_VISIBLE_DEVICES"], env["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")
    assert "CUDA_DEVICE_ORDER" not in env


def test_numbered_gpus_are_counted_as_the_driver_counts_them() -> None:
    """CUDA's default order is by speed: number 1 would be another device where GPUs differ."""
    env = environment(gpus='["1"]', env={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    named = environment(gpus='["GPU-1234", "GPU-5678"]')
    assert named["CUDA_VISIBLE_DEVICES"] == named["NVIDIA_VISIBLE_DEVICES"] == "GPU-1234,GPU-5678"
    assert "CUDA_DEVICE_ORDER" not in named


@pytest.mark.parametrize(
    ("gpus", "cuda", "nvidia"),
    [("[]", "", "void"), ('["2", "5"]', "0,1", "2,5"), ('["GPU-a", "GPU-b"]', "GPU-a,GPU-b", "GPU-a,GPU-b")],
)
def test_a_containers_gpus_are_numbered_anew_in_it(gpus: str, cuda: str, nvidia: str) -> None:
    env = container(gpus=gpus)
    assert (env["CUDA_VISIBLE_DEVICES"], env["NVIDIA_VISIBLE_DEVICES"]) == (cuda, nvidia)


def test_the_engine_is_asked_for_exactly_the_given_gpus() -> None:
    config = host_config(ContainerPlan("train:7"), ("2", "5"), EngineFacts("local"))
    (request,) = config["device_requests"]
    assert (request["DeviceIDs"], request["Capabilities"]) == (["2", "5"], [["gpu"]])
    assert "device_requests" not in host_config(ContainerPlan("train:7"), (), EngineFacts("local"))


def test_a_run_of_an_array_knows_its_number() -> None:
    for made in (environment, container):
        env = made(array="01abc", array_index=0)
        assert (env["LAUNCH_ARRAY_ID"], env["LAUNCH_ARRAY_INDEX"]) == ("01abc", "0")
        assert not any(name.startswith("LAUNCH_ARRAY") for name in made())


def test_a_scheduled_run_knows_the_time_for_which_it_was_planned() -> None:
    planned = replace(record("[]"), scheduled_at=1_783_000_000_000_000)
    env = job_environment(
        planned, RunSpec(command=("true",)), worker_env={}, settings=Settings(wandb_env=False), config_path="/w/c.json"
    )
    assert datetime.fromisoformat(env["LAUNCH_SCHEDULED_AT"]).timestamp() == 1_783_000_000
    assert "LAUNCH_SCHEDULED_AT" not in environment()


def test_a_submitter_cannot_change_which_gpus_are_seen() -> None:
    seen = environment(gpus='["1"]', env={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        with pytest.raises(InputError, match="set by the worker"):
            environment(env={name: "all"})


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


def test_a_job_that_asks_for_the_brokers_url_gets_the_login_of_jobs_and_never_the_workers() -> None:
    with pytest.raises(InputError, match="LAUNCH_JOB_REDIS_URL"):
        environment(env_from=("LAUNCH_REDIS_URL",))
    of_jobs = "redis://producer:theirs@broker.internal/0"
    env = environment(env_from=("LAUNCH_REDIS_URL",), of_worker={"job_redis_url": of_jobs})
    assert env["LAUNCH_REDIS_URL"] == of_jobs
    assert not any("hunter2" in value for value in env.values())
    open_url = "redis://localhost/0"
    assert (
        environment(env_from=("LAUNCH_REDIS_URL",), of_worker={"redis_url": open_url})["LAUNCH_REDIS_URL"] == open_url
    )


@pytest.mark.parametrize(
    "name",
    [
        *("CELERY_RESULT_BACKEND", "DOCKER_AUTH_CONFIG", "GIT_ASKPASS", "SSH_AUTH_SOCK", "UV_INDEX_LAB_PASSWORD"),
    ],
)
def test_the_workers_own_logins_are_not_lent_but_where_its_admin_names_them(name: str) -> None:
    for allowed in ((), ("*",), (f"{name[:-1]}*",)):
        with pytest.raises(InputError, match="does not lend it"):
            environment(env_from=(name,), of_worker={"env_from_allow": allowed})
    with pytest.raises(InputError, match="has no"):
        environment(env_from=(name,), of_worker={"env_from_allow": (name,)})


def test_a_job_may_ask_for_the_way_to_a_server_that_its_workers_admin_has_set() -> None:
    assert RunSpec(command=("true",), env_from=("LAUNCH_API_URL", "LAUNCH_API_TOKEN")).env_from
    with pytest.raises(InputError, match="has no LAUNCH_API_TOKEN"):
        environment(env_from=("LAUNCH_API_TOKEN",))


def test_the_login_of_a_store_is_the_workers_own() -> None:
    name = "AWS_SECRET_ACCESS_KEY"
    assert environment(env_from=(name,))[name] == WORKER_ENV[name]
    for setting in ("log_url", "output_url", "upload_url"):
        with pytest.raises(InputError, match="does not lend it"):
            environment(env_from=(name,), of_worker={setting: "s3://bucket/x"})


def test_a_worker_lends_what_its_admin_names() -> None:
    assert environment(env_from=("HF_TOKEN",), of_worker={"env_from_allow": ("HF_*",)})["HF_TOKEN"] == "hf-value"
    with pytest.raises(InputError, match="LAUNCH_ENV_FROM_ALLOW"):
        environment(env_from=("HF_TOKEN",), of_worker={"env_from_allow": ("WANDB_*",)})


def test_a_submitted_url_is_the_submitters_own() -> None:
    assert environment(env={"LAUNCH_REDIS_URL": "redis://mine/0"})["LAUNCH_REDIS_URL"] == "redis://mine/0"


@pytest.mark.parametrize("name", ["LAUNCH_RUN_ID", "LAUNCH_TOKEN", "LAUNCH_PROJECT", "CUDA_VISIBLE_DEVICES"])
def test_a_submitter_cannot_pose_as_another_run_or_take_gpus(name: str) -> None:
    for options in ({"env": {name: "x"}}, {"env_from": (name,)}):
        with pytest.raises(InputError, match=name):
            environment(**options)


def test_job_and_container_find_the_folder_in_which_they_talk_with_the_worker() -> None:
    assert environment()["LAUNCH_RUN_DIR"] == "/w/talk"
    assert container()["LAUNCH_RUN_DIR"] == "/launch/talk"


def test_wandbs_sdk_sees_the_run_unless_it_is_told_not_to() -> None:
    """Issue 6."""
    seen = {name: value for name, value in environment(wandb_env=True).items() if name.startswith("WANDB_")}
    assert seen == {
        "WANDB_RUN_ID": "run1",
        "WANDB_NAME": "train.py",
        "WANDB_ENTITY": "me",
        "WANDB_PROJECT": "iris",
    }
    assert seen.items() <= container().items()
    assert not any(name.startswith("WANDB_") for name in environment())


def test_what_the_submitter_says_to_wandbs_sdk_wins() -> None:
    env = environment(wandb_env=True, env={"WANDB_PROJECT": "other", "WANDB_RUN_ID": ""})
    assert (env["WANDB_PROJECT"], env["WANDB_RUN_ID"], env["WANDB_ENTITY"]) == ("other", "", "me")


def test_a_run_of_a_sweep_knows_its_sweep() -> None:
    spec = RunSpec(command=("true",), sweep="s1", sweep_index=3)
    swept = replace(record("[]"), sweep="s1")
    env = job_environment(swept, spec, worker_env={}, settings=Settings(), config_path="/w/config.json")
    assert (env["LAUNCH_SWEEP_ID"], env["WANDB_SWEEP_ID"]) == ("s1", "s1")


def test_what_the_workers_environment_is_now_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def env() -> dict[str, str]:
        spec = RunSpec(command=("true",))
        return job_environment(
            record("[]"), spec, worker_env=os.environ, settings=Settings(), config_path="/w/config.json"
        )

    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert env()["TZ"] == env()["TZ"] == "Europe/Berlin"
    env()["TZ"] = "nobody else's"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C")
    assert (env()["TZ"], env()["LC_ALL"]) == ("Asia/Tokyo", "C")
    monkeypatch.delenv("TZ")
    assert "TZ" not in env()


@pytest.mark.parametrize("make", [environment, container])
def test_a_python_jobs_output_is_not_held_back_unless_it_is_submitted_so(make: Callable[..., dict[str, str]]) -> None:
    assert make()["PYTHONUNBUFFERED"] == "1"
    assert make(env={"PYTHONUNBUFFERED": ""})["PYTHONUNBUFFERED"] == ""
