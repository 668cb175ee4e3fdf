"""How an admin has the processes of a queue confined: what is kept, what is refused, what goes with what."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec
from launch_worker.queues.confinement import Limits
from launch_worker.queues.queue import QueueConfig


def test_a_queue_confines_nothing_unless_an_admin_says_so() -> None:
    assert not QueueConfig().demands
    assert QueueConfig().to_json() == "{}"
    assert QueueConfig(sandbox="none").to_json() == "{}"


def test_what_was_set_is_read_back_as_it_was_meant() -> None:
    config = QueueConfig(
        sandbox="private", writable=("/data/",), run_as="jobs", limits={"memory": "16G", "pids": 500, "cpus": 1.5}
    )
    again = QueueConfig.from_json(config.to_json())
    assert again == config
    assert again.demands.limits == Limits(memory=16 << 30, pids=500, millicores=1500)
    assert again.demands.writable == ("/data",)
    assert str(again.demands) == "sandbox private and run_as jobs and limits (memory 16G, 500 pids, 1.5 cpus)"


def test_entries_of_limits_and_accounts_change_one_by_one() -> None:
    config = QueueConfig(run_as="submitter", accounts={"ada": "ada"}, limits={"pids": 5})
    changed = config.changed(accounts={"bob": "bob2"}, limits={"pids": None, "cpus": 2})
    assert (changed.accounts, changed.limits) == ({"ada": "ada", "bob": "bob2"}, {"cpus": 2})
    assert changed.demands.account_of("bob") == "bob2"
    with pytest.raises(InputError, match="eve has none; ask an admin"):
        changed.demands.account_of("eve")


def test_what_belongs_to_a_setting_goes_with_it() -> None:
    assert QueueConfig(run_as="submitter", accounts={"ada": "ada"}).changed(run_as="jobs").accounts == {}
    assert QueueConfig(sandbox="strict", writable=("/data",)).changed(sandbox="none") == QueueConfig()
    # What is not changed takes nothing along.
    for config in (
        QueueConfig(run_as="submitter", accounts={"a": "b"}),
        QueueConfig(sandbox="strict", writable=("/d",)),
    ):
        assert config.changed(sandbox=None, run_as=None, writable=None) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sandbox": "jail"}, "sandbox 'jail' is unknown; use one of: none, private, strict"),
        ({"run_as": "a b"}, "no name of an account"),
        ({"run_as": "-u0"}, "no name of an account"),
        ({"run_as": "submitter"}, "give them with --account"),
        ({"run_as": "submitter", "accounts": {"ada": "../x"}}, "the account of ada, is no name"),
        ({"run_as": "submitter", "accounts": {"a\nb": "x"}}, "no name of a submitter"),
        ({"accounts": {"ada": "ada"}}, "are for run_as submitter"),
        ({"limits": {"memory": "1K"}}, "lets nothing start"),
        ({"limits": {"pids": 0}}, "whole number from 1"),
        ({"limits": {"pids": True}}, "whole number from 1"),
        ({"limits": {"cpus": float("nan")}}, "number from 0.01"),
        ({"limits": {"disk": 1}}, "limit 'disk' is unknown"),
        ({"limits": 5}, "must be a map"),
        ({"writable": ["/data"]}, "are for a sandbox"),
        ({"sandbox": "private", "writable": ["data"]}, "no absolute path"),
        ({"sandbox": "private", "writable": ["/"]}, "no absolute path of a folder below /"),
        ({"sandbox": "private", "writable": ["/data/../etc"]}, "no absolute path"),
        ({"sandbox": "private", "writable": ["/proc/sys"]}, "are a sandbox's own"),
        ({"sandbox": "private", "resource": "container"}, "this queue runs containers"),
    ],
)
def test_a_bad_setting_is_refused_with_what_to_do(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        QueueConfig(**settings)


@pytest.mark.parametrize("settings", [{"sandbox": "private"}, {"run_as": "jobs"}, {"limits": {"pids": 5}}])
def test_no_submitter_undoes_it_by_an_image(settings: dict[str, Any]) -> None:
    config = QueueConfig(**settings)
    assert config.checked(RunSpec(command=("true",))) == RunSpec(command=("true",))
    assert config.container_plan(RunSpec(command=("true",)), {}) is None
    in_image = RunSpec(command=("true",), image="a:1")
    for check in (config.checked, config.container_plan, lambda spec: config.container_plan(spec, {})):
        with pytest.raises(InputError, match=r"confines processes .* leave out the image"):
            check(in_image)
    with pytest.raises(InputError, match="refuse its defaults"):
        QueueConfig(defaults={"image": "a:1"}, **settings).check_defaults()
