"""Patterns say which outputs are kept, by git's rules for one name, and in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.code.ignoring import Pattern
from launch_worker.outputs.wanted import wanted_by

PATHS = ("model.pt", "logs/a.txt", "logs/b.tmp", "logs/deep/c.txt", "plots/loss.png", "top.txt")


def kept(*patterns: str) -> set[str]:
    wanted = wanted_by(patterns)
    return {path for path in PATHS if wanted(path)}


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        ([], set(PATHS)),
        ([""], set(PATHS)),
        (["*.pt"], {"model.pt"}),
        (["logs"], {"logs/a.txt", "logs/b.tmp", "logs/deep/c.txt"}),
        (["logs/"], {"logs/a.txt", "logs/b.tmp", "logs/deep/c.txt"}),
        (["model.pt/"], set()),
        (["*.txt"], {"logs/a.txt", "logs/deep/c.txt", "top.txt"}),
        (["/*.txt"], {"top.txt"}),
        (["logs/*.txt"], {"logs/a.txt"}),
        (["logs/**/*.txt"], {"logs/a.txt", "logs/deep/c.txt"}),
        (["logs", "!*.tmp"], {"logs/a.txt", "logs/deep/c.txt"}),
        (["logs", "!deep", "c.txt"], {"logs/a.txt", "logs/b.tmp", "logs/deep/c.txt"}),
        (["!*.tmp"], set(PATHS) - {"logs/b.tmp"}),
        (["[mt]o*"], {"model.pt", "top.txt"}),
        (["[a-"], set()),
        (["!logs"], {"model.pt", "plots/loss.png", "top.txt"}),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], paths: set[str]) -> None:
    assert kept(*patterns) == paths


NAMES = st.text(st.sampled_from("abA.-_ é[]*?\\!^$(){}+|#~&\n"), min_size=1, max_size=6)


@given(st.text(st.sampled_from("ab*?[]!-^\\.é (|)+{}$#~&"), min_size=1, max_size=8), NAMES)
def test_a_name_matches_as_git_has_it(pattern: str, name: str) -> None:
    parsed = Pattern.parse(pattern.encode())
    if not parsed.of_folders:
        path = name.encode()
        expected = parsed.matches(path, path, is_folder=False)
        assert wanted_by([pattern])(name) is (expected is not parsed.is_negated)


def test_no_pattern_takes_long() -> None:
    begun = time.process_time()
    assert not wanted_by(["*a" * 100 + "b"])("a" * 250)
    assert not wanted_by(["**/" + "*a*" * 60 + "b/x"])("a" * 250)
    assert time.process_time() - begun < 2
