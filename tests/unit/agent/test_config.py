"""An agent's configuration: W&B's keys and our own, from a command line, the environment and a YAML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from launch_worker.agent.config import OPTIONS, AgentConfig
from launch_worker.agent.selection import UNLIMITED
from launch_worker.cli.start import start_command, worker_arguments
from launch_worker.errors import InputError


@pytest.mark.parametrize(
    ("value", "limit"), [(0, 0), (-1, UNLIMITED), (1_000_000, 1_000_000), ("8", 8), (" 8 ", 8), (None, None)]
)
def test_limits_are_read_as_wandbs_agent_reads_them(value: Any, limit: int | None) -> None:
    """W2."""
    assert AgentConfig.parse({"max_jobs": value}).max_jobs == limit
    schedulers = 1 if limit is None else limit
    assert AgentConfig.parse({"max_schedulers": value}).max_schedulers == schedulers


@pytest.mark.parametrize("value", [-29, "-29", "weird", "", 2.5, True, [], "1e3", "1000001", 1_000_001, "９"])
@pytest.mark.parametrize("key", ["max_jobs", "max_schedulers"])
def test_a_limit_that_is_none_is_refused(key: str, value: Any) -> None:
    """W2."""
    with pytest.raises(InputError, match=f"the agent's configuration is wrong: {key} cannot be"):
        AgentConfig.parse({key: value})


def test_everything_wrong_is_named_one_by_one() -> None:
    with pytest.raises(InputError) as caught:
        AgentConfig.parse({"max_job": 3, "verbosity": 7, "secure_mode": "perhaps", "queues": ["a b"], "builder": {}})
    sentence = str(caught.value)
    assert "has 5 mistakes" in sentence
    for part in (
        "'max_job' is not a key; did you mean max_jobs?",
        "verbosity cannot be 7",
        "secure_mode cannot be 'perhaps'",
        "queue 'a b' is not allowed",
        "'builder' has no meaning: no images are built here",
    ):
        assert part in sentence
    assert "\n" not in sentence


def test_a_command_line_wins_over_the_environment_that_over_a_file_and_that_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(
        "queues: [a, b]\nentity: acme\nmax_jobs: 3\nmax_schedulers: -1\nsecure_mode: true\nverbosity: 1\n"
        "stopped_run_timeout: 60\ngpus: 2\n"
    )
    env = {"LAUNCH_AGENT_MAX_JOBS": "4", "LAUNCH_AGENT_VERBOSITY": "2", "LAUNCH_AGENT_SECURE_MODE": "", "OTHER": "1"}
    made = AgentConfig.load({"max_jobs": 5, "verbosity": None}, env=env, file=str(file))
    assert made == AgentConfig(
        queues=("a", "b"),
        entity="acme",
        max_jobs=5,
        max_schedulers=UNLIMITED,
        secure_mode=True,
        verbosity=2,
        stopped_run_timeout=60.0,
        gpus="2",
    )
    assert AgentConfig.load({}, env={"LAUNCH_AGENT_CONFIG": str(file)}).entity == "acme"
    assert AgentConfig.load({}, env={}) == AgentConfig()


def test_a_selection_of_queues_is_not_completed_from_another_place(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("match: dev-\ntags: x\n")
    made = AgentConfig.load({"queues": ("a",)}, env={"LAUNCH_AGENT_POOL": "site"}, file=str(file))
    assert (made.queues, made.match, made.pool, made.tags) == (("a",), (), "", ())
    made = AgentConfig.load({}, env={"LAUNCH_AGENT_POOL": "site", "LAUNCH_AGENT_QUEUES": "a, b"}, file=str(file))
    assert (made.queues, made.match, made.pool) == (("a", "b"), (), "site")


def test_mistakes_say_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("max_jobs: weird\nfrom: here\n")
    env = {"LAUNCH_AGENT_VERBOSITY": "loud", "LAUNCH_AGENT_COLOUR": "red"}
    with pytest.raises(InputError) as caught:
        AgentConfig.load({"stopped_run_timeout": "soon"}, env=env, file=str(file))
    sentence = str(caught.value)
    assert "has 5 mistakes" in sentence
    for part in (
        "command line: --stopped-run-timeout 'soon' is not a duration",
        "LAUNCH_AGENT_VERBOSITY: verbosity cannot be 'loud'",
        "LAUNCH_AGENT_COLOUR: 'colour' is not a key",
        f"{file}: max_jobs cannot be 'weird'",
        f"{file}: 'from' is not a key",
    ):
        assert part in sentence


def test_what_kubernetes_puts_beside_is_no_mistake() -> None:
    env = {
        "LAUNCH_AGENT_SERVICE_HOST": "10.0.0.1",
        "LAUNCH_AGENT_SERVICE_PORT_HTTP": "80",
        "LAUNCH_AGENT_PORT": "tcp://10.0.0.1:80",
        "LAUNCH_AGENT_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert AgentConfig.load({}, env=env) == AgentConfig()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("queues: [a", "is not YAML: "),
        ("- a\n- b\n", "must be a map of keys to values, not a list"),
        ("1: 2\n", "'1' is not a key"),
        ("!!python/object:os.system {}\n", "is not YAML: "),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        AgentConfig.load({}, env={}, file=str(file))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"/nowhere/agent\.yaml cannot be read: No such file"):
        AgentConfig.load({}, env={}, file="/nowhere/agent.yaml")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("# nothing yet\n")
    assert AgentConfig.load({}, env={}, file=str(file)) == AgentConfig()


def test_what_was_parsed_can_be_parsed_again() -> None:
    made = AgentConfig.parse(
        {"queues": "a,b", "max_jobs": -1, "drain_timeout": "5m", "gpus": 0, "detach_on_exit": "yes", "match": []}
    )
    assert made.drain_timeout == 300.0
    assert AgentConfig.parse(made.as_dict()) == made


def test_every_key_is_an_option_of_both_commands_that_start_a_worker() -> None:
    keys = {option.name for option in OPTIONS if option.check is not None}
    assert keys == {key.name for key in fields(AgentConfig)}
    typed = {parameter.name for parameter in start_command.params}
    assert {option.name for option in OPTIONS} <= typed


def test_start_passes_each_option_on_as_it_was_given() -> None:
    options: dict[str, Any] = {option.name: () if option.is_repeated else None for option in OPTIONS}
    options |= {"hostname": "gpu@%h", "loglevel": "INFO", "queues": ("a", "b"), "tags": ("x", "y"), "pool": "p"}
    options |= {"max_jobs": "4", "secure_mode": False, "detach_on_exit": True, "quarantine_after": "0"}
    assert worker_arguments(options) == [
        *("-A", "launch_worker", "worker", "--queues=a,b", "-p", "p", "--tag=x", "--tag=y", "--limit=4"),
        *("--detach-on-exit", "--quarantine-after=0", "--no-secure-mode", "--hostname=gpu@%h", "--loglevel=INFO"),
    ]
