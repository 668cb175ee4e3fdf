"""Fills the templates of the pages."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from launch_worker import humane
from launch_worker.model.units import isoformat
from launch_worker.server.assets import asset
from launch_worker.server.charts import in_unit
from launch_worker.untrusted.text import clean, plain_line

HERE = Path(__file__).parent


def page(template: str, /, **values: Any) -> str:
    """The HTML of a page."""
    return _templates.get_template(f"{template}.html").render(values)


def when(isotime: str | None, *, is_short: bool = False) -> Markup:
    """A `<time>` with its age, and the exact time on hover; `short` leaves "ago" out."""
    if not isotime:
        return Markup("")
    moment = datetime.fromisoformat(isotime)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = humane.span(seconds) if is_short else humane.ago(seconds)
    exact = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(isotime, exact, text)


def seconds_between(start: str | None, end: str | None) -> float | None:
    """The seconds from one time to another, now for none; None where it has not begun."""
    if not start:
        return None
    last = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return (last - datetime.fromisoformat(start)).total_seconds()


def took(start: str | None, end: str | None) -> str:
    """The duration from one time to another, until now for none; '' where it has not begun."""
    seconds = seconds_between(start, end)
    return "" if seconds is None else humane.duration(seconds)


def who(run: dict[str, Any]) -> str:
    """Whose run it is: the person whom a login proved, else the author that the submitter named; '' for nobody."""
    spec = run.get("spec")
    return str(run.get("user") or (spec.get("author") if isinstance(spec, dict) else "") or "")


def as_data(value: Any) -> Markup:
    """JSON for `<script type="application/json">`: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def in_url(value: Any) -> str:
    """A text as a part of a path or a query: no slash in a name leads to another route. Of a map its query."""
    return urlencode(value) if isinstance(value, dict) else quote(str(value), safe="")


def as_text(value: Any) -> str:
    """A value of a config or a summary, as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return humane.figure(value)
    return json.dumps(value, ensure_ascii=False)


_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "duration": humane.duration,
    "span": humane.span,
    "size": humane.size,
    "count": humane.count,
    "figure": humane.figure,
    "when": when,
    "as_data": as_data,
    "as_text": as_text,
    # In the place of Jinja's own, which leaves slashes alone.
    "urlencode": in_url,
    "sentence": humane.sentence,
    "in_unit": in_unit,
    "clean": clean,
    "plain_line": plain_line,
    "isotime": isoformat,
}
_templates.globals |= {
    "asset": asset,
    "plural": humane.plural,
    "took": took,
    "who": who,
    "seconds_between": seconds_between,
}
