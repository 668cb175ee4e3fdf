"""Outputs: what a job leaves in LAUNCH_OUTPUT_DIR is stored, whatever becomes of the job, the worker or the store."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Run
from launch_worker.model.states import RunState
from launch_worker.outputs.content import fetch_folder
from launch_worker.outputs.manifest import Manifest
from launch_worker.outputs.stored import StoredOutputs
from tests.conftest import wait_until
from tests.support.s3 import S3Server
from tests.support.throttle import Throttle
from tests.system.conftest import Cluster

#: Leaves a file and one in a folder.
LEAVES = 'cd "$LAUNCH_OUTPUT_DIR"; mkdir -p deep; echo hello > a.txt; echo $LAUNCH_ATTEMPT > deep/b'


class Kept:
    """A store of outputs, and the cluster whose workers send to it."""

    def __init__(self, cluster: Cluster, stored: StoredOutputs) -> None:
        self.cluster = cluster
        self.stored = stored

    def run(self, script: str, **options: Any) -> Run:
        return submit(["sh", "-c", script], api=self.cluster.api, **options)

    def manifest(self, run: Run, attempt: int = 1) -> Manifest:
        """The manifest of an attempt, once Redis has noted it."""

        def noted() -> bool:
            return "files" in json.loads(run.refresh().outputs or "{}").get(str(attempt), {})

        wait_until(noted, timeout_s=40, what=f"the outputs of attempt {attempt} are noted")
        found = self.stored.manifest(run.id, attempt)
        assert found is not None
        return found

    def content(self, manifest: Manifest) -> dict[str, bytes]:
        return {file.path: b"".join(self.stored.pieces(file)) for file in manifest.files}

    def wait_until_nothing_waits(self) -> None:
        wait_until(lambda: not self.waiting(), timeout_s=40, what="nothing waits on the worker's disk")

    def waiting(self) -> list[str]:
        folder = self.cluster.folder / "work" / "outgoing"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def doctor(cluster: Cluster, **env: str) -> dict[str, dict[str, Any]]:
    """What it finds, by name."""
    told = cluster.run("launch-worker", "doctor", "--json", env=env)
    return {found["name"]: found for found in map(json.loads, told.out.splitlines())}


@pytest.fixture
def kept(cluster: Cluster) -> Kept:
    url = f"file://{cluster.folder}/kept"
    cluster.env["LAUNCH_OUTPUT_URL"] = url
    return Kept(cluster, StoredOutputs(url))


def test_what_a_job_leaves_is_kept_however_it_ends(cluster: Cluster, kept: Kept) -> None:
    worker = cluster.worker(slots=4, env={"LAUNCH_OUTPUT_BYTES": "1000", "LAUNCH_OUTPUT_FILES": "5"})
    finished = kept.run(LEAVES)
    failed = kept.run(f"{LEAVES}; exit 3", retries=1)
    killed = kept.run(f"{LEAVES}; echo started; sleep 600")
    early = kept.run(f"""{LEAVES}; echo '{{"finish": 0}}' >> "$LAUNCH_RUN_DIR/tell"; sleep 0.5""")
    preempted = kept.run(f'{LEAVES}; [ "$LAUNCH_ATTEMPT" = 2 ] && exit; echo started; sleep 600')
    nothing = kept.run("true")
    chosen = kept.run(f'{LEAVES}; touch "$LAUNCH_OUTPUT_DIR/deep/c.tmp"', outputs=["deep", "!*.tmp"])
    unwanted = kept.run(LEAVES, outputs=["*.pt"])
    large = kept.run(f'{LEAVES}; head -c 1001 /dev/zero > "$LAUNCH_OUTPUT_DIR/large"')
    odd = kept.run(
        f'{LEAVES}; cd "$LAUNCH_OUTPUT_DIR"; ln -s /etc/passwd link; chmod 500 deep; chmod 500 .; chmod 500 ..'
    )
    wait_until(lambda: b"started" in killed.logs(), what="the job has left its files")
    killed.cancel()
    wait_until(lambda: b"started" in preempted.logs(), what="the other job has left its files")
    preempted.preempt()
    for run in (finished, failed, killed, preempted, early, nothing, chosen, unwanted, large, odd):
        run.wait(timeout=40)
    both = {"a.txt": b"hello\n", "deep/b": b"1\n"}
    for run in (finished, failed, killed, preempted, early, large, odd):
        assert kept.content(kept.manifest(run)) == both
    for run in (failed, preempted):
        assert kept.content(kept.manifest(run, 2)) == both | {"deep/b": b"2\n"}
    assert kept.content(kept.manifest(chosen)) == {"deep/b": b"1\n"}
    assert [(one.path, one.why) for one in kept.manifest(large).left_out] == [
        ("large", "the files have more than 1,000 bytes")
    ]
    assert json.loads(large.refresh().outputs)["1"]["left_out"] == 1
    # It is said once Redis knows of it.
    wait_until(lambda: "outputs.left_out run=" + large.id in worker.log, what="the worker says what was left out")
    assert [one.path for one in kept.manifest(odd).left_out] == ["link"]
    kept.wait_until_nothing_waits()
    for run in (nothing, unwanted):
        wait_until(lambda run=run: run.refresh().outputs == "", what="a run without outputs has none")  # type: ignore[misc]
        assert kept.stored.attempts(run.id) == []
    (folder,) = (cluster.folder / "work" / "workers").iterdir()
    wait_until(lambda: not list((folder / "runs").iterdir()), what="no attempt has a folder")


def test_without_a_place_for_outputs_a_run_that_wants_them_is_told_what_to_set(cluster: Cluster) -> None:
    cluster.worker()
    plain = submit(["sh", "-c", "echo dir=$LAUNCH_OUTPUT_DIR"], api=cluster.api)
    wants = submit(["true"], api=cluster.api, outputs=["*.pt"])
    assert (plain.wait(20), wants.wait(20)) == (RunState.FINISHED, RunState.FAILED)
    assert plain.logs() == b"dir=\n"
    assert "set LAUNCH_OUTPUT_URL where the worker is started" in wants.refresh().reason


def test_a_worker_that_is_killed_leaves_its_jobs_outputs_to_the_next_one(cluster: Cluster, kept: Kept) -> None:
    worker = cluster.worker()
    run = kept.run(f"{LEAVES}; echo started; sleep 600")
    wait_until(lambda: b"started" in run.logs(), what="the job has left its files")
    worker.kill()
    cluster.worker(name="w2")
    assert run.wait(30) is RunState.CRASHED
    assert kept.content(kept.manifest(run)) == {"a.txt": b"hello\n", "deep/b": b"1\n"}
    kept.wait_until_nothing_waits()


# -- a bucket that is slow, or away ------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(cluster: Cluster, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Kept, Throttle]]:
    """Outputs in a bucket, which workers reach through a throttle."""
    throttle = Throttle(int(s3.url.rpartition(":")[2]))
    url = "s3://kept/it"
    cluster.env |= s3.env | {"AWS_ENDPOINT_URL": throttle.url, "LAUNCH_OUTPUT_URL": url}
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    from fsspec import filesystem

    filesystem("s3").clear_instance_cache()
    yield Kept(cluster, StoredOutputs(url)), throttle
    throttle.close()


#: Leaves two files whose content is their own: one of 1 MiB, and a larger one that takes several requests.
LARGE = 'cd "$LAUNCH_OUTPUT_DIR"; head -c 1048576 /dev/urandom > 1; head -c 20971520 /dev/urandom > 2; sha256sum *'


def test_what_a_killed_worker_had_begun_to_send_is_sent_by_one_of_the_next_ones(
    cluster: Cluster, bucket: tuple[Kept, Throttle], s3: S3Server
) -> None:
    kept, throttle = bucket
    s3.start()
    s3.make(bucket="kept")
    worker = cluster.worker()
    throttle.allow(15 << 20)
    run = kept.run(LARGE)
    assert run.wait(30) is RunState.FINISHED
    wait_until(lambda: throttle.is_holding, what="the store is slow in the middle of a file")
    assert json.loads(run.refresh().outputs) == {"1": {"sending": True}}
    # The slot is free, and so is the attempt's folder.
    assert kept.run("true").wait(20) is RunState.FINISHED
    worker.kill()
    assert kept.waiting() == [f"{run.id}.1.{run.refresh().token}"]
    assert kept.stored.manifest(run.id, 1) is None
    throttle.allow(math.inf)
    throttle.asked.clear()
    workers = [cluster.worker(name=name) for name in ("w2", "w3")]
    hashes = {line.split()[1]: line.split()[0] for line in run.logs().decode().splitlines()}
    manifest = kept.manifest(run)
    assert {file.path: file.sha256 for file in manifest.files} == hashes
    fetch_folder(kept.stored, manifest.files, cluster.folder / "back")
    kept.wait_until_nothing_waits()
    # It is said once nothing waits.
    wait_until(lambda: any("outputs.stored run=" in worker.log for worker in workers), what="one of them says so")
    assert sum(worker.log.count("outputs.stored run=") for worker in workers) == 1
    assert throttle.puts().count(f"/kept/it/outputs/{run.id}/1.json") == 1
    assert f"/kept/it/content/{hashes['1'][:2]}/{hashes['1']}" not in throttle.puts(), "it was there"


def test_a_worker_that_stops_sends_what_waits(cluster: Cluster, bucket: tuple[Kept, Throttle], s3: S3Server) -> None:
    kept, throttle = bucket
    s3.start()
    s3.make(bucket="kept")
    worker = cluster.worker()
    throttle.allow(5 << 20)
    run = kept.run(LARGE)
    assert run.wait(30) is RunState.FINISHED
    wait_until(lambda: throttle.is_holding, what="the store is slow in the middle of a file")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "worker.draining" in worker.log, what="the worker stops")
    throttle.allow(math.inf)
    worker.wait(40)
    assert kept.waiting() == []
    assert len(kept.manifest(run).files) == 2


def test_a_store_that_is_away_harms_no_run_and_gets_all_when_it_is_back(
    cluster: Cluster, bucket: tuple[Kept, Throttle], s3: S3Server
) -> None:
    kept, _ = bucket
    worker = cluster.worker()
    first, second = kept.run(LEAVES), kept.run(f"{LEAVES}; exit 3")
    assert (first.wait(20), second.wait(20)) == (RunState.FINISHED, RunState.FAILED)
    wait_until(lambda: "outputs.store_away" in worker.log, what="the worker says that the store is away")
    found = doctor(cluster)
    assert "outputs.away" in found
    assert "2 attempts" in doctor(cluster, LAUNCH_OUTPUT_URL="")["outputs.waiting"]["cause"]
    # A worker that drains does not wait for what cannot be sent.
    worker.signal(signal.SIGTERM)
    worker.wait(30)
    assert len(kept.waiting()) == 2
    s3.start()
    worker = cluster.worker()
    wait_until(lambda: "bucket does not exist" in worker.log, timeout_s=60, what="what is wrong now is said")
    s3.make(bucket="kept")
    for run in (first, second):
        assert kept.content(kept.manifest(run))["a.txt"] == b"hello\n"
    assert "outputs.store_answers" in worker.log
    assert s3.secret not in worker.log


# -- containers --------------------------------------------------------------------------------------------------------


def test_what_a_container_leaves_is_kept_however_it_ends_and_whoever_it_is(
    cluster: Cluster, kept: Kept, engine: Any, busybox_image: str
) -> None:
    worker = cluster.worker(slots=5, env={"LAUNCH_OUTPUT_BYTES": "1000"})

    def run(script: str, **options: Any) -> Run:
        return kept.run(script, image=busybox_image, **options)

    finished = run(LEAVES, container={"read_only": True, "user": "nobody"})
    failed = run(f"{LEAVES}; exit 3", retries=1)
    hungry = run(f"{LEAVES}; tail -c 90000000 /dev/zero", memory="32M")
    killed = run(f"trap '' TERM; {LEAVES}; echo started; while :; do sleep 1; done")
    chosen = run(f'{LEAVES}; ln -s a.txt link; head -c 1001 /dev/zero > "$LAUNCH_OUTPUT_DIR/deep/c"', outputs=["deep"])
    nothing = run('test -w "$LAUNCH_OUTPUT_DIR"')
    user = kept.run(
        'cat "$LAUNCH_INPUT_DIR/taken/b"; echo more >>"$LAUNCH_INPUT_DIR/taken/b"',
        inputs=[f"{finished.id}:deep:taken"],
        image=busybox_image,
        container={"user": "12345", "read_only": True},
    )
    wait_until(lambda: b"started" in killed.logs(), what="the job has left its files")
    killed.cancel(grace_s=0.2)
    for each in (finished, failed, hungry, killed, chosen, nothing, user):
        each.wait(timeout=60)
    both = {"a.txt": b"hello\n", "deep/b": b"1\n"}
    for each in (finished, failed, hungry, killed):
        assert kept.content(kept.manifest(each)) == both
    assert kept.content(kept.manifest(failed, 2)) == both | {"deep/b": b"2\n"}
    assert kept.content(kept.manifest(chosen)) == {"deep/b": b"1\n"}
    assert [(one.path, one.why) for one in kept.manifest(chosen).left_out] == [
        ("deep/c", "the files have more than 1,000 bytes")
    ]
    assert "out of memory" in hungry.refresh().reason
    assert killed.state is RunState.KILLED
    assert (nothing.state, nothing.refresh().outputs) == (RunState.FINISHED, "")
    assert (user.state, user.logs()) == (RunState.FINISHED, b"1\n")
    kept.wait_until_nothing_waits()
    assert "Traceback" not in worker.log
    assert engine.api.containers(all=True, filters={"label": f"launch.system={cluster.api.store.system()}"}) == []


def test_the_next_worker_keeps_what_a_container_leaves_that_it_adopts_or_may_not(
    cluster: Cluster, kept: Kept, engine: Any, busybox_image: str
) -> None:
    """The second one has a later attempt by then, elsewhere: what the first left is copied before it is removed."""
    env = {"LAUNCH_LEASE_S": "4"}
    first = cluster.worker(slots=2, env=env)
    script = f"{LEAVES}; echo started; while [ ! -e /tmp/go ]; do sleep 0.1; done"
    runs = [kept.run(script, image=busybox_image, retries=retries) for retries in (0, 1)]
    for run in runs:
        wait_until(lambda run=run: b"started" in run.logs(), what="the job has left its files")  # type: ignore[misc]
    first.kill()
    cluster.beat()
    over = ["Crashed", "Pending"]
    wait_until(lambda: [run.refresh().state.value for run in runs] == over, timeout_s=40, what="the leases are over")
    runs[1].cancel()
    cluster.worker(slots=2, name="w2", env=env)
    wait_until(lambda: runs[0].refresh().state is RunState.RUNNING, what="it is adopted")
    (entry,) = engine.api.containers(filters={"label": f"launch.run={runs[0].id}"})
    engine.api.exec_start(engine.api.exec_create(entry["Id"], ["touch", "/tmp/go"])["Id"])
    assert runs[0].wait(timeout=40) is RunState.FINISHED
    for run in runs:
        assert kept.content(kept.manifest(run)) == {"a.txt": b"hello\n", "deep/b": b"1\n"}
    assert engine.api.containers(all=True, filters={"label": f"launch.system={cluster.api.store.system()}"}) == []
