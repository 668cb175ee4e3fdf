"""What is printed, kept as JSON, and shown on the page docs/comparison.md between its markers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.kill.verdict import COUNTS, Verdict

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "bench" / "results" / "kill.json"
PAGE = ROOT / "docs" / "comparison.md"
BEGIN, END = "<!-- from bench/results/kill.json: make compare -->", "<!-- the end of bench/results/kill.json -->"

WORDS = {
    "lost": "lost",
    "twice": "run twice",
    "overlapping": "overlapping",
    "left": "left running",
    "stuck": 'stuck "running"',
    "falsely_failed": "falsely failed",
}
_HEADS = (*WORDS.values(), "begun again", "seconds to the truth")


@dataclass(frozen=True)
class Played:
    """One scene that was played, or the reason why there is none."""

    system: str
    fault: str
    verdict: Verdict | None
    #: Why there is no verdict: the system has no place for the fault, or the scene failed.
    why: str = ""
    is_failed: bool = False
    notes: tuple[str, ...] = ()
    took_s: float = 0.0


class Comparison:
    """The scenes by fault and system, with what they were played on."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.scenes: dict[str, dict[str, dict[str, Any]]] = {}

    @classmethod
    def read(cls, path: Path = KEPT) -> Comparison:
        kept = json.loads(path.read_text())
        comparison = cls(kept["facts"])
        comparison.scenes = kept["scenes"]
        return comparison

    def add(self, played: Played) -> None:
        scene: dict[str, Any] = {"took_s": round(played.took_s, 1)}
        if played.verdict is None:
            scene["why"] = played.why
        else:
            scene |= asdict(played.verdict)
        if played.notes:
            scene["notes"] = list(played.notes)
        self.scenes.setdefault(played.fault, {})[played.system] = scene

    def save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"facts": self.facts, "scenes": self.scenes}, indent=1, ensure_ascii=False) + "\n")

    # For a terminal

    def text(self) -> str:
        heads = tuple(head.upper() for head in ("fault", "system", *_HEADS))
        rows: list[Sequence[str]] = [heads]
        for fault, scenes in self.scenes.items():
            for place, (system, scene) in enumerate(scenes.items()):
                rows.append(("" if place else fault, system, *self._figures(scene)))
        widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self._notes())])

    def _measured(self) -> str:
        """One paragraph: when, where, and which versions."""
        facts = self.facts
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        again = facts.get("played_again")
        return (
            f"Measured on {facts['at'][:10]} at {facts['commit']} with {facts['cores']} cores "
            f"(load {facts['load'][0]:.0f} before), Python {facts['python']}, {facts['redis']}. {versions}."
            + (f" Some scenes were played again at {again['commit']}." if again else "")
        )

    def _figures(self, scene: dict[str, Any]) -> list[str]:
        if "why" in scene:
            return ["-"] * len(_HEADS)
        return [*(str(scene[name]) for name in COUNTS), str(scene["again"]), seconds(scene["truth_s"])]

    def _notes(self) -> Iterator[str]:
        for fault, scenes in self.scenes.items():
            for system, scene in scenes.items():
                for note in [scene["why"]] if "why" in scene else scene.get("notes", []):
                    yield f"{fault}, {system}: {note}"

    # For the page

    def markdown(self) -> str:
        titles: dict[str, str] = self.facts["faults"]
        systems: dict[str, str] = self.facts["systems"]
        lines = [
            BEGIN,
            "",
            self._measured(),
            "",
            _row(["what happens", *systems.values()]),
            _row(["---"] * (len(systems) + 1)),
        ]
        for fault, title in titles.items():
            scenes = self.scenes.get(fault, {})
            lines.append(_row([title, *(cell(scenes.get(system)) for system in systems)]))
        lines += ["", "Each figure:", ""]
        lines.append(_row(["fault", "system", *_HEADS]))
        lines.append(_row(["---"] * (len(_HEADS) + 2)))
        for fault in titles:
            for system in systems:
                scene = self.scenes.get(fault, {}).get(system)
                if scene is not None:
                    lines.append(_row([f"`{fault}`", systems[system], *self._figures(scene)]))
        notes = [f"- `{note}" for note in (text.replace(", ", "`, ", 1) for text in self._notes())]
        return "\n".join([*lines, "", "Notes:", "", *notes, "", END])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:g}"


def cell(scene: dict[str, Any] | None) -> str:
    """A scene in a few words: what went wrong, and how long the record was false."""
    if scene is None or "why" in scene:
        return "-"
    wrong = [f"{scene[name]} {word}" for name, word in WORDS.items() if scene[name]]
    truth = scene["truth_s"]
    if not wrong and truth is not None:
        again = [f"{scene['again']} begun again"] if scene["again"] else []
        return ", ".join([f"✓ {truth:g} s" if truth else "✓", *again])
    late = ["the record never true"] if truth is None else [f"{truth:g} s"] if truth else []
    return ", ".join([*wrong, *late])


def put_into(page: str, part: str) -> str:
    """The page with its generated part replaced. Raises ValueError where it has no such part."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{PAGE.name} has no part from {BEGIN!r} to {END!r}")
    return pattern.sub(lambda _: part, page)
