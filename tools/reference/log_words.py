"""Writes docs/reference/log-words.md: the stable words by which lines of the logs begin, from the calls that log them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools.reference.markdown import GENERATED, cell, table

PACKAGE = Path(__file__).parents[2] / "launch_worker"
#: Levels as lines of the log name them.
LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}

TOP = """# Words of the logs

Every line that workers, beat, the server and the archive log begins with a stable word, and has ids as fields behind it:
`run.claimed run=1m8p5bw230s4sxz attempt=1 queue=gpu`. Search for these words; the rest of a line may change. What an alarm means, and what to
do, is in [operations](../operations.md).

`…` stands for what differs. Where a word has several texts, each is a line of the table. Those of level debug are seen with
`-l debug` only.

"""


def lines() -> Iterator[tuple[str, str, str]]:
    """Word, level and text of each line that is logged."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            level, text = LEVELS.get(node.func.attr), node.args[0]
            if level and isinstance(text, ast.Constant) and isinstance(text.value, str):
                word, _, rest = text.value.partition(" ")
                if re.fullmatch(r"[a-z_]+\.[a-z_]+:?", word):
                    yield word.rstrip(":"), level, rest


def page() -> str:
    """The whole page."""
    found = sorted({(word, level, re.sub(r"%[-.0-9]*[a-z]", "…", text)) for word, level, text in lines()})
    rows = [(f"`{word}`", level, cell(text)) for word, level, text in found]
    return f"{GENERATED}{TOP}{table(('word', 'level', 'what follows'), rows)}"
