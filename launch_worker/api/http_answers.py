"""Makes the paths of a server's API, and values of what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from launch_worker.api.http_connection import part_of_path

T = TypeVar("T")


def path_of(*parts: str) -> str:
    """The path of these parts, each escaped."""
    return "".join(f"/{part_of_path(part)}" for part in parts)


def known(kind: type[T], said: Mapping[str, Any]) -> T:
    """The value of what a server says, which may say more when it is newer."""
    names = {of.name for of in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in said.items() if name in names})
