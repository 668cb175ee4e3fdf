"""The place of a follower is an event's id, from which a stream goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.api.transport import Place
from launch_worker.errors import InputError
from launch_worker.model.states import RunState

PLACES = st.builds(
    Place,
    attempt=st.integers(0, 10**9 - 1),
    entry=st.just("-") | st.builds(lambda a, b: f"{a}-{b}", st.integers(0, 10**15), st.integers(0, 10**6)),
    end=st.integers(0, 10**15),
    is_at_line=st.booleans(),
    seen=st.none() | st.integers(0, 10**6),
    state=st.none() | st.sampled_from(RunState),
    is_end=st.booleans(),
)


@given(PLACES)
def test_a_place_is_read_back_from_its_text(place: Place) -> None:
    assert Place.of_text(place.to_text()) == place


@pytest.mark.parametrize("text", ["", "1", "1.-.0.11..Nonsense", "x" * 999, "1.-.0.11..\n", "١.-.0.11.."])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Place.of_text(text)
