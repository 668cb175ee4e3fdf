"""The archive's answers are those of a plain filter over the same records, in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from launch_worker.api.filters import parse_filter, parse_order
from launch_worker.archive import rows, schema
from launch_worker.archive.query import FACETS, Question, count, ended, facets, has_key, listed, tally
from launch_worker.database.database import Database
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

AT = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z
NAMES = ("train", "Train", "eval", "100%_sure", "a/b", 'quo"ted', "ünïcode", "x")
TAGS = ("night", "seed=1", "Night", "a_b", "%", "ü")
PROJECTS = ("", "ada/tries", "ADA/Tries", "bob/tries", "tries", "bob/other")
WORDS = ("adam", "Adam W", "sgd\nx", "%", "_", "\\", '"')
COUNT = 70
#: Id of the first run of an array, and of a bulk submission.
FIRST = "100000000000000"


def record_at(number: int) -> Record:
    """A run of all kinds there are, the same for the same number."""
    dice = random.Random(number)
    pick = dice.choice
    config: dict[str, Any] = {}
    if dice.random() < 0.8:
        config["lr"] = pick([0.1, 0.01, 1, 1.0, True, "0.1", None, [0.1, 2]])
    if dice.random() < 0.5:
        config["opt"] = pick([{"name": pick(WORDS)}, pick(WORDS)])
    if dice.random() < 0.2:
        config["opt.name"] = "dotted"
    tags = dice.sample(TAGS, dice.randrange(4))
    # Not of `RunSpec`: whoever writes into Redis may write what a client would refuse.
    spec = {
        "command": ["python", f"{pick(NAMES)}.py"],
        "config": config,
        "tags": tags,
        "author": pick(["ada@box", "b"]),
    }
    state = pick(list(RunState))
    started = AT + dice.randrange(5) if state is not RunState.PENDING or dice.random() < 0.5 else None
    fields = {
        "name": pick(NAMES),
        "project": pick(PROJECTS),
        "queue": pick(["default", "gpu"]),
        "sweep": pick(["", "s1"]),
        "array": pick(["", "", "a1", FIRST, f"b{FIRST}"]),
        "user": pick(["", "ada", "ada@lab"]),
        "worker": pick(["", "w1", "W2"]),
        "host": pick(["", "h"]),
        "reason": pick(["", "exit code 3", "Lost: 100%", "ü\nÜ"]),
        "state": state.value,
        "priority": str(pick([0, 3, 6, 9, 5])),
        "attempt": str(dice.randrange(3)),
        "exit_code": pick(["", "0", "3", "-9"]),
        "created_at": str(AT + dice.randrange(20)),
        "started_at": str(started or ""),
        "ended_at": str(AT + dice.randrange(30)) if state.is_final else "",
        "tags": json.dumps(tags),
        "spec": json.dumps(spec),
        "summary": json.dumps({"loss": pick([0.5, 2, "nan", None])}) if dice.random() < 0.6 else "",
    }
    return Record.from_hash({"id": f"1{number:014}", **fields})


def put(database: Database, records: list[Record]) -> None:
    """Write runs as the archive has them when they have ended, whatever their state."""
    made, tags = [], []
    for record in records:
        row, given_tags = rows.whole(record, 1)
        hash_fields = record.to_hash() | {
            name: str(value)
            for name in ("reason", "exit_code", "started_at", "ended_at", "summary", "created_at")
            if (value := getattr(record, name)) is not None
        }
        made.append(row | {"record": rows.record_text(hash_fields), "sealed": record.created_at})
        tags += [{"run_id": record.id, "tag": tag} for tag in given_tags]
    with database.writing() as connection:
        connection.execute(insert(schema.runs), made)
        if tags:
            connection.execute(insert(schema.run_tags), tags)


RECORDS = [record_at(number) for number in range(COUNT)]

texts = {
    "id": [record.id for record in RECORDS[:3]],
    "name": [*NAMES, "none", "n\0l", "x" * 300],
    "project": [*PROJECTS, "%/tries"],
    "queue": ["gpu", "GPU"],
    "sweep": ["s1", ""],
    "array": ["a1", "", FIRST],
    "group": ["s1", "a1", FIRST, f"a{FIRST}", f"b{FIRST}", ""],
    "author": ["ada@box", "ada"],
    "user": ["ada", "ada@lab", ""],
    "worker": ["w1", "W2", ""],
    "host": ["h"],
    "reason": ["exit code 3", "", "ü\nÜ"],
    "priority": ["critical", "medium", "low", "none"],
    "tags": [*TAGS, "none"],
    "state": ["running", "Failed", "PENDING"],
}
numbers = st.one_of(st.integers(-3, 4), st.sampled_from([0.5, 2.0, 1e300, -1e300, 1 << 70]))
times = st.one_of(st.integers(0, 30).map(lambda us: (AT + us) / 1e6), st.just("2023-11-14T22:13:20.000007Z"))
values = st.one_of(st.sampled_from([0.1, 1, True, "0.1", "adam", "Adam W", "dotted", 0.5, 2, [0.1, 2]]), st.none())


def conditions(choices: st.SearchStrategy[Any], *, is_ordered: bool) -> st.SearchStrategy[Any]:
    some = st.one_of(choices, st.none())
    words = [
        some,
        st.fixed_dictionaries({"$eq": some}),
        st.fixed_dictionaries({"$ne": some}),
        st.fixed_dictionaries({"$in": st.lists(some, max_size=3)}),
        st.fixed_dictionaries({"$nin": st.lists(some, max_size=3)}),
        st.fixed_dictionaries({"$exists": st.booleans()}),
    ]
    if is_ordered:
        words += [st.fixed_dictionaries({word: choices}) for word in ("$gt", "$gte", "$lt", "$lte")]
    plain = st.one_of(words)
    return st.one_of(plain, st.fixed_dictionaries({"$not": plain.filter(lambda each: isinstance(each, dict))}))


def of(field: str, choices: st.SearchStrategy[Any], *, is_ordered: bool = True) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({field: conditions(choices, is_ordered=is_ordered)})


terms = st.sampled_from(
    ["train", "TRAIN.PY", "ni", "%", "_", "100%_", "\\", '"', "ü", "Ü", "adam", "exit code", "gd x", "n\0l"]
)
tests = st.one_of(
    *(of(name, st.sampled_from(known), is_ordered=name not in ("tags", "state")) for name, known in texts.items()),
    *(of(name, numbers) for name in ("attempt", "exit_code")),
    *(of(name, times) for name in ("created_at", "started_at", "ended_at")),
    *(of(name, values, is_ordered=False) for name in ("config.lr", "config.opt.name", "config.opt", "summary.loss")),
    *(of(name, st.sampled_from([0.1, 1, "0.1", 2.5])) for name in ("config.lr", "config.opt.name", "summary.loss")),
    terms.map(lambda term: {"text": {"$contains": term}}),
    terms.map(lambda term: {"text": {"$not": {"$contains": term}}}),
    st.sampled_from(["tries", "other"]).map(lambda last: {"project": {"$last": last}}),
)
filters = st.recursive(
    tests,
    lambda inner: st.one_of(
        *(st.fixed_dictionaries({word: st.lists(inner, min_size=1, max_size=3)}) for word in ("$and", "$or", "$nor"))
    ),
    max_leaves=5,
)
columns = (
    *(name for name in texts if name not in ("tags", "group")),
    "attempt",
    "exit_code",
    "created_at",
    "started_at",
    "ended_at",
)
orders = st.tuples(st.sampled_from(["-", "+"]), st.sampled_from(columns)).map("".join)


def expected(wanted: Any, order: str) -> list[Record]:
    """A plain filter and a plain sort: runs without the value last, equal ones with the newest first."""
    by, fits = parse_order(order), parse_filter(wanted)
    found = sorted((record for record in RECORDS if fits.matches(record)), key=lambda record: record.id, reverse=True)
    found.sort(key=lambda record: record.created_at, reverse=True)
    if by.is_by_creation:
        return found if by.is_descending else found[::-1]
    with_key = [record for record in found if by.key(record) is not None]
    with_key.sort(key=by.key, reverse=by.is_descending)  # type: ignore[arg-type]
    return with_key + [record for record in found if by.key(record) is None]


def question(wanted: Any, order: str = "-created_at") -> Question:
    by, fits = parse_order(order), parse_filter(wanted)
    return Question(fits.tree, fits.matches, by.path, by.is_descending)


def answer(database: Database, wanted: Any, order: str = "-created_at", *, page: int = 50) -> list[str]:
    found = listed(database, question(wanted, order), page=page)
    return [one.record.id for rows_of_page in found for one in rows_of_page]


def test_an_answer_is_that_of_a_plain_filter_over_the_same_records(database: Database) -> None:
    put(database, RECORDS)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(wanted=filters, order=orders, page=st.integers(1, 40))
    def compare(wanted: Any, order: str, page: int) -> None:
        right = expected(wanted, order)
        assert answer(database, wanted, order, page=page) == [record.id for record in right]
        counted = count(database, question(wanted))
        assert counted is None or counted == len(right)
        for fields in (["queue", "state"], ["tag"], ["name", "tag"]):
            assert facets(database, question(wanted), fields) == tally(right, fields)

    compare()


def test_a_restored_record_is_the_record(database: Database) -> None:
    put(database, RECORDS)
    found = {one.record.id: one.record for page in listed(database, question({}), page=50) for one in page}
    names = ("name", "project", "state", "tags", "priority", "exit_code", "started_at", "ended_at", "config", "reason")
    for record in RECORDS:
        assert [getattr(found[record.id], name) for name in names] == [getattr(record, name) for name in names]
        assert found[record.id].summary_values == record.summary_values


@pytest.mark.parametrize("wanted", [{"tags": "common"}, {"text": {"$contains": "common"}}, {"tags": {"$ne": "common"}}])
def test_what_many_runs_have_is_found_as_what_few_have(
    database: Database, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.archive.conditions.FEW", 10)

    def of_number(number: int) -> Record:
        spec = json.dumps({"tags": ["common"] if number else []})
        fields = {"queue": "q", "state": "Failed", "created_at": str(AT + number), "name": "n"}
        tags = json.dumps(json.loads(spec)["tags"])
        return Record.from_hash({"id": f"1{number:014}", "spec": spec, "tags": tags, **fields})

    put(database, records := [of_number(number) for number in range(14)])
    right = [record.id for record in reversed(records) if parse_filter(wanted).matches(record)]
    assert answer(database, wanted, page=5) == right
    assert count(database, question(wanted)) == len(right)


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_meanwhile(database: Database) -> None:
    put(database, RECORDS[:40])
    pages = listed(database, question({}, "-name"), page=15)
    first = next(pages)
    put(database, RECORDS[40:])
    ids = [one.record.id for page in [first, *pages] for one in page]
    assert len(ids) == len(set(ids))
    assert {record.id for record in RECORDS[:40]} <= set(ids)


def test_deleted_runs_are_in_no_answer(database: Database) -> None:
    put(database, RECORDS)
    with database.writing() as connection:
        connection.execute(update(schema.runs).values(deleted_at=AT))
    assert answer(database, {}) == []
    assert count(database, question({})) == 0
    assert facets(database, question({}), FACETS) == {}


def test_the_database_sorts_by_every_field_but_tags_groups_config_and_summary() -> None:
    assert all(has_key(name) for name in columns)
    assert not any(has_key(name) for name in ("tags", "group", "config.lr", "summary.loss"))


def test_facets_are_of_known_fields(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="facets are of"):
        facets(Database(f"sqlite:///{tmp_path}/none"), question({}), ["command"])


def test_a_value_of_a_config_is_found_by_the_index_of_texts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the text that is searched does not have all of the config, and where many runs have the value."""
    configs: list[dict[str, Any]] = [{"seed": seed, "opt": {"name": "Adam"}} for seed in (3, 30, 33, 3.0, 4)]
    configs += [{"notes": "x" * 9000, "seed": 3}, {"seeds": 3, "opt.name": "Adam"}, {"seed": [3]}, {"seed": True}]
    configs += [{"seed": [1, 3, 2]}, {"seed": [1, 3]}, {"seed": [33, 13]}]
    records = [
        Record.from_hash({"id": f"{number}", "spec": json.dumps({"config": config}), "state": "Pending"})
        for number, config in enumerate(configs)
    ]
    put(database, records)
    for few in (5000, 0):
        monkeypatch.setattr("launch_worker.archive.conditions.FEW", few)
        assert set(answer(database, {"config.seed": 3})) == {"0", "3", "5", "7", "9", "10"}
        assert set(answer(database, {"config.seed.value": {"$in": [4, 33.0]}})) == {"2", "4", "11"}
        assert set(answer(database, {"config.opt.name": "Adam"})) == {"0", "1", "2", "3", "4", "6"}
        assert set(answer(database, {"config.seed": True})) == {"8"}
        assert not answer(database, {"config.opt.name": "ADAM"})


def test_numbers_of_a_config_or_a_summary_are_compared_whatever_else_is_there(database: Database) -> None:
    numbers = ["0.25", "3", "1e-3", "1e400", "NaN", "-Infinity", "9" * 40, '"5"', "true", "[5]", '{"a": 5}', "null"]
    odd = ['"\\u0000"', '"\\ud800"', '"' + "x" * 9000 + '"']
    texts = [f'{{"lr": {number}}}' for number in numbers]
    texts += [f'{{"deep": {{"lr": {number}, "deep.lr": 7}}}}' for number in numbers[:3]]
    texts += [f'{{"text": {text}, "lr": {number}}}' for number in numbers[:3] for text in odd]
    records = [
        Record.from_hash({"id": f"{number}", "spec": f'{{"config": {text}}}', "summary": text, "state": "Finished"})
        for number, text in enumerate(texts)
    ]
    put(database, records)
    for path in ("lr", "deep.lr", "deep.deep.lr", "lr.value"):
        for head in ("config", "summary"):
            for condition in ({"$gt": 0.2}, {"$gte": 3}, {"$lt": 3}, {"$lte": 0.001}, {"$lt": 1e308}, {"$gt": 1 << 70}):
                wanted = {f"{head}.{path}": condition}
                fits = parse_filter(wanted)
                right = {record.id for record in records if fits.matches(record)}
                assert set(answer(database, wanted)) == right, wanted


def test_ends_are_counted_by_spans_of_time(database: Database) -> None:
    put(database, RECORDS)
    right: dict[tuple[int, str], int] = {}
    for record in RECORDS:
        if record.state.is_final and record.ended_at is not None and record.ended_at >= AT + 10:
            key = ((record.ended_at - AT - 10) // 7, record.state.value)
            right[key] = right.get(key, 0) + 1
    assert ended(database, question({}), since=AT + 10, span_us=7) == right
