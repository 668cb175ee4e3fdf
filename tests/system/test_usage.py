"""What runs used of their machines: real processes of known appetite, on real workers that die or hand over."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Run, submit
from launch_worker.database import open_database
from launch_worker.model.states import RunState
from launch_worker.model.usage import Usage
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.support.archives import Follower
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, Part, through_both_doors, wait_for_output, wait_for_pid

S = RunState
MIB = 1 << 20
#: Looks often enough that a test need not wait.
OFTEN = {"LAUNCH_USAGE_S": "0.2"}
#: A lease that outlasts the start of the next worker, however slow the machine is.
LONG = {"LAUNCH_LEASE_S": "60"}
#: Burns CPU for argv[1] seconds of its own.
BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass\n"
#: Burns CPU in children of a child that leaves the tree as a daemon does.
DAEMON = f"""
import os, subprocess, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.run([sys.executable, "-c", {BURN!r}, "1"])
        open("done", "w").close()
    os._exit(0)
os.wait()
subprocess.run([sys.executable, "-c", {BURN!r}, "1"])
import time
while not os.path.exists("done"): time.sleep(0.05)
"""
#: Takes 200 MiB and says so, then waits for its input file.
HOLD = "import os, time\nheld = b'x' * (200 << 20)\nprint('holding', flush=True)\n"
HOLD += "while not os.path.exists('go'): time.sleep(0.05)\n"


def make(cluster: Cluster, code: str, *arguments: str, **options: Any) -> Run:
    return submit([sys.executable, "-c", code, *arguments], api=cluster.api, cwd=str(cluster.folder), **options)


def ended(run: Run, state: RunState = S.FINISHED) -> Usage:
    assert run.wait(timeout=60) is state, run.record
    return run.usage


def worker(cluster: Cluster, **options: Any) -> Part:
    return cluster.worker(env=OFTEN, **options)


def test_cpu_of_children_and_daemons_counts_to_the_millisecond(cluster: Cluster) -> None:
    worker(cluster)
    usage = ended(make(cluster, DAEMON))
    assert usage.cpu_s is not None
    assert 2.0 <= usage.cpu_s <= 3.5, usage
    assert usage.wall_s is not None
    assert usage.wall_s > 1


def test_a_hundred_brief_children_are_all_counted(cluster: Cluster) -> None:
    worker(cluster)
    code = (
        "import subprocess, sys\nfor _ in range(100): subprocess.run([sys.executable, '-S', '-c', sys.argv[1], '0.02'])"
    )
    usage = ended(make(cluster, code, BURN))
    assert usage.cpu_s is not None
    assert usage.cpu_s >= 100 * 0.02, usage


def test_a_job_of_an_instant_is_known_from_its_end(cluster: Cluster) -> None:
    cluster.worker()
    run = make(cluster, "x = b'x' * (100 << 20)")
    usage = ended(run)
    assert usage.cpu_s is not None
    assert 0.001 < usage.cpu_s < 2
    assert usage.peak_memory is not None
    assert 100 * MIB < usage.peak_memory < 160 * MIB
    assert usage.mean_memory is None, "nobody has looked"
    assert cluster.api.store.usages(run.id) == {}, "one field of the record has it all"
    assert cluster.show(run.id)["usage"]["cpu_s"] == usage.cpu_s


@through_both_doors
def test_memory_over_time_and_live_figures(cluster: Cluster) -> None:
    worker(cluster)
    run = make(cluster, HOLD)
    wait_for_output(run, b"holding")

    def live() -> Usage | None:
        found = run.measured()
        assert found.is_running
        return found.usage if found.samples and len(found.samples.memory) >= 5 else None

    usage = wait_until(live, what="its worker tells what it has used so far")
    assert usage.peak_memory is not None
    assert 200 * MIB < usage.peak_memory < 260 * MIB
    assert run.usage == Usage(), "the record has it at the end"
    shown = cluster.run("launch-worker", "metrics", run.id)
    assert shown.code == 0, shown
    assert "memory" in shown.out
    (cluster.folder / "go").touch()
    usage = ended(run)
    assert usage.mean_memory is not None
    assert 150 * MIB < usage.mean_memory <= (usage.peak_memory or 0)
    assert usage.memory_gb_h == pytest.approx(usage.mean_memory * (usage.wall_s or 0) / (1 << 30) / 3600, rel=0.01)
    assert usage.disk_bytes is not None
    measured = run.measured()
    assert measured.samples is not None
    assert max(filter(None, measured.samples.memory)) > 200 * MIB
    [kept] = cluster.api.store.usages(run.id).values()
    assert len(kept) <= 4096


def test_the_folder_of_an_attempt_is_measured(cluster: Cluster) -> None:
    worker(cluster)
    code = (
        "import os, time\nopen(os.path.dirname(os.environ['LAUNCH_CONFIG']) + '/x', 'wb').write(os.urandom(5 << 20))\n"
    )
    code += "print('written', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.05)\n"
    run = make(cluster, code)
    wait_for_output(run, b"written")
    wait_until(lambda: (run.measured().usage.disk_bytes or 0) >= 5 * MIB, what="the folder was measured")
    (cluster.folder / "go").touch()
    assert (ended(run).disk_bytes or 0) < 6 * MIB


def test_each_attempt_of_a_run_keeps_its_own_figures(cluster: Cluster) -> None:
    worker(cluster)
    code = (
        "import os, sys\nexec(sys.argv[1].replace('float(sys.argv[1])', '0.3 * int(os.environ[\"LAUNCH_ATTEMPT\"])'))\n"
    )
    code += "sys.exit(os.environ['LAUNCH_ATTEMPT'] != '3')"
    run = make(cluster, code, BURN, retries=2)
    ended(run)
    figures = [run.measured(attempt=attempt).usage.cpu_s or 0 for attempt in (1, 2, 3)]
    assert all(0.3 * number <= cpu_s < 0.3 * number + 0.25 for number, cpu_s in enumerate(figures, 1)), figures


def test_a_guard_that_is_killed_costs_no_figures(cluster: Cluster) -> None:
    part = worker(cluster)
    run = make(cluster, HOLD + BURN.replace("float(sys.argv[1])", "1"))
    wait_for_output(run, b"holding")
    pid = wait_for_pid(run)
    guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    wait_until(lambda: run.measured().samples is not None, what="it was looked at")
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: "guard.died" in part.log, what="another guard has it")
    (cluster.folder / "go").touch()
    usage = ended(run)
    assert (usage.cpu_s or 0) >= 1.0
    assert (usage.peak_memory or 0) > 200 * MIB
    assert usage.since_s is None


def test_a_worker_that_hands_over_leaves_its_samples(cluster: Cluster) -> None:
    cluster.env |= LONG
    first = worker(cluster)
    run = make(cluster, HOLD + BURN.replace("float(sys.argv[1])", "1"))
    wait_for_output(run, b"holding")
    before = wait_until(lambda: len(run.measured().samples.memory) if run.measured().samples else 0, what="samples")  # type: ignore[union-attr]
    first.signal(signal.SIGUSR1)
    first.wait()
    worker(cluster)
    wait_until(lambda: [step.name for step in run.refresh().phases] == ["adopted"], what="it is adopted")
    wait_until(lambda: run.measured().samples is not None, what="the next worker looks at it")
    (cluster.folder / "go").touch()
    usage = ended(run)
    assert usage.since_s is None
    assert (usage.cpu_s or 0) >= 1.0
    measured = run.measured()
    assert measured.samples is not None
    assert len(measured.samples.memory) > before
    assert measured.samples.memory[0] is not None or measured.samples.memory[1] is not None


def test_samples_that_are_lost_are_said_to_be(cluster: Cluster) -> None:
    cluster.env |= LONG
    first = worker(cluster)
    run = make(cluster, HOLD)
    wait_for_output(run, b"holding")
    wait_until(lambda: run.measured().samples, what="it was looked at")
    first.signal(signal.SIGUSR1)
    first.wait()
    for kept in (cluster.folder / "work").glob("workers/*/runs/*/usage.json"):
        kept.unlink()
    worker(cluster)
    wait_until(lambda: run.measured().samples is not None, what="the next worker looks at it")
    (cluster.folder / "go").touch()
    usage = ended(run)
    assert usage.since_s is not None
    assert 0 < usage.since_s < (usage.wall_s or 0)
    said = cluster.run("launch-worker", "report", run.id)
    assert "since" in said.err


def test_a_worker_that_is_killed_leaves_what_it_had_seen(cluster: Cluster) -> None:
    first = worker(cluster)
    run = make(cluster, HOLD)
    wait_for_output(run, b"holding")
    wait_until(lambda: (run.measured().usage.peak_memory or 0) > 200 * MIB, what="it was looked at")
    first.kill()
    worker(cluster)
    assert run.wait(timeout=60) is S.CRASHED
    usage = wait_until(lambda: run.usage or None, what="the next worker tells what was kept")
    assert (usage.peak_memory or 0) > 200 * MIB
    assert run.measured().samples is not None


def test_a_worker_and_its_guard_that_are_killed_leave_the_figures_of_jobs_that_had_ended(cluster: Cluster) -> None:
    first = worker(cluster)
    run = make(cluster, BURN + "open('ended', 'w').close()\n", "0.5")
    pid = wait_for_pid(run)
    guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    first.signal(signal.SIGSTOP)
    exits = next((cluster.folder / "work" / "workers").glob("*/exits"))
    wait_until(lambda: run.id in exits.read_text(), what="the guard has kept its end")
    os.kill(guard, signal.SIGKILL)
    first.kill()
    worker(cluster)
    usage = ended(run)
    assert 0.5 <= (usage.cpu_s or 0) < 1.5
    assert (usage.wall_s or 0) > 0.4


@through_both_doors
def test_a_report_has_what_was_asked_beside_what_was_used(cluster: Cluster) -> None:
    worker(cluster, arguments=("--memory", "64G", "--cpus", "8"))
    run = make(cluster, BURN, "0.5", memory="64G", cpus=4)
    ended(run)
    said = cluster.run("launch-worker", "report", run.id)
    assert said.code == 0, said
    assert "64 GiB" in said.out
    assert "too briefly for advice" in said.out
    found = json.loads(cluster.run("launch-worker", "report", run.id, "--json").out)
    assert found["asked"] == {"gpus": None, "cpus": 4, "memory": 64 << 30}
    assert found["usage"]["cpu_s"] >= 0.5
    waiting = make(cluster, "pass", queue="nobody")
    said = cluster.run("launch-worker", "report", waiting.id)
    assert (said.code, said.out) == (0, "")
    assert "has not started" in said.err


@through_both_doors
def test_metrics_of_the_job_are_shown_beside_what_was_measured(cluster: Cluster) -> None:
    worker(cluster)
    code = "import time, launch_worker\nrun = launch_worker.current_run()\n"
    code += "for n in range(10): run.log({'loss': 1 / (n + 1)})\n"
    code += "end = time.monotonic() + 0.8\nwhile time.monotonic() < end: pass\n"
    run = make(cluster, code)
    ended(run)
    said = cluster.run("launch-worker", "metrics", run.id)
    assert said.code == 0, said
    assert [line.split()[0] for line in said.out.splitlines()[1:4]] == ["cores", "memory", "loss"]
    found = json.loads(cluster.run("launch-worker", "metrics", run.id, "--json").out)
    assert len(found["metrics"]) == 10
    assert found["samples"]["memory"]
    assert cluster.run("launch-worker", "metrics", run.id, "--attempt", "4").code == 2


def test_no_samples_are_taken_where_none_are_wanted(cluster: Cluster) -> None:
    cluster.worker(env={"LAUNCH_USAGE_S": "0"})
    run = make(cluster, BURN, "0.6")
    usage = ended(run)
    assert (usage.cpu_s or 0) >= 0.6, "the end is told all the same"
    assert run.measured().samples is None
    said = cluster.run("launch-worker", "metrics", run.id)
    assert "there are no samples" in said.err


def test_sums_come_from_the_archive(cluster: Cluster) -> None:
    said = cluster.run("launch-worker", "usage")
    assert (said.code, said.out) == (69, "")
    assert "there is no archive" in said.err
    worker(cluster)
    run = make(cluster, BURN, "1.0", project="lab/a", queue="default", memory="64M", cpus=0.1)
    usage = ended(run)
    follower = Follower(cluster.api.store, database := open_database(cluster.api.settings, create=True))
    follower.catch_up()
    found = json.loads(cluster.run("launch-worker", "usage", "--by", "project", "--json").out)
    assert (found["project"], found["attempts"], found["cpu_s"]) == ("lab/a", 1, usage.cpu_s)
    lines = cluster.run("launch-worker", "usage", "--by", "queue,worker", "--csv").out.splitlines()
    assert lines[0].startswith("queue,worker,attempts,unknown,wall_s,cpu_s")
    assert lines[1].startswith("default,w1@")
    shown = cluster.run("launch-worker", "usage", "--since", "1h")
    assert shown.out.splitlines()[0].split()[:3] == ["USER", "ATTEMPTS", "HOURS"]
    before = cluster.run("launch-worker", "report", run.id, "--json").out
    assert cluster.api.store.delete(run.id, who="me", keep_s=60)
    redis_of(cluster.redis_url).delete(keys.deleted(run.id))
    assert cluster.run("launch-worker", "report", run.id, "--json").out == before, "Redis has forgotten it"
    assert '"every_s"' in cluster.run("launch-worker", "metrics", run.id, "--json").out
    for wrong in (["--by", "colour"], ["--by", "user,"], ["--csv", "--json"], ["--since", "yesterdayish"]):
        refused = cluster.run("launch-worker", "usage", *wrong)
        assert refused.code == 2, refused
        assert len(refused.err.splitlines()) <= 4
    follower.stop()
    database.close()
