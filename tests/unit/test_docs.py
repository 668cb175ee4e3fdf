"""The maps in docs/ are true: the pictures are as their script draws them, and what they name is there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRAW = runpy.run_path(str(ROOT / "docs/pictures/draw.py"))


@pytest.mark.parametrize("name", DRAW["PICTURES"])
def test_a_picture_is_as_its_script_draws_it(name: str) -> None:
    kept = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
    assert kept == DRAW["PICTURES"][name]().svg(), "draw it anew with: make maps"


def test_the_steps_of_a_run_are_modules() -> None:
    """Whoever moves a module changes JOURNEY in docs/pictures/draw.py, and calls: make maps."""
    steps = [step.module for _, row in DRAW["JOURNEY"] for step in row]
    gone = [module for module in steps if not (ROOT / "launch_worker" / f"{module}.py").is_file()]
    assert not gone


@pytest.mark.parametrize(
    ("draw", "problem"),
    [
        (lambda p: p.box(DRAW["Area"](0, 0, 60, 60), "a name too long"), "wider than its box"),
        (lambda p: p.box(DRAW["Area"](150, 0, 100, 60), "out"), "reaches out of the picture"),
        (lambda p: [p.box(DRAW["Area"](x, 0, 100, 60), "box") for x in (0, 90)], "lies on"),
        (lambda p: [p.label(10, 10, ["a text"]), p.arrow((0, 15), (90, 15)), p.svg()], "crosses"),
    ],
)
def test_a_picture_with_a_clipped_or_covered_text_is_refused(draw: object, problem: str) -> None:
    assert callable(draw)
    with pytest.raises(ValueError, match=problem):
        draw(DRAW["Picture"]("a picture", 200, 100))
