"""Writes the tree of the package into docs/architecture.md, from the first line of each docstring: `make maps`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"

#: The lines of the page between which the tree is.
BEGIN, END = "<!-- the tree: make maps -->", "<!-- end of the tree -->"

#: Folders without Python.
FOLDERS = {
    "js": "Our own scripts, as browsers load them.",
    "lua": "One script for each arrow or question.",
    "static": "What browsers get as it is.",
    "templates": "The pages, filled by Jinja.",
    "vendor": "Scripts of others, fetched by `make assets`; their versions, hashes and licences.",
    "words": "What the scripts share, a file for each subject.",
}


def first_line(path: Path) -> str:
    """What a module, or a text of shared Lua, says of itself first."""
    text = path.read_text(encoding="utf-8")
    said = text.lstrip("- ") if path.suffix == ".lua" else ast.get_docstring(ast.parse(text)) or ""
    return said.partition("\n")[0]


def lines(folder: Path, indent: str = "") -> Iterator[str]:
    """One line for each folder and each module, the folders first."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(("_", ".")))
    for path in (path for path in inside if path.is_dir()):
        own = path / "__init__.py"
        yield f"{indent}- **`{path.name}/`**: {first_line(own) if own.is_file() else FOLDERS[path.name]}"
        yield from lines(path, f"{indent}  ")
    for path in inside:
        if path.suffix == ".py" or folder.name == "words":
            yield f"{indent}- `{path.name}`: {first_line(path)}"


def with_tree(page: str) -> str:
    """The page with the tree as the package is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", "", *lines(ROOT / "launch_worker"), "", f"{END}{after}"])


def main() -> None:
    PAGE.write_text(with_tree(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
