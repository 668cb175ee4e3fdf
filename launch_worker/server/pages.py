"""Fills the templates of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from launch_worker.server.assets import asset

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
)
_templates.globals["asset"] = asset


def page(template: str, /, **values: Any) -> str:
    """The HTML of a page."""
    return _templates.get_template(f"{template}.html").render(values)
