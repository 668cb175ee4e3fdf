"""Searches texts by other people's regular expressions in bounded time: Rust's engine, which pydantic has.

Its time is linear in the text. Python's own may take hours for thirty characters, and no other thread of the process
runs meanwhile. A pattern that stands for 27,000 states takes half a millisecond for each character, so its repetitions
are bounded too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

MAX_PATTERN = 500
#: Weight of a pattern at most: 25 us for each character, if it is made for that.
MAX_WEIGHT = 2000
_COUNT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
#: A repetition of what is more than one character; flags with which comments may hide one.
_NESTED = re.compile(r"[)}*+?]\s*\{|\(\?[a-zA-Z]*x")


class PatternError(ValueError):
    """Not a regular expression that can be searched in bounded time; the text says why."""


def weight_of(pattern: str) -> int:
    """How much a pattern repeats: what its counts make together, as `{3}` and `{1,9}` in each other 27."""
    counts = [int((most or least or "1")[:9]) for least, most in _COUNT.findall(pattern)]
    return math.prod(counts) if _NESTED.search(pattern) else sum(counts)


def searcher(pattern: str, *, max_chars: int = MAX_PATTERN, max_weight: float = MAX_WEIGHT) -> Callable[[str], bool]:
    """Make a function that says whether a text has the pattern in it. Raises PatternError."""
    # Imported only where a pattern is used: a person waits for a list.
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    if len(pattern) > max_chars:
        raise PatternError(f"it has more than {max_chars} characters")
    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise PatternError(last.removeprefix("error: ")) from None
    if weight_of(pattern) > max_weight:
        raise PatternError(f"its repetitions make {weight_of(pattern):,} together, and may make {max_weight:,}")
    return validator.isinstance_python
