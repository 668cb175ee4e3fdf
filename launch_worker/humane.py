"""Says durations, ages, sizes and numbers as people read them: the one place for terminal and page."""

from __future__ import annotations

import math

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))


def duration(seconds: float) -> str:
    """A duration in its two largest units: `3 ms`, `41 s`, `2 min 3 s`, `5 h 2 min`, `3 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for size, name, below, lesser in _UNITS:
        if whole >= size:
            # From ten days on hours say nothing.
            rest = 0 if whole >= 10 * _DAY else whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def span(seconds: float) -> str:
    """A duration in its largest unit: `3 s`, `12 min`, `5 h`, `3 d`."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    return next((f"{whole // size} {name}" for size, name, _, _ in _UNITS if whole >= size), f"{whole} s")


def ago(seconds: float) -> str:
    """How long ago something was: `now`, `12 s ago`, `3 min ago`; for the future `in 3 min`."""
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def size(size_bytes: float) -> str:
    """Bytes in binary units with three digits: `512 B`, `1.5 GiB`, `11 GiB`."""
    number = max(0.0, size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 999.5 or unit == "TiB":
            break
        number /= 1024
    text = f"{number:.0f}" if unit == "B" or number >= 99.5 else f"{number:.3g}"
    return f"{text} {unit}"


def count(number: int) -> str:
    """A whole number with its thousands apart: `3,056`."""
    return f"{number:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """The number with its noun: `1 run`, `3,056 runs`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def figure(value: float) -> str:
    """A measured number with four digits: `0.9333`, `12.5`, `1.2e-05`; whole numbers whole."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or value.is_integer():
        return count(int(value)) if abs(value) < 10**15 else _large(value)
    return f"{value:.4g}"


def sentence(text: str) -> str:
    """A phrase as a sentence: `Exit code 3.`"""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _large(value: float) -> str:
    """A number in powers of ten; JSON has whole ones that no float can be."""
    exponent = math.log10(abs(value))
    power = int(exponent)
    return f"{'-' if value < 0 else ''}{10 ** (exponent - power):.3f}e+{power}"
