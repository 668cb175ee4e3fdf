"""Writes the table of a run's options into docs/reference/submit.md."""

from __future__ import annotations

import inspect
from pathlib import Path

from launch_worker.api.client import submit
from launch_worker.model.options import COMMAND_LINE, CONTAINER, DEFAULT, LINE, OPTIONS, PYTHON, Option

PAGE = Path(__file__).parents[2] / "docs/reference/submit.md"
BEGIN = "<!-- options: make reference -->\n"
END = "<!-- end of options -->\n"
#: Arguments of `submit` that are not of the run.
NOT_OF_THE_RUN = ("api", "strict")


def python_names() -> set[str]:
    return set(inspect.signature(submit).parameters) - set(NOT_OF_THE_RUN)


def python_name(option: Option) -> str:
    """The argument of `submit` that an option is, '' for none."""
    if PYTHON not in option.places:
        return ""
    return next((name for name in (option.name, *option.aliases) if name in python_names()), "")


def table() -> str:
    """The table of all options, in the order of --help."""
    rows = ["| `launch-submit` | line | Python | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for option in OPTIONS:
        words = option.words or (f"--{option.name.replace('_', '-')}",)
        value = "\\|".join(option.choices) or option.unit.replace("|", "\\|")
        typed = f"`{', '.join(words)}{' ' + value if value else ''}`" if COMMAND_LINE in option.places else ""
        line = f"`{option.name}`" if LINE in option.places else ""
        python = python_name(option) or (f"container[{option.field}]" if option.owner == CONTAINER else "")
        default = f"`{option.name}`" if DEFAULT in option.places else ""
        usual = f" Usual: {option.usual}." if option.usual else ""
        meaning = option.explanation.replace("|", "\\|") + usual
        rows.append(f"| {typed} | {line} | {f'`{python}`' if python else ''} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The page with its table as the code has it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"
