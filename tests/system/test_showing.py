"""What `show` and `explain` say of runs of a real system, to a person who has not read the docs."""

from __future__ import annotations

import json
import re

from tests.system.conftest import TRACEBACK, Cluster, through_both_doors


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
    assert re.search(r"(, now|\d+ \w+ ago): KeyError: 3 \(exit code 1\)\.$", shown[0]), shown[0]
    assert shown[2:6] == ["  │ begun", "  │ red␇", "  │ Traceback (most recent call last):", "  │ KeyError: 3"]
    assert f"  launch-worker retry {failed}  another attempt" in shown
    assert not any(line.startswith(("preemptions", "item version", "pid", "created at")) for line in shown)
    whole = said("show", "--all", failed)
    assert shown[1:6] == whole[1:6]
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


@through_both_doors
def test_logs_say_why_there_is_nothing_and_find_a_run_of_an_array_by_its_index(cluster: Cluster) -> None:
    cluster.worker()

    def submit(*words: str) -> str:
        return cluster.run("launch-submit", "--quiet", *words).out.split()[0]

    def logs(*words: str) -> tuple[int, str, str]:
        result = cluster.run("launch-worker", "logs", *words)
        return result.code, result.out, result.err

    waits = submit("-q", "nobodys", "--", "true")
    code, out, err = logs(waits)
    assert (code, out) == (0, "")
    said, more = err.splitlines()
    assert re.fullmatch(r"Pending for .* in queue nobodys: no worker consumes queue nobodys\.", said)
    assert more == f"for more see: launch-worker explain {waits}"
    assert logs(waits, "--attempt", "1") == (
        *(2, ""),
        f"launch-worker: run {waits} has not started: there is no attempt 1 yet\n",
    )
    silent = submit("--wait", "--", "true")
    code, out, err = logs(silent)
    assert (code, out) == (0, "")
    assert re.fullmatch(r"Finished after .* It has printed nothing\.\n", err)
    assert logs(silent, "--tail", "0") == (0, "", "")
    assert logs(silent, "--attempt", "3")[2] == (
        f"launch-worker: run {silent} has had 1 attempt; there is no attempt 3\n"
    )
    first = submit("--array", "3-5", "--wait", "--", "sh", "-c", "echo part $LAUNCH_ARRAY_INDEX")
    assert logs(f"a{first}", "--index", "4") == (0, "part 4\n", "")
    assert logs(f"a{first}", "--grep", "nothing", "--index", "5") == (0, "", "")
    assert logs(f"a{first}")[:2] == (0, "part 5\n")
    assert logs(first, "--index", "4")[0] == 2
    code, out, err = logs(f"a{first}", "--index", "9")
    assert (code, out) == (2, "")
    assert "has no run with index 9" in err
