"""The list of attacks is whole: each is tried by a test that is there, and what is not held is said in the docs."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.security.rows import ROWS, Verdict

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", ROWS)
def test_an_attack_is_tried_by_tests_that_are_there(name: str) -> None:
    row = ROWS[name]
    assert row.tests
    for test in row.tests:
        path, _, function = test.partition("::")
        assert function in names_in(path), test


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict is Verdict.NOT_HELD])
def test_what_is_not_held_is_said_in_the_docs(name: str) -> None:
    assert ROWS[name].reason in " ".join(PAGE.split())
