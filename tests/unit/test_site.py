"""The site of the docs is built strictly, has every page in its navigation, and leads nowhere that is not there."""

from __future__ import annotations

import re

from tools import site


def test_the_site_is_built_and_all_of_its_links_lead_somewhere() -> None:
    """Without a network: a page that would fetch something is named too."""
    assert site.build(quiet=True) == []


def test_each_page_has_its_place_in_the_navigation() -> None:
    named = set(re.findall(r"\b([\w/-]+\.md)$", (site.ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {str(page.relative_to(site.DOCS)) for page in site.DOCS.rglob("*.md")}
    assert not sorted(pages - named)
