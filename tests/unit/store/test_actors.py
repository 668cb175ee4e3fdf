"""Whatever a person asks of the store is asked for with the person's name."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import launch_worker
from launch_worker.store.store import Store

#: Methods of the store for acts: those that take an actor.
ACTS = {
    name
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if {"actor", "who"} & set(inspect.signature(method).parameters)
}
PACKAGE = Path(launch_worker.__file__).parent
#: Where persons are served.
MODULES = sorted(file for folder in ("api", "cli", "celery", "submission") for file in (PACKAGE / folder).glob("*.py"))


def test_the_acts_are_known() -> None:
    assert {
        *(
            "cancel",
            "cancel_group",
            "retry_group",
            "preempt",
            "requeue",
            "delete",
            "release",
            "configure",
            "delete_queue",
        ),
        *("delete_pool", "keep_schedule", "delete_schedule", "create_sweep", "steer_sweep", "order"),
    } <= ACTS


@pytest.mark.parametrize("module", MODULES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_act_of_a_person_names_the_person(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ACTS):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if name == "store":
            given = {keyword.arg for keyword in node.keywords}
            assert given & {"actor", "who"}, f"{module.name}:{node.lineno}: {node.func.attr}"
