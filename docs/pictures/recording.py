"""Records a run that outlives its worker, in a terminal, as an animated picture: `make recording`.

It starts a launch system of its own with two workers, kills the one that has the run, and keeps what `launch-submit`
printed, with its times, as recording.cast (asciicast 2); recording.svg, which needs no script, is drawn from that file.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from html import escape
from pathlib import Path

from example import BIN, ROOT
from rich.console import Console
from rich.text import Text

from launch_worker.dev.redis_server import RedisServer

FOLDER = Path(__file__).parent
COLUMNS, ROWS = 94, 22
#: Seconds between two typed letters; the longest pause that is shown; how long the end stands still.
_LETTER_S, _PAUSE_S, _REST_S = 0.03, 1.2, 6.0
#: Pixels of a cell and of the border.
_WIDE, _HIGH, _BORDER = 8.4, 19, 14
#: Colours of the background and of text, and a terminal's first eight: black, red, green, yellow, and so on.
_BACK, _EDGE, _TEXT = "#0d1117", "#3d444d", "#e6edf3"
_COLOURS = ("#484f58", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#b1bac4")

Event = tuple[float, str]


@contextmanager
def system(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, subprocess.Popen[bytes]]]]:
    """Redis and two workers: the environment of commands, and the workers by name."""
    with ExitStack() as stack:
        server = RedisServer()
        server.start()
        stack.callback(server.stop)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LAUNCH_", "CELERY_"))}
        env |= {"LAUNCH_REDIS_URL": server.url, "LAUNCH_ALLOW_ROOT": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
        env |= {"LAUNCH_HEARTBEAT_S": "1", "LAUNCH_LEASE_S": "3", "LAUNCH_PASS_S": "0.5", "TERM": "xterm-256color"}
        workers = {}
        for name in ("one", "two"):
            command = [str(BIN / "celery"), "-A", "launch_worker", "worker", "-Q", "default", "-c", "1", "-n", name]
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            own = env | {"LAUNCH_WORK_DIR": str(folder / name)}
            worker = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log, start_new_session=True)
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
            workers[name] = worker
        deadline = time.monotonic() + 60
        while any("Agent started" not in (folder / f"{name}.log").read_text() for name in workers):
            if time.monotonic() > deadline:
                sys.exit("the workers did not start")
            time.sleep(0.1)
        yield env, workers


class Recording:
    """What is typed and printed, and when, in seconds from the beginning."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self.events: list[Event] = []
        self._env = env
        self._folder = folder
        self._now = 0.0

    def say(self, text: str, *, after_s: float = 0.0) -> None:
        self._now += after_s
        self.events.append((self._now, text))

    def type(self, command: str) -> None:
        """Show a command being typed."""
        self.say("\x1b[32m$\x1b[0m ", after_s=0.4)
        for letter in command:
            self.say(letter, after_s=_LETTER_S)
        self.say("\r\n", after_s=0.3)

    def run(self, command: str, *, kill: Mapping[str, int] | None = None, once: str = "") -> None:
        """Carry out a command in a terminal; once it has printed some words, kill the worker that it named."""
        self.type(command)
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(self._folder)
            os.execvpe("/bin/sh", ["/bin/sh", "-c", command], dict(self._env))
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        printed, at = "", time.monotonic()
        while piece := _read(terminal):
            self.say(piece, after_s=min(_PAUSE_S, time.monotonic() - at))
            printed, at = printed + piece, time.monotonic()
            if kill and once in printed:
                victim = re.findall(r"celery@(\w+)", printed)[-1]
                os.kill(kill[victim], signal.SIGKILL)
                self.say(f"\x1b[33m# in another shell: kill -9 {kill[victim]}, which is the worker {victim}\x1b[0m\r\n")
                kill = None
        _, status = os.waitpid(pid, 0)
        if status or kill:
            sys.exit(f"{command} ended with status {status}: {printed[-2000:]}")


def _read(terminal: int) -> str:
    """More of what is printed; '' at its end."""
    try:
        return os.read(terminal, 1 << 16).decode(errors="replace")
    except OSError:
        return ""


def record(folder: Path) -> list[Event]:
    with system(folder) as (env, workers):
        for name in ("train_iris.py", "iris.csv"):
            (folder / name).write_bytes((ROOT / "examples" / name).read_bytes())
        tape = Recording(env, folder)
        tape.run(
            "launch-submit --name iris --retries 2 --follow -- python3 train_iris.py --epochs 8",
            kill={name: worker.pid for name, worker in workers.items()},
            once="epoch 4/8",
        )
        tape.run("launch-worker show iris --all | tail -n 7")
        return tape.events


# -- the picture -------------------------------------------------------------------------------------------------------


def lines_of(events: list[Event]) -> list[tuple[float, str]]:
    """Each line with the time at which it is whole, or of a typed one each state of it."""
    shown: list[tuple[float, str]] = []
    line = ""
    for at, text in events:
        *whole, rest = (line + text).replace("\r\n", "\n").split("\n")
        shown += [(at, done) for done in whole]
        line = rest
    return [*shown, (events[-1][0], line)] if line else shown


def draw(events: list[Event]) -> str:
    """The picture: every line comes at its time, and what is above scrolls away."""
    lines = lines_of(events)
    # The first line is there at once: an empty box tells nothing.
    begin = lines[0][0]
    whole_s = lines[-1][0] - begin + _REST_S
    width, height = round(COLUMNS * _WIDE + 2 * _BORDER), ROWS * _HIGH + 2 * _BORDER
    steps, css = [], []
    for number, (at, _) in enumerate(lines):
        share = 100 * (at - begin) / whole_s
        if share == 0:
            continue
        css.append(f"@keyframes l{number}{{0%,{share:.2f}%{{opacity:0}}{share + 0.01:.2f}%,100%{{opacity:1}}}}")
        css.append(f".l{number}{{animation:l{number} {whole_s:.1f}s infinite}}")
        if number >= ROWS:
            steps.append(f"{share:.2f}%{{transform:translateY(-{(number - ROWS + 1) * _HIGH}px)}}")
    css.append(f"@keyframes up{{0%{{transform:translateY(0)}}{''.join(steps)}}}")
    css.append(f".up{{animation:up {whole_s:.1f}s step-end infinite}}")
    # Who wants no movement sees the end.
    css.append(
        "@media (prefers-reduced-motion:reduce){*{animation-play-state:paused;animation-delay:-%.1fs}}" % (whole_s - 1)
    )
    rows = "".join(_row(number, text) for number, (_, text) in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        'aria-label="A terminal: a run is followed, its worker is killed, and another worker runs it to its end">'
        f"<style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"fill:{_TEXT};white-space:pre}}{''.join(css)}</style>"
        # With an edge, for pages as dark as it is.
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="{_BACK}" stroke="{_EDGE}"/>'
        f'<svg x="{_BORDER}" y="{_BORDER}" width="{width - 2 * _BORDER}" height="{ROWS * _HIGH}">'
        f'<g class="up">{rows}</g></svg></svg>\n'
    )


def _row(number: int, ansi: str) -> str:
    text = Text.from_ansi(ansi)
    text.truncate(COLUMNS)
    spans = []
    for piece in text.split("\n")[0].render(Console(width=COLUMNS)) if text.plain else ():
        number_of = piece.style.color.number if piece.style and piece.style.color else None
        fill = f' fill="{_COLOURS[number_of % 8]}"' if number_of is not None else ""
        dim = ' opacity=".6"' if piece.style and piece.style.dim else ""
        bold = ' font-weight="bold"' if piece.style and piece.style.bold else ""
        spans.append(f"<tspan{fill}{dim}{bold}>{escape(piece.text)}</tspan>")
    return f'<text class="l{number}" y="{number * _HIGH + 14}" xml:space="preserve">{"".join(spans)}</text>'


def events_of(cast: Path) -> list[Event]:
    """What was recorded in a file."""
    told = map(json.loads, cast.read_text(encoding="utf-8").splitlines()[1:])
    return [(at, text) for at, _, text in told]


def main() -> None:
    cast = FOLDER / "recording.cast"
    if "--draw" not in sys.argv:
        with tempfile.TemporaryDirectory(prefix="launch-recording-") as folder:
            events = record(Path(folder))
        head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "a run outlives its worker"}
        told = [json.dumps(head), *(json.dumps([round(at, 3), "o", text], ensure_ascii=False) for at, text in events)]
        cast.write_text("\n".join(told) + "\n", encoding="utf-8")
    (FOLDER / "recording.svg").write_text(draw(events_of(cast)), encoding="utf-8")


if __name__ == "__main__":
    main()
