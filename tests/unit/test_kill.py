"""The verdict on scenes of bench/kill, from facts made up here, and that the page says what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from bench.kill.faults import FAULTS
from bench.kill.stamps import Execution
from bench.kill.systems import SYSTEMS
from bench.kill.table import KEPT, PAGE, Comparison, cell, put_into
from bench.kill.verdict import COUNTS, Facts, Verdict, judge


def execution(first: float, last: float, *, ends: bool = True, pid: int = 1, is_child: bool = False) -> Execution:
    ticks = [first + 0.2 * step for step in range(int((last - first) / 0.2) + 1)]
    return Execution(pid, [*ticks, last], last if ends else None, is_child)


def looks(*steps: tuple[float, float, str]) -> list[tuple[float, Mapping[str, str]]]:
    """What the record said of the one job, four times a second: (since, until, word)."""
    return [
        (since + 0.25 * place, {"job": word})
        for since, until, word in steps
        for place in range(int((until - since) * 4))
    ]


def verdict(processes: Sequence[Execution], said: list[tuple[float, Mapping[str, str]]], **more: object) -> Verdict:
    facts = Facts({"job": processes}, said, fault_at=0.0, over_at=said[-1][0], **more)  # type: ignore[arg-type]
    return judge(facts)


def test_a_job_that_ran_once_and_whose_record_says_so_is_clean() -> None:
    assert verdict([execution(0, 4)], looks((0, 4, "running"), (4, 8, "done"))) == Verdict(jobs=1)


def test_a_job_that_was_killed_and_still_is_called_running_is_lost_and_stuck() -> None:
    found = verdict([execution(0, 1, ends=False)], looks((0, 20, "running")))
    assert (found.lost, found.stuck, found.truth_s) == (1, 1, None)


def test_a_job_that_was_killed_and_is_called_failed_is_neither() -> None:
    found = verdict([execution(0, 1, ends=False)], looks((0, 5, "running"), (5, 20, "failed")))
    assert (found.lost, found.stuck, found.is_clean) == (0, 0, True)
    assert found.truth_s == pytest.approx(3.5, abs=0.6)


def test_a_job_that_never_began_and_of_which_nothing_is_said_is_lost() -> None:
    found = verdict([], looks((0, 20, "unknown")))
    assert (found.lost, found.stuck, found.truth_s) == (1, 0, None)


def test_two_executions_one_after_the_other_ran_twice_and_did_not_overlap() -> None:
    found = verdict([execution(0, 4), execution(6, 10, pid=2)], looks((0, 10, "running"), (10, 14, "done")))
    assert (found.twice, found.overlapping, found.again) == (1, 0, 1)


def test_two_executions_at_once_overlap() -> None:
    found = verdict([execution(0, 4), execution(2, 6, pid=2)], looks((0, 6, "running"), (6, 10, "done")))
    assert (found.twice, found.overlapping) == (1, 1)


def test_what_was_frozen_while_another_worked_does_not_overlap() -> None:
    frozen = Execution(1, [0.0, 0.2, 0.4, 9.0, 9.2], 9.2)
    found = verdict([frozen, execution(3, 6, pid=2)], looks((0, 6, "running"), (6, 12, "done")))
    assert found.overlapping == 0


def test_a_job_that_came_to_its_end_and_is_called_failed_is_falsely_failed() -> None:
    found = verdict([execution(0, 4)], looks((0, 4, "running"), (4, 12, "failed")))
    assert (found.falsely_failed, found.lost, found.truth_s) == (1, 0, None)


def test_a_child_that_outlives_the_end_of_its_record_is_left_running() -> None:
    processes = [execution(0, 2), execution(0, 9, pid=2, is_child=True)]
    assert verdict(processes, looks((0, 2, "running"), (2, 10, "done"))).left == 1


def test_a_job_whose_worker_was_killed_is_left_running_when_it_goes_on() -> None:
    said = looks((0, 10, "running"), (10, 14, "done"))
    assert verdict([execution(0, 10)], said, orphaned={1: 1.0}).left == 1
    assert verdict([execution(0, 10)], said).left == 0


def test_a_job_that_ends_soon_after_its_cancel_is_clean_and_one_that_goes_on_is_left_running() -> None:
    said = looks((0, 3, "running"), (3, 10, "cancelled"))
    assert verdict([execution(0, 3, ends=False)], said, cancelled={"job": 1.0}).is_clean
    said = looks((0, 20, "cancelled"))
    assert verdict([execution(0, 20, ends=False)], said, cancelled={"job": 1.0}).left == 1


def test_a_job_whose_message_is_gone_is_not_waiting_in_truth() -> None:
    found = verdict([execution(9, 10)], looks((0, 9, "waiting"), (9, 10, "running"), (10, 14, "done")), dropped="job")
    assert found.truth_s == pytest.approx(8.5, abs=0.6)


def test_a_cell_tells_in_words_what_went_wrong() -> None:
    nothing = {**dict.fromkeys(COUNTS, 0), "again": 0}
    assert cell({**nothing, "truth_s": 0.0}) == "✓"
    assert cell({**nothing, "truth_s": 4.5, "again": 2}) == "✓ 4.5 s, 2 begun again"
    assert cell({**nothing, "lost": 2, "truth_s": None}) == "2 lost, the record never true"
    assert cell({"why": "it has no Redis"}) == "-"


def test_the_page_shows_what_was_measured() -> None:
    page = PAGE.read_text()
    assert page == put_into(page, Comparison.read().markdown()), "write it anew: python -m bench.kill --page"


def test_each_system_was_measured_with_each_fault() -> None:
    scenes = Comparison.read(KEPT).scenes
    assert {fault: set(found) for fault, found in scenes.items()} == {
        fault.name: {system.name for system in SYSTEMS} for fault in FAULTS
    }
