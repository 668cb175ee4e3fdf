"""What a worker looks for: Prefect's options, sentences and welcome."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.agent.selection import UNLIMITED, Selection, parse_limit, welcome
from launch_worker.errors import InputError
from launch_worker.model.checks import check_queue_name

CONTRADICTION = "Only one of `work_queues`, `match`, or `tags` can be provided."


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "No work queues provided!"),
        ({"queues": [""], "pool": ""}, "No work queues provided!"),
        ({"queues": ["a"], "match": ["b"]}, CONTRADICTION),
        ({"queues": ["a"], "tags": ["b"]}, CONTRADICTION),
        ({"match": ["a"], "tags": ["b"]}, CONTRADICTION),
        ({"queues": ["a"], "match": ["b"], "pool": "p"}, CONTRADICTION),
        ({"tags": ["a"], "pool": "p"}, "`tag` and `pool` options cannot be used together."),
    ],
)
def test_contradictory_or_no_selection_is_refused_in_prefects_words(given: dict[str, Any], sentence: str) -> None:
    """P5."""
    with pytest.raises(InputError) as refused:
        Selection.parse(**given)
    assert str(refused.value) == sentence
    assert refused.value.exit_code == 1


@pytest.mark.parametrize(
    "given", [{"queues": ["a b"]}, {"queues": ["maintenance"]}, {"tags": ["a b"]}, {"pool": "a:b"}]
)
def test_names_that_no_queue_may_have_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        Selection.parse(**given)
    assert refused.value.exit_code == 1


ALL = ["dev-b", "prod-dev-x", "dev-a", "gpu", "maintenance"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"queues": ["gpu", "later", "gpu"]}, ["gpu", "later"]),
        ({"queues": ["gpu,later", "dev-a"]}, ["gpu", "later", "dev-a"]),
        ({"match": ["dev-"]}, ["dev-a", "dev-b"]),
        ({"match": ["gp", "dev-b"]}, ["dev-b", "gpu"]),
        ({"match": [""]}, ["dev-a", "dev-b", "gpu", "prod-dev-x"]),
        ({"match": ["none-"]}, []),
        ({"pool": "p"}, ["z", "dev-b", "a"]),
        ({"pool": "p", "queues": ["a", "z", "elsewhere"]}, ["z", "a"]),
        ({"pool": "p", "match": ["dev-", "a"]}, ["dev-b", "a"]),
        ({"tags": ["b", "a"]}, ["agent-queue-a-b"]),
    ],
)
def test_wanted_queues_in_the_order_of_consumption(given: dict[str, Any], wanted: list[str]) -> None:
    assert Selection.parse(**given).wanted(ALL, ["z", "dev-b", "a"]) == wanted


def test_only_a_pool_is_served_strictly_and_only_names_stay_as_they_are() -> None:
    assert Selection.parse(pool="p").is_strict_order
    assert not Selection.parse(match=["a"]).is_strict_order
    assert Selection.parse(match=["a"]).is_dynamic
    assert Selection.parse(pool="p", queues=["a"]).is_dynamic
    assert not Selection.parse(queues=["a"]).is_dynamic
    assert not Selection.parse(tags=["a"]).is_dynamic


def test_tags_name_a_legal_queue() -> None:
    selection = Selection.parse(tags=["b", "a"])
    check_queue_name(selection.tag_queue)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"queues": ["a", "b"]}, "queue(s): a, b..."),
        ({"match": ["dev-"]}, "queue(s) that start with the prefix: ['dev-']..."),
        ({"pool": "x"}, "work pool 'x'..."),
        ({"pool": "x", "queues": ["a"]}, "work pool 'x'..."),
        ({"tags": ["a"]}, "queue(s): agent-queue-a..."),
    ],
)
def test_the_welcome_says_what_the_agent_looks_for(given: dict[str, Any], text: str) -> None:
    assert Selection.parse(**given).describe() == f"Agent started! Looking for work from {text}"
    assert welcome("0.1", "redis://h") == "Starting v0.1 agent connected to redis://h..."


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"queues": ["a", "gpuu"]}, ["there is no queue gpuu;", "asked for: a, gpuu", "known ones: a, default, gpu"]),
        ({"pool": "q"}, ["there is no pool 'q'", "known ones: p"]),
        ({"pool": "p", "queues": ["gpu"]}, ["there is no queue gpu in pool 'p'", "known ones: a"]),
        ({"queues": ["a", "default"]}, []),
        ({"match": ["none-"]}, []),
        ({"pool": "p", "queues": ["a"]}, []),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(given: dict[str, Any], parts: list[str]) -> None:
    """W7."""
    sentence = Selection.parse(**given).unknown(["a", "gpu"], ["p"], ["a"])
    assert bool(sentence) == bool(parts)
    assert all(part in sentence for part in parts)


def test_limits() -> None:
    """W2."""
    assert [parse_limit(text) for text in (0, "-1", 1000000, "8", None)] == [0, UNLIMITED, 1000000, 8, None]


@pytest.mark.parametrize("text", ["-29", "weird", "", "1000001", "1.5", "--1", "²", "9" * 5000])
def test_what_is_no_limit_is_refused(text: str) -> None:
    """W2."""
    with pytest.raises(InputError) as refused:
        parse_limit(text)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
