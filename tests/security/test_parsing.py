"""Texts of others that are made to hold up, or to break, the process that reads them."""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import docker
import pytest

from launch_worker.agent.config import AgentConfig
from launch_worker.api import filters
from launch_worker.api.client import Api
from launch_worker.api.filters import parse_filter
from launch_worker.code.environments import wanted_by
from launch_worker.errors import InputError
from launch_worker.logs.search import Search
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.log_pieces import Piece
from launch_worker.model.run import Record
from launch_worker.model.schedule import Schedule
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.queues import variables
from launch_worker.queues.variables import check_schema, complete_values
from launch_worker.redis_url import mask_url
from launch_worker.runners.container import engine
from launch_worker.store import keys
from launch_worker.sweeps.config import SweepConfigError, read_yaml
from launch_worker.untrusted.patterns import PatternError, searcher
from launch_worker.untrusted.text import read_json, read_whole
from tests.support.redis_client import redis_of


@contextmanager
def soon(within_s: float = 5.0) -> Iterator[None]:
    """In processor time, however busy the machine is. What takes minutes is far from it."""
    since = time.thread_time()
    yield
    assert time.thread_time() - since < within_s


# -- values of a queue's template variables ------------------------------------------------------------------------


def variable(**rule: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": rule}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (variable(items={"anyOf": [{"const": number} for number in range(1500)]}), [-1] * 5000),
        (variable(contains={"enum": list(range(5000))}), [-1] * 5000),
        (variable(items={"not": {"enum": [[number] for number in range(5000)]}}), [[-1]] * 5000),
    ],
    ids=["any of many", "contains", "enum"],
)
def test_values_that_take_long_to_check_are_given_up(
    schema: dict[str, Any], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_schema(schema)
    monkeypatch.setattr(variables, "_MAX_S", 0.1)
    with soon(), pytest.raises(InputError, match=r"take more than 0\.1 s"):
        complete_values(schema, {"x": value})


def test_many_unique_values_are_compared_at_once_and_as_json_has_them() -> None:
    schema = variable(uniqueItems=True)
    with soon():
        complete_values(schema, {"x": [{"a": number, "b": [True, None]} for number in range(4000)]})
    complete_values(schema, {"x": [1, True, "1", [1], [True], {"a": 1}, {"a": True}, 0, False, None]})
    for twice in ([1, 1.0], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], [[1, [2]], [1, [2]]], [None, None], [True, True]):
        with pytest.raises(InputError, match="has non-unique elements"):
            complete_values(schema, {"x": twice})


# -- halves of a character in JSON -----------------------------------------------------------------------------------


def test_half_a_character_in_json_becomes_a_whole_one_that_can_be_sent_and_stored() -> None:
    said = read_json('{"a\\ud800": ["\\uDFFF!", {"b": "\\ud83d\\ude00"}], "c": "\\\\ud800", "d": 1}')
    assert said == {"a\ufffd": ["\ufffd!", {"b": "\N{GRINNING FACE}"}], "c": "\\ud800", "d": 1}
    assert json.dumps(said, ensure_ascii=False).encode()
    assert read_json('"\ud800"') == "\ufffd"


@pytest.mark.parametrize("digits", [309, 4000, 5000, 100_000])
def test_a_number_that_no_double_holds_becomes_its_text(digits: int) -> None:
    """Else each page that computes with it would fail."""
    number = "9" * digits
    said = read_json(f'{{"a": {number}, "b": [-{number}], "c": {"9" * 308}, "d": 1}}')
    assert said == {"a": number, "b": [f"-{number}"], "c": 10**308 - 1, "d": 1}
    assert read_json(number, parse_constant=str) == number


def test_half_a_character_in_what_is_submitted_is_refused() -> None:
    with pytest.raises(InputError):
        parse_spec('{"command": ["\\ud800"]}')


# -- files of a run's code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("x = " + "1" * 5000, "x = " + "[" * 5000, "x = [" * 2000, "\0", "[project", "x = 2020-99-99"),
        "\n".join(f"[{'a.' * 300}b{number}]" for number in range(20_000)),
    ],
    ids=["digits", "deep", "open", "NUL", "cut", "no date", "large"],
)
def test_a_pyproject_that_is_made_to_hold_up_its_reader_is_left_to_uv(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    spec = RunSpec(command=("true",), requirements="auto", upload="0" * 64)
    with soon():
        wanted = wanted_by(spec, tmp_path)
    assert wanted is not None
    assert wanted.main == "pyproject.toml"


# -- YAML ------------------------------------------------------------------------------------------------------------


def test_yaml_whose_anchors_stand_for_billions_of_values_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 20)]
    with soon(), pytest.raises(SweepConfigError, match="more than 524,288 values"):
        read_yaml("\n".join(lines), where="sweep.yaml")
    with pytest.raises(SweepConfigError, match="recursive"):
        read_yaml("a: &a [*a, *a]", where="sweep.yaml")


@pytest.mark.parametrize("text", ["a: 2020-99-99", "a: " + "1" * 5000, "a: !!python/name:os.system", "a: [" * 3000])
def test_yaml_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match="is not YAML"):
        AgentConfig.load({}, env={}, file=str(file))
    with pytest.raises(SweepConfigError):
        read_yaml(text, where="sweep.yaml")


# -- objects in a store ----------------------------------------------------------------------------------------------


def test_a_manifest_that_is_larger_than_any_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("logs", "outputs"):
        monkeypatch.setattr(f"launch_worker.{module}.stored.MAX_BYTES", 1 << 20)
    run_id = "0" * 15
    logs, outputs = StoredLogs(f"file://{tmp_path}/logs"), StoredOutputs(f"file://{tmp_path}/outputs")
    reads: list[tuple[Path, Callable[[], object]]] = [
        (tmp_path / f"logs/{run_id}/1/manifest.json", lambda: logs.manifest(run_id, 1)),
        (tmp_path / f"outputs/outputs/{run_id}/1.json", lambda: outputs.manifest(run_id, 1)),
    ]
    for path, read in reads:
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            # A file of holes: 1 TiB that no memory holds.
            file.truncate(1 << 40)
        with pytest.raises(ValueError, match="it has more than"):
            read()


# -- patterns of others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nested", ["(?:[ab]{0,30}){900}c", "(?:a{50}){50}", "a{3}{999}", "(?x)(?:a{50})#\n{50}", "a{2001}"]
)
def test_a_pattern_that_stands_for_thousands_of_states_is_refused(nested: str) -> None:
    with pytest.raises(PatternError, match="may make 2,000"):
        searcher(nested)
    with pytest.raises(InputError, match="may make 2,000"):
        parse_filter({"name": {"$regex": nested}})


@pytest.mark.parametrize(
    "usual",
    [
        r"^\d{4}-\d{2}-\d{2}T",
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        r".{0,400}error.{0,400}",
        r"(a|b)+c{3}",
    ],
)
def test_a_usual_pattern_is_taken(usual: str) -> None:
    searcher(usual)


def test_a_pattern_that_takes_long_on_all_runs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_MAX_SEARCHING_S", 0.2)
    matches = parse_filter({"reason": {"$regex": "[ab]*a[ab]{1900}c"}}).matches
    record = Record.from_hash({"id": "0" * 15, "reason": "".join(random.Random(1).choices("ab", k=4096))})
    with soon(), pytest.raises(InputError, match=r"takes more than 0\.2 s for all runs"):
        deque(map(matches, repeat(record, 10_000)), 0)


def test_a_pattern_that_repeats_much_searches_the_beginning_of_a_long_line() -> None:
    line = "".join(random.Random(1).choices("ab", k=1 << 20)).encode()
    found = Search("b[ab]{900}b")
    with soon():
        assert len(list(found.lines(iter([Piece(line + b"\nb" + b"a" * 900 + b"b\n", 1)])))) == 2


# -- patterns of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["exec: ", "A1", "1", "a_", " "])
def test_a_long_name_of_a_program_does_not_hold_up_who_explains_that_it_did_not_start(letters: str) -> None:
    name = letters * (128_000 // len(letters))
    with soon():
        said = engine._explain(docker.errors.APIError("x", explanation=f"exec: {name}: file name too long"), "i", name)
        engine._cause(OSError(name))
    assert "exec: " in said


@pytest.mark.parametrize("letters", ["?", "&", "?a", "@", ":/", "=", "x"])
def test_a_long_url_does_not_hold_up_who_masks_it(letters: str) -> None:
    for head in ("", "redis://", "nosuch://h?"):
        with soon():
            mask_url(head + letters * 50_000)


@pytest.mark.parametrize("zone", [["UTC"], 5, {"a": 1}, "\0", "../../etc/passwd", "a" * 10_000])
def test_a_zone_that_is_none_is_refused(zone: Any) -> None:
    with pytest.raises(InputError, match="is unknown"):
        Schedule("a", "@daily", {}, timezone=zone)


def test_a_whole_number_of_others_is_one_or_none() -> None:
    assert [read_whole(text) for text in ("0", b"12", "-3", "9" * 18)] == [0, 12, -3, 10**18 - 1]
    for none in (None, "", b"", "-", "--5", "+5", " 5", "5_0", "²", "٣", "1e3", "nan", "9" * 19, "9" * 5000, b"\xff"):
        assert read_whole(none) is None, none


@pytest.mark.parametrize("number", ["9" * 5000, "--5", "²", "1e9", "", "nan"])
def test_a_number_in_redis_that_is_none_hides_no_queue(api: Api, number: str) -> None:
    redis = redis_of(api.store.url)
    for kind, known in (("queue", keys.QUEUES), ("pool", keys.POOLS)):
        redis.sadd(known, "damaged", "sound")
        key = keys.queue("damaged") if kind == "queue" else keys.pool("damaged")
        redis.hset(key, mapping=dict.fromkeys(("limit", "order", "rank", "share"), number))
    assert {queue.name for queue in api.transport.queues()} >= {"damaged", "sound"}
    assert {pool.name for pool in api.transport.pools()} >= {"damaged", "sound"}
    assert {queue["name"] for queue in api.status()["queues"]} >= {"damaged", "sound"}
