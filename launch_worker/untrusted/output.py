"""Makes what a job printed harmless to show: escapes neither steer a terminal nor hide what stands there."""

from __future__ import annotations

import re

#: Sequences of a job that reach a terminal: colours, and a line's end as on Windows.
_COLOURS_PASS = re.compile(r"\x1b\[[0-9;:]{0,60}m|\r\n|[^\n\t\x20-\x7e]")
#: Escape sequences as a whole: those of one control sequence, those with a text (title, link, clipboard), short ones.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]{0,60}[ -/]{0,9}[@-~]|\x1b[\]PX^_][^\x07\x1b\n]{0,4000}(?:\x07|\x1b\\)|\x1b[ -/]{0,9}[0-OQ-WYZ\\`-~]"
)
_NOT_PLAIN = re.compile(r"[^\n\t\x20-\x7e]")
#: Characters that pass: blanks, and joiners within letters and emoji.
_HARMLESS = "\xa0\u200c\u200d\u202f\u3000"


def with_colours(text: str) -> str:
    """The text for a terminal: colours pass, and every other control character is shown as what it is: `^G`, `\\x9b`.

    A carriage return is `^M` and a new line, so that no line is written over.
    """
    return _COLOURS_PASS.sub(_on_terminal, text)


def without_escapes(text: str) -> str:
    """The text for a page: escape sequences are left out, other control characters are shown as what they are.

    Of a line that was written over, as by a progress bar, the last text stays.
    """
    lines = _ESCAPES.sub("", text).split("\n")
    return "\n".join(_NOT_PLAIN.sub(_shown, _last_written(line)) for line in lines)


def _last_written(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part), "") if "\r" in line else line


def _on_terminal(match: re.Match[str]) -> str:
    found = match[0]
    if found == "\r\n":
        return "\n"
    if len(found) > 1:
        return found
    return "^M\n" if found == "\r" else _shown(match)


def _shown(match: re.Match[str]) -> str:
    found = match[0]
    if found.isprintable() or found in _HARMLESS:
        return found
    if found < " " or found == "\x7f":
        return f"^{chr(ord(found) ^ 0x40)}"
    return found.encode("unicode_escape").decode()
