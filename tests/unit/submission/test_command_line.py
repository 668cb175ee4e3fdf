"""The command that a page shows submits the same run as the one that it is shown for."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from launch_worker.cli.submit import Call, submit_command
from launch_worker.cli.submit_options import given_options
from launch_worker.model.spec import make_spec
from launch_worker.submission.command_line import TYPED, command_line, command_parts, option_text, options_of_spec
from launch_worker.submission.options import read_options

SAID: dict[str, dict[str, Any]] = {
    "plain": {"command": ["python", "train.py", "--lr", "0.1"]},
    "quotes": {"command": ["sh", "-c", "echo \"$HOME\" 'it is' > /tmp/x; exit 1"], "name": "a b"},
    "labels": {"command": ["x"], "queue": "gpu", "project": "team/vision", "tags": ["a", "b"], "priority": "high"},
    "maps": {
        "command": ["x"],
        "env": {"A": "1 2", "B": ""},
        "env_from": ["TOKEN"],
        "config": {"lr": 0.1, "word": "adam", "number": "1", "deep": {"a": [1, None]}, "on": True},
        "values": {"n": 3},
    },
    "needs": {"command": ["x"], "gpus": 2, "cpus": 1.5, "memory": 16 << 30},
    "odd needs": {"command": ["x"], "memory": 12345678, "cpus": 0.1},
    "limits": {
        "command": ["x"],
        "timeout": 7200,
        "stall_timeout": 90,
        "grace": 0,
        "retries": 2,
        "retry_delay": 0.5,
        "retry_on": ["crashed"],
        "max_preemptions": 1,
        "preempt_exit_code": 99,
        "checkpoint_every": 600,
        "notify": ["ops:failed+crashed", "ml"],
        "outputs": ["*.pt", "!it's/"],
        "inputs": ["1m83cyvtfq1tc69:it's.pt"],
        "expires": 86400,
    },
    "container": {
        "command": ["x"],
        "image": "busybox:1",
        "pull": "never",
        "entrypoint": "python",
        "mount": ["/data:/data:ro"],
        "tmpfs": ["/scratch"],
        "read_only": True,
        "no_init": True,
        "pids_limit": 10,
        "shm_size": "8G",
    },
    "order": {"command": ["x"], "concurrency_key": "db", "limit_key": 2, "after": ["1m83cyvtfq1tc69:any"]},
    "code": {"command": ["x"], "uri": "https://example.org/a.git@main", "cwd": "src"},
}


def read_back(line: str) -> dict[str, Any]:
    """The options that a shell's words are, as `launch-submit` reads them."""
    program, *words = shlex.split(line)
    assert program == "launch-submit"
    found = dict(submit_command.make_context(program, words).params)
    command = found.pop("command")
    found.pop("api")
    for name in Call._fields:
        found.pop(name)
    return given_options(command, found)


@pytest.mark.parametrize("name", SAID)
def test_the_command_of_a_spec_makes_the_same_spec(name: str) -> None:
    spec = make_spec(read_options(SAID[name]).given).to_json()
    again = read_options(read_back(command_line(options_of_spec(spec))))
    assert json.loads(make_spec(again.given).to_json()) == json.loads(spec)


def test_a_run_of_an_array_is_its_index_and_what_only_the_system_says_is_left_out() -> None:
    spec = make_spec({"command": ("x",), "array": "a1", "array_index": 7, "author": "ada", "cwd": "/home/ada"})
    assert command_line(options_of_spec(spec.to_json())) == "launch-submit --array 7 -- x"


def test_a_secret_is_a_variable_of_the_shell() -> None:
    options = {"command": ["x"], "env": {"API_TOKEN": "********", "A": "1"}}
    assert command_parts(options, secrets={"API_TOKEN"}) == [
        "launch-submit",
        '-e "API_TOKEN=$API_TOKEN"',
        "-e A=1",
        "-- x",
    ]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("timeout", 5400, "90m"),
        ("timeout", 0.25, "0.25"),
        ("memory", 3 << 29, "1536M"),
        ("at", 0, "1970-01-01T00:00:00Z"),
    ],
)
def test_a_value_is_written_as_people_write_it(name: str, value: Any, text: str) -> None:
    [option] = [option for option in TYPED if option.name == name]
    assert option_text(option, value) == text
