"""Follows symbolic links by the list of a folder's links alone: nothing is looked for on any disk."""

from __future__ import annotations

from collections.abc import Mapping

#: Parts of a path, and of all links on its way, that are gone through at most: links may lead in circles.
_MOST_PARTS = 200


def resolved(path: str, links: Mapping[str, str]) -> str:
    """The path without links, '' for the folder itself; `links` has the target of each, by its path.

    Raises ValueError where links lead in circles or out of the folder.
    """
    parts, passed = path.split("/")[::-1], 0
    found: list[str] = []
    while parts:
        part = parts.pop()
        passed += 1
        if passed > _MOST_PARTS:
            raise ValueError("its links lead in circles")
        if part == "..":
            if not found:
                raise ValueError("its links lead out of the folder")
            found.pop()
        elif part not in ("", "."):
            found.append(part)
            target = links.get("/".join(found))
            if target is not None:
                found.pop()
                parts += target.split("/")[::-1]
    return "/".join(found)
