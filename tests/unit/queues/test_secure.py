"""Secure mode: what a run may not say for itself, compared with what an admin configured."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec
from launch_worker.queues.pool import PoolConfig
from launch_worker.queues.queue import QueueConfig
from launch_worker.queues.secure import secured

CONTAINERS = QueueConfig(
    resource="container",
    container={"image": "acme/train:1", "entrypoint": ["python", "-m"], "allow_mounts": ["/data"]},
    defaults={"container": {"shm_size": "1G"}, "env_from": ["TEAM"]},
)
COMMAND = ("train.py",)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"container": {"entrypoint": ["sh", "-c"]}}, "the entry point"),
        ({"container": {"entrypoint": "sh"}}, "the entry point"),
        ({"container": {"mounts": ["/data:/data"]}}, "mounts"),
        ({"container": {"mounts": ["volume:/data"]}}, "mounts"),
        ({"container": {"user": "root"}}, "container option user"),
        ({"container": {"network": "bridge"}}, "container option network"),
        ({"container": {"shm_size": "2G"}}, "container option shm_size"),
        ({"image": "evil/image"}, "the image"),
        ({"image": "${image}"}, "the image"),
        ({"env_from": ("HOME_SECRET",)}, "environment variable HOME_SECRET of the worker"),
        ({"env_from": ("LAUNCH_REDIS_URL",)}, "environment variable LAUNCH_REDIS_URL of the worker"),
    ],
)
def test_what_the_queue_does_not_give_is_refused(given: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as caught:
        secured(RunSpec(COMMAND, **given), CONTAINERS)
    assert str(caught.value).startswith(f"this worker is in secure mode, in which a run may not choose {word}: ")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"image": "acme/train:1"},
        {"container": {"entrypoint": ["python", "-m"], "shm_size": "1G"}},
        {"env_from": ("TEAM",), "env": {"A": "b"}, "gpus": 1, "memory": 1 << 30},
        {"cwd": "/work", "cwd_required": True},
        {"uri": "https://example.com/a/b.git", "cwd": "sub", "cwd_required": True},
    ],
)
def test_what_the_queue_gives_and_what_stays_in_the_container_passes(given: dict[str, Any]) -> None:
    spec = RunSpec(COMMAND, **given)
    assert secured(spec, CONTAINERS) == spec


def test_a_pools_defaults_are_an_admins_word_too() -> None:
    spec = RunSpec(COMMAND, image="a/b", container={"user": "1000"})
    with pytest.raises(InputError):
        secured(spec, QueueConfig())
    assert secured(spec, QueueConfig(), PoolConfig({"container": {"user": "1000"}})) == spec


def test_an_image_is_the_runs_own_where_the_queue_names_none() -> None:
    spec = RunSpec(COMMAND, image="a/b")
    assert secured(spec, QueueConfig()) == spec


@pytest.mark.parametrize("cwd", ["/etc", "${home}"])
def test_a_process_may_not_choose_a_folder_of_the_machine(cwd: str) -> None:
    code = {} if cwd.startswith("/") else {"uri": "https://example.com/a/b.git"}
    spec = RunSpec(COMMAND, cwd=cwd, cwd_required=True, **code)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the working directory"):
        secured(spec, QueueConfig())


def test_a_folder_that_the_queue_gives_is_used() -> None:
    spec = RunSpec(COMMAND, cwd="/srv/jobs", cwd_required=True)
    assert secured(spec, QueueConfig(defaults={"cwd": "/srv/jobs"})) == spec


def test_the_submitters_own_folder_is_not_used() -> None:
    assert secured(RunSpec(COMMAND, cwd="/home/me"), QueueConfig()).cwd is None


def test_code_may_be_worked_in() -> None:
    spec = RunSpec(COMMAND, uri="https://example.com/a/b.git", cwd="sub", cwd_required=True)
    assert secured(spec, QueueConfig()) == spec
