"""An item is said again as the options that it was read from, as a server needs it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.model.options import LINE, OPTIONS
from launch_worker.submission.options import Item, as_options, read_options

SAID: dict[str, Any] = {
    "command": ["python", "-c", "1"],
    "queue": "gpu",
    "name": "n",
    "project": "me/iris",
    "tags": ["a", "b"],
    "priority": "high",
    "env": {"A": "1"},
    "env_from": ["TOKEN"],
    "values": {"v": 1},
    "config": {"lr": 0.1},
    "secrets": {"PASSWORD": "p"},
    "cwd": "/data",
    "uri": "https://x/y.git@main",
    "requirements": "envs/gpu.txt",
    "requirements_files": {"envs/gpu.txt": "torch\n"},
    "python": "3.12",
    "image": "img:1",
    "entrypoint": "sh",
    "pull": "always",
    "mount": ["v:/v"],
    "tmpfs": ["/t"],
    "network": "none",
    "user": "1",
    "read_only": True,
    "pids_limit": 5,
    "shm_size": "1G",
    "no_init": True,
    "gpus": 2,
    "memory": "2G..8G",
    "cpus": 1.5,
    "timeout": "5m",
    "start_timeout": 60,
    "stall_timeout": "1h",
    "grace": 0,
    "stop_signal": "SIGINT",
    "stop_scope": "all",
    "signal": "SIGUSR1@60",
    "on_timeout": "requeue",
    "max_fails": 3,
    "retries": 2,
    "retry_delay": "10s",
    "retry_on": "failed",
    "retry": "oom=3:30s..10m,SIGKILL=1",
    "not_on_same_worker": True,
    "max_preemptions": 1,
    "preempt_exit_code": 7,
    "checkpoint_every": "10m",
    "notify": ["ops", "ml:failed"],
    "outputs": ["*.pt", "!tmp/"],
    "inputs": ["1m83cyvtfq1tc69:model.pt", "1m83cyvtfq1tc69:.:all"],
    "at": "2030-01-31T14:30:00.000001Z",
    "delay": "90s",
    "expires": "1d",
    "after": ["0" * 15 + ":any"],
    "concurrency_key": "k",
    "limit_key": 3,
    "array": "1-9:2,20%3",
    "unique": "u",
    "id": "1m83cyvtfq1tc69",
    "container": {"pull": "never"},
}
#: Options that exclude each other.
APART = ({"at", "delay"}, {"id", "unique"})


def test_every_option_of_a_line_is_tried() -> None:
    assert set(SAID) == {option.name for option in OPTIONS if LINE in option.places} - {"upload"}


@given(st.sets(st.sampled_from(sorted(SAID))).filter(lambda names: not any(pair <= names for pair in APART)))
def test_what_is_said_again_means_the_same(names: set[str]) -> None:
    item = read_options({name: SAID[name] for name in names})
    # As it comes over the wire.
    again = read_options(json.loads(json.dumps(as_options(item))))
    assert replace(again, delay_s=again.delay_s or None) == replace(item, delay_s=item.delay_s or None)


def test_an_upload_is_named_by_its_hash_and_a_folder_that_need_not_be_there_is_left_out() -> None:
    item = Item({"command": ("a",), "upload": "f" * 64, "cwd": "sub", "author": "me@here"}, upload="/x")
    assert as_options(item) == {"command": ["a"], "upload": "f" * 64}


def test_what_no_option_says_is_refused() -> None:
    with pytest.raises(InputError, match="scheduler"):
        as_options(Item({"command": ("a",), "scheduler": True}))
