"""Patterns of outputs are refused where nothing could be meant by them."""

from __future__ import annotations

import pytest

from launch_worker.errors import InputError
from launch_worker.model.outputs import check_outputs


def test_patterns_are_texts_within_bounds() -> None:
    check_outputs(("*.pt", "!tmp/", "[a-", "x" * 500))
    for wrong in ("", " ", "a\0b", "x" * 501):
        with pytest.raises(InputError, match="is no pattern of outputs"):
            check_outputs((wrong,))
    with pytest.raises(InputError, match="at most 50 patterns"):
        check_outputs(("a",) * 51)
