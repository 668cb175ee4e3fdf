"""Draws the kept figures of commits over time as docs/pictures/performance.svg: `make bench-history`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

#: Kept by git; what a call of `make bench` writes lies beside it.
KEPT = Path(__file__).parent / "results" / "kept"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "performance.svg"

_OURS = "launch_worker"
_KINDS = ("redis", "valkey")
#: A chart each: the metric, and its name in the picture. All are ratios to Celery of the same round.
_CHARTS = (
    ("submit to first instruction, median", "submit to first instruction: less is better"),
    ("jobs a second, 8 slots", "jobs a second, 8 slots: more is better"),
    ("CPU of the worker a job", "CPU of the worker a job: less is better"),
    ("CPU of Redis a job, from submit to end", "CPU of Redis a job: less is better"),
)
#: The load before a measurement up to which it counts as quiet.
_QUIET_LOAD = 2.0
_WIDTH, _CHART_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 940, 178, 56, 24, 40, 34
_STYLE = """
.page { fill: #ffffff } text { fill: #1f2328; font: 13px Helvetica, Arial, 'Liberation Sans', sans-serif }
.name { font-weight: bold } .note { fill: #59636e; font-size: 12px }
.grid { stroke: #d1d9e0 } .celery { stroke: #59636e; stroke-dasharray: 5 4 }
.line { fill: none; stroke-width: 2 } .range { stroke-width: 2; opacity: 0.45 }
.redis { stroke: #0969da } .valkey { stroke: #bc4c00 } .dot.redis { fill: #0969da } .dot.valkey { fill: #bc4c00 }
.dot.hollow { fill: #ffffff; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 } text { fill: #e6edf3 } .note { fill: #c0c8d1 }
  .grid { stroke: #3d444d } .celery { stroke: #9198a1 }
  .redis { stroke: #58a6ff } .valkey { stroke: #f0883e } .dot.redis { fill: #58a6ff } .dot.valkey { fill: #f0883e }
  .dot.hollow { fill: #0d1117 }
}
"""


@dataclass(frozen=True)
class Point:
    """What one commit had on one kind of server."""

    commit: str
    committed_at: str
    kind: str
    #: The median, and from where to where it went, by metric.
    ratios: dict[str, tuple[float, float, float]]
    #: Whether the machine had little else to do.
    is_quiet: bool


def points(folder: Path = KEPT) -> list[Point]:
    """Of all kept files, the oldest commit first."""
    found = []
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text())
        ratios = {
            name: (ratio[0], ratio[1], ratio[2])
            for name, metric in kept["metrics"].items()
            if metric["baseline"] == "celery" and (ratio := metric["ratios"].get(_OURS))
        }
        if not any(metric in ratios for metric, _ in _CHARTS):
            continue
        facts, load = kept["facts"], kept["groups"].get("speed", {}).get("load", [0.0])[0]
        kind = path.stem.rpartition("-")[2]
        found.append(Point(facts["commit"], facts["committed_at"], kind, ratios, load <= _QUIET_LOAD))
    return sorted(found, key=lambda point: (point.committed_at, point.kind))


def svg(found: Sequence[Point]) -> str:
    """One chart below the other, with the same commits from left to right."""
    commits = list(dict.fromkeys((point.committed_at, point.commit) for point in found))
    height = _TOP + len(_CHARTS) * _CHART_HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img">',
        "<title>launch_worker beside plain Celery, by commit</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(
            _LEFT,
            24,
            "launch_worker beside plain Celery, by commit: median and range; hollow: beside much load",
            "name",
        ),
    ]
    for number, kind in enumerate(_KINDS):
        x = _WIDTH - _RIGHT - 150 + 75 * number
        parts += [f'<circle class="dot {kind}" cx="{x}" cy="20" r="4"/>', _text(x + 9, 24, kind.capitalize(), "note")]
    for number, (metric, title) in enumerate(_CHARTS):
        parts += _chart(found, commits, metric, title, top=_TOP + number * _CHART_HEIGHT)
    for (at, commit), x in zip(commits, _places(len(commits)), strict=True):
        parts.append(_text(x, height - _BOTTOM + 12, commit, "note", anchor="middle"))
        parts.append(_text(x, height - _BOTTOM + 27, at[5:16].replace("T", " "), "note", anchor="middle"))
    return "\n".join([*parts, "</svg>\n"])


def _chart(
    found: Sequence[Point], commits: Sequence[tuple[str, str]], metric: str, title: str, *, top: float
) -> list[str]:
    """The ratios of one metric, on an axis from zero to the highest of them."""
    above, below = top + 26, top + _CHART_HEIGHT - 16
    most = max([1.0, *(point.ratios[metric][2] for point in found if metric in point.ratios)]) * 1.05

    def height(ratio: float) -> float:
        return round(below - (below - above) * ratio / most, 1)

    parts = [_text(_LEFT, top + 16, title, "name")]
    step = 0.5 if most < 4 else 1.0
    for mark in range(int(most / step) + 1):
        y = height(mark * step)
        kind = "celery" if mark * step == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{mark * step:g} x", "note", anchor="end"))
    places = dict(zip(commits, _places(len(commits)), strict=True))
    # Under the points.
    lines = len(parts)
    for shift, kind in ((-3, "redis"), (3, "valkey")):
        mine = [point for point in found if point.kind == kind and metric in point.ratios]
        dots = []
        for point in mine:
            x = places[point.committed_at, point.commit] + shift
            median, low, high = point.ratios[metric]
            dots.append((x, height(median)))
            parts.append(f'<line class="range {kind}" x1="{x}" x2="{x}" y1="{height(low)}" y2="{height(high)}"/>')
            told = escape(f"{point.commit} on {kind.capitalize()}: {median:.2f} x ({low:.2f} to {high:.2f})")
            look = f"dot {kind}" if point.is_quiet else f"dot hollow {kind}"
            place = f'cx="{x}" cy="{height(median)}" r="4"'
            parts.append(f'<circle class="{look}" {place}><title>{told}</title></circle>')
        if len(dots) > 1:
            path = " L".join(f"{x} {y}" for x, y in dots)
            parts.insert(lines, f'<path class="line {kind}" d="M{path}"/>')
    return parts


def _places(count: int) -> list[int]:
    """Where commits stand, as far from each other as there is room for."""
    room = _WIDTH - _LEFT - _RIGHT - 80
    return [_LEFT + 40 + (room * at // (count - 1) if count > 1 else room // 2) for at in range(count)]


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def main() -> None:
    PICTURE.write_text(svg(points()), encoding="utf-8")
    print(f"{len(points())} kept files are drawn in {PICTURE}")


if __name__ == "__main__":
    main()
