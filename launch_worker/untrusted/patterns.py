"""Searches texts by other people's regular expressions in bounded time: Rust's engine, which pydantic has.

Its time is linear in the text. Python's own may take hours for thirty characters, and no other thread of the process
runs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_PATTERN = 500


class PatternError(ValueError):
    """Not a regular expression that can be searched in bounded time; the text says why."""


def searcher(pattern: str, *, max_chars: int = MAX_PATTERN) -> Callable[[str], bool]:
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
    return validator.isinstance_python
