from __future__ import annotations

import threading

import pytest

from launch_worker.errors import InputError
from launch_worker.server.kept import Kept
from tests.conftest import wait_until


def test_a_value_is_made_once_while_it_is_young() -> None:
    kept, made = Kept(), iter(range(9))
    assert [kept.get("a", lambda: next(made), most_s=60) for _ in range(3)] == [0, 0, 0]
    assert kept.get("b", lambda: next(made), most_s=60) == 1
    assert kept.get("a", lambda: next(made), most_s=-1) == 2


def test_who_comes_while_a_value_is_made_waits_for_it() -> None:
    kept, made, goes_on = Kept(), iter(range(9)), threading.Event()

    def make() -> int:
        assert goes_on.wait(20)
        return next(made)

    found: list[int] = []
    callers = [threading.Thread(target=lambda: found.append(kept.get("a", make, most_s=60))) for _ in range(4)]
    for caller in callers:
        caller.start()
    goes_on.set()
    for caller in callers:
        caller.join(20)
    assert found == [0] * 4


def test_an_old_value_is_given_at_once_while_one_thread_makes_it_anew() -> None:
    kept, goes_on, makers = Kept(), threading.Event(), []
    assert kept.get("a", lambda: "old") == "old"

    def make() -> str:
        makers.append(threading.current_thread())
        assert goes_on.wait(20)
        return "new"

    assert [kept.get("a", make, most_s=-1, late_s=60) for _ in range(3)] == ["old"] * 3
    goes_on.set()
    wait_until(lambda: kept.get("a", make, most_s=60) == "new")
    assert len(makers) == 1
    assert makers[0] is not threading.current_thread()


def test_an_error_is_kept_from_nobody_who_waits_and_leaves_the_old_value() -> None:
    kept = Kept()

    def fail() -> str:
        raise InputError("no")

    with pytest.raises(InputError):
        kept.get("a", fail)
    assert kept.get("a", lambda: "old") == "old"
    assert kept.get("a", fail, most_s=-1, late_s=60) == "old"
    with pytest.raises(InputError):
        kept.get("a", fail, most_s=-1)
    assert kept.get("a", lambda: "new", most_s=60) == "old"
