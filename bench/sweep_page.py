"""The page of a sweep of 10^4 runs in a real Chromium: its pictures, and its frames while one drags along an axis."""

from __future__ import annotations

import json
import math
import os
import random
from typing import Any

import psutil
from playwright.sync_api import Page

from bench.log_page import tab, until
from bench.measure import BenchError, Results, percentile
from bench.server import start_server
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.sweeps.config import parse_config

SWEEP = {
    "method": "random",
    "command": ["true"],
    "metric": {"name": "loss"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 0.1},
        "batch": {"values": [16, 32, 64, 128, 256]},
        "optimizer": {"values": ["adam", "sgd", "lion", "adafactor"]},
        "dropout": {"min": 0.0, "max": 0.6},
        "layers": {"min": 2, "max": 24},
        "warmup": {"min": 0.0, "max": 0.2},
    },
}
#: Notes when the first picture of the runs is whole, and the time between frames from `watch()` on.
_WATCH = """
document.addEventListener("drawn", () => (window.drawn ??= performance.now()), true);
window.watch = () => {
  window.gaps = [];
  let last = performance.now();
  const look = (now) => {
    window.gaps.push(now - last);
    last = now;
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
};
"""
#: Tasks of a page's thread in Chromium's trace.
_TASKS = ("RunTask", "ThreadControllerImpl::RunTask")


def measure(results: Results, *, runs: int, drags: int) -> None:
    """Open it, then drag from the middle of an axis, 60 moves each time."""
    with Running(LAUNCH, start=False) as running:
        api = Api(settings=Settings.from_env(running.env))
        sweep = _made(api, running.redis, runs)
        address, key, _ = start_server(running)
        with tab(f"{address}/?token={key}", script=_WATCH) as page:
            drawn = results.metric(f"open a sweep of {runs:,} runs, its lines drawn", "ms")
            page.goto(f"{address}/sweeps/{sweep}")
            drawn.add("from the navigation", until(page, "window.drawn"))
            busy, gaps = _dragged(page, drags)
            if "are picked" not in page.locator(".picked").inner_text():
                raise BenchError("dragging picks nothing")
        frames = results.metric(f"a frame while dragging among {runs:,} runs", "ms", goal="at most 50")
        frames.add("work of the page's thread, longest, CPU", max(busy))
        frames.add("from frame to frame, p95", percentile(gaps, 0.95))
        frames.add("from frame to frame, longest", max(gaps))


def _dragged(page: Page, drags: int) -> tuple[list[float], list[float]]:
    """CPU milliseconds of each task of the page's thread, and milliseconds between frames."""
    box = page.locator(".lines .canvas").bounding_box()
    browser = page.context.browser
    if box is None or browser is None:
        raise BenchError("there is no picture")
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    page.evaluate("window.watch()")
    for _ in range(drags):
        x, y = box["x"] + 70, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(60):
            page.mouse.move(x, y + 2 * step)
            page.wait_for_timeout(16)
        page.mouse.up()
        page.wait_for_timeout(1000)
    gaps = [float(gap) for gap in page.evaluate("window.gaps")]
    events: list[dict[str, Any]] = json.loads(browser.stop_tracing())["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"] in _TASKS and "tdur" in event and (event["pid"], event["tid"]) in threads
    ]
    return tasks, gaps


def _made(api: Api, redis: Any, runs: int) -> str:
    """A sweep with so many ended runs, written as the store has them."""
    sweep = api.create_sweep(SWEEP, queue="nobodys", workers=1, count=runs + 1).id
    space = parse_config(SWEEP).space
    chance = random.Random(1)
    trials, ends = {}, {}
    for index in range(1, runs + 1):
        drawn: dict[str, float] = {}
        for name, domain in space.drawn.items():
            if domain.kind != "float":
                drawn[name] = chance.randint(int(domain.low), int(domain.high))
            elif domain.log:
                drawn[name] = math.exp(chance.uniform(math.log(domain.low), math.log(domain.high)))
            else:
                drawn[name] = chance.uniform(domain.low, domain.high)
        loss = 0.2 + 0.15 * (math.log10(drawn["lr"]) + 3) ** 2 + chance.random()
        trials[str(index)] = json.dumps({"run": new_run_id(), "drawn": drawn, "seen": 0})
        ends[str(index)] = json.dumps({"state": "Finished", "value": repr(loss)})
    redis.hset(keys.sweep_part(sweep, "trials"), mapping=trials)
    redis.hset(keys.sweep_part(sweep, "results"), mapping=ends)
    redis.hset(keys.sweep(sweep), "made", runs + 1)
    return sweep


if __name__ == "__main__":
    figures = Results()
    measure(figures, runs=10_000, drags=5)
    print(figures.table(), f"\nload {os.getloadavg()}, {psutil.cpu_count()} cores")
