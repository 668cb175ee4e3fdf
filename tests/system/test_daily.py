"""What users meet daily: limits of a shell, screens that are watched, numbers and names as people write them."""

from __future__ import annotations

import resource
import signal
import subprocess
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import InputError
from launch_worker.model.container_options import check_submitted
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster


def with_files(soft: int, hard: int, *words: str) -> list[str]:
    """The command under these limits of open files."""
    return ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh", *words]


def test_a_worker_that_may_not_open_enough_files_for_its_slots_says_how_many_fit(cluster: Cluster) -> None:
    worker = ("celery", "-A", "launch_worker", "worker", "-Q", "default", "-c")
    refused = cluster.run(*with_files(40, 40, *worker, "40"))
    assert refused.code == 2
    assert "40 runs at once need 392 open files, and this worker may have 40; raise that" in refused.err, refused
    assert "Traceback" not in refused.err
    refused = cluster.run(*with_files(200, 200, *worker, "40"))
    assert refused.err.strip().endswith("or start it with -c 16"), refused


def test_a_worker_raises_its_limit_of_open_files_to_what_its_slots_need(cluster: Cluster) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    worker = cluster.worker(slots=30, by=lambda *command: with_files(100, hard, *command))
    assert resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)[0] == 64 + 8 * 31
    runs = [submit(["sleep", "1"], api=cluster.api) for _ in range(30)]
    assert {run.wait(60) for run in runs} == {RunState.FINISHED}


def test_runs_that_are_watched_outlast_an_outage(tmp_path: Path) -> None:
    server = RedisServer(aof="always")
    server.start()
    cluster = Cluster(server.url, tmp_path)
    watching: subprocess.Popen[bytes] | None = None
    try:
        submit(["true"], api=cluster.api)
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            watching = subprocess.Popen(
                ["launch-worker", "runs", "--watch", "--json"], env=cluster.env, stdout=to_out, stderr=to_err
            )
        wait_until(lambda: out.read_text().count("\n") == 1)
        server.kill()
        wait_until(lambda: "is not reachable" in err.read_text(), what="the outage is said")
        server.start()
        wait_until(lambda: "Redis answers again" in err.read_text(), what="its end is said")
        submit(["true"], api=Api(server.url))
        wait_until(lambda: out.read_text().count("\n") == 3, what="both are shown")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
        assert len(err.read_text().split("\n\n")[0].splitlines()) == 2
    finally:
        if watching is not None:
            watching.kill()
            watching.wait()
        cluster.close()
        server.stop()


@pytest.mark.parametrize("timeout", ["1", True, [1], object()])
def test_a_timeout_that_is_no_number_is_refused_in_a_sentence(api: Api, timeout: object) -> None:
    run = submit(["true"], api=api)
    with pytest.raises(InputError, match="timeout must be a number of seconds"):
        run.wait(timeout)  # type: ignore[arg-type]


def test_runs_of_a_project_are_found_by_its_last_part_alone(api: Api) -> None:
    for project in ("acme/one", "one", "acme/two", "acme/one-more", "other/one"):
        submit(["true"], project=project, api=api)
    assert sorted(run.project for run in api.runs(path="one")) == ["acme/one", "one", "other/one"]
    assert [run.project for run in api.runs(path="acme/one")] == ["acme/one"]


def test_a_number_of_the_wrong_kind_is_repeated(api: Api) -> None:
    with pytest.raises(InputError, match=r"retries must be a whole number, not 1\.5"):
        submit(["true"], retries=1.5, api=api)  # type: ignore[arg-type]


def test_the_user_of_a_container_may_be_a_number(api: Api) -> None:
    run = submit(["true"], image="x", container={"user": 65534}, api=api)
    assert run.state is RunState.PENDING
    assert check_submitted({"user": 65534}) == {"user": "65534"}
