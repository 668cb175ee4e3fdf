"""Checkpoints: what a job has saved comes back on its next attempt, whatever dies meanwhile, or nothing starts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Api, Run
from launch_worker.model.states import RunState
from launch_worker.outputs.snapshot import SETTLED_S
from launch_worker.trust.keys import new_private, write_private
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, Part, job_processes, through_both_doors, wait_for_output, waits_for
from tests.system.test_failures import guard_of

#: Counts epochs in two files, which it writes anew in place, and says what it found and what is kept. At the epochs of
#: its further arguments it does something more.
TRAIN = """
import os, signal, sys, time
from pathlib import Path
from launch_worker import current_run

run, last, acts = current_run(), int(sys.argv[1]), dict(word.split("=") for word in sys.argv[2:])
folder = Path(run.checkpoint_dir)
found = [int((folder / name).read_text()) if (folder / name).exists() else 0 for name in ("model", "optimizer")]
print("found", *found, run.is_resumed, sorted(os.listdir(folder)), flush=True)
for epoch in range(found[0] + 1, last + 1):
    (folder / "model").write_text(str(epoch))
    (folder / "optimizer").write_text(str(epoch))
    act = acts.get(str(epoch)) if run.attempt == 1 else None
    if act == "half":
        (folder / "optimizer").write_text("-1")
        print("half", flush=True)
        time.sleep(600)
    assert run.checkpoint(wait=act == "wait") or act == "unkept"
    print("kept" if act == "wait" else "taken", epoch, flush=True)
    if act and act.isdigit():
        sys.exit(int(act))
Path(run.output_dir, "result.txt").write_text(f"trained for {last} epochs")
"""


@pytest.fixture
def kept(cluster: Cluster, tmp_path: Path) -> Cluster:
    """A cluster whose workers keep checkpoints."""
    cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{tmp_path}/outputs"
    return cluster


def train(cluster: Cluster, *arguments: str, **options: Any) -> Run:
    return submit([sys.executable, "-c", TRAIN, *arguments], api=cluster.api, **options)


def printed(run: Run, attempt: int) -> str:
    return run.logs(attempt=attempt).decode()


def kill_machine(worker: Part, run: Run) -> None:
    """Kill the guard, the worker and the job, as a machine does that loses its power."""
    for pid in (guard_of(worker.pid), worker.pid, *job_processes(run.id)):
        # The death of one may have ended another already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_run_goes_on_from_its_last_checkpoint_on_another_machine(kept: Cluster, tmp_path: Path) -> None:
    """Worker, guard and job are killed at once, in the middle of a state, and their disk is gone with them."""
    worker = kept.worker(name="first")
    run = train(kept, "5", "3=wait", "4=half", retries=1)
    wait_for_output(run, b"half")
    kill_machine(worker, run)
    shutil.rmtree(tmp_path / "work")
    kept.worker(name="second", env={"LAUNCH_WORK_DIR": str(tmp_path / "elsewhere")})
    kept.beat()
    assert run.wait(30) is RunState.FINISHED, run.record.reason
    assert printed(run, 1).splitlines()[0] == "found 0 0 False []"
    assert printed(run, 2).splitlines() == ["found 3 3 True ['model', 'optimizer']", "taken 4", "taken 5"]
    shown = kept.show(run.id)
    assert (shown["checkpoint"]["attempt"], shown["checkpoint"]["files"]) == (2, 2)
    assert "checkpoint  of attempt 2, " in kept.run("launch-worker", "show", run.id).out
    fetched = kept.run("launch-worker", "files", run.id, "--get", "mine")
    assert fetched.code == 0, fetched
    assert (tmp_path / "mine" / "result.txt").read_text() == "trained for 5 epochs"


def test_the_last_complete_state_is_kept_before_the_next_attempt_begins(kept: Cluster) -> None:
    """A job that fails or is preempted is followed at once; what it had last called complete comes with it."""
    kept.worker()
    failed = train(kept, "4", "3=7", retries=1)
    assert failed.wait(30) is RunState.FINISHED, failed.record.reason
    assert printed(failed, 2).startswith("found 3 3 True")
    preempted = train(kept, "4", "3=half", retries=0)
    wait_for_output(preempted, b"half")
    preempted.preempt()
    assert preempted.wait(30) is RunState.FINISHED, preempted.record.reason
    assert printed(preempted, 2).startswith("found 2 2 True"), "the third state was not complete"
    [phase] = [phase for phase in failed.refresh().phases if phase.name == "fetch"]
    assert phase.seconds is not None


@through_both_doors
def test_a_person_has_a_run_go_on_or_begin_anew(kept: Cluster) -> None:
    kept.worker()
    run = train(kept, "3", "2=7")
    assert run.wait(30) is RunState.FAILED
    wait_until(lambda: run.refresh().checkpoint, what="its checkpoint is stored after the end")
    assert kept.run("launch-worker", "retry", run.id).code == 0
    assert run.wait(30) is RunState.FINISHED
    assert printed(run, 2).startswith("found 2 2 True")
    refused = kept.run("launch-worker", "retry", "--from-scratch", "--failed", run.id)
    assert (refused.code, "--failed is for a group" in refused.err) == (2, True), refused
    assert kept.run("launch-worker", "retry", "--from-scratch", run.id).code == 0
    assert run.wait(30) is RunState.FINISHED
    assert printed(run, 3).startswith("found 0 0 False")


def test_a_job_that_says_nothing_has_its_settled_folder_kept_as_often_as_it_was_asked_for(
    kept: Cluster, tmp_path: Path
) -> None:
    worker = kept.worker(name="first")
    script = f"""
        ls $LAUNCH_CHECKPOINT_DIR; echo resumed=$LAUNCH_RESUMED
        [ $LAUNCH_ATTEMPT = 2 ] && exit 0
        echo 1 > $LAUNCH_CHECKPOINT_DIR/model; {waits_for(tmp_path / "flag")}
    """
    run = submit(["sh", "-c", script], api=kept.api, retries=1, checkpoint_every="0.2s")
    wait_until(lambda: run.refresh().checkpoint, what="the settled folder is kept")
    kill_machine(worker, run)
    kept.worker(name="second", env={"LAUNCH_WORK_DIR": str(tmp_path / "elsewhere")})
    kept.beat()
    assert run.wait(30) is RunState.FINISHED
    assert printed(run, 2) == "model\nresumed=1\n"


def test_the_next_worker_of_the_machine_stores_what_a_killed_one_had_taken(kept: Cluster, tmp_path: Path) -> None:
    """The store is away while the job lives; the state is on the machine's disk when the next worker starts."""
    (tmp_path / "outputs").write_text("no folder")
    worker = kept.worker()
    run = train(kept, "5", "3=half", retries=1)
    wait_for_output(run, b"half")
    kill_machine(worker, run)
    worker.wait()
    (tmp_path / "outputs").unlink()
    kept.worker()
    assert run.wait(30) is RunState.FINISHED, run.record.reason
    assert printed(run, 2).startswith("found 2 2 True")


def test_a_cancel_is_obeyed_while_the_last_checkpoint_is_sent(kept: Cluster, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("no folder")
    kept.worker()
    run = train(kept, "5", "3=7", retries=1)
    wait_until(lambda: [phase.name for phase in run.refresh().phases] == ["checkpoint"], what="it is being sent")
    assert run.state is RunState.RUNNING
    assert "checkpoint is stored for its next attempt" in run.record.reason
    run.cancel()
    assert run.wait(20) is RunState.FAILED
    assert run.record.reason == "exit code 7; not retried, because it was cancelled"


def test_a_checkpoint_that_cannot_be_restored_keeps_the_run_from_starting_anew(kept: Cluster, tmp_path: Path) -> None:
    worker = kept.worker()
    run = train(kept, "4", "3=wait", "4=half", retries=1)
    wait_for_output(run, b"half")
    os.rename(tmp_path / "outputs", tmp_path / "away")
    kill_machine(worker, run)
    worker = kept.worker()
    wait_until(lambda: run.refresh().misstarts == 1, timeout_s=30)
    assert "gone from the store; to begin anew" in run.record.reason or "could not be restored" in run.record.reason
    # A worker without the setting does not start it anew either.
    worker.kill()
    kept.worker(env={"LAUNCH_OUTPUT_URL": ""})
    wait_until(lambda: run.refresh().misstarts == 2, timeout_s=30)
    assert "LAUNCH_OUTPUT_URL" in run.record.reason
    kept.api.run(run.id).cancel()
    assert run.refresh().attempt == 3
    assert printed(run, 2) == printed(run, 3) == ""


def test_a_signed_run_goes_on_only_from_what_was_made_as_it_was_signed(kept: Cluster, tmp_path: Path) -> None:
    key, path = new_private("sign"), tmp_path / "ada.key"
    write_private(path, key)
    by_ada = Api(settings=replace(kept.api.settings, signing_key=path))
    kept.api.transport.trust_key(str(key.public), name="ada", is_server=False)
    kept.api.create_queue("signed", signers=["ada"])
    kept.worker("default,signed")
    honest = submit([sys.executable, "-c", TRAIN, "3", "2=7"], queue="signed", retries=1, api=by_ada)
    assert honest.wait(30) is RunState.FINISHED, honest.record.reason
    assert printed(honest, 2).startswith("found 2 2 True")
    # Somebody who may write to Redis has another command executed under the id of a run, and puts all back then.
    run = submit([sys.executable, "-c", TRAIN, "3"], queue="signed", delay=2, api=by_ada)
    redis, name = redis_of(kept.redis_url), f"launch:run:{run.id}"
    was = redis.hmget(name, "spec", "queue", "signature")
    spec = json.loads(was[0]) | {"queue": "default", "command": [sys.executable, "-c", TRAIN, "3", "2=7"]}
    redis.hset(name, mapping={"spec": json.dumps(spec), "queue": "default", "signature": ""})
    assert run.wait(30) is RunState.FAILED, run.record.reason
    wait_until(lambda: run.refresh().checkpoint, what="its checkpoint is stored after the end")
    redis.hset(name, mapping=dict(zip(("spec", "queue", "signature"), was, strict=True)))
    run.retry()
    wait_until(lambda: "was not made by what was submitted" in run.refresh().reason, timeout_s=30)
    run.cancel()
    assert printed(run, 2) == ""
    by_ada.store.close()


def test_without_a_place_for_them_a_run_that_asks_for_checkpoints_is_told_so(cluster: Cluster) -> None:
    cluster.worker()
    asks = submit(["true"], api=cluster.api, checkpoint_every="1m", retries=1)
    plain = submit(["sh", "-c", "echo [$LAUNCH_CHECKPOINT_DIR]; ls $LAUNCH_RUN_DIR/.."], api=cluster.api)
    assert plain.wait(20) is RunState.FINISHED
    assert set(plain.logs().split()) - {b"output"} == {b"[]", b"config.json", b"talk"}
    assert asks.wait(20) is RunState.FAILED
    assert "LAUNCH_OUTPUT_URL" in asks.record.reason


# -- containers --------------------------------------------------------------------------------------------------------

#: As TRAIN, of one file and in a shell; it ends with exit code 7 at the third epoch of the first attempt.
TRAIN_IN_SHELL = """
cd "$LAUNCH_CHECKPOINT_DIR"; i=$(cat model 2>/dev/null || echo 0); echo "found $i ${LAUNCH_RESUMED:-0}"
while [ $i -lt 4 ]; do
    i=$((i+1)); echo $i >new.tmp; busybox mv new.tmp model
    echo "{\\"checkpoint\\": $i}" >>"$LAUNCH_RUN_DIR/to_worker"
    until [ "$(cat "$LAUNCH_RUN_DIR/checkpoint_taken" 2>/dev/null)" = $i ]; do sleep 0.05; done
    [ $LAUNCH_ATTEMPT$i = 13 ] && exit 7
done
exit 0
"""
#: Saves once, says nothing, and waits for ever in its first attempt.
SAVES_ONCE = """
cd "$LAUNCH_CHECKPOINT_DIR"; echo "found $(cat model 2>/dev/null) ${LAUNCH_RESUMED:-0}"
[ $LAUNCH_ATTEMPT = 1 ] && echo weights >model && sleep 600
exit 0
"""


def test_a_container_goes_on_from_what_it_called_complete(kept: Cluster, engine: Any, busybox_image: str) -> None:
    kept.worker()
    run = submit(
        ["sh", "-c", TRAIN_IN_SHELL],
        image=busybox_image,
        container={"user": "nobody", "read_only": True},
        retries=1,
        api=kept.api,
    )
    assert run.wait(60) is RunState.FINISHED, run.record.reason
    assert printed(run, 1) == "found 0 0\n"
    assert printed(run, 2) == "found 3 1\n"
    assert kept.show(run.id)["checkpoint"]["attempt"] == 2


def test_a_container_that_says_nothing_goes_on_from_what_it_left_alone(
    kept: Cluster, engine: Any, busybox_image: str, tmp_path: Path
) -> None:
    """One is killed after a while; the machine of the other is lost, and had taken its state now and then."""
    first = kept.worker()

    def saves(**options: Any) -> Run:
        return submit(["sh", "-c", SAVES_ONCE], image=busybox_image, retries=1, api=kept.api, **options)

    killed, lost = saves(), saves(checkpoint_every=0.5)
    wait_until(lambda: lost.refresh().checkpoint, what="its state is stored while it runs")
    wait_for_output(killed, b"found")
    # What it has left alone for so long is complete.
    time.sleep(SETTLED_S + 1.0)
    (entry,) = engine.api.containers(filters={"label": f"launch.run={killed.id}"})
    engine.api.kill(entry["Id"], "SIGKILL")
    assert killed.wait(60) is RunState.FINISHED, killed.record.reason
    assert [printed(killed, attempt) for attempt in (1, 2)] == ["found  0\n", "found weights 1\n"]
    for pid in (guard_of(first.pid), first.pid):
        os.kill(pid, signal.SIGKILL)
    (entry,) = engine.api.containers(filters={"label": f"launch.run={lost.id}"})
    engine.api.remove_container(entry["Id"], force=True, v=True)
    kept.worker(name="second", env={"LAUNCH_WORK_DIR": str(tmp_path / "elsewhere")})
    kept.beat()
    assert lost.wait(60) is RunState.FINISHED, lost.record.reason
    assert printed(lost, 2) == "found weights 1\n"
