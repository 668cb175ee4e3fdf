"""The list of runs as a page beside many runs: how soon it comes and is painted, and what 100 open pages cost."""

from __future__ import annotations

import http.client
import re
import selectors
import shutil
import socket
import time
from html import unescape

import psutil

from bench.measure import BenchError, Results, percentile
from bench.questions import fill
from bench.server import start_server
from bench.systems import LAUNCH, Running
from launch_worker.database.database import Database
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.store.store import Store

#: Addresses of the list, by what they ask for.
_LISTS = {
    "newest": "/runs",
    "of a state and a queue": "/runs?state=Failed&queue=q3",
    "rare text": "/runs?q=needle",
    "by name": "/runs?sort=name",
    "of a tag": "/runs?tag=rare",
    "overview": "/",
}
#: Seconds after which the server makes anew what it keeps for all pages.
_KEPT_S = 1.1
_SPEC = RunSpec(command=("true",), name="train", project="ada/iris")


def measure(results: Results, *, runs: int, repeat: int, pages: int, rate: float, seconds: float) -> None:
    with Running(LAUNCH, start=False) as running:
        url = f"sqlite:///{running.folder}/archive.db"
        running.env["LAUNCH_DATABASE_URL"] = url
        database = Database(url)
        fill(database, runs)
        database.close()
        address, key, pid = start_server(running)
        asking = _Asking(address, key)
        _wait_for_counts(asking, runs)
        _lists(results, asking, pid, runs=runs, repeat=repeat)
        _paint(results, address, key, repeat=repeat)
        _open_pages(results, asking, running.url, pid, pages=pages, rate=rate, seconds=seconds)


class _Asking:
    """One that asks for pages over a connection that stays open."""

    def __init__(self, url: str, key: str) -> None:
        self.port = int(url.rpartition(":")[2])
        self.headers = {"Authorization": f"Bearer {key}", "Accept": "text/html", "Accept-Encoding": "gzip"}
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def get(self, path: str, **headers: str) -> bytes:
        try:
            self._connection.request("GET", path, headers=self.headers | headers)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            # A server ends a connection on which nothing is asked for some seconds.
            self._connection.close()
            self._connection.request("GET", path, headers=self.headers | headers)
            answer = self._connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 304):
            raise BenchError(f"{path} is answered by {answer.status}: {body[:300]!r}")
        return body

    def text(self, path: str) -> str:
        return self.get(path, **{"Accept-Encoding": "identity"}).decode()


def _wait_for_counts(asking: _Asking, runs: int) -> None:
    """The archive's process looks first at all rows."""
    deadline = time.monotonic() + 120
    while f"{runs:,} runs" not in asking.text("/runs"):
        if time.monotonic() > deadline:
            raise BenchError("the page does not count all runs")
        time.sleep(2)
    time.sleep(5)


def _lists(results: Results, asking: _Asking, pid: int, *, runs: int, repeat: int) -> None:
    took = results.metric(f"list of {runs:,} runs with its choices", "ms", goal="p95 at most 50 ms")
    late = results.metric("… p95", "ms")
    cpu = results.metric("… CPU of the server", "ms")
    for name, path in _LISTS.items():
        asking.get(path)
        times = []
        before = cpu_s(pid)
        for _ in range(repeat):
            time.sleep(_KEPT_S)
            began = time.perf_counter()
            asking.get(path)
            times.append((time.perf_counter() - began) * 1000)
        cpu.add(name, (cpu_s(pid) - before) / repeat * 1000)
        took.add(name, percentile(times, 0.5))
        late.add(name, percentile(times, 0.95))


def _paint(results: Results, address: str, key: str, *, repeat: int) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        return
    painted = results.metric("first paint of the list", "ms", goal="at most 300 ms")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{address}/?token={key}")
        for _ in range(repeat):
            page.goto(f"{address}/runs")
            page.wait_for_timeout(_KEPT_S * 1000)
            ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
            painted.add("/runs", ms)
        browser.close()


def _open_pages(
    results: Results, asking: _Asking, redis_url: str, pid: int, *, pages: int, rate: float, seconds: float
) -> None:
    """Pages that are open, each of which fetches its rows when it is rung, while runs come and go."""
    used = results.metric("CPU of the server with open pages", "% of a core", goal="at most 50")
    fetched = results.metric("… fetches", "/s")
    found = re.search(r'hx-get="([^"]+)"', asking.text("/runs"))
    assert found
    path = unescape(found[1])
    selector = selectors.DefaultSelector()
    for _ in range(pages):
        client = socket.create_connection(("127.0.0.1", asking.port))
        login = f"Authorization: {asking.headers['Authorization']}"
        head = f"GET /ring?kind=run&kind=gone HTTP/1.1\r\nHost: 127.0.0.1\r\n{login}"
        client.sendall(f"{head}\r\n\r\n".encode())
        selector.register(client, selectors.EVENT_READ)
    store = Store(redis_url)
    made: list[str] = []
    before, began, count, transitions = cpu_s(pid), time.monotonic(), 0, 0
    while (now := time.monotonic()) < began + seconds:
        while transitions < (now - began) * rate:
            transitions += 1
            if len(made) > 50:
                store.cancel(made.pop(0), reason="", grace_s=None)
            else:
                made.append(new_run_id())
                store.create(made[-1], _SPEC)
        for key, _ in selector.select(0.005):
            if b"event: ring" in key.fileobj.recv(1 << 16):  # type: ignore[union-attr]
                asking.get(path, **{"HX-Request": "true"})
                count += 1
    name = f"{pages} pages, {rate:g} transitions a second"
    used.add(name, (cpu_s(pid) - before) / (time.monotonic() - began) * 100)
    fetched.add(name, count / (time.monotonic() - began))
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    store.close()


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process, with those of its threads that have ended: the server's come and go."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


if __name__ == "__main__":
    made_here = Results()
    measure(made_here, runs=100_000, repeat=6, pages=100, rate=50, seconds=20)
    print(made_here.table())
