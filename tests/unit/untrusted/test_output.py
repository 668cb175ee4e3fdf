"""What a job printed steers nothing, on a terminal or a page."""

from __future__ import annotations

import pytest

from launch_worker.untrusted.output import with_colours, without_escapes


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;pwned\x07title", "title"),
        ("\x1b]52;c;aGk=\x1b\\clip", "clip"),
        ("\x1b]8;;https://evil.example\x07link\x1b]8;;\x07", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("50%\r100%\nend\r\n", "100%\nend\n"),
        ("bell\x07 \x9b \u202eevil", "bell^G \\x9b \\u202eevil"),
        ("\x1b]0;never ended", "^[]0;never ended"),
        ("日本語 ok\ttab", "日本語 ok\ttab"),
    ],
)
def test_a_page_gets_text_without_escapes(text: str, plain: str) -> None:
    assert without_escapes(text) == plain


def test_a_terminal_gets_colours_and_no_other_escapes() -> None:
    assert with_colours("\x1b[31mred\x1b[0m\x1b]0;x\x07\r\n50%\r60%") == "\x1b[31mred\x1b[0m^[]0;x^G\n50%^M\n60%"
