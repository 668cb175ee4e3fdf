"""Lists the pages of docs/reference that are written from the code, and who writes each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.reference import api, cli, exit_codes, log_words, metrics, schemas, settings, submit_options

FOLDER = Path(__file__).parents[2] / "docs/reference"

PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "cli.md": cli.page,
    "exit-codes.md": exit_codes.page,
    "item.md": schemas.item_page,
    "log-words.md": log_words.page,
    "metrics.md": metrics.page,
    "notices.md": schemas.notice_page,
    "settings.md": settings.page,
    "submit.md": submit_options.page,
}
