"""Frozen dataclasses that are made quickly behave as those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field

import pytest

from launch_worker.frozen import dataclass


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 2
    tags: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x")


def test_fields_are_given_by_place_or_name_or_have_their_defaults() -> None:
    assert dataclasses.astuple(Point(1)) == (1, 2, {})
    assert dataclasses.astuple(Point(1, y=3, tags={"a": "b"})) == (1, 3, {"a": "b"})
    assert Point(1).tags is not Point(1).tags


@pytest.mark.parametrize(
    ("args", "given"), [((), {}), ((1, 2, {}, 4), {}), ((1,), {"x": 2}), ((1,), {"z": 2})], ids=repr
)
def test_missing_doubled_and_unknown_fields_are_refused(args: tuple[int, ...], given: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(*args, **given)  # type: ignore[arg-type]


def test_it_is_checked_frozen_compared_copied_and_shown() -> None:
    point = Point(1, 2, {"secret": "x"})
    with pytest.raises(ValueError, match="x"):
        dataclasses.replace(point, x=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 3  # type: ignore[misc]
    assert point == Point(1, 2) != Point(1, 3)
    assert point.__eq__((1, 2)) is NotImplemented
    assert hash(point) == hash(Point(1, 2))
    assert copy.deepcopy(point).tags == pickle.loads(pickle.dumps(point)).tags == point.tags
    assert repr(point) == "Point(x=1, y=2)"
