"""Queues whose processes are confined, through a whole system."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from launch_worker.api.client import submit
from launch_worker.model.states import RunState
from launch_worker.queues.confinement import Demands
from launch_worker.runners.process import landlock
from launch_worker.runners.process.layers import Layers
from tests.conftest import wait_until
from tests.support.sandboxes import needs_bubblewrap
from tests.system.conftest import Cluster

pytestmark = needs_bubblewrap

#: Account that no machine has.
NOBODY = "no-such-account-here"


def test_a_worker_that_cannot_confine_as_a_queue_asks_takes_nothing_of_it_and_says_why(cluster: Cluster) -> None:
    cluster.api.create_queue("guarded", run_as=NOBODY)
    worker = cluster.worker("default,guarded", wait=False)
    run = submit(["true"], queue="guarded", api=cluster.api)
    # The other queue of the same worker is served.
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    why = f"it asks for run_as {NOBODY}"
    wait_until(lambda: "queue.refused queue=guarded" in worker.log)
    said = wait_until(lambda: next((one for one in cluster.api.workers() if one.description.get("refused")), None))
    assert said.queues == ("default",)
    assert why in said.description["refused"]["guarded"]
    assert run.refresh().state is RunState.PENDING
    for command in (("explain", run.id), ("workers",), ("show", run.id), ("doctor",)):
        result = cluster.run("launch-worker", *command)
        assert why in " ".join(result.out.split()), result
    # An admin thinks better of it.
    cluster.api.set_queue("guarded", run_as=None)
    assert run.wait(30) is RunState.FINISHED
    assert run.refresh().attempt == 1
    assert worker.log.count("queue.refused") == 1

    # And again, while the worker serves it.
    cluster.api.set_queue("guarded", run_as=NOBODY)
    wait_until(lambda: worker.log.count("queue.refused") == 2)
    run = submit(["true"], queue="guarded", api=cluster.api)
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    assert run.refresh().state is RunState.PENDING
    cluster.api.set_queue("guarded", run_as=None)
    assert run.wait(30) is RunState.FINISHED


@pytest.mark.skipif(os.geteuid() != 0, reason="a worker of root is meant")
def test_a_worker_of_root_starts_no_job_as_root_before_somebody_says_so(cluster: Cluster) -> None:
    cluster.api.create_queue("boxes", resource="container")
    worker = cluster.worker("default,boxes", wait=False, env={"LAUNCH_ALLOW_ROOT": "0"})
    run = submit(["true"], api=cluster.api)
    wait_until(lambda: "queue.refused queue=default" in worker.log)
    said = wait_until(lambda: next((one for one in cluster.api.workers() if one.description.get("refused")), None))
    assert said.queues == ("boxes",)
    for command in (("explain", run.id), ("workers",), ("doctor",)):
        result = cluster.run("launch-worker", *command)
        assert "this worker is root, and so would be its jobs: start it as a user of its own" in " ".join(
            result.out.split()
        )
    assert run.refresh().state is RunState.PENDING
    cluster.worker()
    assert run.wait(30) is RunState.FINISHED


@pytest.mark.parametrize("layer", ["bubblewrap", "landlock"])
def test_a_run_of_a_private_queue_reaches_nothing_of_its_worker_and_says_what_any_run_says(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    if layer == "landlock" and landlock.abi() < landlock.LEAST_ABI:
        pytest.skip("the kernel has no Landlock with scoped signals (Linux 6.12)")
    cluster.api.create_queue("lab", sandbox="private")
    by = {"LAUNCH_BWRAP": "/nowhere/bwrap"} if layer == "landlock" else {}
    worker = cluster.worker("lab", env=by)
    work_dir = cluster.env["LAUNCH_WORK_DIR"]
    script = f"""
        exec 2>/dev/null
        find {work_dir} -name guard.sock -o -name 'report*' -o -name lock
        kill {worker.pid} 2>/dev/null && echo has signalled it
        echo '{{"message": "half of it", "summary": {{"best": 1}}}}' >> $LAUNCH_RUN_DIR/to_worker
        cat $LAUNCH_CONFIG > /dev/null && echo knows its configuration
        cd $LAUNCH_RUN_DIR && echo mine > mine && cat mine
        exit 3
        """
    run = submit(["sh", "-c", script], queue="lab", api=cluster.api)
    assert run.wait(30) is RunState.FAILED
    assert run.logs().decode().split("\n") == ["knows its configuration", "mine", ""]
    record = run.refresh()
    assert (record.exit_code, record.summary) == (3, '{"best": 1}')
    # What does not start says so as it does anywhere.
    missing = submit(["no-such-program"], queue="lab", api=cluster.api)
    assert missing.wait(30) is RunState.FAILED
    assert missing.refresh().reason == "command 'no-such-program' was not found on this worker"
    # The folder in which it was submitted may be one that its sandbox has not.
    with tempfile.TemporaryDirectory() as folder:
        there = submit(["true"], queue="lab", cwd=folder, api=cluster.api)
        assert there.wait(30) is (RunState.FAILED if layer == "bubblewrap" else RunState.FINISHED)
        monkeypatch.chdir(folder)
        elsewhere = submit(["pwd"], queue="lab", api=cluster.api)
        assert elsewhere.wait(30) is RunState.FINISHED
        if layer == "bubblewrap":
            assert f"for this worker has no {folder!r} for its jobs" in elsewhere.refresh().reason
        monkeypatch.undo()
    killed = submit(["sh", "-c", "kill -KILL $$"], queue="lab", api=cluster.api)
    assert killed.wait(30) is RunState.FAILED
    assert killed.refresh().signal == "SIGKILL"
    assert cluster.api.workers()[0].description["layers"] == [layer]
    said = cluster.run("launch-worker", "doctor", env=by).out
    assert f"the sandbox private is made by {layer}" in " ".join(said.lower().split())


@needs_bubblewrap
def test_the_sockets_of_a_worker_are_not_its_jobs(cluster: Cluster) -> None:
    cluster.api.create_queue("lab", sandbox="private", writable=[str(cluster.folder)])
    with contextlib.ExitStack() as stack:
        paths = [str(cluster.folder / name) for name in ("engine", "agent", "open")]
        for path in paths:
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(path)
            door.listen()
        cluster.worker("lab", env={"DOCKER_HOST": f"unix://{paths[0]}", "SSH_AUTH_SOCK": paths[1]})
        tries = "import socket, sys\nfor path in sys.argv[1:]: print(socket.socket(socket.AF_UNIX).connect_ex(path))"
        run = submit([sys.executable, "-c", tries, *paths], queue="lab", api=cluster.api)
        assert run.wait(30) is RunState.FINISHED, run.logs()
    assert run.logs().decode().split() == [str(errno.ECONNREFUSED), str(errno.ECONNREFUSED), "0"]


@needs_bubblewrap
def test_jobs_cannot_move_the_folder_that_their_workers_folder_is_in(tmp_path: Path) -> None:
    work = tmp_path / "data" / "deep" / "work"
    for writable, words in (
        (tmp_path / "data", "jobs could move the folder in"),
        (tmp_path / "data" / "deep", ""),
        (tmp_path / "other", ""),
    ):
        assert words in Layers(work).why_not(Demands("private", writable=(str(writable),)))
        assert bool(words) == bool(Layers(work).why_not(Demands("private", writable=(str(writable),))))
