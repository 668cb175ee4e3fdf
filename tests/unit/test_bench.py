"""The benchmark's own arithmetic, and that what was measured is never lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import history, servers
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


def test_of_many_values_the_middle_half_is_shown() -> None:
    assert Spread.of([float(value) for value in range(101)]) == Spread(median=50.0, low=25.0, high=75.0, count=101)


def test_a_later_call_keeps_what_the_file_of_the_commit_has_of_other_groups(tmp_path: Path) -> None:
    path = tmp_path / "a1b2c3d4-redis.json"
    for group, value in (("speed", 1.0), ("growth", 2.0), ("speed", 3.0)):
        results = Results()
        results.group = group
        results.metric(f"a metric of {group}", "ms").add("ours", value)
        results.save(path, facts={"commit": "a1b2c3d4"}, groups={group: {"took_s": value}})
    written = json.loads(path.read_text())
    assert {name: group["took_s"] for name, group in written["groups"].items()} == {"speed": 3.0, "growth": 2.0}
    assert {name: metric["values"]["ours"][0] for name, metric in written["metrics"].items()} == {
        "a metric of speed": 3.0,
        "a metric of growth": 2.0,
    }


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
    monkeypatch.setattr(servers, "found", lambda: {"redis": tmp_path / "redis-server"})
    monkeypatch.setattr(servers, "version", lambda program: "Redis 7.0.15")
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    (kept,) = tmp_path.glob("*.json")
    written = json.loads(kept.read_text())
    assert {name: metric["values"]["ours"][0] for name, metric in written["metrics"].items()} == {
        "half": 1.0,
        "whole": 2.0,
    }
    assert written["groups"]["broken"]["notes"] == ["broken is not complete: RuntimeError: the peer is not there"]
    assert written["groups"]["fine"]["notes"] == []
    assert "note: broken is not complete" in capsys.readouterr().out


def test_the_picture_of_the_history_is_drawn_from_the_kept_figures() -> None:
    assert history.PICTURE.read_text(encoding="utf-8") == history.svg(history.points()), "make bench-history"


def test_the_history_has_the_older_commit_first_and_both_servers_of_one_at_the_same_place(tmp_path: Path) -> None:
    for commit, at, kind, ratio in (
        ("bbbbbbbb", "2030-01-02T00:00:00+00:00", "redis", 0.8),
        ("bbbbbbbb", "2030-01-02T00:00:00+00:00", "valkey", 0.9),
        ("aaaaaaaa", "2030-01-01T00:00:00+00:00", "redis", 1.2),
    ):
        results = Results()
        metric = results.metric("jobs a second, 8 slots", "/s", baseline="celery")
        metric.add("celery", 100.0)
        metric.add("launch_worker", 100.0 * ratio)
        results.save(
            tmp_path / f"{commit}-{kind}.json",
            facts={"commit": commit, "committed_at": at},
            groups={"speed": {"load": (9.0, 9.0, 9.0)}},
        )
    found = history.points(tmp_path)
    assert [(point.commit, point.kind) for point in found] == [
        ("aaaaaaaa", "redis"),
        ("bbbbbbbb", "redis"),
        ("bbbbbbbb", "valkey"),
    ]
    drawn = history.svg(found)
    assert drawn.count(">aaaaaaaa<") == drawn.count(">bbbbbbbb<") == 1
    assert "bbbbbbbb on Valkey: 0.90 x (0.90 to 0.90)" in drawn
    assert drawn.count('<circle class="dot hollow') == 3, "much else was to be done"
