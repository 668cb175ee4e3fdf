"""How far something is, told in a line on a terminal's standard error, which harms nothing else that is written."""

from __future__ import annotations

import json
import os
import re

from tests.conftest import wait_until
from tests.support.window import Window
from tests.system.conftest import Cluster, through_both_doors


@through_both_doors
def test_notices_stand_above_the_bar_of_a_bulk_submission_and_nothing_of_the_bar_is_left(cluster: Cluster) -> None:
    jobs = cluster.folder / "jobs"
    jobs.write_text("".join(json.dumps({"command": ["true"], "queue": f"q{at % 2}"}) + "\n" for at in range(300)))
    command = ("launch-submit", "--from-file", str(jobs))
    with Window(*command, env=cluster.env | cluster.door, columns=150) as window:
        assert window.process.wait(60) == 0
        wait_until(lambda: "group " in " ".join(window.shown()))
        assert "\rsubmitting " in window.written.decode()
        first, second, third, fourth = window.shown()
        assert first.startswith("launch-submit: runs wait: no worker consumes queue q")
        assert second.startswith("launch-submit: runs wait: no worker consumes queue q")
        assert third.startswith("300 runs submitted, ")
        assert fourth.endswith(": 300 runs")
    with Window(*command, "--quiet", env=cluster.env | cluster.door) as window:
        assert window.process.wait(60) == 0
        wait_until(lambda: window.written.count(b"\n") >= 300)
        assert b"submitting" not in window.written


@through_both_doors
def test_who_follows_a_run_sees_how_its_folder_is_sent_and_that_it_waits(cluster: Cluster) -> None:
    folder = cluster.folder / "code"
    folder.mkdir()
    (folder / "data").write_bytes(os.urandom(3 << 20))
    command = ("launch-submit", "-q", "nobodys", "--upload", str(folder), "--follow", "--", "true")
    with Window(*command, env=cluster.env | cluster.door, columns=120) as window:
        wait_until(lambda: re.search(r"\(\d+ s\)", " ".join(window.shown())), what="the time of the wait is shown")
        assert "\rsending the folder " in window.written.decode()
        window.press(b"\x03")
        wait_until(lambda: any(row.startswith("detached; run ") for row in window.shown()))
        assert not any("sending" in row for row in window.shown())
        assert window.process.wait(30) == 130
