"""The page of a log of a million lines in a real Chromium: its end, a jump, a search, and minutes of a job that prints.

`python -m bench.log_page 600` follows for ten minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from bench.measure import BenchError, Results, cpu_s, percentile
from bench.server import start_server
from bench.systems import LAUNCH, Running
from bench.whole_logs import LINES, execute, wait_until_stored
from launch_worker.api.client import Api, Run, submit
from launch_worker.settings import Settings

#: Prints lines at a rate, each with the time at which it was printed.
_PRINTER = """
import sys, time
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
begun = time.monotonic()
for at in range(int(rate * seconds)):
    print(f"at={time.time() * 1000:.0f} step={at} loss=0.12345 of a training that prints much", flush=True)
    time.sleep(max(0.0, begun + at / rate - time.monotonic()))
time.sleep(30)
"""
#: Notes when the last line of a page that opens is seen, and how late the newest line is whenever a frame is drawn.
_WATCH = """
window.lags = [];
let newest = "";
const look = () => {
  const rows = document.querySelectorAll(".log-row");
  const text = rows[rows.length - 1]?.textContent ?? "";
  if (!window.opened && text.includes("step=0999999")) window.opened = performance.now();
  const at = /at=(\\d+) step/.exec(text);
  if (at && text !== newest) window.lags.push(Date.now() - Number(at[1]));
  newest = text;
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
#: Goes to a random place by the scroll bar; answers when all rows in view have their lines.
_JUMP = """() => new Promise((done) => {
  const view = document.querySelector(".log-lines");
  const begun = performance.now();
  view.scrollTop = Math.random() * (view.scrollHeight - view.clientHeight);
  const before = document.querySelector(".log-row")?.textContent;
  const look = () => {
    const texts = [...document.querySelectorAll(".log-row")].map((row) => row.textContent);
    if (texts[0] !== before && texts.every((text) => text.includes("step="))) done(performance.now() - begun);
    else requestAnimationFrame(look);
  };
  look();
})"""
_SEARCH = """(text) => new Promise((done) => {
  const field = document.querySelector(".log-bar input");
  const begun = performance.now();
  field.value = text;
  field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  const look = () => {
    const found = document.querySelector(".log-found").textContent;
    if (found.includes("of") || found.includes("not")) done(performance.now() - begun);
    else setTimeout(look, 1);
  };
  setTimeout(look, 0);
})"""


def measure(results: Results, *, opens: int, jumps: int, seconds: float) -> None:
    """First a log that has ended, then one that grows at 1,000 lines a second."""
    with Running(LAUNCH, start=False) as running:
        url = f"file://{running.folder}/logs"
        running.env["LAUNCH_LOG_URL"] = url
        running.start_worker()
        api = Api(settings=Settings.from_env({"LAUNCH_LOG_URL": url}, redis_url=running.url))
        address, key, server = start_server(running)
        run = execute(api)
        wait_until_stored(url, run)
        with tab(f"{address}/?token={key}", script=_WATCH) as page:
            _at_rest(results, page, f"{address}/runs/{run.id}/log", opens=opens, jumps=jumps)
            printer = submit([sys.executable, "-c", _PRINTER, "1000", str(seconds)], api=api)
            _growing(results, page, f"{address}/runs/{printer.id}/log", printer, server, seconds=seconds)


def _at_rest(results: Results, page: Page, address: str, *, opens: int, jumps: int) -> None:
    opened = results.metric("open a log of a million lines at its end, in a browser", "ms", goal="at most 200")
    for _ in range(opens):
        page.goto(address)
        opened.add("from the navigation", until(page, "window.opened"))
    if page.locator(".log-count").inner_text() != f"{LINES:,} lines":
        raise BenchError("the log is not whole")
    took = sorted(float(page.evaluate(_JUMP)) for _ in range(jumps))
    jumped = results.metric("jump by the scroll bar", "ms", goal="p95 at most 50")
    jumped.add("p50", percentile(took, 0.5))
    jumped.add("p95", percentile(took, 0.95))
    results.metric("elements of the viewer", "", goal="at most 200").add("all", page.locator("log-view *").count())
    search = results.metric("search of all, in a browser", "ms", goal="at most 500")
    for text, name in (("step=0999998", "one hit"), ("nowhere", "no hit"), ("loss", "a million hits")):
        search.add(name, float(page.evaluate(_SEARCH, text)))
    results.metric("JavaScript heap", "MiB", goal="at most 20").add("a million lines", _heap_mib(page))


def _growing(results: Results, page: Page, address: str, run: Run, server: int, *, seconds: float) -> None:
    heap = results.metric("JavaScript heap", "MiB", goal="at most 20")
    deadline = time.monotonic() + 30
    while not run.refresh().started_at:
        if time.monotonic() > deadline:
            raise BenchError("the job does not start")
        time.sleep(0.05)
    page.goto(address)
    began, before = time.monotonic(), cpu_s(server)
    after = (0.1, 0.5, 0.95)
    for share in after:
        time.sleep(max(0.0, began + share * seconds - time.monotonic()))
        heap.add(f"1,000 lines a second, after {share * seconds:.0f} s", _heap_mib(page))
    cpu = (cpu_s(server) - before) / (time.monotonic() - began) * 100
    results.metric("CPU of the server, one follows 1,000 lines a second", "% of a core").add("1 page", cpu)
    lags = [float(lag) for lag in page.evaluate("window.lags")]
    late = results.metric("a printed line to its row", "ms", goal="at most 200")
    late.add("p50", percentile(lags, 0.5))
    late.add("p95", percentile(lags, 0.95))
    count = int(page.locator(".log-count").inner_text().partition(" ")[0].replace(",", ""))
    if count < 0.8 * seconds * 1000:
        raise BenchError(f"{count} lines came in {seconds:g} s")
    run.cancel()


@contextmanager
def tab(entrance: str, *, script: str = "") -> Iterator[Page]:
    """A tab that was let in; `script` runs first on each of its pages."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise BenchError("there is no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 740})
        page.goto(entrance)
        page.add_init_script(script)
        yield page
        browser.close()


def until(page: Page, expression: str) -> float:
    """The number that an expression is, once it is one."""
    deadline = time.monotonic() + 20
    while (value := page.evaluate(expression)) is None:
        if time.monotonic() > deadline:
            raise BenchError(f"{expression} does not come")
        time.sleep(0.02)
    return float(value)


def _heap_mib(page: Page) -> float:
    session: Any = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return float(metrics["JSHeapUsedSize"]) / (1 << 20)


if __name__ == "__main__":
    figures = Results()
    measure(figures, opens=10, jumps=100, seconds=float(sys.argv[1]) if len(sys.argv) > 1 else 120)
    print(figures.table(), f"\nload {os.getloadavg()}, {psutil.cpu_count()} cores")
