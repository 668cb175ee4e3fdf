"""Filters and orders of runs: what fits, what an index can decide, and what is refused before anything is read."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.api.filters import MAX_CONDITIONS, MAX_DEPTH, parse_filter, parse_order
from launch_worker.errors import InputError
from launch_worker.model.conditions import excluded
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec

AT = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z


def record(**fields: Any) -> Record:
    config, summary = fields.pop("config", {}), fields.pop("summary", None)
    spec = RunSpec(command=("true",), config=config, values=fields.pop("values", {}), author="ada@box")
    texts = {"id": "1abc", "name": "train", "queue": "gpu", "state": "Running", "created_at": str(AT), "priority": "3"}
    texts |= {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in fields.items()}
    return Record.from_hash(texts | {"spec": spec.to_json(), "summary": "" if summary is None else json.dumps(summary)})


RUN = record(
    project="me/iris",
    tags=["a", "seed=1"],
    config={"lr": 0.1, "layers": [64, 32], "opt": {"name": "adam"}, "x.y": 1, "use": True, "none": None},
    values={"batch": 8, "lr": 9},
    summary={"loss": 0.25, "best": {"epoch": 3}, "note": "fine"},
    exit_code=0,
    attempt=2,
)
EMPTY = record()


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"state": "running"},
        {"state": "RUNNING"},
        {"state": {"$in": ["failed", "Running"]}},
        {"state": {"$ne": "crashed"}},
        {"name": "train"},
        {"display_name": {"$regex": "^tr"}},
        {"displayName": {"$regex": "(?i)AIN$"}},
        {"tags": "a"},
        {"tags": {"$in": ["zzz", "seed=1"]}},
        {"tags": {"$nin": ["b"]}},
        {"tags": {"$regex": "^seed="}},
        {"$and": [{"tags": "a"}, {"tags": "seed=1"}]},
        {"config.lr": 0.1},
        {"config.lr.value": {"$lt": 1, "$gt": 0}},
        {"config.batch": 8},
        {"config.opt.name": "adam"},
        {"config.x.y": 1},
        {"config.layers": 64},
        {"config.layers": [64, 32]},
        {"config.use": True},
        {"config.none": None},
        {"config.missing": None},
        {"config.missing": {"$exists": False}},
        {"config.missing": {"$ne": 3}},
        {"config.missing": {"$not": {"$gt": 3}}},
        {"summary.loss": {"$gte": 0.25}},
        {"summary_metrics.loss": {"$lte": 0.25}},
        {"summaryMetrics.best.epoch": 3},
        {"summary.note": {"$regex": "in"}},
        {"created_at": {"$gt": "2023-11-14", "$lte": "2023-11-14T22:13:20Z"}},
        {"createdAt": {"$lt": "2023-11-14T23:13:21+00:30"}},
        {"created_at": AT / 1e6},
        {"created_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)},
        {"ended_at": {"$exists": False}},
        {"priority": "high"},
        {"text": {"$contains": "RAI"}},
        {"text": {"$contains": "true"}},
        {"text": {"$contains": '"lr": 0.1'}},
        {"text": {"$not": {"$contains": "lost"}}},
        {"author": {"$regex": "^ada@"}},
        {"username": "ada@box"},
        {"user": None},
        {"exit_code": 0},
        {"attempt": {"$gt": 1}},
        {"sweep": None},
        {"sweep": {"$exists": False}},
        {"$or": [{"name": "other"}, {"queue": "gpu"}]},
        {"$nor": [{"name": "other"}, {"queue": "cpu"}]},
        {"$and": [{"$or": [{"state": "failed"}, {"config.lr": {"$in": [0.1]}}]}, {"project": "me/iris"}]},
    ],
)
def test_a_run_that_fits(filters: dict[str, Any]) -> None:
    assert parse_filter(filters).matches(RUN)


@pytest.mark.parametrize(
    "filters",
    [
        {"state": "failed"},
        {"state": {"$nin": ["running"]}},
        {"name": "tra"},
        {"name": {"$regex": "^ain"}},
        {"tags": "seed"},
        {"tags": {"$nin": ["a"]}},
        {"config.lr": "0.1"},
        {"config.lr": {"$gt": "0"}},
        {"config.use": 1},
        {"config.x.y": True},
        {"config.opt": "adam"},
        {"config.lr.deeper": 0.1},
        {"config.none": {"$exists": True}},
        {"config.missing": {"$lt": 3}},
        {"config.missing": {"$regex": ""}},
        {"summary.loss": {"$gt": 0.25}},
        {"created_at": {"$gt": "2023-11-14T22:13:20"}},
        {"ended_at": {"$gt": 0}},
        {"$nor": [{"queue": "gpu"}]},
        {"state": "running", "queue": "cpu"},
    ],
)
def test_a_run_that_does_not_fit(filters: dict[str, Any]) -> None:
    assert not parse_filter(filters).matches(RUN)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ([], None),
        ("state", "a map"),
        ({"stat": "running"}, "there are: id, name"),
        ({"config": 1}, "config.NAME"),
        ({"config.": 1}, "runs have no"),
        ({1: 2}, "runs have no 1"),
        ({"state.x": 1}, "runs have no"),
        ({"state": "sleeping"}, "no run state"),
        ({"state": 3}, "name of a state"),
        ({"state": {"$gt": "running"}}, "no order"),
        ({"tags": {"$lt": "a"}}, "no order"),
        ({"name": {"$foo": 1}}, "'$foo' of name is no operator"),
        ({"name": {"eq": 1}}, "'eq' of name is no operator"),
        ({"name": {}}, "is empty"),
        ({"name": 3}, "must be a text"),
        ({"exit_code": "0"}, "must be a number"),
        ({"exit_code": True}, "must be a number"),
        ({"config.lr": {"$gt": None}}, "needs a number or a text"),
        ({"config.lr": {"$gt": [1]}}, "needs a number or a text"),
        ({"config.lr": float("nan")}, "finite"),
        ({"config.lr": {"$eq": {"a": 1}}}, "must be a text, a number"),
        ({"created_at": "yesterday"}, "no time"),
        ({"created_at": True}, "no time"),
        ({"created_at": {"$regex": "2023"}}, "no text"),
        ({"name": {"$in": "abc"}}, "a list of values"),
        ({"name": {"$in": list(map(str, range(1001)))}}, "at most 1,000"),
        ({"name": {"$exists": 1}}, "true or false"),
        ({"name": {"$not": "x"}}, "$not of name needs a condition"),
        ({"name": {"$regex": "("}}, "unclosed group"),
        ({"name": {"$regex": "(?=a)"}}, "look-around"),
        ({"name": {"$regex": "(a{1000}){1000}"}}, "size limit"),
        ({"name": {"$regex": "a" * 501}}, "at most 500"),
        ({"name": {"$regex": 3}}, "must be a text"),
        ({"$and": {"name": "x"}}, "a list of filters"),
        ({"$or": []}, "a list of filters"),
        ({"$or": [3]}, "a map of fields"),
        ({"$xor": [{"name": "x"}]}, "use one of: $and, $or, $nor"),
        ({"$gt": 3}, "put it behind a field"),
        ({"$or": [{"name": "x"}] * (MAX_CONDITIONS + 1)}, "conditions"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_sentence(filters: Any, said: str | None) -> None:
    if said is None:
        assert parse_filter(filters).matches(RUN)
        return
    with pytest.raises(InputError) as refused:
        parse_filter(filters)
    text = str(refused.value)
    assert said in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize("word", ["$and", "$or", "$nor", "$not"])
def test_a_filter_that_is_nested_too_deeply_is_refused(word: str) -> None:
    filters: Any = {"name": {"$eq": "x"}}
    for _ in range(5000):
        filters = {word: [filters]} if word != "$not" else {"name": {"$not": filters["name"]}}
    with pytest.raises(InputError, match=f"more than {MAX_DEPTH} levels|conditions"):
        parse_filter(filters)


def test_a_pattern_that_hangs_other_engines_is_searched_in_bounded_time() -> None:
    fits = parse_filter({"name": {"$regex": "^(a+)+(b|a)*$"}})
    begun = time.monotonic()
    assert not fits.matches(record(name="a" * 4000 + "!"))
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("filters", "narrow", "is_decided"),
    [
        ({}, {}, True),
        ({"state": "running"}, {"state": {"Running"}}, True),
        ({"state": {"$in": ["failed", "crashed"]}}, {"state": {"Failed", "Crashed"}}, True),
        ({"$or": [{"state": "failed"}, {"state": "crashed"}]}, {"state": {"Failed", "Crashed"}}, True),
        ({"state": {"$ne": "failed"}}, {}, False),
        ({"state": {"$not": {"$eq": "failed"}}}, {}, False),
        ({"queue": "gpu", "config.lr": 1}, {"queue": {"gpu"}}, False),
        ({"queue": "gpu", "state": "running"}, {"queue": {"gpu"}, "state": {"Running"}}, True),
        ({"$and": [{"queue": "gpu"}, {"queue": "cpu"}]}, {"queue": set()}, True),
        ({"$or": [{"queue": "gpu"}, {"state": "failed"}]}, {}, False),
        ({"$or": [{"queue": "a", "state": "failed"}, {"queue": "b", "state": "failed"}]},
         {"queue": {"a", "b"}, "state": {"Failed"}}, False),
        ({"$or": [{"queue": "a", "name": "x"}, {"queue": "b"}]}, {"queue": {"a", "b"}}, False),
        ({"project": None}, {}, False),
        ({"queue": {"$in": [None, "gpu"]}}, {}, False),
        ({"sweep": "s1"}, {"sweep": {"s1"}}, True),
        ({"name": "x"}, {}, False),
        ({"$nor": [{"queue": "gpu"}]}, {}, False),
    ],
)  # fmt: skip
def test_what_an_index_can_decide(filters: dict[str, Any], narrow: dict[str, set[str]], is_decided: bool) -> None:
    parsed = parse_filter(filters)
    assert {kind: set(values) for kind, values in parsed.narrow.items()} == narrow
    assert parsed.is_decided is is_decided


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"text": "adam"}, "write the condition of text"),
        ({"text": {"$contains": ""}}, "1 to 200 characters"),
        ({"text": {"$contains": "x" * 201}}, "1 to 200 characters"),
        ({"name": {"$contains": "x"}}, "for text alone"),
    ],
)
def test_a_search_of_texts_that_is_none_is_refused(filters: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_filter(filters)


def test_runs_are_not_sorted_by_text() -> None:
    with pytest.raises(InputError, match="sorted by text"):
        parse_order("-text")


def test_the_last_part_of_a_project_stands_for_that_project_of_anybody() -> None:
    assert parse_filter({}, path="iris").matches(RUN)
    assert not parse_filter({}, path="ris").matches(RUN)
    assert not parse_filter({}, path="iris").matches(EMPTY)


def test_a_project_given_beside_a_filter_holds_too() -> None:
    assert parse_filter({"state": "running"}, path="me/iris").matches(RUN)
    assert not parse_filter({"state": "running"}, path="me/other").matches(RUN)


QUEUES, STATES = ("a", "b"), ("Running", "Failed")
tests = st.one_of(
    st.fixed_dictionaries({"queue": st.one_of(st.sampled_from(QUEUES), st.fixed_dictionaries({"$ne": st.just("a")}))}),
    st.fixed_dictionaries({"state": st.one_of(st.sampled_from(STATES), st.just({"$in": list(STATES)}))}),
    st.fixed_dictionaries({"name": st.sampled_from(["x", "y"])}),
)
joined = st.sampled_from(["$and", "$or", "$nor"])
filters_of_any_shape = st.recursive(
    tests, lambda inner: st.dictionaries(joined, st.lists(inner, min_size=1, max_size=3), min_size=1), max_leaves=8
)


@given(filters_of_any_shape)
def test_an_index_never_leaves_out_a_run_that_fits(filters: dict[str, Any]) -> None:
    parsed = parse_filter(filters)
    for queue in QUEUES:
        for state in STATES:
            for name in ("x", "y"):
                run = record(queue=queue, state=state, name=name)
                listed = all(getattr(run, kind) in values for kind, values in parsed.narrow.items())
                assert listed or not parsed.matches(run)
                if parsed.is_decided:
                    assert listed == parsed.matches(run)


words = st.sampled_from(["$and", "$or", "$not", "$in", "$gt", "$regex", "state", "config.a", "tags", "x"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=12
)


@given(anything)
def test_whatever_is_given_is_a_filter_or_an_input_error(filters: Any) -> None:
    try:
        parsed = parse_filter(filters)
    except InputError:
        return
    for run in (RUN, EMPTY):
        assert isinstance(parsed.matches(run), bool)


@pytest.mark.parametrize(
    ("text", "path", "is_descending"),
    [
        ("created_at", "created_at", False),
        ("+created_at", "created_at", False),
        ("-created_at", "created_at", True),
        ("-createdAt", "created_at", True),
        ("-summary_metrics.loss", "summary.loss", True),
        ("config.lr.value", "config.lr.value", False),
        ("name", "name", False),
    ],
)
def test_an_order_is_a_field_and_a_way(text: str, path: str, is_descending: bool) -> None:
    order = parse_order(text)
    assert (order.path, order.is_descending) == (path, is_descending)


@pytest.mark.parametrize("text", ["", "-", "+", "--name", "nothing", "config", "-config.", 3, None])
def test_what_is_no_order_is_refused(text: Any) -> None:
    with pytest.raises(InputError):
        parse_order(text)


def test_values_of_all_kinds_can_be_sorted_together() -> None:
    values: list[Any] = ["b", 2, True, [1], {"a": 1}, 0.5, "a", None, ""]
    keys = [parse_order("config.x").key(record(config={"x": value})) for value in values]
    assert [key for key in keys if key is None] == [None, None]
    assert sorted(key for key in keys if key is not None)[0] == (0, 0.5)


def test_states_are_sorted_by_their_place_in_a_life() -> None:
    order = parse_order("state")
    assert sorted(["Failed", "Pending", "Running"], key=lambda word: order.key(record(state=word)) or (9, 0)) == [
        "Pending",
        "Running",
        "Failed",
    ]


def test_only_what_no_fitting_run_has_is_excluded() -> None:
    def groups(given: dict[str, Any]) -> set[str]:
        return excluded(parse_filter(given).tree, "group")

    passed = {"group": {"$nin": ["a1", "b2"]}}
    assert groups({"$and": [{"state": "failed"}, passed, {"group": {"$nin": ["c3"]}}]}) == {"a1", "b2", "c3"}
    assert groups({"$or": [passed, {"name": "x"}]}) == groups({"$nor": [passed]}) == groups({"group": "a1"}) == set()
