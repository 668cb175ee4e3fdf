"""The published format of items is what the code reads and writes; a change of it is a new version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from launch_worker.errors import InputError
from launch_worker.model.item_schema import VERSION, item_schema
from launch_worker.model.spec import RunSpec, parse_spec

PUBLISHED = Path(__file__).parents[3] / "docs" / f"item-{VERSION}.schema.json"
FULL = RunSpec(
    command=("python", "train.py"),
    queue="gpu",
    tags=("a",),
    env={"A": "b"},
    env_from=("TOKEN",),
    cwd="/srv",
    cwd_required=True,
    timeout_s=60.0,
    gpus=2,
    cpus=1.5,
    memory=1 << 30,
    image="busybox",
    container={"network": "none"},
    values={"x": 1},
    config={"lr": 0.1, "deep": {"er": [1, 2]}},
    sweep="s1",
    sweep_index=3,
    after=("1m83cyvtfq1tc69:any",),
)


def test_the_published_schema_is_that_of_the_code() -> None:
    """After a change: raise VERSION where older workers would not understand it, then
    `launch-worker schema > docs/item-VERSION.schema.json`."""
    assert json.loads(PUBLISHED.read_text()) == item_schema()


def test_the_schema_says_its_version() -> None:
    schema = item_schema()
    assert (schema["version"], schema["$id"]) == (VERSION, f"urn:launch-worker:item:{VERSION}")
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("spec", [RunSpec(command=("true",)), FULL])
def test_what_is_written_fits_the_schema_and_is_read_back(spec: RunSpec) -> None:
    Draft202012Validator(item_schema()).validate(json.loads(spec.to_json()))
    assert parse_spec(spec.to_json()) == spec


@pytest.mark.parametrize("item", [{}, {"command": "true"}, {"command": ["true"], "colour": "red"}, {"command": [1]}])
def test_what_does_not_fit_the_schema_is_not_read(item: dict[str, Any]) -> None:
    assert not Draft202012Validator(item_schema()).is_valid(item)
    with pytest.raises(InputError):
        parse_spec(json.dumps(item))


def test_an_older_item_is_completed_by_defaults() -> None:
    """What the first producers wrote, before there were config, sweeps and schedulers."""
    spec = parse_spec('{"command": ["true"], "queue": "gpu", "name": "old", "retries": 1}')
    assert (spec.config, spec.sweep, spec.scheduler, spec.retries) == ({}, "", False, 1)
