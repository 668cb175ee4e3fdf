"""The six states and the arrows between them."""

from __future__ import annotations

import json
import operator
import pickle
import re
from importlib.resources import files
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.states import ARROWS, FINAL, RunState

S = RunState


@pytest.mark.parametrize("state", RunState)
def test_a_state_is_written_exactly_so_and_read_in_any_case(state: RunState) -> None:
    assert str(state) == f"{state}" == state.value == state.value.capitalize()
    for text in (state.value, state.value.lower(), state.value.upper(), f" {state.value} "):
        assert RunState.parse(text) is state


@pytest.mark.parametrize("state", RunState)
def test_a_state_is_equal_to_its_name_in_any_letter_case_and_prints_as_it_is_written(state: RunState) -> None:
    others: list[Any] = [each for each in RunState if each is not state]
    for text in (state.value, state.value.lower(), state.value.upper()):
        assert state == text
        assert text == state
        assert not operator.ne(state, text)
        assert not operator.ne(text, state)
        assert state in ("other", text)
    for other in (*others, "", "other", f"{state.value} ", None, 5, b"Finished"):
        assert state != other
        assert other != state
        assert not operator.eq(state, other)
    # Dictionaries and sets go by the name as it is written.
    assert hash(state) == hash(state.value)
    assert {state: 1}[RunState(state.value)] == {state.value: 1}[state] == 1
    assert state in {state.value, "other"}
    assert json.loads(json.dumps({"state": state})) == {"state": state.value}
    assert pickle.loads(pickle.dumps(state)) is state


@pytest.mark.parametrize("text", ["", " ", "done", "Runing", "pending,running", "Pending\x00", "PEN DING", "é"])
def test_an_unknown_state_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InputError, match="Pending, Running, Finished, Failed, Killed, Crashed"):
        RunState.parse(text)


def test_only_pending_and_running_are_not_final() -> None:
    assert {state for state in RunState if not state.is_final} == {S.PENDING, S.RUNNING}
    assert set(RunState) - {S.PENDING, S.RUNNING} == FINAL


def test_every_state_has_its_arrows_and_no_arrow_stays_where_it_is() -> None:
    assert set(ARROWS) == set(RunState)
    assert all(state not in ARROWS[state] for state in RunState)


def test_a_run_becomes_running_only_by_a_claim_or_by_proving_alive() -> None:
    assert {state for state in RunState if S.RUNNING in ARROWS[state]} == {S.PENDING, S.CRASHED}


def test_finished_failed_and_killed_lead_only_to_a_new_attempt() -> None:
    for state in (S.FINISHED, S.FAILED, S.KILLED):
        assert ARROWS[state] == {S.PENDING}


def test_the_scripts_allow_the_same_arrows() -> None:
    """The table is written twice, in Python for readers and in Lua where it is enforced."""
    lua = (files("launch_worker.store") / "lua" / "words" / "states.lua").read_text()
    finals = re.search(r"local FINAL = \{(.*?)\}", lua, re.DOTALL)
    table = re.search(r"local ARROWS = \{(.*?)\n\}", lua, re.DOTALL)
    assert finals
    assert table
    in_lua = {}
    for name, inside in re.findall(r"(\w+) = (FINAL|\{[^}]*\})", table[1]):
        in_lua[RunState(name)] = {
            RunState(word) for word in re.findall(r"(\w+) = true", finals[1] if inside == "FINAL" else inside)
        }
    assert in_lua == ARROWS
