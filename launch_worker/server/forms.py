"""Reads what a form of a page sent, without a library for uploads."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request

from launch_worker.errors import InputError

#: Fields that a form may have: the selected rows of a long list are many.
_MOST_FIELDS = 20_000


class Form:
    """The fields of a form."""

    def __init__(self, body: bytes) -> None:
        try:
            self._said = parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except ValueError:
            raise InputError(f"a form has at most {_MOST_FIELDS:,} fields; choose fewer rows") from None

    def __contains__(self, name: str) -> bool:
        return name in self._said

    def text(self, name: str) -> str:
        """The field without the blanks around it; '' for one that is not there."""
        return self.raw(name).strip()

    def raw(self, name: str) -> str:
        """The field with its blanks, for passwords."""
        return self._said.get(name, [""])[0]

    def pairs(self) -> list[tuple[str, str]]:
        """All fields, in their order."""
        return [(name, value) for name, values in self._said.items() for value in values]

    def number(self, name: str, *, most_digits: int = 9) -> int | None:
        """The field as a whole number; None for an empty one. Raises InputError."""
        text = self.text(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= most_digits):
            raise InputError(f"{name} must be a whole number, or empty for none, not {text!r:.40}")
        return int(text)

    def texts(self, name: str) -> list[str]:
        """All values of a field that is there several times."""
        return self._said.get(name, [])


async def form_of(request: Request) -> Form:
    """The form that a route gets, for a route that is no coroutine itself."""
    return Form(await request.body())


FormHere = Annotated[Form, Depends(form_of)]
