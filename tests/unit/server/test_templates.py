"""Templates hold to the policy of the server, which refuses inline scripts and styles, and leave no text unescaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch_worker.server.templating import HERE, as_data, page, when

TEMPLATES = sorted((HERE / "templates").rglob("*.html"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_nothing_inline_and_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle\s*=", text)
    assert not re.search(r"\son[a-z]+\s*=\s*[\"']", text)
    assert "hx-on" not in text
    assert "js:" not in text
    assert "javascript:" not in text
    assert "| safe" not in text
    assert "autoescape false" not in text
    for script in re.findall(r"<script\b[^>]*>", text):
        assert "src=" in script or 'type="application/json"' in script, script
    assert not re.search(r"(src|href|action)=\"(https?:)?//", text)


def test_data_for_a_script_cannot_end_its_element() -> None:
    text = str(as_data({"name": "</script><b>&", "n": 1}))
    assert "<" not in text
    assert ">" not in text
    assert '"n":1' in text


def test_a_time_is_humane_and_says_the_exact_one() -> None:
    text = str(when("2020-01-31T10:00:00.000+00:00"))
    assert 'title="2020-01-31 10:00:00 UTC"' in text
    assert "d ago<" in text
    assert str(when(None)) == ""


def test_text_of_others_is_escaped() -> None:
    assert "<b>" not in page("problem", title="<b>x", problem="<b>y", back="/<b>")
