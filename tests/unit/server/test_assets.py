"""What browsers get is small, kept by them, and, where others wrote it, what was fetched."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from pathlib import Path

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder
from starlette.applications import Starlette
from starlette.routing import Mount

from launch_worker.server.assets import FOLDER, MOUNT, Assets, asset

ROOT = Path(__file__).parents[3]
VENDOR = FOLDER / "vendor"
VERSIONS = json.loads((VENDOR / "VERSIONS.json").read_bytes())
#: Bytes of all scripts and styles together at most, as they are sent.
MOST_BYTES = 80_000


def get(path: str, **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        application = Starlette(routes=[Mount(MOUNT, Assets())])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://here") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


@pytest.mark.parametrize("kept", VERSIONS, ids=lambda kept: kept["file"])
def test_a_script_of_others_is_the_one_that_was_fetched(kept: dict[str, str]) -> None:
    assert hashlib.sha256((VENDOR / kept["file"]).read_bytes()).hexdigest() == kept["sha256"]
    assert "Permission" in (VENDOR / kept["licence_file"]).read_text(encoding="utf-8")


def test_each_file_of_others_is_listed() -> None:
    listed = {kept[name] for kept in VERSIONS for name in ("file", "licence_file")} | {"VERSIONS.json"}
    assert {path.name for path in VENDOR.iterdir()} == listed


def test_the_wheel_has_all_that_browsers_get() -> None:
    shipped = {file.relative_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert not {str(path.relative_to(ROOT)) for path in FOLDER.rglob("*") if path.is_file()} - shipped


def test_all_scripts_and_styles_together_are_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".js", ".css")]
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 5)) for path in files}
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_a_browser_keeps_what_a_page_names() -> None:
    path = asset("vendor/htmx.min.js")
    first = get(path)
    assert first.status_code == 200
    assert first.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    # What a module imports by a relative path is kept too.
    assert "immutable" in get(f"{path.rpartition('/')[0]}/uPlot.min.css").headers["Cache-Control"]


@pytest.mark.parametrize("path", [f"{MOUNT}/vendor/htmx.min.js", f"{MOUNT}/@0123/vendor/htmx.min.js"])
def test_under_another_path_a_browser_asks_and_gets_it_once(path: str) -> None:
    first = get(path)
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
    assert get(path, **{"If-None-Match": first.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize("path", ["/static/@0123", "/static/@0123/../../assets.py", "/static/nothing.js"])
def test_what_is_not_there_is_not_found(path: str) -> None:
    assert get(path).status_code == 404
