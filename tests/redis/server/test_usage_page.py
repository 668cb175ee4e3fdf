"""The page of usage: bars, table and CSV say the same, of what the person sees only."""

from __future__ import annotations

import csv

from launch_worker.model.usage import KeptUsage, Usage
from launch_worker.store.store import Store
from tests.support.archives import Follower
from tests.support.arrows import FINISHED, claim, create
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

HTML = {"Accept": "text/html"}


def use(store: Store, author: str, project: str, *, hours: float, gpus: int = 0) -> None:
    record = claim(store, create(store, author=author, project=project))
    usage = Usage(wall_s=hours * 3600, cpu_s=hours * 7200, asked_gpus=gpus or None, gpu_s=gpus * hours * 1800 or None)
    assert store.finish(record, FINISHED, used=KeptUsage(usage.to_text(), ""))


def test_usage_is_of_projects_that_are_seen_and_the_csv_says_the_same(server: TestServer, store: Store) -> None:
    tokens = tokens_of_everybody(server)
    use(store, "ada@lab", PRIVATE, hours=5, gpus=2)
    use(store, "lin@lab", OPEN, hours=3)
    use(store, "=cmd()@lab", OPEN, hours=1)
    archive = Follower(store, server.shared.database)
    archive.catch_up()
    archive.stop()
    with server.client(tokens["insider"]) as insider:
        page = insider.get("/usage", headers=HTML).text
        assert page.index(">ada<") < page.index(">lin<")
        assert "10.00" in page
        assert insider.get("/usage?since=a&by=b", headers=HTML).status_code == 422
    with server.client(tokens["viewer"]) as viewer:
        page = viewer.get("/usage", headers=HTML).text
        assert ">ada<" not in page
        # Nobody held a GPU there, so the CPU is compared.
        assert page.count('<rect class="fill"') == 2
        rows = list(csv.DictReader(viewer.get("/usage.csv?by=user").text.splitlines()))
        assert [(row["user"], row["attempts"], row["wall_s"]) for row in rows] == [
            ("lin", "1", "10800.0"),
            # A spreadsheet must not take it for a formula.
            ("'=cmd()", "1", "3600.0"),
        ]
        assert [row["project"] for row in csv.DictReader(viewer.get("/usage.csv?by=project").text.splitlines())] == [
            OPEN
        ]
        assert "No attempt ended" in viewer.get(f"/usage?project={PRIVATE}", headers=HTML).text
