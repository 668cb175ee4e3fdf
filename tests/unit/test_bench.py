"""The benchmark's own arithmetic, and that what was measured is never lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.measure import Metric, Results, Spread, percentile, short


def test_a_ratio_is_of_two_values_of_the_same_round() -> None:
    metric = Metric("latency", "ms", baseline="peer")
    for peer, ours in ((1.0, 2.0), (10.0, 15.0), (4.0, 4.0)):
        metric.add("peer", peer)
        metric.add("ours", ours)
    assert metric.ratio("ours") == Spread(median=1.5, low=1.0, high=2.0, count=3)


def test_what_has_no_baseline_in_its_round_has_no_ratio() -> None:
    metric = Metric("latency", "ms", baseline="peer")
    metric.add("ours", 2.0)
    assert metric.ratio("ours") is None
    assert [row[:4] for row in metric.rows()] == [("latency", "ours", "", "2 ms")]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.00123, "0.00123"), (4.5678, "4.57"), (12345.6, "12346")])
def test_three_figures_are_shown(value: float, text: str) -> None:
    assert short(value) == text


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


def test_a_group_that_fails_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(results: Results, quick: bool) -> None:
        results.metric("half", "ms").add("ours", 1.0)
        raise RuntimeError("the peer is not there")

    def fine(results: Results, quick: bool) -> None:
        results.metric("whole", "ms", baseline="peer").add("ours", 2.0)

    monkeypatch.setattr(bench, "_GROUPS", {"broken": broken, "fine": fine})
    monkeypatch.setattr(bench, "_FOLDER", tmp_path)
    monkeypatch.setattr(bench, "make", lambda systems: None)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    (kept,) = tmp_path.glob("*.json")
    written = json.loads(kept.read_text())
    assert {name: metric["values"] for name, metric in written["metrics"].items()} == {
        "half": {"ours": [1.0]},
        "whole": {"ours": [2.0]},
    }
    assert written["notes"] == ["broken is not complete: RuntimeError: the peer is not there"]
    assert set(written["facts"]["took_s"]) == {"broken", "fine"}
    assert "note: broken is not complete" in capsys.readouterr().out
