"""Writes all pages: `python -m tools.reference`."""

from __future__ import annotations

from tools.reference.pages import FOLDER, PAGES


def main() -> None:
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
