"""What is made to hold up a worker fails by itself: a neighbour's job on the same worker ends Finished meanwhile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Run
from launch_worker.code.storage import RedisStorage
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.support.githost import GitHost
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, Part, states, waits_for

#: Longer than a lease: what holds up the worker's interpreter for its time would make the neighbour Crashed.
NEIGHBOUR_S = 6


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    made = GitHost(tmp_path_factory.mktemp("githost"))
    yield made
    made.close()


def worker(cluster: Cluster, host: GitHost, **env: str) -> Part:
    env |= {"GIT_SSL_CAINFO": str(host.certificate), "HOME": str(cluster.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return cluster.worker(slots=4, env=env)


def neighbour(cluster: Cluster) -> Run:
    run = submit(["sleep", str(NEIGHBOUR_S)], api=cluster.api)
    wait_until(lambda: run.refresh().state is RunState.RUNNING, what="the neighbour runs")
    return run


def assert_unharmed(run: Run) -> None:
    assert run.wait(30) is RunState.FINISHED, run.record.reason
    assert states(run) == ["Pending", "Running", "Finished"]


def submit_archive(cluster: Cluster, data: bytes, **options: Any) -> Run:
    """A run with such an upload, as whoever can write to Redis may make it."""
    sha256 = hashlib.sha256(data).hexdigest()
    RedisStorage(cluster.api.store, 600.0).put(sha256, io.BytesIO(data))
    folder = cluster.folder / "any"
    folder.mkdir(exist_ok=True)
    (folder / "any").touch()
    return rewritten(submit(["true"], upload=folder, delay=0.7, api=cluster.api, **options), "upload", sha256)


def rewritten(run: Run, field: str, value: Any) -> Run:
    """The run, before it is due, with another value in its spec."""
    redis, key = redis_of(run._api.store.url), f"launch:run:{run.id}"
    redis.hset(key, "spec", json.dumps(json.loads(redis.hget(key, "spec")) | {field: value}))
    return run


def pax_headers(*, digits: int, times: int) -> bytes:
    """An archive of descriptions that a Python with CVE-2024-6232 searches by the square of their length."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, digits
    one = info.tobuf() + b"1" * digits + bytes(-digits % 512)
    file = tarfile.TarInfo("file")
    return gzip.compress(one * times + file.tobuf())


@pytest.mark.parametrize(("digits", "times"), [(200_000, 1), (30_000, 40)])
def test_an_upload_that_is_made_to_hold_up_its_worker_holds_up_nobody(
    cluster: Cluster, host: GitHost, digits: int, times: int
) -> None:
    worker(cluster, host)
    data = pax_headers(digits=digits, times=times)
    assert len(data) < 5000
    beside = neighbour(cluster)
    run = submit_archive(cluster, data, start_timeout=NEIGHBOUR_S)
    assert run.wait(30) is RunState.FAILED
    assert run.record.phase == "build"
    assert_unharmed(beside)


def test_a_pattern_that_is_made_to_hold_up_its_worker_holds_up_nobody(cluster: Cluster, host: GitHost) -> None:
    worker(cluster, host)
    beside = neighbour(cluster)
    variables = {"type": "object", "properties": {"x": {"pattern": "^([a-z]+)*$"}}}
    cluster.api.set_queue("default", variables=variables)
    run = submit(["true"], values={"x": "good"}, delay=0.7, api=cluster.api)
    rewritten(run, "values", {"x": "a" * 40 + "!"})
    assert run.wait(30) is RunState.FAILED
    assert "does not match" in run.record.reason
    assert_unharmed(beside)


def test_a_repository_that_is_made_to_take_all_memory_holds_up_nobody(cluster: Cluster, host: GitHost) -> None:
    repository = host.repository("bomb")
    blob = repository.git_with_input("x", "hash-object", "-w", "--stdin")
    entries = "".join(f"100644 blob {blob}\t{n}\n" for n in range(10))
    for _ in range(7):
        inner = repository.git_with_input(entries, "mktree")
        entries = "".join(f"040000 tree {inner}\t{n}\n" for n in range(10))
    root = repository.git_with_input(entries, "mktree")
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "bomb", root))
    worker(cluster, host)
    beside = neighbour(cluster)
    run = submit(["true"], uri=repository.url, api=cluster.api)
    assert run.wait(60) is RunState.FAILED
    assert "files and folders" in run.record.reason
    assert_unharmed(beside)


# -- children of the worker ----------------------------------------------------------------------------------------


def children(part: Part) -> list[tree.Process]:
    """All but its guard."""
    found = [process for process in tree.table() if process.ppid == part.pid]
    return [each for each in found if b"launch_worker.runners.process.guard" not in _command(each.id.pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def no_children(part: Part) -> None:
    wait_until(lambda: not children(part), what="the worker has no child but its guard")


def test_no_run_leaves_a_child_with_its_worker(cluster: Cluster, host: GitHost, tmp_path: Path) -> None:
    """Processes, git (with what its helpers leave running), uploads; runs that fail and that are cancelled."""
    helper = "!f() { (sleep 0.5; true) >/dev/null 2>&1 & setsid sh -c 'sleep 0.5; true' >/dev/null 2>&1 & }; f"
    (cluster.folder / ".gitconfig").write_text(f'[credential]\n\thelper = "{helper}"\n')
    part = worker(cluster, host)
    repository = host.repository("plain")
    repository.commit({"a": "1"})
    host.repository("private/secret").commit({"a": "1"})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    assert submit_archive(cluster, b"nonsense").wait(30) is RunState.FAILED
    no_children(part)
    kinds: list[tuple[dict[str, Any], RunState]] = [
        ({}, RunState.FINISHED),
        ({"uri": repository.url}, RunState.FINISHED),
        ({"uri": f"{host.url}/private/secret"}, RunState.FAILED),
        ({"upload": folder}, RunState.FINISHED),
        ({"uri": f"{host.url}/nothing"}, RunState.FAILED),
    ]
    for options, state in kinds:
        run = submit(["sh", "-c", "(sleep 0.2; true) & setsid sleep 0.2 &"], api=cluster.api, **options)
        assert run.wait(30) is state, run.record.reason
        no_children(part)
    run = submit(["true"], uri=f"{host.url}/hangs/x", api=cluster.api)
    wait_until(lambda: children(part), what="git runs")
    run.cancel()
    assert run.wait(20) is RunState.KILLED
    no_children(part)


def test_what_jobs_of_a_dead_guard_leave_is_reaped(cluster: Cluster, host: GitHost) -> None:
    part = worker(cluster, host)
    script = f"(sleep 1.5; true) & setsid sh -c 'sleep 1.5' & {waits_for(cluster.folder / 'end')}; exit 3"
    runs = [submit(["sh", "-c", script], api=cluster.api) for _ in range(3)]
    wait_until(lambda: all(run.refresh().state is RunState.RUNNING for run in runs), what="they run")
    time.sleep(0.2)
    (guard,) = [process for process in tree.table() if process.ppid == part.pid]
    tree.send(guard.id, 9)
    (cluster.folder / "end").touch()
    for run in runs:
        assert run.wait(20) is RunState.FAILED
        assert run.record.exit_code == 3, "its worker reads the exit status that the guard would have"
    no_children(part)


def test_a_container_leaves_no_child_with_its_worker(cluster: Cluster, host: GitHost, busybox_image: str) -> None:
    part = worker(cluster, host)
    run = submit(["true"], image=busybox_image, api=cluster.api)
    assert run.wait(60) is RunState.FINISHED, run.record.reason
    no_children(part)
