"""Run ids are short, URL-safe, unique and sortable by time."""

from __future__ import annotations

import pytest

from launch_worker.errors import InputError
from launch_worker.ids import RUN_ID, check_run_id, later_run_id, new_run_id, unique_run_id
from launch_worker.model.unique import check_unique


def test_an_id_is_fifteen_characters_without_ambiguous_letters() -> None:
    for _ in range(100):
        run_id = new_run_id()
        assert RUN_ID.fullmatch(run_id)
        assert len(run_id) == 15
        assert not set(run_id) & set("ilou")


def test_ids_sort_by_time() -> None:
    times = [0.0, 0.001, 1.0, 1.7e9, 1.7e9 + 0.001, 1.8e9, 3.0e10]
    ids = [new_run_id(now_s) for now_s in times]
    assert ids == sorted(ids)


def test_ten_thousand_ids_of_one_millisecond_differ() -> None:
    # 30 random bits: the chance of one collision among so many is 5 %, of more than three about 1 in a million.
    assert len({new_run_id(1.7e9) for _ in range(10_000)}) > 9_996


def test_the_ids_of_an_array_rise_and_leave_room_for_those_after_it() -> None:
    first, count = new_run_id(1.7e9, room=100_000), 100_000
    ids = [first, *(later_run_id(first, place) for place in range(1, count)), new_run_id(1.7e9)]
    assert all(RUN_ID.fullmatch(run_id) for run_id in ids)
    assert ids == sorted(set(ids))
    assert later_run_id("0" * 9 + "z" * 6, 1) == "0" * 15


def test_an_id_is_no_path_option_or_key_separator() -> None:
    for text in ("../../../etc/pw", "-rf", "a:b", "", "A" * 15, "0" * 14, "0" * 16, "0" * 15 + "\n"):
        assert not RUN_ID.fullmatch(text)


@pytest.mark.parametrize(
    "text", ["../../../x", "a\nb", "", "0" * 14, "0" * 14 + "U", "0" * 14 + "\0", "é" * 15, "\ud800"]
)
def test_what_is_no_id_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InputError, match="15 characters"):
        check_run_id(text)


@pytest.mark.parametrize("text", ["", "a\nb", "x" * 201, "\u202e", "\ud800"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="unique"):
        check_unique(text)


def test_a_key_is_the_same_id_for_its_user_and_project_and_another_for_others() -> None:
    mine = unique_run_id("nightly", user="alice", project="lab/x")
    assert RUN_ID.fullmatch(mine)
    assert check_run_id(mine) == mine == unique_run_id("nightly", user="alice", project="lab/x")
    others = {
        unique_run_id("nightly 2026-01-02", user="alice", project="lab/x"),
        unique_run_id("nightly", user="bob", project="lab/x"),
        # Who is proven may have such names; they are two people.
        unique_run_id("nightly", user="alice@one", project="lab/x"),
        unique_run_id("nightly", user="alice@two", project="lab/x"),
        unique_run_id("nightly", user="alice", project=""),
        *(unique_run_id("nightly", user="alice", project="lab/x", index=index) for index in range(3)),
    }
    assert len(others | {mine}) == 9
