"""Code that the worker's machine does not have: from git at a pinned commit, and from an uploaded folder."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.githost import GitHost, Repository
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, Part, job_processes, states, through_both_doors


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    made = GitHost(tmp_path_factory.mktemp("githost"))
    yield made
    made.close()


@pytest.fixture
def repository(host: GitHost, tmp_path: Path) -> Repository:
    return host.repository(tmp_path.name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "train.sh").write_text("#!/bin/sh\necho trained; ls -a ..\n")
    (folder / "pkg" / "train.sh").chmod(0o755)
    (folder / "data.csv").write_text("1")
    (folder / ".gitignore").write_text("*.csv\n")
    return folder


def worker(cluster: Cluster, host: GitHost, name: str = "w1") -> Part:
    env = {"GIT_SSL_CAINFO": str(host.certificate), "HOME": str(cluster.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return cluster.worker(name=name, env=env)


def test_a_container_runs_in_the_code_that_was_fetched_for_it(
    cluster: Cluster, host: GitHost, repository: Repository, project: Path, busybox_image: str
) -> None:
    """The same for both runners: from git and from an upload, for whatever user the container has."""
    worker(cluster, host)
    commit = repository.commit({"pkg/train.sh": "echo trained"})
    script = "sh ./train.sh; pwd; touch made && echo writable"
    options = ("--image", busybox_image, "--user", "1234", "--cwd", "pkg", "--wait", "--json")
    for source in (("--uri", repository.url), ("--upload", str(project))):
        result = cluster.run("launch-submit", *source, *options, "--", "sh", "-c", script)
        assert result.code == 0, result
        shown = json.loads(result.out)
        printed = cluster.api.run(shown["id"]).logs().decode().splitlines()
        assert (printed[0], printed[-2:]) == ("trained", ["/launch/code/pkg", "writable"])
        assert [phase["name"] for phase in shown["phases"]] == ["fetch", "start"]
        assert shown["commit"] == (commit if source[0] == "--uri" else None)


def test_a_job_runs_in_the_code_of_its_repository(cluster: Cluster, host: GitHost, repository: Repository) -> None:
    """W11."""
    worker(cluster, host)
    commit = repository.commit({"pkg/train.py": "print('trained')"})
    command = ("launch-submit", "--uri", f"{repository.url}@main", "--cwd", "pkg", "--wait", "--json")
    result = cluster.run(*command, "--", "sh", "-c", "python3 train.py; pwd; git rev-parse HEAD; env")
    assert result.code == 0, result
    shown = json.loads(result.out)
    assert (shown["commit"], shown["spec"]["uri"]) == (commit, f"{repository.url}@main")
    printed = cluster.api.run(shown["id"]).logs().decode().splitlines()
    assert printed[0] == "trained"
    assert printed[1].endswith("/code/pkg")
    assert printed[2] == commit
    assert not [line for line in printed if "GIT_" in line], "git's environment is not the job's"
    assert commit in cluster.run("launch-worker", "show", "--all", shown["id"]).out
    wait_until(lambda: not Path(printed[1]).exists(), what="the code is deleted with the attempt")


def test_a_retry_runs_the_commit_of_the_first_attempt(cluster: Cluster, host: GitHost, repository: Repository) -> None:
    first = repository.commit({"n": "1"})
    worker(cluster, host)
    run = submit(["sh", "-c", "cat n; [ $LAUNCH_ATTEMPT = 2 ]"], uri=repository.url, api=cluster.api)
    assert run.wait(30) is RunState.FAILED, run.record.message
    repository.commit({"n": "2"})
    run.retry()
    assert run.wait(30) is RunState.FINISHED, run.record.message
    assert (run.logs(), run.record.commit) == (b"1", first)
    later = submit(["cat", "n"], uri=repository.url, api=cluster.api)
    assert later.wait(30) is RunState.FINISHED
    assert later.logs() == b"2"


def test_what_cannot_be_fetched_fails_in_phase_build_and_is_said(
    cluster: Cluster, host: GitHost, repository: Repository, project: Path
) -> None:
    gone = submit(["true"], upload=project, api=cluster.api)
    redis_of(cluster.redis_url).delete(*redis_of(cluster.redis_url).keys("launch:upload:*"))
    os.symlink("/etc", repository.folder / "out")
    repository.commit({"n": "1"})
    worker(cluster, host)
    for options, said in (
        ({"uri": f"{repository.url}@nope"}, "no branch, tag or commit 'nope'"),
        ({"uri": f"{host.url}/nothing"}, "there is no repository"),
        ({"uri": repository.url, "cwd": "nope"}, "the code has no folder 'nope'"),
        ({"uri": repository.url, "cwd": "out"}, "leads out of the code"),
        ({"uri": f"{host.url}/hangs/x", "start_timeout": 1}, "start timeout of 1 s"),
    ):
        run = submit(["true"], api=cluster.api, **options)
        assert run.wait(30) is RunState.FAILED
        assert run.record.phase == "build"
        assert said in run.record.reason
    assert submit(["true"], uri=repository.url, api=cluster.api).wait(30) is RunState.FINISHED
    assert gone.wait(30) is RunState.FAILED
    assert (gone.record.phase, "is gone: submit again" in gone.record.reason) == ("build", True)
    wait_until(lambda: not list((cluster.folder / "work").glob("workers/*/runs/*")), what="nothing of them is left")


def test_a_hostile_url_is_refused_before_anything_is_written(cluster: Cluster) -> None:
    """W11."""
    for uri in ("ext::sh -c x", "-x", "https://me:hunter2@h/r"):
        result = cluster.run("launch-submit", f"--uri={uri}", "--", "true")
        assert result.code == 2
        assert "hunter2" not in result.err
        assert result.err.count("\n") == 1
    assert not list(cluster.api.store.runs())


def test_a_run_can_be_cancelled_while_its_code_is_fetched(cluster: Cluster, host: GitHost) -> None:
    worker(cluster, host)
    run = submit(["true"], uri=f"{host.url}/hangs/x", api=cluster.api)
    wait_until(lambda: job_processes(run.id), what="git runs")
    run.cancel(reason="changed my mind")
    assert run.wait(30) is RunState.KILLED, "and not when its server answers, after a minute"
    assert run.record.reason == "changed my mind"
    wait_until(lambda: not job_processes(run.id), what="git is gone")


def test_a_worker_that_is_stopped_hands_a_run_on_whose_code_it_fetches(cluster: Cluster, host: GitHost) -> None:
    first = worker(cluster, host)
    run = submit(["true"], uri=f"{host.url}/hangs/x", retries=1, api=cluster.api)
    wait_until(lambda: job_processes(run.id), what="git runs")
    first.signal(signal.SIGTERM)
    wait_until(lambda: "drain" in first.log, what="it drains")
    first.signal(signal.SIGTERM)
    first.wait(20)
    assert states(run) == ["Pending", "Running", "Killed", "Pending"]
    assert not job_processes(run.id)


def test_a_git_that_outlives_its_worker_is_ended(cluster: Cluster, host: GitHost) -> None:
    first = worker(cluster, host)
    run = submit(["true"], uri=f"{host.url}/hangs/x", api=cluster.api)
    wait_until(lambda: job_processes(run.id), what="git runs")
    first.kill()
    worker(cluster, host, name="w2")
    assert run.wait(20) is RunState.CRASHED
    wait_until(lambda: not job_processes(run.id), what="git is gone")


# -- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["redis", "file"])
@pytest.mark.main_path
def test_a_job_runs_in_an_uploaded_folder(cluster: Cluster, project: Path, where: str) -> None:
    if where == "file":
        cluster.env["LAUNCH_UPLOAD_URL"] = f"file://{cluster.folder}/shared"
    cluster.worker()
    command = ("launch-submit", "--upload", "project", "--cwd", "pkg", "--follow", "--", "./train.sh")
    result = cluster.run(*command)
    assert (result.code, result.out.split()) == (0, ["trained", ".", "..", ".gitignore", "pkg"])
    shown = cluster.show(result.err.split()[1])
    assert len(shown["spec"]["upload"]) == 64
    assert shown["commit"] is None
    redis_keys = redis_of(cluster.redis_url).keys("launch:upload:*")
    stored = list((cluster.folder / "shared").glob("*")) if where == "file" else redis_keys
    assert stored
    assert bool(redis_keys) == (where == "redis")
    assert cluster.run(*command).code == 0, "again, from what is kept"


@through_both_doors
def test_what_cannot_be_uploaded_is_refused_before_anything_is_written(cluster: Cluster, project: Path) -> None:
    (project / "big").write_bytes(os.urandom(5000))
    for options, said in (
        (("--upload", "nowhere"), "not a folder"),
        (("--upload", "project", "--uri", "https://h/r"), "not both"),
        (("--upload", "project", "--cwd", "../x"), "inside the code"),
        (("--upload", "project"), "the biggest are: big (5,000 bytes)"),
    ):
        result = cluster.run("launch-submit", *options, "--", "true", env={"LAUNCH_UPLOAD_BYTES": "4K"})
        assert result.code == 2, result
        assert said in result.err
        assert result.err.count("\n") == 1
    assert not list(cluster.api.store.runs())
    assert not redis_of(cluster.redis_url).keys("launch:upload:*")
