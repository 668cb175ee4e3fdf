"""The maps in docs/ are true: the pictures are as their script draws them, and what they name is there."""

from __future__ import annotations

import ast
import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from launch_worker.settings import Settings
from launch_worker.settings_origin import VARIABLES_OF_JOBS
from tools.reference import settings
from tools.reference.pages import FOLDER
from tools.reference.pages import PAGES as WRITTEN

ROOT = Path(__file__).parents[2]
DRAW = runpy.run_path(str(ROOT / "docs/pictures/draw.py"))
TREE = runpy.run_path(str(ROOT / "docs/package_tree.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "bench/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
OURS = ("launch_worker", "tests", "bench", "deploy")


@pytest.mark.parametrize("name", DRAW["PICTURES"])
def test_a_picture_is_as_its_script_draws_it(name: str) -> None:
    kept = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
    assert kept == DRAW["PICTURES"][name]().svg(), "draw it anew with: make maps"


def test_the_recording_is_drawn_from_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ROOT / "docs/pictures"
    monkeypatch.syspath_prepend(str(pictures))
    recording = runpy.run_path(str(pictures / "recording.py"))
    drawn = recording["draw"](recording["events_of"](pictures / "recording.cast"))
    assert drawn == (pictures / "recording.svg").read_text(encoding="utf-8"), "draw it anew with: make recording"


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


def test_the_tree_is_as_the_package_is() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert page == TREE["with_tree"](page), "write it anew with: make maps"


#: Paths that the docs speak of, and that are of a container, the server, a user's folder, or stand for any script.
ELSEWHERE = ("/launch/config.json", "config.json", "/openapi.json", "celery.py", "launch_worker/store/lua/NAME.lua")


def test_each_package_has_its_paragraph() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "launch_worker").glob("*/__init__.py")]
    assert not [name for name in packages if f"\n**{name}** " not in page]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_path_in_the_docs_is_there(page: Path) -> None:
    """A path counts from the repository or from the package; a bare name may be in any folder of ours."""
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"`([\w./-]+\.(?:py|lua|md|yaml|json|conf)|(?:launch_worker|tests|docs|deploy)/[\w./-]+)`", text)
    )
    linked = {link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link}
    gone = [path for path in named if path not in ELSEWHERE and not is_there(path)]
    gone += [link for link in linked if not (page.parent / link).exists()]
    assert not sorted(gone)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_of_the_reference_is_as_the_code_has_it(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == WRITTEN[name](), "write it anew with: make reference"


def test_each_setting_has_a_meaning() -> None:
    told = [name for section in settings.SECTIONS.values() for name in section]
    assert sorted(told) == sorted(field.name for field in fields(Settings))


def test_each_variable_of_a_job_is_told() -> None:
    page = (FOLDER / "job-environment.md").read_text(encoding="utf-8")
    assert not [name for name in VARIABLES_OF_JOBS if f"`{name}`" not in page]


def test_each_problem_that_the_doctor_finds_is_explained() -> None:
    calls = [
        node
        for path in sorted((ROOT / "launch_worker/api/doctor").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding"
    ]
    problems = [call.args[1] for call in calls if ast.unparse(call.args[0]) != "'ok'"]
    names = {str(name.value) for name in problems if isinstance(name, ast.Constant)}
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert len(names) > 40
    assert not sorted(name for name in names if f"`{name}`" not in page)


def test_a_name_in_the_glossary_is_in_its_file() -> None:
    named = re.findall(r"`([\w/]+\.py)`\s\(`(\w+)`\)", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    texts = {path: (ROOT / "launch_worker" / path).read_text(encoding="utf-8") for path, _ in named}
    assert not [f"{path}: {name}" for path, name in named if not re.search(rf"\b{name}\b", texts[path])]


def is_there(path: str) -> bool:
    if any((ROOT / folder / path).exists() for folder in ("", "launch_worker")):
        return True
    return "/" not in path and any(found for folder in OURS for found in (ROOT / folder).rglob(path))
