"""What a submitter gave, merged with what queue and pool give."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.macros import SYSTEM_MACROS
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.queues.pool import PoolConfig
from launch_worker.queues.queue import QueueConfig
from launch_worker.submission.resolve import resolve

COMMAND = {"command": ("true",)}


def made(queue: dict[str, Any] | None = None, pool: dict[str, Any] | None = None, /, **given: Any) -> RunSpec:
    """Resolved with these defaults."""
    return resolve(
        COMMAND | given,
        queue_config=QueueConfig(defaults=queue or {}).to_json(),
        pool_config=PoolConfig(defaults=pool or {}).to_json(),
    )


def by(given: dict[str, Any], **config: Any) -> RunSpec:
    return resolve(COMMAND | given, queue_config=QueueConfig(**config).to_json())


def test_without_configurations_the_run_is_what_was_given() -> None:
    assert resolve({**COMMAND, "queue": "gpu", "retries": 2}) == RunSpec(command=("true",), queue="gpu", retries=2)
    assert resolve({**COMMAND, "timeout_s": None}) == RunSpec(command=("true",))


def test_the_run_wins_over_the_queue_and_the_queue_over_the_pool() -> None:
    queue, pool = {"timeout": "2h", "retries": 2}, {"timeout": "1h", "retries": 1, "gpus": 3}
    spec = made(queue, pool, retries=0)
    assert (spec.retries, spec.timeout_s, spec.gpus) == (0, 7200, 3)
    assert made({}, pool).timeout_s == 3600


def test_environment_and_values_are_merged_key_by_key() -> None:
    queue, pool = {"env": {"B": "q", "C": "q"}, "values": {"b": 2}}, {"env": {"C": "p", "D": "p"}, "values": {"c": 3}}
    spec = made(queue, pool, env={"A": "i", "B": "i"}, values={"a": 1, "b": 1})
    assert spec.env == {"A": "i", "B": "i", "C": "q", "D": "p"}
    assert spec.values == {"a": 1, "b": 1, "c": 3}


def test_the_input_is_not_changed() -> None:
    given = {**COMMAND, "env": {"A": "1"}}
    resolve(given, queue_config=QueueConfig(defaults={"env": {"B": "2"}}).to_json())
    assert given == {**COMMAND, "env": {"A": "1"}}


def test_what_was_merged_is_kept_with_the_run() -> None:
    spec = made({"timeout": "2h", "tags": "a,b", "env": {"A": "1"}, "cwd": "/data"})
    assert parse_spec(spec.to_json()) == spec


def test_a_folder_of_the_queues_wins_over_the_one_that_the_submitter_happened_to_be_in() -> None:
    assert made({"cwd": "/data"}, cwd="/home/me").cwd == "/data"
    assert made({"cwd": "/data"}).cwd_required
    assert made({"cwd": "/data"}, cwd="/home/me", cwd_required=True).cwd == "/home/me"
    assert made({"retries": 1}, cwd="/home/me") == RunSpec(command=("true",), cwd="/home/me", retries=1)


def test_a_folder_of_the_queues_is_for_runs_without_code() -> None:
    assert made({"cwd": "/data"}, uri="https://host/repo").cwd is None
    assert made({"cwd": "/data"}, uri="https://host/repo", cwd="sub", cwd_required=True).cwd == "sub"


def test_container_options_of_a_queue_are_for_its_containers() -> None:
    defaults = {"container": {"network": "none", "init": False}}
    assert made(defaults).container == {}
    assert made(defaults, image="a:1", container={"init": True}).container == {"network": "none", "init": True}
    assert made({"image": "b:1"} | defaults).container == defaults["container"]


def test_priorities_are_refused_where_the_queue_has_none() -> None:
    """W12."""
    assert by({"priority": "medium"}, priorities=False).priority == "medium"
    for word in ("critical", "high", "low"):
        with pytest.raises(InputError, match=f"has no priorities, so none of its runs can be {word}"):
            by({"priority": word}, priorities=False)
        assert by({"priority": word}).priority == word


def test_template_variables_are_checked_and_their_defaults_kept_with_the_run() -> None:
    schema = {"type": "object", "properties": {"lr": {"type": "number", "maximum": 1, "default": 0.1}}}
    assert by({}, variables=schema).values == {"lr": 0.1}
    assert by({"values": {"lr": 1}}, variables=schema).values == {"lr": 1}
    with pytest.raises(InputError, match="template variable 'lr': 2 is greater than the maximum of 1"):
        by({"values": {"lr": 2}}, variables=schema)
    assert by({}, variables=schema, defaults={"values": {"lr": 0.5}}).values == {"lr": 0.5}


@pytest.mark.parametrize("name", SYSTEM_MACROS)
def test_values_cannot_stand_for_the_systems_macros(name: str) -> None:
    for config in ("", QueueConfig(description="x").to_json()):
        with pytest.raises(InputError, match=f"value '{name}' would stand for the system's own macro"):
            resolve({**COMMAND, "values": {name: "x"}}, queue_config=config)


def test_values_cannot_stand_for_worker_variables_that_the_queue_allows() -> None:
    with pytest.raises(InputError, match="would stand for a variable of the worker's"):
        by({"values": {"SITE": "x"}}, macro_env=("SITE",))
    assert by({"values": {"SITE": "x"}}, description="other").values == {"SITE": "x"}


@pytest.mark.parametrize(
    ("given", "config", "said"),
    [
        ({"image": "a:1"}, {"resource": "process"}, "runs processes; --image"),
        ({}, {"resource": "container"}, "names no image"),
        ({"image": "b:1"}, {"container": {"allow_images": ["a:*"]}}, "image 'b:1' is not allowed in this queue"),
        ({"container": {"init": True}}, {"description": "x"}, "for containers only; name an image"),
    ],
)
def test_the_queues_other_rules_hold(given: dict[str, Any], config: dict[str, Any], said: str) -> None:
    """W14."""
    with pytest.raises(InputError, match=said):
        by(given, **config)


@pytest.mark.parametrize("config", ["", '{"description": "x"}'])
def test_what_no_run_has_is_refused(config: str) -> None:
    with pytest.raises(InputError, match="'colour' is not an option of a run"):
        resolve({**COMMAND, "colour": "red"}, queue_config=config)
    with pytest.raises(InputError, match="for containers only; name an image"):
        resolve({**COMMAND, "container": {"init": True}}, queue_config=config)
    with pytest.raises(InputError, match="the command is empty"):
        resolve({}, queue_config=config)


@pytest.mark.parametrize("damaged", ["{", '{"resource": "vm"}', '{"defaults": 5}'])
def test_a_damaged_configuration_refuses_the_run_with_a_sentence(damaged: str) -> None:
    for config in ({"queue_config": damaged}, {"pool_config": damaged}):
        with pytest.raises(InputError):
            resolve(COMMAND, **config)


def test_a_run_without_configurations_loads_no_heavy_library() -> None:
    """A person waits for `launch-submit`."""
    program = (
        "import sys; from launch_worker.submission.resolve import resolve; "
        "resolve({'command': ('true',), 'values': {'x': 1}}); print(*sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    heavy = {"jsonschema", "pydantic", "redis", "launch_worker.queues.queue", "launch_worker.model.container_options"}
    assert not set(loaded.stdout.split()) & heavy
