"""Photographs every page in both themes, and some at 400 px, into docs/pictures/pages: `make pictures`.

It starts a launch system of its own, with runs of all kinds in it, and needs Chromium. Errors of scripts, what the
policy refuses, and pages that scroll sideways end it with status 1.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from example import fill, system
from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "pages"
#: Width and height of a window, in CSS pixels; and of a telephone's.
WIDE, NARROW = (1280, 800), (400, 800)
#: Milliseconds for a page's scripts after it was loaded.
_SETTLE_MS = 700


def paths(ids: dict[str, str]) -> dict[str, str]:
    """The address of each picture."""
    return {
        "overview": "/",
        "runs": "/runs",
        "run-failed": f"/runs/{ids['failed']}",
        "run-waiting": f"/runs/{ids['waiting']}",
        "run-running": f"/runs/{ids['running']}",
        "run-timeline": f"/runs/{ids['failed']}/timeline",
        "run-metrics": f"/runs/{ids['finished']}/metrics",
        "run-resources": f"/runs/{ids['running']}/resources",
        "run-details": f"/runs/{ids['finished']}/details",
        "run-log": f"/runs/{ids['running']}/log",
        "compare": f"/runs/compare?{ids['compared']}",
        "submit": "/submit",
        "queues": "/queues",
        "queue": "/queues/gpu",
        "pool": "/pools/big",
        "workers": "/workers",
        "sweeps": "/sweeps",
        "sweep": f"/sweeps/{ids['sweep']}",
        "schedules": "/schedules",
        "problems": "/problems",
        "usage": "/usage?since=1d",
        "audit": "/audit",
        "people": "/people",
        "user": "/people/users/ada",
        "account": "/account",
        "login": "/login",
        "components": "/design",
    }


def photograph(page: Page, path: Path) -> None:
    """Keep a picture of the window, in few colours: it is a third as large then."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("there is no Chromium on PATH; apt-get install chromium")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="launch-pictures-") as made, system(Path(made)) as (url, env):
        shown = paths(fill(Path(made), env))
        base = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for theme, (width, height) in (("light", WIDE), ("dark", WIDE), ("narrow", NARROW)):
                context = browser.new_context(
                    color_scheme="dark" if theme == "dark" else "light",
                    viewport={"width": width, "height": height},
                    locale="en-GB",
                )
                page = context.new_page()
                page.on("pageerror", lambda error: wrong.append(str(error)))
                page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
                page.goto(url)
                for name, path in shown.items():
                    answer = page.goto(base + path)
                    page.wait_for_timeout(_SETTLE_MS)
                    if answer is None or answer.status != 200:
                        wrong.append(f"{path}: {answer and answer.status}")
                    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        wrong.append(f"{path} is wider than {width} px")
                    photograph(page, FOLDER / f"{name}-{theme}.png")
                context.close()
            browser.close()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
