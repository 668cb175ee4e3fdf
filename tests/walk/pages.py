"""Reads the blocks of code of a page, and the marks that say how `tests/walk/walker.py` carries them out.

A mark is a comment on the lines right above a block:

- `<!-- no-run: REASON -->`: it cannot be run here. Only such a block may be of another language than sh.
- `<!-- background: TEXT -->`: it runs until Ctrl-C, in a shell of its own; the walk goes on when it has printed TEXT.
- `<!-- install -->`: it makes an environment. Who has one already leaves it out.
- `<!-- each-shell -->`: it is for every shell that is opened from there on, and for the one that is open.
- `<!-- machine: second -->`, `<!-- machine: both -->`: where it is run; without the mark on the first machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
#: The marks, and whether a text belongs to it.
MARKS = {"no-run": True, "background": True, "install": False, "each-shell": False, "machine": True}
MACHINES = {"first": ("first",), "second": ("second",), "both": ("first", "second")}
#: What a page says when its commands need a system that is up.
NEEDS_DEV = re.compile(r"`launch-worker dev`\s+in\s+another\s+shell\s+is\s+enough")
_BLOCK = re.compile(r"((?:^<!-- .*? -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- ([a-z-]+)(?:: (.+))? -->$", re.MULTILINE)


class PageError(Exception):
    """A page has a block that says not how it is to be run."""


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    #: File and line of its first command.
    place: str
    text: str
    marks: dict[str, str]

    @property
    def machines(self) -> tuple[str, ...]:
        return MACHINES[self.marks.get("machine", "first")]


def pages() -> list[Path]:
    """All pages that are walked, in the order in which a reader meets them."""
    tutorial = re.findall(r"\btutorial/[\w-]+\.md", (REPO / "mkdocs.yml").read_text(encoding="utf-8"))
    how_to = sorted((REPO / "docs/how-to").glob("*.md"))
    return [REPO / "README.md", *(REPO / "docs" / name for name in tutorial), *how_to]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    if NEEDS_DEV.search(text):
        found.append(Block(f"{page.name} (what it needs)", "launch-worker dev\n", {"background": "Ctrl-C"}))
    for match in _BLOCK.finditer(text):
        place = f"{page.name}:{text.count(chr(10), 0, match.start(3)) + 1}"
        marks = dict(_MARK.findall(match[1]))
        unknown = [name for name, words in marks.items() if MARKS.get(name) is not bool(words)]
        if unknown or marks.get("machine", "first") not in MACHINES:
            raise PageError(f"{place}: no such mark: {match[1].strip()}; tests/walk/pages.py has those that there are")
        if match[2] != "sh" and "no-run" not in marks:
            raise PageError(f"{place}: only blocks of sh can be run; say why this one is not: <!-- no-run: REASON -->")
        found.append(Block(place, match[3], marks))
    return found
