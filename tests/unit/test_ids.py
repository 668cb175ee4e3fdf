"""Run ids are short, URL-safe, unique and sortable by time."""

from __future__ import annotations

from launch_worker.ids import RUN_ID, new_run_id


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


def test_an_id_is_no_path_option_or_key_separator() -> None:
    for text in ("../../../etc/pw", "-rf", "a:b", "", "A" * 15, "0" * 14, "0" * 16, "0" * 15 + "\n"):
        assert not RUN_ID.fullmatch(text)
