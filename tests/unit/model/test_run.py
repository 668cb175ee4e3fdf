"""A record is read from whatever the hash holds, and shown without secrets."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.model.history import Transition
from launch_worker.model.masking import MASK, masked_spec
from launch_worker.model.run import Record
from launch_worker.model.run_files import saved_files
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState

FIELDS = {
    "id": "0abc",
    "name": "train.py",
    "project": "me/iris",
    "queue": "gpu",
    "tags": '["a", "b"]',
    "state": "Failed",
    "reason": "exit code 3",
    "phase": "run",
    "message": "",
    "attempt": "2",
    "first_attempt": "1",
    "token": "1700000000000001",
    "exit_code": "3",
    "signal": "",
    "worker": "w@h",
    "host": "h",
    "pid": "4242",
    "created_at": "1700000000000000",
    "started_at": "1700000001000000",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "ended_at": "1700000002000000",
    "spec": RunSpec(command=("a",), env={"API_KEY": "hunter2", "PLAIN": "seen"}).to_json(),
}
#: What section 4 promises of `show --json`, without `history`.
PROMISED = [
    *("id", "name", "project", "queue", "state", "reason", "phase", "message", "attempt", "exit_code", "signal"),
    *("worker", "host", "pid", "gpus", "created_at", "started_at", "ended_at"),
]


def test_a_record_is_read_with_its_types() -> None:
    record = Record.from_hash(FIELDS)
    assert (record.state, record.attempt, record.exit_code, record.pid) == (RunState.FAILED, 2, 3, 4242)
    assert (record.token, record.tags) == (1700000000000001, ("a", "b"))
    assert (record.due_at, record.cancel_at) == (None, None)


def test_a_commit_is_shown_and_survives_a_loss_of_the_record() -> None:
    record = Record.from_hash(FIELDS)
    assert record.as_json()["commit"] == FIELDS["commit"]
    assert Record.from_hash(record.to_hash()).commit == FIELDS["commit"]


@pytest.mark.parametrize("commit", ["", "-x", "HEAD", "0123", "g" * 40, "a" * 41])
def test_a_damaged_commit_is_none(commit: str) -> None:
    assert Record.from_hash(FIELDS | {"commit": commit}).as_json()["commit"] is None


def test_the_json_object_has_every_promised_field() -> None:
    shown = Record.from_hash(FIELDS).as_json()
    assert set(PROMISED) <= set(shown)
    assert shown["ended_at"] == "2023-11-14T22:13:22.000+00:00"
    assert shown["signal"] is None


def test_what_is_not_known_is_null() -> None:
    shown = Record.from_hash({"id": "x", "state": "Pending"}).as_json()
    for name in ("project", "reason", "phase", "exit_code", "signal", "worker", "host", "pid", "started_at"):
        assert shown[name] is None


def test_secret_looking_values_are_not_shown() -> None:
    """W6."""
    shown = Record.from_hash(FIELDS).as_json()
    assert "hunter2" not in json.dumps(shown)
    assert shown["spec"]["env"] == {"API_KEY": MASK, "PLAIN": "seen"}


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "Passwd", "AUTH", "MY_API_KEY"])
def test_usual_names_of_secrets_are_masked(name: str) -> None:
    """W6."""
    assert masked_spec(json.dumps({"env": {name: "hunter2"}})) == {"env": {name: MASK}}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', '{"env": 3}', '{"env": null}'])
def test_a_damaged_spec_is_shown_as_far_as_it_can_be(text: str) -> None:
    """P41."""
    assert isinstance(masked_spec(text), dict)


@pytest.mark.parametrize("name", ["created_at", "started_at", "ended_at", "due_at", "cancel_at"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1e15", "9" * 18, "-" + "9" * 18, "9" * 30, "\x00"])
def test_a_damaged_time_never_hides_the_record(name: str, value: str) -> None:
    """P41: one bad record must not break the listing of the others."""
    json.dumps(Record.from_hash({**FIELDS, name: value}).as_json())


@given(st.dictionaries(st.sampled_from([*FIELDS, "gpus", "due_at", "cancel_at"]), st.text(max_size=30)))
def test_any_hash_makes_a_record(fields: dict[str, str]) -> None:
    """P41."""
    record = Record.from_hash(fields)
    assert isinstance(record.state, RunState)


def test_a_transition_is_shown_with_nulls() -> None:
    shown: dict[str, Any] = Transition(RunState.PENDING, 1700000000000000, 0, "", "").as_json()
    assert shown == {
        "state": "Pending",
        "at": "2023-11-14T22:13:20.000+00:00",
        "attempt": 0,
        "worker": None,
        "reason": None,
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("5", 5), ("-15", -15), ("007", 7), ("9" * 18, int("9" * 18)), ("-" + "9" * 18, -int("9" * 18))),
        *((text, None) for text in ("", "-", "--5", "+5", " 5", "5 ", "1_0", "5.0", "1e3", "x", "9" * 19)),
    ],
)
def test_a_number_is_one_or_is_not_known(text: str, number: int | None) -> None:
    assert Record.from_hash(FIELDS | {"exit_code": text}).exit_code == number


@pytest.mark.parametrize("fields", [{}, FIELDS])
def test_a_record_that_was_read_has_every_field(fields: dict[str, str]) -> None:
    record = Record.from_hash(fields)
    assert list(vars(record)) == [field.name for field in dataclasses.fields(Record)]
    assert Record(**vars(record)) == record


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
_TIMES = st.integers(0, 4_000_000_000_000_000).map(str)
_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | _TEXTS, st.lists, max_leaves=5)
_SPECS = st.fixed_dictionaries(
    {"command": st.lists(_TEXTS, max_size=3)},
    optional={
        "env": st.dictionaries(_TEXTS, _TEXTS, max_size=3),
        "config": st.dictionaries(_TEXTS, _VALUES, max_size=3),
        "values": st.dictionaries(_TEXTS, _VALUES, max_size=3),
        "gpus": st.integers(0, 8) | _TEXTS,
        "priority": _TEXTS,
    },
)
_HASHES = st.fixed_dictionaries(
    {
        "state": st.sampled_from([state.value for state in RunState]),
        "created_at": _TIMES,
        "spec": _SPECS.map(json.dumps),
    },
    optional={
        **dict.fromkeys(("id", "name", "project", "queue", "reason", "message", "worker", "host", "late_exit"), _TEXTS),
        **dict.fromkeys(("started_at", "ended_at", "due_at", "cancel_at", "scheduled_at"), _TIMES),
        **dict.fromkeys(("attempt", "exit_code", "pid", "version", "preemptions"), st.integers(0, 10**9).map(str)),
        **dict.fromkeys(("log_missing", "log_missing_lines"), st.integers(0, 10**12).map(str)),
        **dict.fromkeys(("tags", "gpus"), st.lists(_TEXTS, max_size=3).map(json.dumps)),
        "array": st.sampled_from(["", "1m83cyvtfq1tc69", "b1m83cyvtfq1tc69"]),
        "token": st.just("7"),
        "held": st.sampled_from(["", "7", "8"]),
        "waits_for": st.dictionaries(st.from_regex("[0-9a-z]{15}", fullmatch=True), _TEXTS, max_size=2).map(json.dumps),
        "summary": st.dictionaries(_TEXTS, _VALUES, max_size=3).map(json.dumps),
        "usage": st.dictionaries(
            st.sampled_from(["cpu_s", "wall_s", "peak_memory", "since_s"]), st.floats(0, 1e15)
        ).map(json.dumps),
        "phases": st.lists(
            st.builds(
                lambda name, at, us: {"name": name, "at": at, "us": us},
                _TEXTS,
                st.integers(0, 4_000_000_000_000_000),
                st.none() | st.integers(0, 10**12),
            ),
            max_size=3,
        ).map(json.dumps),
    },
)


@given(_HASHES)
def test_a_record_is_read_back_from_the_json_that_shows_it(fields: dict[str, str]) -> None:
    shown = Record.from_hash(fields).as_json()
    known = json.loads(json.dumps(shown))
    assert Record.from_json(known).as_json() == shown == known


@given(st.dictionaries(st.sampled_from([*Record().as_json(), "files"]), _VALUES | _SPECS))
def test_json_that_shows_no_record_is_read_without_an_error(shown: dict[str, Any]) -> None:
    Record.from_json(shown).as_json()


def test_a_record_of_json_knows_the_needs_and_the_files_of_its_run() -> None:
    spec = RunSpec(command=("a",), gpus=2, cpus=0.5, memory=1 << 30)
    record = Record.from_hash(
        FIELDS
        | {
            "spec": spec.to_json(),
            "needs": spec.needs,
            "avoid": "w@a",
            "files": '{"a.txt": {"size": 3, "at": 1700000000123000}}',
        }
    )
    files = [file.as_json() for file in saved_files(record)]
    read = Record.from_json(record.as_json() | {"files": files})
    assert (read.needs, read.avoid) == (spec.needs, "w@a")
    assert saved_files(read) == saved_files(record)


def test_a_transition_is_read_back_from_its_json() -> None:
    step = Transition(RunState.FAILED, 1700000000123000, 2, "w@h", "exit code 3")
    assert Transition.from_json(step.as_json()) == step
