"""What `show` and `explain` say of runs of a real system, to a person who has not read the docs."""

from __future__ import annotations

import json

from tests.system.conftest import TRACEBACK, Cluster


def test_a_person_reads_first_what_happened_then_what_to_do(cluster: Cluster) -> None:
    cluster.worker(arguments=("--gpus", "none"))
    script = f"echo begun; printf 'loading\\t1%%\\r2%%\\r\\033[31mred\\033[0m\\a\\n'; printf '{TRACEBACK}'; exit 1"
    failed = cluster.run("launch-submit", "--quiet", "--name", "etl", "--wait", "--", "sh", "-c", script).out.strip()
    array = ("launch-submit", "--quiet", "--array", "0-2", "--wait", "--", "sh", "-c", "exit $LAUNCH_ARRAY_INDEX")
    first = cluster.run(*array).out.split()[0]
    waits = cluster.run("launch-submit", "--quiet", "-q", "nobodys", "--", "true").out.strip()
    large = cluster.run("launch-submit", "--quiet", "--gpus", "2", "--priority", "high", "--", "true").out.strip()

    def said(*words: str) -> list[str]:
        result = cluster.run("launch-worker", *words)
        assert (result.code, result.err) == (0, ""), result
        return result.out.splitlines()

    shown = said("show", failed)
    assert shown[0].startswith("Failed after ")
    assert shown[0].endswith(" ago: KeyError: 3 (exit code 1).")
    assert shown[2:6] == ["  │ begun", "  │ red␇", "  │ Traceback (most recent call last):", "  │ KeyError: 3"]
    assert f"  launch-worker retry {failed}  another attempt" in shown
    assert not any(line.startswith(("preemptions", "item version", "pid", "created at")) for line in shown)
    whole = said("show", "--all", failed)
    assert shown[:6] == whole[:6]
    assert {"created", "ended"} <= {line.split()[0] for line in whole if " at " in line}
    assert whole[-1].split(maxsplit=4)[1:3] == ["Failed", "1"]
    assert not any(line.startswith(("preemptions", "item version", "pid")) for line in whole)

    shown = said("show", f"a{first}")
    assert shown[0].startswith("Array sh of 3 runs, over after ")
    assert ": 2 failed, 1 finished." in shown[0]
    assert "exit code 1" in shown[2]
    assert f"  launch-worker retry a{first} --failed  another attempt of those that did not finish" in shown

    shown = said("explain", waits)
    assert shown[0].endswith(" in queue nobodys: no worker consumes queue nobodys.")
    assert shown[1] == "It is next in the line of queue nobodys (priority medium)."
    assert "  celery -A launch_worker worker -Q nobodys" in shown
    assert any("1 other (w1@" in line and "does not consume queue nobodys" in line for line in shown)
    shown = said("explain", large)
    assert any("it has no GPU, and the run wants 2 GPUs" in line for line in shown)
    assert said("explain", failed)[0].startswith("Failed after ")
    found = json.loads(cluster.run("launch-worker", "explain", large, "--json").out)
    assert (found["place"], found["priority"], found["workers"][0]["is_consumer"]) == (1, "high", True)
