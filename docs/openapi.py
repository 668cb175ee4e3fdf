"""Writes the description of the server's API into docs/openapi.json: `make openapi`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from launch_worker.server.address import Address
from launch_worker.server.application import make_application
from launch_worker.server.openapi import as_text
from launch_worker.settings import Settings

KEPT = Path(__file__).parent / "openapi.json"


def text() -> str:
    """The description of this tree's API. Nothing is connected to."""
    with TemporaryDirectory() as folder:
        settings = Settings(work_dir=Path(folder))
        return as_text(make_application(settings, address=Address("127.0.0.1", 7600)).openapi())


def main() -> None:
    KEPT.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
