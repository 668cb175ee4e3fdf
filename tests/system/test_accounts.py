"""Queues whose jobs have another account and limits, through a whole system."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.api.client import submit
from launch_worker.model.states import RunState
from launch_worker.queues.confinement import Demands, Limits
from launch_worker.runners.process.layers import Layers
from tests.conftest import wait_until
from tests.support.sandboxes import needs_bubblewrap
from tests.system.conftest import Cluster

_LIMITS = Limits(memory=1, pids=1)
WHY_NOT = Layers(Path("/")).why_not(Demands(run_as="nobody", limits=_LIMITS))
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

LEAVES = """
id -un; echo $HOME; pwd
echo mine > $LAUNCH_OUTPUT_DIR/mine
ln $FOREIGN $LAUNCH_OUTPUT_DIR/foreign || echo not linked
echo '{"summary": {"loss": 1}}' >> $LAUNCH_RUN_DIR/to_worker
ls $LAUNCH_RUN_DIR/.. || echo closed
"""


@pytest.fixture
def open_cluster(redis_url: str) -> Iterator[Cluster]:
    """A system whose folder other accounts may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        made = Cluster(redis_url, Path(folder))
        yield made
        made.close()


@pytest.mark.parametrize("sandbox", ["", "private"])
def test_a_job_of_another_account_leaves_what_any_job_leaves(open_cluster: Cluster, sandbox: str) -> None:
    cluster, demands = open_cluster, Demands(sandbox, "nobody", limits=Limits(pids=100))
    if why := Layers(cluster.folder / "work").why_not(demands):
        pytest.skip(why)
    cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{cluster.folder}/outputs"
    # The account may write to it, and so may link it where the kernel does not forbid that.
    foreign = cluster.folder / "foreign"
    foreign.write_text("foreign")
    foreign.chmod(0o666)
    # It lies in /tmp, of which a sandbox has its own.
    writable = [str(cluster.folder)] if sandbox else None
    limits = {"pids": 100}
    cluster.api.create_queue("apart", run_as="nobody", sandbox=sandbox or None, writable=writable, limits=limits)
    cluster.worker("apart")
    run = submit(
        ["sh", "-c", LEAVES], queue="apart", env={"FOREIGN": str(foreign)}, cwd=str(cluster.folder), api=cluster.api
    )
    assert run.wait(30) is RunState.FINISHED, run.record.reason
    user, home, cwd, *rest = run.logs().decode().splitlines()
    assert (user, home) == ("nobody", "/nonexistent")
    assert cwd == str(cluster.folder)
    assert rest[-1] == "closed" or sandbox
    assert json.loads(run.refresh().summary) == {"loss": 1}
    wait_until(lambda: "files" in json.loads(run.refresh().outputs or "{}").get("1", {}), what="the outputs are stored")
    kept = json.loads(run.record.outputs)["1"]
    is_linked = "not linked" not in rest
    assert (kept["files"], kept["left_out"]) == (1, is_linked), "what belongs to another user is not read for it"


@needs_bubblewrap
def test_a_sandbox_is_tried_as_the_account_that_its_jobs_have(open_cluster: Cluster) -> None:
    """Where root alone may make namespaces, as many kernels have it, jobs of accounts would all fail."""
    bwrap = open_cluster.folder / "bwrap"
    refusal = "bwrap: No permissions to create a new namespace"
    bwrap.write_text(
        f'#!/bin/sh\n[ $(id -u) = 0 ] && exec {shutil.which("bwrap")} "$@"\necho "{refusal}" >&2\nexit 1\n'
    )
    bwrap.chmod(0o755)
    (open_cluster.folder / "work").mkdir(mode=0o711)
    layers = Layers(open_cluster.folder / "work", bwrap=str(bwrap))
    assert layers.why_not(Demands("strict")) == ""
    assert "No permissions to create a new namespace" in layers.why_not(Demands("strict", "nobody"))
    assert Layers(open_cluster.folder / "work").why_not(Demands("strict", "nobody")) == ""


@needs_bubblewrap
def test_what_is_hidden_in_a_folder_that_the_account_cannot_enter_holds_no_sandbox_up(open_cluster: Cluster) -> None:
    open_cluster.api.create_queue("apart", run_as="nobody", sandbox="private")
    # In /tmp, which is the sandbox's own, the account could make the folder anew.
    with tempfile.TemporaryDirectory(dir="/srv") as home:
        Path(home, ".config", "launch-worker").mkdir(parents=True)
        worker = open_cluster.worker("apart", env={"HOME": home, "XDG_CONFIG_HOME": ""})
        run = submit(["sh", "-c", f"ls {home} || id -un"], queue="apart", api=open_cluster.api)
        assert run.wait(30) is RunState.FINISHED, run.logs()
        assert run.logs().decode().splitlines()[-1] == "nobody"
        worker.kill()


def test_a_run_that_needs_more_memory_than_it_asked_for_is_given_more(open_cluster: Cluster) -> None:
    """The group holds what the run asks for, within what the queue allows."""
    open_cluster.api.create_queue("bounded", limits={"memory": "1G"})
    open_cluster.worker("bounded")
    takes = "a = b'x' * (100 << 20); print('had it')"
    options = {"queue": "bounded", "retries": 1, "api": open_cluster.api}
    run = submit(["python3", "-c", takes], memory="64M..256M", **options)  # type: ignore[arg-type]
    assert run.wait(60) is RunState.FINISHED, run.record.reason
    assert run.record.attempt == 2
    assert "twice as much after it was too little" in open_cluster.run("launch-worker", "show", run.id).out
