"""Reads pages as a person does."""

from __future__ import annotations

import re
from html import unescape


def text_of(page: str) -> str:
    """What a reader of the page's main part reads, blanks as one."""
    main = page.partition("<main")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())
