"""Macros: what is filled, what is left alone, and whose word they can bring."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.macros import SYSTEM_MACROS, fill, has_macros
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.queues.filling import fill_spec, macros_of
from launch_worker.queues.queue import QueueConfig

MACROS = {"run_id": "r1", "queue": "gpu", "lr": 0.5, "n": 8, "on": True, "tags": ["a", "b"], "opt.name": "adam"}


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("${run_id}", "r1"),
        ("a ${run_id} b ${queue}${run_id}", "a r1 b gpur1"),
        ({"a": ["${queue}", {"b": ("${run_id}",)}]}, {"a": ["gpu", {"b": ("r1",)}]}),
        ({"${queue}": "${queue}"}, {"${queue}": "gpu"}),
        ("${other} ${run_id}", "${other} r1"),
        ("${HOME:-x} $HOME ${} ${ run_id} $run_id", "${HOME:-x} $HOME ${} ${ run_id} $run_id"),
        ("$${run_id} ${run_id}", "${run_id} r1"),
        ("$${run_id}", "${run_id}"),
        ("$${unknown}", "${unknown}"),
        ("${opt.name}", "adam"),
        ("lr=${lr} n=${n} on=${on} tags=${tags}", 'lr=0.5 n=8 on=true tags=["a", "b"]'),
        ("${n}", 8),
        (7, 7),
        (True, True),
        ([], []),
    ],
)
def test_known_macros_are_filled_in_values_and_nothing_else_is_touched(value: Any, filled: Any) -> None:
    """W10."""
    before = copy.deepcopy(value)
    assert fill(value, MACROS) == filled
    assert value == before


def test_the_result_shares_nothing_with_the_input() -> None:
    """W10."""
    source = {"a": ["${run_id}"], "b": {"c": [1]}}
    made = fill(source, MACROS)
    made["b"]["c"].append(2)
    made["a"].append("x")
    assert source == {"a": ["${run_id}"], "b": {"c": [1]}}


def test_what_is_filled_in_is_not_filled_again() -> None:
    assert fill("${a} ${b}", {"a": "${b}", "b": "$${a}"}) == "${b} $${a}"


@pytest.mark.parametrize("value", [None, [None], {"a": {"b": None}}, "${x}", "a ${x}"])
def test_none_is_an_error(value: Any) -> None:
    """W10."""
    with pytest.raises(InputError, match="has nothing"):
        fill(value, {"x": None})


def test_a_macro_without_anything_to_stand_for_is_no_error_where_it_is_not_used() -> None:
    assert fill("${y} $${x}", {"x": None, "y": "1"}) == "1 ${x}"


def test_has_macros_sees_into_values_only() -> None:
    assert has_macros({"a": [("$${x}",)]})
    assert not has_macros({"${x}": ["$x", 1, None]})


# -- the map of a run ---------------------------------------------------------------------------------------------


def record(**fields: str) -> Record:
    known = {"id": "abc", "name": "n", "project": "me/proj", "queue": "q", "attempt": "2"}
    return Record.from_hash(known | fields)


def macros(config: QueueConfig | None = None, /, values: dict[str, Any] | None = None, **fields: str) -> dict[str, Any]:
    spec = RunSpec(command=("true",), image="img:1", values=values or {})
    env = {"SITE": "lab", "SECRET": "s3cr3t"}
    return macros_of(record(**fields), spec, config=config or QueueConfig(), worker_env=env, values=spec.values)


def test_the_systems_macros_are_eight() -> None:
    """W10."""
    made = macros()
    made.pop("author")
    expected = {"run_id": "abc", "project_name": "proj", "entity_name": "me", "run_name": "n", "image_uri": "img:1"}
    assert made == expected | {"queue": "q", "attempt": "2"}
    assert set(macros()) == set(SYSTEM_MACROS)


def test_a_worker_variable_is_reached_only_where_the_queue_allows_it_by_name() -> None:
    """W10."""
    assert fill("${SITE} ${SECRET}", macros()) == "${SITE} ${SECRET}"
    assert fill("${SITE} ${SECRET}", macros(QueueConfig(macro_env=("SITE",)))) == "lab ${SECRET}"
    with pytest.raises(InputError, match=r"\$\{AWAY\} has nothing to stand for"):
        fill("${AWAY}", macros(QueueConfig(macro_env=("AWAY",))))


def test_the_systems_macros_win_over_values() -> None:
    assert macros(values={"queue": "other", "x": 1})["queue"] == "q"


def test_a_project_that_was_not_named_has_no_macros() -> None:
    assert (macros(project="")["project_name"], macros(project="")["entity_name"]) == (None, None)
    assert (macros(project="p")["project_name"], macros(project="p")["entity_name"]) == ("p", None)


def test_the_image_of_a_container_queue_is_the_image_of_its_runs() -> None:
    config = QueueConfig("container", {"image": "team/${project_name}:1"})
    spec = RunSpec(command=("true",))
    made = macros_of(record(), spec, config=config, worker_env={}, values={})
    assert made["image_uri"] == "team/proj:1"
    assert macros_of(record(), spec, config=QueueConfig(), worker_env={}, values={})["image_uri"] is None


# -- the spec of a run --------------------------------------------------------------------------------------------


def test_command_environment_folder_and_image_are_filled() -> None:
    """W10."""
    spec = RunSpec(
        command=("run", "--lr=${lr}", "${n}", "$${n}"), env={"A": "${run_id}", "B": "${n}"}, cwd="/data/${run_id}"
    )
    filled = fill_spec(spec, MACROS)
    assert filled.command == ("run", "--lr=0.5", "8", "${n}")
    assert (filled.env, filled.cwd) == ({"A": "r1", "B": "8"}, "/data/r1")
    assert spec.env["A"] == "${run_id}"
    assert filled == replace(spec, command=filled.command, env=filled.env, cwd=filled.cwd)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ({"command": ("${x}",)}, ""),
        ({"command": ("a", "${x}")}, "nul \x00"),
        ({"env": {"A": "${x}"}}, "nul \x00"),
        ({"cwd": "/${x}"}, "a\x00"),
        ({"cwd": "${x}", "uri": "https://h/r"}, "../.."),
        ({"command": ("a" * 100_000 + "${x}",)}, "b" * 60_000),
    ],
)
def test_what_is_filled_in_is_checked_as_what_a_person_submits(field: dict[str, Any], value: str) -> None:
    spec = RunSpec(**({"command": ("true",)} | field))
    with pytest.raises(InputError):
        fill_spec(spec, {"x": value})


def test_an_image_or_a_repository_of_another_kind_cannot_be_filled_in() -> None:
    # As a record could have them that was not written by `launch-submit`.
    spec = RunSpec(command=("true",))
    for field, value in (("image", "-v"), ("image", "${unknown}"), ("uri", "ext::sh"), ("uri", "file:///etc")):
        damaged = copy.copy(spec)
        object.__setattr__(damaged, field, "${x}")
        with pytest.raises(InputError):
            fill_spec(damaged, {"x": value})


def test_a_spec_without_macros_is_itself() -> None:
    spec = RunSpec(command=("sh", "-c", "echo $HOME ${HOME:-x}"))
    assert fill_spec(spec, MACROS) is spec
