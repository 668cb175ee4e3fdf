"""Writes the tables of docs/reference/metrics.md: every metric that Prometheus is told."""

from __future__ import annotations

from pathlib import Path

from launch_worker.prometheus import metrics
from tools.reference.markdown import code, table

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
BEGIN, END = "<!-- metrics: make reference -->\n", "<!-- end of metrics -->\n"


def tables() -> str:
    """A table for the whole system, and one for a worker."""
    parts = []
    for title, kinds in (("The whole system", metrics.SYSTEM), ("One worker", metrics.WORKER)):
        rows = [(code(one.name), one.kind, ", ".join(map(code, one.labels)), one.help) for one in kinds]
        parts.append(f"## {title}\n\n{table(('metric', 'kind', 'labels', 'what it says'), rows)}")
    return "\n".join(parts)


def page() -> str:
    """The page with its tables as the code has them."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.partition(END)[2]}"
