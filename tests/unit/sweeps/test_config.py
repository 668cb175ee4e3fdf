"""W&B's sweep files: what they mean, and every error of one at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.macros import fill
from launch_worker.sweeps.config import (
    COMMAND,
    SweepConfig,
    SweepConfigError,
    config_from_json,
    parse_config,
    read_yaml,
)

FINE: dict[str, Any] = {
    "method": "random",
    "program": "train.py",
    "metric": {"name": "loss"},
    "parameters": {"lr": {"min": 0.0, "max": 1.0}},
}


def parsed(**more: Any) -> SweepConfig:
    said = {key: value for key, value in (FINE | more).items() if value is not ...}
    return parse_config(said)


def problems_of(said: Any, **more: Any) -> list[str]:
    with pytest.raises(SweepConfigError) as caught:
        parse_config(said, **more)
    return caught.value.problems


WANDB = """
program: train.py
method: bayes
name: widths
project: iris
entity: lab
description: which width
metric:
  name: val.loss
  goal: maximize
  target: 0.9
run_cap: 100
early_terminate:
  type: hyperband
  max_iter: 27
  s: 2
command:
  - ${env}
  - ${interpreter}
  - ${program}
  - ${args}
parameters:
  lr:
    distribution: log_uniform_values
    min: 1e-4
    max: 1E-1
  optimizer:
    parameters:
      name: {values: [adam, sgd]}
"""


def test_a_file_of_wandbs_is_read() -> None:
    config = parse_config(read_yaml(WANDB, where="sweep.yaml"))
    assert (config.method, config.metric, config.maximize, config.target) == ("bayes", "val.loss", True, 0.9)
    assert (config.name, config.project, config.run_cap, config.cap) == ("widths", "lab/iris", 100, 100)
    assert config.hyperband is not None
    assert config.hyperband.brackets == (3, 9)
    assert config.command == COMMAND
    assert config.space.drawn["lr"].low == 1e-4
    assert config_from_json(config.to_json()) == config


def test_every_error_is_named_at_once() -> None:
    """W22."""
    found = problems_of(
        {
            "metod": "grid",
            "parameters": {"lr": {"min": 2, "max": 1}, "n": {"values": []}},
            "metric": {"goal": "least"},
            "run_cap": 0,
            "name": "",
            "early_terminate": {"type": "hyperband"},
        }
    )
    assert [problem.split(" ")[0].rstrip(":") for problem in found] == [
        *("'metod'", "method", "parameters.lr", "parameters.n", "metric.name", "metric.goal", "program"),
        *("early_terminate", "run_cap", "name"),
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"method": ...}, "method: is missing"),
        ({"method": "gird"}, "method: 'gird' is unknown"),
        ({"parameters": ...}, "parameters: is missing"),
        ({"parameters": {}}, "parameters: must be a map"),
        ({"parameters": [1]}, "parameters: must be a map"),
        ({"method": "bayes", "metric": ...}, "metric: is missing"),
        ({"metric": "loss"}, "metric: must be a map"),
        ({"metric": {"name": "loss", "gaol": "minimize"}}, "'gaol' is unknown; do you mean 'goal'?"),
        ({"metric": {"name": "loss", "target": "low"}}, "metric.target"),
        ({"method": "grid"}, "parameters.lr: a grid has no end"),
        ({"program": ...}, "program: is missing"),
        ({"program": 3}, "program: must be"),
        ({"command": "python train.py"}, 'write ["python", "train.py"]'),
        ({"command": []}, "command: must be a list"),
        ({"command": [["x"]]}, "command[0]: must be a text"),
        ({"command": ["--x=${args}"]}, "${args} must stand alone"),
        ({"command": ["${envvar:HOME}"]}, "--env-from"),
        ({"program": ..., "command": ["${program}"]}, "program is missing"),
        ({"run_cap": True}, "run_cap"),
        ({"run_cap": "10"}, "run_cap"),
        ({"seed": -1}, "seed"),
        ({"project": "a b"}, "project"),
        ({"sampler": {"n": 1}}, "sampler: must be a map with the name"),
        ({"method": "grid", "sampler": "TPESampler"}, "sampler: a grid needs none"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}, "pruner": "NopPruner"}, "leave one of them out"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}, "metric": ...}, "metric: is missing"),
        ({"early_terminate": {"type": "median"}}, "type must be hyperband"),
        ({"description": {1, 2}}, "description"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], words: str) -> None:
    """W22."""
    said = {key: value for key, value in (FINE | more).items() if value is not ...}
    assert any(words in problem for problem in problems_of(said))


@pytest.mark.parametrize("said", [None, [], "text", 3])
def test_what_is_no_map_is_refused(said: Any) -> None:
    assert "must be a map" in problems_of(said)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not YAML"),
        ("a: 1\na: 2", "'a' is there twice"),
        ("a: {b: 1, b: 2}", "'b' is there twice"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("? [1, 2]\n: 3", "YAML"),
        ("a: " + "[" * 5000, "YAML"),
    ],
)
def test_what_is_no_yaml_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(SweepConfigError, match=words):
        read_yaml(text, where="sweep.yaml")


def test_numbers_with_an_exponent_are_numbers() -> None:
    """YAML 1.1 takes 1e-3 for a text, and W&B's examples are full of it."""
    assert read_yaml("[1e-3, 1E5, -2.5e+3, 1.5e3, .5e1, e5, 1e]", where="") == [
        1e-3,
        1e5,
        -2500.0,
        1500.0,
        5.0,
        "e5",
        "1e",
    ]


CONFIG = {"lr": 0.1, "fast": True, "slow": False, "opt": {"name": "adam", "betas": [0.9, 1]}, "none": None}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["${env}", "${interpreter}", "${program}"], ["/usr/bin/env", "python", "train.py"]),
        (
            ["${args}"],
            ["--lr=0.1", "--fast=True", "--slow=False", "--opt.name=adam", "--opt.betas=[0.9, 1]", "--none=None"],
        ),
        (
            ["${args_no_hyphens}"],
            ["lr=0.1", "fast=True", "slow=False", "opt.name=adam", "opt.betas=[0.9, 1]", "none=None"],
        ),
        (
            ["${args_no_boolean_flags}"],
            ["--lr=0.1", "--fast", "--opt.name=adam", "--opt.betas=[0.9, 1]", "--none=None"],
        ),
        (["--all", "${args_json}"], ["--all", json.dumps(CONFIG)]),
        (["--file=${args_json_file}"], ["--file=${args_json_file}"]),
        (["run", 3, "${run_id}", "x${program}y"], ["run", "3", "${run_id}", "xtrain.pyy"]),
    ],
)
def test_the_macros_of_a_command(command: list[Any], words: list[str]) -> None:
    assert list(parsed(command=command).command_of(CONFIG)) == words


def test_values_that_look_like_macros_reach_the_job_as_they_are() -> None:
    config = {"x": "${run_id}", "y": "$${run_id}", "z": "$$${a}${b}"}
    command = parsed(command=["${args}", "${args_json}"]).command_of(config)
    filled = [fill(word, {"run_id": "SECRET", "a": "A", "b": "B"}) for word in command]
    assert filled == ["--x=${run_id}", "--y=$${run_id}", "--z=$$${a}${b}", json.dumps(config)]


def test_a_container_needs_no_program() -> None:
    said = {key: value for key, value in FINE.items() if key != "program"}
    assert parse_config(said, has_image=True).command == ("${args}",)
    assert parse_config(FINE, has_image=True).command == COMMAND


def test_a_sampler_needs_no_method() -> None:
    config = parsed(method=..., sampler={"name": "NSGAIISampler", "population_size": 8})
    assert config.method == "bayes"
    assert config.sampler is not None
    assert dict(config.sampler.arguments) == {"population_size": 8}


def test_the_cap_is_the_smaller_of_run_cap_and_grid() -> None:
    grid = {"method": "grid", "parameters": {"x": {"min": 1, "max": 10}}}
    assert parsed(**grid).cap == 10
    assert parsed(**grid, run_cap=3).cap == 3
    assert parsed(**grid, run_cap=30).cap == 10
    assert parsed().cap is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"method": "grid"}'])
def test_a_damaged_record_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="the sweep's record"):
        config_from_json(text)
