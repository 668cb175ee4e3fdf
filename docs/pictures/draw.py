"""Draws the pictures of docs/architecture.md and docs/operations.md as SVG files beside this script: `make maps`.

A text that does not fit its box, and a text or a box that lies on another one, is an error, so no picture is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent

#: Pixels: size of a text, height of a line of text, distance of a text from its box.
TEXT_PX, LINE_PX, PAD_PX = 13, 17, 10

#: A picture has its own background, so that its text and what is behind the text always belong together.
STYLE = """
.page { fill: #ffffff } text { fill: #1f2328; font: 13px Helvetica, Arial, 'Liberation Sans', sans-serif }
.name { font-weight: bold } .note { fill: #59636e }
.group { fill: none; stroke: #818b98; stroke-dasharray: 5 4 }
.ours { fill: #ddf4ff; stroke: #0969da } .kept { fill: #fff1e5; stroke: #bc4c00 }
.theirs { fill: #dafbe1; stroke: #1a7f37 } .inner { fill: #ffffff; stroke: #bc4c00 }
.line { fill: none; stroke: #59636e; stroke-width: 1.5 } .head { fill: #59636e }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 } text { fill: #e6edf3 } .note { fill: #c0c8d1 }
  .group { stroke: #656c76 }
  .ours { fill: #0c2d6b; stroke: #58a6ff } .kept { fill: #3d1300; stroke: #f0883e }
  .theirs { fill: #033a16; stroke: #3fb950 } .inner { fill: #0d1117; stroke: #f0883e }
  .line { stroke: #9198a1 } .head { fill: #9198a1 }
}
"""


def width_px(text: str, *, is_bold: bool = False) -> float:
    """The width that a text has at most, in whichever of the fonts it is shown."""
    wide = sum(0.95 if char in "mwMW@" else 0.42 if char in " ijltfr.,:;'()/|" else 0.64 for char in text)
    return TEXT_PX * wide * (1.1 if is_bold else 1.0)


@dataclass(frozen=True)
class Area:
    """A rectangle; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def overlaps(self, other: Area) -> bool:
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom

    def contains(self, other: Area) -> bool:
        return self.x <= other.x and other.right <= self.right and self.y <= other.y and other.bottom <= self.bottom


@dataclass
class Picture:
    """One SVG file, drawn part by part."""

    title: str
    width: int
    height: int
    _parts: list[str] = field(default_factory=list)
    #: The areas that nothing else may overlap, boxes and texts, by what stands there.
    _taken: list[tuple[str, Area]] = field(default_factory=list)
    #: The texts beside boxes, which no line may cross.
    _texts: list[tuple[str, Area]] = field(default_factory=list)
    #: The lines of all arrows, which run along an axis, as areas without a breadth.
    _lines: list[Area] = field(default_factory=list)

    def group(self, area: Area, name: str) -> None:
        """A dashed frame around boxes, with its name at its lower left."""
        self._rectangle(area, "group")
        self.label(area.x + 2 * PAD_PX, area.bottom - PAD_PX - LINE_PX, [name], is_name=True)

    def box(self, area: Area, name: str, lines: Sequence[str] = (), *, kind: str = "ours", holds: bool = False) -> None:
        """A box with its name and some lines of text. `holds`: other boxes come into it."""
        for line, is_bold in ((name, True), *((line, False) for line in lines)):
            if width_px(line, is_bold=is_bold) > area.width - 2 * PAD_PX:
                raise ValueError(f"{self.title}: {line!r} is wider than its box of {area.width} px")
        if PAD_PX + LINE_PX * (1 + len(lines)) > area.height:
            raise ValueError(f"{self.title}: the box {name!r} is too low for its text")
        name_px = width_px(name, is_bold=True)
        self._take(name, Area(area.x + PAD_PX, area.y + PAD_PX, name_px, LINE_PX) if holds else area, is_text=holds)
        self._rectangle(area, kind)
        top = area.y + PAD_PX + TEXT_PX - 2
        self._text(area.x + PAD_PX, top, name, "name")
        for number, line in enumerate(lines, start=1):
            self._text(area.x + PAD_PX, top + number * LINE_PX, line, "note")

    def label(self, x: float, y: float, lines: Sequence[str], *, is_name: bool = False) -> None:
        """Lines of text beside boxes; x and y are the upper left corner of the first line."""
        width = max(width_px(line, is_bold=is_name) for line in lines)
        self._take(lines[0], Area(x, y, width, LINE_PX * len(lines)), is_text=True)
        for number, line in enumerate(lines):
            self._text(x, y + TEXT_PX + number * LINE_PX, line, "name" if is_name else "note")

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points, with a head at its end."""
        for (x1, y1), (x2, y2) in pairwise(points):
            self._lines.append(Area(min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)))
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path class="line" d="{path}" marker-end="url(#head)"/>')

    def svg(self) -> str:
        for name, area in self._texts:
            if any(area.overlaps(line) for line in self._lines):
                raise ValueError(f"{self.title}: a line crosses {name!r}")
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img">\n<title>{escape(self.title)}</title>\n'
            f"<style>{STYLE}</style>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>\n'
            f'<rect class="page" width="{self.width}" height="{self.height}" rx="8"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"

    def _take(self, name: str, area: Area, *, is_text: bool = False) -> None:
        if not Area(0, 0, self.width, self.height).contains(area):
            raise ValueError(f"{self.title}: {name!r} reaches out of the picture")
        for other, taken in self._taken:
            if area.overlaps(taken):
                raise ValueError(f"{self.title}: {name!r} lies on {other!r}")
        self._taken.append((name, area))
        if is_text:
            self._texts.append((name, area))

    def _rectangle(self, area: Area, kind: str) -> None:
        self._parts.append(
            f'<rect class="{kind}" x="{area.x:g}" y="{area.y:g}" '
            f'width="{area.width:g}" height="{area.height:g}" rx="6"/>'
        )

    def _text(self, x: float, y: float, text: str, kind: str) -> None:
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>')


def parts() -> Picture:
    """The processes of a launch system, and what goes between them."""
    picture = Picture("The parts of a launch system", 940, 830)
    picture.box(Area(20, 20, 270, 54), "submitter", ["launch-submit, submit() in Python"])
    picture.box(Area(335, 20, 270, 54), "observer", ["launch-worker show, cancel"])
    picture.box(Area(650, 20, 270, 54), "beat", ["celery -A launch_worker beat"])
    picture.arrow((90, 74), (90, 138))
    picture.label(100, 88, ["create: record and message", "in one script"])
    picture.arrow((400, 74), (400, 138))
    picture.label(410, 97, ["cancel"])
    picture.arrow((500, 140), (500, 76))
    picture.label(510, 88, ["news of a run,", "its log"])
    picture.arrow((720, 74), (720, 138))
    picture.label(730, 88, ["passes: crash stale runs,", "publish due and lost ones"])

    picture.box(Area(20, 140, 900, 116), "Redis", kind="kept", holds=True)
    picture.label(90, 148, ["each change of a run is one Lua script, which checks the state that it leaves"])
    kept = (
        ("queues", "lists that Celery", "reads: messages"),
        ("records", "state, attempt,", "token, history"),
        ("leases", "a deadline for", "each Running run"),
        ("channels", "news of runs,", "orders to workers"),
        ("the rest", "logs, uploads,", "sweeps, schedules"),
    )
    for number, (name, *lines) in enumerate(kept):
        picture.box(Area(34 + 176 * number, 174, 168, 70), name, lines, kind="inner")

    picture.group(Area(20, 322, 900, 490), "a worker's machine")
    picture.box(Area(40, 344, 860, 118), "worker process: celery -A launch_worker worker", holds=True)
    picture.box(
        Area(54, 378, 250, 70),
        "Celery's pool and loop",
        ["a free slot takes a message;", "the loop has all else"],
    )
    picture.box(
        Area(420, 378, 466, 70),
        "agent",
        ["claims runs, renews all leases by one heartbeat,", "carries out attempts, and reports their ends"],
    )
    picture.arrow((304, 412), (418, 412))
    picture.label(312, 390, ["run, number"])
    picture.arrow((110, 256), (110, 342))
    picture.label(120, 282, ["BRPOP: a message"])
    picture.arrow((470, 344), (470, 258))
    picture.label(480, 274, ["claim, heartbeat,", "finish, output"])
    picture.arrow((700, 256), (700, 342))
    picture.label(710, 274, ["answers; orders: cancel,", "drain, upgrade"])

    picture.box(Area(40, 546, 260, 70), "guard", ["starts jobs, outlives its worker,", "ends jobs whose lease is over"])
    picture.box(
        Area(380, 546, 180, 226),
        "attempt's folder",
        [
            "output",
            "to_worker: talk",
            "stop: asks to end",
            "report.json: end",
            "",
            "beside it: exits,",
            "ends of all jobs",
        ],
        kind="kept",
    )
    picture.box(Area(660, 546, 240, 70), "container engine", ["Docker's API,", "Podman's socket too"], kind="theirs")
    picture.box(
        Area(40, 702, 260, 70),
        "job: a tree of processes",
        ["in a session of its own,", "and prints into a pipe"],
        kind="theirs",
    )
    picture.box(Area(660, 702, 240, 70), "job: a container", ["goes on without its worker"], kind="theirs")
    picture.arrow((110, 462), (110, 544))
    picture.label(120, 484, ["socket: start, stop, leases;", "what became of each job"])
    picture.arrow((450, 546), (450, 464))
    picture.label(460, 484, ["output, talk,", "ends"])
    picture.arrow((730, 462), (730, 544))
    picture.label(740, 484, ["HTTP: make, start,", "watch; log, talk"])
    picture.arrow((170, 616), (170, 700))
    picture.label(180, 650, ["parent of it; signals"])
    picture.arrow((300, 578), (378, 578))
    picture.label(312, 557, ["output"])
    picture.arrow((300, 740), (378, 740))
    picture.label(318, 719, ["talk"])
    picture.arrow((780, 616), (780, 700))
    picture.label(790, 650, ["runs it"])
    return picture


@dataclass(frozen=True)
class Step:
    """One station of a run: the module that does it, as a path in the package, and what it does."""

    module: str
    lines: tuple[str, ...]


#: A run's way. A test sees to it that the modules exist.
JOURNEY = (
    (
        "A person submits it",
        (
            Step("cli/submit", ("reads the options and", "the command")),
            Step("submission/resolve", ("adds the defaults of the", "queue and of its pool")),
            Step("model/spec", ("checks the whole run,", "before anything is sent")),
            Step("store/submit", ("create.lua: record and", "message in one step")),
        ),
    ),
    (
        "A worker takes it",
        (
            Step("celery/queue_wait", ("a free slot takes a", "message from a list")),
            Step("celery/request", ("sends the claim, and", "shows the run to Celery")),
            Step("agent/claims", ("takes a slot, and holds", "the devices of the run")),
            Step("store/attempts", ("claim.lua: Running,", "a token, a lease")),
        ),
    ),
    (
        "Its attempt is carried out; meanwhile agent/heartbeat renews the lease",
        (
            Step("attempt/prepare", ("fills macros, makes", "environment and folder")),
            Step("code/fetch", ("brings the code, and", "pins its commit")),
            Step("runners/job", ("a guard or an engine", "starts the job")),
            Step("attempt/supervise", ("watches limits, stops,", "output and talk")),
        ),
    ),
    (
        "It ends; whoever waits for it gets the news (api/run, cli/following)",
        (
            Step("runners/job", ("Exited, then Gone: no", "process of it is left")),
            Step("model/outcome", ("says what the exit", "status means")),
            Step("model/retry", ("decides: again,", "and when?")),
            Step("store/attempts", ("finish.lua: final state,", "or Pending again")),
        ),
    ),
)


def journey() -> Picture:
    """The way of a run through the folders of the package."""
    width, height, gap, row_px = 192, 70, 32, 126
    left = 52
    picture = Picture("The way of a run through the folders", 940, 16 + row_px * len(JOURNEY))
    number = 0
    for row, (name, steps) in enumerate(JOURNEY):
        y = 20 + row_px * row
        picture.label(left, y, [name], is_name=True)
        y += 24
        for column, step in enumerate(steps):
            number += 1
            x = left + (width + gap) * column
            kind = "kept" if step.module.startswith("store/") else "ours"
            picture.box(Area(x, y, width, height), f"{number} {step.module}", step.lines, kind=kind)
            if column:
                picture.arrow((x - gap, y + height / 2), (x - 2, y + height / 2))
        end = left + (width + gap) * len(steps) - gap
        if row + 1 < len(JOURNEY):
            below = y + height + 8
            picture.arrow(
                (end, y + height / 2),
                (end + 14, y + height / 2),
                (end + 14, below),
                (24, below),
                (24, y + row_px + height / 2),
                (left - 2, y + row_px + height / 2),
            )
    return picture


def reach() -> Picture:
    """Who reaches whom where people use the server, and with which user of Redis."""
    picture = Picture("Who reaches whom", 940, 450)
    picture.group(Area(370, 20, 550, 410), "network of the launch system: Redis is reached from here only")
    picture.box(
        Area(20, 44, 230, 88),
        "people and programs",
        ["commands, Python,", "browsers: each with a", "login or token"],
    )
    picture.box(
        Area(20, 200, 230, 88),
        "direct producers",
        ["trusted as the system is;", "locked out as shipped"],
    )
    picture.box(
        Area(390, 44, 240, 88),
        "server, one port",
        ["proves who asks, decides", "by role, writes the audit,", "and then acts"],
    )
    picture.box(Area(700, 44, 200, 88), "database", ["people, tokens, audit,", "ended runs"], kind="kept")
    picture.box(
        Area(390, 208, 510, 72),
        "Redis",
        ["runs, queues, leases: what is alive;", "each user has rights of its own"],
        kind="kept",
    )
    picture.box(Area(390, 334, 240, 54), "workers", ["run jobs"])
    picture.box(Area(660, 334, 240, 54), "beat", ["passes over the records"])
    picture.arrow((250, 88), (388, 88))
    picture.label(262, 64, ["https"])
    picture.arrow((630, 88), (698, 88))
    picture.label(640, 64, ["SQL"])
    picture.arrow((420, 132), (420, 206))
    picture.label(430, 150, ["user server:", "acts"])
    picture.arrow((560, 132), (560, 206))
    picture.label(570, 150, ["user server-reader:", "looks, writes nothing"])
    picture.arrow((450, 334), (450, 282))
    picture.label(460, 298, ["user worker"])
    picture.arrow((720, 334), (720, 282))
    picture.label(730, 298, ["user worker"])
    picture.arrow((250, 244), (388, 244))
    picture.label(256, 216, ["user producer"])
    return picture


PICTURES = {"parts.svg": parts, "journey.svg": journey, "reach.svg": reach}


def main() -> None:
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
