"""The connection to a server is cut after it has done what was asked: all is done once, and the client says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Api, Run, submit, submit_many
from launch_worker.errors import ServerUnavailableError
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim
from tests.support.cutting import Cutter
from tests.support.http_servers import KEY, TestServer

UNKNOWN = "whether it did what was asked is not known"


@pytest.fixture
def cutter(server: TestServer) -> Iterator[Cutter]:
    with closing(Cutter(server.address.port)) as made:
        yield made


@pytest.fixture(params=["new", "used"])
def through(cutter: Cutter, request: pytest.FixtureRequest) -> Api:
    """A client that has no connection yet, or one that was used before."""
    made = Api(settings=Settings(api_url=cutter.url, api_token=KEY))
    if request.param == "used":
        assert len(made.runs()) == 0
    return made


def test_a_run_is_submitted_once(through: Api, cutter: Cutter, api: Api) -> None:
    cutter.cut("POST /api/v1/runs")
    run = submit(["true"], api=through)
    assert run.is_new
    assert [one.id for one in api.runs()] == [run.id]


def test_a_run_whose_answers_are_all_lost_is_there_once_and_not_known_to_be(
    through: Api, cutter: Cutter, api: Api
) -> None:
    cutter.cut("POST /api/v1/runs", count=9)
    with pytest.raises(ServerUnavailableError, match=UNKNOWN):
        submit(["true"], api=through)
    assert len(api.runs()) == 1


def test_a_run_with_a_key_until_its_end_is_submitted_once(through: Api, cutter: Cutter, api: Api) -> None:
    """The repeated request names the id of the first one's run."""
    cutter.cut("POST /api/v1/runs")
    run = submit(["true"], unique="k:until-end", api=through)
    assert [one.id for one in api.runs()] == [run.id]


@pytest.mark.parametrize("after", [0, 1000])
def test_an_array_and_a_bulk_submission_are_made_once(through: Api, cutter: Cutter, api: Api, after: int) -> None:
    cutter.cut("POST /api/v1/runs/bulk(?!.*check=)", after=after)
    items: list[dict[str, Any]] = [{"command": ["true"], "array": "0-149"}, *[{"command": ["true"]}] * 50]
    items.append({"command": ["x"], "unique": "k"})
    runs = submit_many(items, api=through)
    assert len(runs) == 201
    assert all(run.is_new for run in runs[:200])
    assert {run.id for run in api.runs()} == {run.id for run in runs}
    array, bulk = (api.group(run.group) for run in (runs[0], runs[150]))
    assert [run.id for run in array.runs()] == [run.id for run in runs[:150]] == sorted(run.id for run in runs[:150])
    assert (array.record.size, bulk.record.size) == (150, 51)
    assert sum("/bulk" in line and "check=" not in line for line in cutter.asked) == 2


def test_a_folder_is_sent(through: Api, cutter: Cutter, api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").write_text("print(1)\n")
    cutter.cut("PUT /api/v1/uploads/")
    run = submit(["true"], upload=folder, api=through)
    assert [one.id for one in api.runs()] == [run.id]
    assert sum(line.startswith("PUT") for line in cutter.asked) == 2


def test_a_cancel_is_done_once_and_not_known_to_be(through: Api, cutter: Cutter, store: Store, api: Api) -> None:
    run = submit(["true"], api=api)
    cutter.cut("POST /api/v1/runs/")
    with pytest.raises(ServerUnavailableError, match=UNKNOWN):
        through.run(run.id).cancel()
    assert [step.state for step in run.transitions] == [RunState.PENDING, RunState.KILLED]


def test_a_retry_is_done_once_and_not_known_to_be(through: Api, cutter: Cutter, store: Store, api: Api) -> None:
    run = submit(["true"], api=api)
    record = claim(store, run.id)
    store.finish(record, FINISHED)
    cutter.cut("POST /api/v1/runs/")
    with pytest.raises(ServerUnavailableError, match=UNKNOWN):
        Run(through, run.id).retry()
    assert run.state is RunState.PENDING
    assert sum(line.endswith("/retry") for line in cutter.asked) == 1


def test_who_waits_for_a_group_or_a_sweep_is_woken_by_its_news_and_outlasts_cuts(
    through: Api, cutter: Cutter, api: Api
) -> None:
    config = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
    sweep = through.create_sweep(config, queue="nobodys")
    group = through.group(submit_many([{"command": ["true"], "array": "0-1"}], api=through)[0].group)
    cutter.cut("GET .*/wait", count=3, after=None)
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(group.wait, 60), pool.submit(sweep.wait, 60)]
        wait_until(lambda: sum("/wait" in line for line in cutter.asked) == 5, what="both wait after the cuts")
        api.group(group.id).cancel()
        api.sweep(sweep.id).cancel()
        assert [end.result() for end in ends] == ["Never", "CANCELED"]
    # A wait at the server is over at once where there is news, and none is asked for before.
    assert sum("/wait" in line for line in cutter.asked) <= 6


def test_commands_say_what_was_done(cutter: Cutter, api: Api) -> None:
    env = {"LAUNCH_API_URL": cutter.url, "LAUNCH_API_TOKEN": KEY, "LAUNCH_REDIS_URL": "redis://127.0.0.1:1/0"}

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        path = Path(sys.executable).parent / words[0]
        return subprocess.run([path, *words[1:]], env=env, capture_output=True, text=True, timeout=60, check=False)

    cutter.cut("POST /api/v1/runs")
    done = command("launch-submit", "--", "true")
    [run] = api.runs()
    assert (done.returncode, done.stdout) == (0, f"run {run.id} submitted to queue default\n"), done
    cutter.cut("POST /api/v1/runs/")
    lost = command("launch-worker", "cancel", run.id)
    assert (lost.returncode, lost.stdout, lost.stderr.count("\n")) == (69, "", 1), lost
    assert UNKNOWN in lost.stderr
    assert api.run(run.id).state is RunState.KILLED


def test_a_list_that_is_watched_outlasts_the_servers_absence(cutter: Cutter, api: Api, tmp_path: Path) -> None:
    env = {"LAUNCH_API_URL": cutter.url, "LAUNCH_API_TOKEN": KEY, "LAUNCH_REDIS_URL": "redis://127.0.0.1:1/0"}
    out, err = tmp_path / "out", tmp_path / "err"
    submit(["true"], api=api)
    with out.open("wb") as to_out, err.open("wb") as to_err:
        program = Path(sys.executable).parent / "launch-worker"
        watching = subprocess.Popen([program, "runs", "--watch", "--json"], env=env, stdout=to_out, stderr=to_err)
    try:
        wait_until(lambda: out.read_text().count("\n") == 1)
        cutter.cut("GET .*/runs", count=4, after=None)
        wait_until(lambda: "the server answers again" in err.read_text())
        assert err.read_text().count("it is tried again until Ctrl-C") == 1
        submit(["true"], api=api)
        wait_until(lambda: out.read_text().count("\n") == 3, what="both are shown")
    finally:
        watching.kill()
        watching.wait()
