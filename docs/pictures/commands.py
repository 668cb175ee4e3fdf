"""Keeps what the commands print on terminals of 80 and 200 columns, in docs/pictures/commands: `make captures`.

It starts a launch system of its own, with runs of all kinds in it, and runs each command in a terminal. A line that is
wider than the terminal, an error that is none of ours and an unexpected exit code end it with status 1. Some of the
captures become pictures, light and dark.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from pathlib import Path

from example import BIN, ROOT, fill, system
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI, TerminalTheme
from rich.text import Text

from launch_worker.terminal.cells import unstyled, width_of
from launch_worker.terminal.say import Styled

FOLDER = Path(__file__).parent / "commands"
WIDTHS = (80, 200)
ROWS = 50
#: The commands of which pictures are kept.
PICTURES = ("runs", "status", "show-failed", "sweep-status")
#: Commands that print what a job printed, as it is.
RAW = ("logs",)
#: Colours of a light terminal: background, foreground, the eight colours, and the bright ones.
LIGHT = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (207, 34, 46),
        (17, 99, 41),
        (125, 78, 0),
        (9, 105, 218),
        (130, 80, 223),
        (27, 124, 131),
        (87, 96, 106),
    ],
    [
        (87, 96, 106),
        (164, 14, 38),
        (26, 127, 55),
        (99, 60, 1),
        (33, 139, 255),
        (164, 117, 249),
        (49, 146, 170),
        (0, 0, 0),
    ],
)


def commands(ids: Mapping[str, str]) -> dict[str, str]:
    """Each capture and its command."""
    worker = {
        "help": "--help",
        "runs": "runs",
        "runs-each": "runs --each --limit 8",
        "runs-pending": "runs --pending",
        "runs-chosen": "runs -o name,state,config.lr,summary.loss,project --sort -config.lr --limit 8",
        "runs-count": "runs --count-by state,queue",
        "runs-none": "runs --queue nothing",
        "runs-wrong": "runs --state ended",
        "status": "status",
        "doctor": "doctor",
        "queues": "queues",
        "queues-show": "queues show gpu",
        "pools": "pools",
        "pools-show": "pools show big",
        "workers": "workers",
        "schedules": "schedules",
        "schedules-show": "schedules show nightly",
        "sweep-list": "sweep list",
        "sweep-status": f"sweep status {ids['sweep']}",
        "show-failed": f"show {ids['failed']}",
        "show-all": f"show --all {ids['failed']}",
        "show-finished": f"show {ids['finished']}",
        "show-running": f"show {ids['running']}",
        "show-waiting": f"show {ids['waiting']}",
        "show-group": f"show {ids['array']}",
        "explain": f"explain {ids['waiting']}",
        "logs": f"logs --tail 5 {ids['failed']}",
        "config": "config",
        "show-left": f"show {ids['left']}",
        "files": f"files {ids['left']}",
        "metrics": f"metrics {ids['finished']}",
        "report": f"report {ids['finished']}",
        "usage": "usage --by user,project,queue --since 1d",
        "users": "users",
        "groups": "groups",
        "tokens": "tokens",
        "projects": "projects",
        "allowances": "allowances",
        "audit": "audit --limit 15",
        "whoami": "whoami",
    }
    return {name: f"launch-worker {words}" for name, words in worker.items()} | {
        "submit-help": "launch-submit --help",
        "submit": "launch-submit --name first -- echo hello",
        "unknown": "launch-worker runz",
    }


def on_terminal(words: list[str], env: Mapping[str, str], columns: int, folder: Path) -> tuple[str, int]:
    """What a command writes to a terminal of so many columns, and its exit code."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    plain = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=plain | {"TERM": "xterm-256color"},
        cwd=folder,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return written.decode().replace("\r\n", "\n"), process.wait()


def faults(text: str, columns: int) -> list[str]:
    """What is wrong with what was written: lines that do not fit."""
    return [f"{width_of(Styled(line))} cells: {line}" for line in text.split("\n") if width_of(Styled(line)) > columns]


def picture(command: str, text: str, columns: int, theme: TerminalTheme) -> str:
    """The capture as SVG, without a font of others."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(text))
    svg = console.export_svg(title=command, theme=theme, unique_id="t")
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="launch-captures-") as made, system(Path(made)) as (_, env):
        for name, command in commands(fill(Path(made), env)).items():
            for columns in WIDTHS:
                words = shlex.split(command)
                text, code = on_terminal([str(BIN / words[0]), *words[1:]], env, columns, Path(made))
                if name not in RAW:
                    wrong += [f"{command} at {columns}: {fault}" for fault in faults(text, columns)]
                is_of_job = name.startswith(("show", "logs"))
                if ("Traceback" in text and not is_of_job) or (code != 0) != (name in ("runs-wrong", "unknown")):
                    wrong.append(f"{command} ended with {code}: {text[-500:]}")
                # Paths of this machine say nothing.
                for path in (made, str(ROOT), str(Path.home())):
                    text = text.replace(path, "~")
                text = re.sub(r"/tmp/launch-dev-\w+", "~", text)
                plain = unstyled(Styled(text))
                (FOLDER / f"{name}-{columns}.txt").write_text(f"$ {command}\n{plain}", encoding="utf-8")
                if name in PICTURES and columns == min(WIDTHS):
                    for theme, colours in (("light", LIGHT), ("dark", DIMMED_MONOKAI)):
                        drawn = picture(command, text, columns, colours)
                        (FOLDER / f"{name}-{theme}.svg").write_text(drawn, encoding="utf-8")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
