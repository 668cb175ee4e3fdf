"""Whole logs: what a large output becomes below LAUNCH_LOG_URL, whatever dies meanwhile, and how it is read."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch_worker import submit
from launch_worker.api import redis_runs
from launch_worker.api.client import Api, Run
from launch_worker.dev.redis_server import RedisServer
from launch_worker.logs.manifest import Manifest
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.s3 import S3Server
from tests.system.conftest import Cluster, Result, wait_for_output, waits_for

LINES = 1_000_000
WHOLE = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()

#: Prints numbers, 50,000 each tenth of a second, until a condition of the shell.
ENDLESS = "i=0; until {until}; do seq $((i * 50000 + 1)) $((i * 50000 + 50000)); i=$((i + 1)); sleep 0.1; done"


class Logs:
    """A place for whole logs, and a cluster whose workers and clients have it."""

    def __init__(self, cluster: Cluster, url: str, env: dict[str, str] | None = None) -> None:
        self.cluster = cluster
        cluster.env |= {"LAUNCH_LOG_URL": url} | (env or {})
        self.api = Api(settings=Settings.from_env(cluster.env))

    def read(self, run: Run, *arguments: str) -> Result:
        return self.cluster.run("launch-worker", "logs", run.id, *arguments)

    def run(self, *command: str) -> Run:
        return self.api.run(submit([*command], api=self.cluster.api).id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def logs(cluster: Cluster, folder: Path) -> Iterator[Logs]:
    made = Logs(cluster, f"file://{folder}")
    yield made
    made.api.store.close()


def manifest(folder: Path, run: Run, attempt: int = 1) -> Manifest | None:
    path = folder / run.id / str(attempt) / "manifest.json"
    return Manifest.from_json(path.read_bytes()) if path.exists() else None


def is_complete(folder: Path, run: Run, attempt: int = 1) -> bool:
    found = manifest(folder, run, attempt)
    return found is not None and found.is_complete


def wait_until_stored(cluster: Cluster, folder: Path, run: Run) -> None:
    wait_until(lambda: is_complete(folder, run), what="the log is stored")
    wait_until(lambda: not list((cluster.folder / "work" / "logs").iterdir()), what="nothing waits on the disk")


@pytest.mark.main_path
def test_a_log_of_a_million_lines_is_kept_whole_and_read_by_line_and_searched(
    cluster: Cluster, logs: Logs, folder: Path
) -> None:
    cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    assert logs.read(run).out.encode() == WHOLE
    assert len(list((folder / run.id / "1").glob("*.zst"))) == 1, "one object at the end"
    assert run.logs() == WHOLE
    for arguments, out in (
        (("--tail", "2"), "999999\n1000000\n"),
        (("--from-line", "500000", "--lines", "3"), "500000\n500001\n500002\n"),
        (("--grep", "^77777.$", "--lines", "2", "--line-numbers"), "777770:777770\n777771:777771\n"),
        (("--grep", "nothing like it"), ""),
        (("--from-line", "1000001"), ""),
        (("--since", "0"), ""),
    ):
        result = logs.read(run, *arguments)
        assert (result.code, result.out, result.err) == (0, out, "")
    assert logs.read(run, "--since", "1h").out.encode() == WHOLE
    target = cluster.folder / "output.txt"
    assert logs.read(run, "--download", str(target)).code == 0
    assert target.read_bytes() == WHOLE
    again = logs.read(run, "--download", str(target))
    assert (again.code, "there already" in again.err) == (2, True)
    shown = cluster.run("launch-worker", "show", run.id).out
    assert f"before it are at file://{folder}" in shown
    # The log outlives the record, unless a person deletes the run.
    record = run.record
    cluster.api.store._redis.delete(f"launch:run:{run.id}", f"launch:run:{run.id}:log:1")
    assert record.attempt == 1
    assert logs.read(run, "--tail", "1").out == "1000000\n"


def follow(cluster: Cluster, run: Run, target: Path) -> subprocess.Popen[bytes]:
    """Start `logs -f` with its output in a file, and its errors beside it."""
    with target.open("wb") as out, target.with_suffix(".err").open("wb") as errors:
        return subprocess.Popen(
            ["launch-worker", "logs", "-f", run.id],
            cwd=cluster.folder,
            env=cluster.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )


def test_following_begins_with_all_that_is_stored_and_goes_on(cluster: Cluster, logs: Logs) -> None:
    cluster.worker()
    flag, target = cluster.folder / "go", cluster.folder / "followed"
    run = logs.run("sh", "-c", f"seq 900000; {waits_for(flag)}; seq 900001 {LINES}")
    wait_until(lambda: logs.api.run(run.id).logs(tail=1) == b"900000\n", what="most is printed")
    follower = follow(cluster, run, target)
    most = WHOLE.index(b"\n900001\n") + 1
    wait_until(lambda: target.stat().st_size == most, what="all that was printed is shown")
    flag.touch()
    assert follower.wait(30) == 0
    assert target.read_bytes() == WHOLE
    assert target.with_suffix(".err").read_bytes() == b""
    assert run.state is RunState.FINISHED
    assert follow(cluster, run, target).wait(30) == 0
    assert (target.read_bytes(), target.with_suffix(".err").read_bytes()) == (WHOLE, b"")


def test_a_follower_that_is_slower_than_the_job_misses_nothing(cluster: Cluster, logs: Logs) -> None:
    cluster.worker()
    target = cluster.folder / "followed"
    run = logs.run("sh", "-c", f"seq 10; sleep 1; seq 11 {LINES}")
    follower = follow(cluster, run, target)
    wait_until(lambda: target.stat().st_size > 0, what="it follows")
    follower.send_signal(signal.SIGSTOP)
    assert run.wait(30) is RunState.FINISHED
    follower.send_signal(signal.SIGCONT)
    assert follower.wait(40) == 0
    assert target.read_bytes() == WHOLE
    assert target.with_suffix(".err").read_bytes() == b""


def test_a_follower_says_what_is_missing_where_the_store_is_away(
    cluster: Cluster, logs: Logs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("no folder: the store cannot be written to")
    monkeypatch.setattr(redis_runs, "_STORE_S", 0.5)
    cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    missing: list[int] = []
    out = b"".join(data for _, data in run.follow(on_missing=missing.append))
    assert WHOLE.endswith(out)
    assert sum(missing) + len(out) == len(WHOLE)
    assert out.endswith(b"\n1000000\n")


def test_without_the_setting_the_log_says_how_much_is_kept_nowhere(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["seq", str(LINES)], api=cluster.api)
    assert run.wait(30) is RunState.FINISHED
    result = cluster.run("launch-worker", "logs", run.id)
    assert WHOLE.endswith(b"\n" + result.out.encode())
    first = int(result.out.partition("\n")[0])
    size = len(WHOLE) - len(result.out)
    assert result.err == f"… {size:,} bytes ({first - 1:,} lines) of output before this are kept nowhere\n"
    numbered = cluster.run("launch-worker", "logs", run.id, "--from-line", "999999", "--line-numbers")
    assert numbered.out == "999999:999999\n1000000:1000000\n"


def test_a_client_without_the_setting_says_where_the_rest_is(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    result = cluster.run("launch-worker", "logs", run.id, env={"LAUNCH_LOG_URL": ""})
    assert f"of output before this are kept at file://{folder}; set LAUNCH_LOG_URL" in result.err
    assert WHOLE.endswith(b"\n" + result.out.encode())


def test_the_log_of_a_run_that_a_person_has_deleted_is_not_shown(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    run.delete()
    result = logs.read(run)
    assert (result.code, result.out, "was deleted by" in result.err) == (2, "", True)
    assert is_complete(folder, run), "nothing deletes it but an archive"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tail", "1", "--grep", "x"), "tail does not go with"),
        (("--from-line", "2", "--since", "1h"), "say where to begin"),
        (("--since", "never"), "neither a duration, as 10m, nor a time"),
        (("--grep", "("), "cannot be searched for"),
        (("--follow", "--grep", "x"), "--follow goes with"),
        (("--json", "--download", "x"), "leave out it or --json"),
        (("--attempt", "2"), "there is no attempt 2 yet"),
        (("--download", "no/folder/x"), "cannot be written: No such file"),
    ],
)
def test_what_makes_no_sense_of_logs_is_one_sentence(cluster: Cluster, arguments: tuple[str, ...], said: str) -> None:
    run = submit(["true"], api=cluster.api)
    result = cluster.run("launch-worker", "logs", run.id, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1


def test_brief_outputs_make_no_objects(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.worker()
    runs = [logs.run("sh", "-c", "seq 1000") for _ in range(5)]
    assert [run.wait(30) for run in runs] == [RunState.FINISHED] * 5
    assert runs[0].logs() == WHOLE[: WHOLE.index(b"1001\n")]
    assert not folder.exists()


def test_the_middle_of_a_too_long_log_is_dropped_and_counted(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.worker(env={"LAUNCH_LOG_KEEP": "2M"})
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    result = logs.read(run)
    match = re.fullmatch(r"… ([0-9,]+) bytes \(([0-9,]+) lines\) of output before this are kept nowhere\n", result.err)
    assert match is not None, result.err
    size, lines = (int(text.replace(",", "")) for text in match.groups())
    out = result.out.encode()
    assert size + len(out) == len(WHOLE)
    assert lines + out.count(b"\n") == LINES
    assert 1 << 20 < len(out) <= 2 << 20
    assert out.startswith(WHOLE[: 600 << 10])
    assert out.endswith(WHOLE[-(600 << 10) :])
    assert logs.read(run, "--from-line", "999990", "--lines", "1").out == "999990\n"


def test_killed_worker_amid_a_flood_the_next_one_stores_all_of_it(cluster: Cluster, logs: Logs, folder: Path) -> None:
    first = cluster.worker()
    run = logs.run("sh", "-c", ENDLESS.format(until="false"))
    wait_until(lambda: (found := manifest(folder, run)) is not None and found.end > 0, what="some is stored")
    wait_for_output(cluster.api.run(run.id), b"\n700000\n")
    first.kill()
    cluster.worker()
    cluster.beat()
    assert run.wait(30) is RunState.CRASHED
    wait_until_stored(cluster, folder, run)
    out = run.logs()
    count = out.count(b"\n")
    assert count >= 700_000
    assert out[: out.rindex(b"\n") + 1] == "".join(f"{number}\n" for number in range(1, count + 1)).encode()
    assert logs.read(run, "--tail", "0").err == ""


def test_a_store_that_is_down_blocks_nothing_and_gets_all_when_it_is_up(cluster: Cluster) -> None:
    server = S3Server()
    logs = Logs(cluster, "s3://logs/kept", server.env)
    try:
        worker = cluster.worker()
        run = logs.run("seq", str(LINES))
        assert run.wait(30) is RunState.FINISHED
        wait_until(lambda: "log.store_away" in worker.log, what="the worker says that the store is away")
        result = cluster.run("launch-worker", "logs", run.id, "--tail", "1")
        assert result.out == "1000000\n"
        assert logs.run("true").wait(20) is RunState.FINISHED
        server.start()
        wait_until(lambda: "bucket does not exist" in worker.log, timeout_s=60, what="what is wrong now is said")
        server.make(bucket="logs")
        wait_until(lambda: "log.stored run=" in worker.log, timeout_s=60, what="all is stored")
        result = logs.read(run)
        assert (result.out.encode(), result.err) == (WHOLE, "")
        assert logs.read(run, "--from-line", "654321", "--lines", "1").out == "654321\n"
        assert server.secret not in worker.log
    finally:
        logs.api.store.close()
        cluster.close()
        server.stop()


def test_output_is_stored_while_redis_is_away(tmp_path: Path) -> None:
    server = RedisServer(aof="always")
    server.start()
    cluster = Cluster(server.url, tmp_path)
    folder, stop = tmp_path / "logs", tmp_path / "stop"
    logs = Logs(cluster, f"file://{folder}")
    try:
        cluster.worker(env={"LAUNCH_LEASE_S": "60"})
        run = logs.run("sh", "-c", ENDLESS.format(until=f"[ -e {stop} ]"))
        wait_until(lambda: manifest(folder, run) is not None, what="some is stored")
        server.kill()
        stored = manifest(folder, run)
        assert stored is not None
        wait_until(
            lambda: (found := manifest(folder, run)) is not None and found.end > stored.end + (4 << 20),
            timeout_s=40,
            what="more is stored without Redis",
        )
        stop.touch()
        server.start()
        assert run.wait(60) is RunState.FINISHED
        wait_until_stored(cluster, folder, run)
        out = run.logs()
        count = out.count(b"\n")
        assert out == "".join(f"{number}\n" for number in range(1, count + 1)).encode()
        assert logs.read(run, "--from-line", str(count), "--line-numbers").out == f"{count}:{count}\n"
    finally:
        logs.api.store.close()
        cluster.close()
        server.stop()


def test_a_worker_stores_what_a_dead_one_could_not(cluster: Cluster, logs: Logs, folder: Path) -> None:
    folder.write_text("no folder: the store cannot be written to")
    first = cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until(lambda: "log.store_away" in first.log, what="the store is away")
    first.kill()
    assert list((cluster.folder / "work" / "logs").iterdir())
    folder.unlink()
    cluster.worker(name="another")
    wait_until_stored(cluster, folder, run)
    assert run.logs() == WHOLE


def test_a_torn_segment_costs_its_own_lines_and_is_named(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.worker()
    run = logs.run("seq", str(LINES))
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    [path] = (folder / run.id / "1").glob("*.zst")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"torn" + whole[104:])
    result = logs.read(run)
    assert "cannot be read: the stored " in result.err
    assert WHOLE.endswith(b"\n" + result.out.encode())
    assert len(result.out) > len(WHOLE) // 2
    path.write_bytes(whole[: len(whole) // 2])
    result = logs.read(run)
    assert "cannot be read" in result.err
    assert WHOLE.startswith(result.out.encode())
    assert len(result.out) > len(WHOLE) // 4


def test_a_hand_over_leaves_no_gap(cluster: Cluster, logs: Logs, folder: Path) -> None:
    cluster.env["LAUNCH_LEASE_S"] = "30"
    first = cluster.worker()
    stop = cluster.folder / "stop"
    run = logs.run("sh", "-c", ENDLESS.format(until=f"[ -e {stop} ]"))
    wait_for_output(cluster.api.run(run.id), b"\n300000\n")
    assert cluster.run("launch-worker", "workers", "upgrade", f"w1@{socket.gethostname()}").code == 0
    first.wait()
    cluster.worker()
    wait_until(lambda: any(phase.name == "adopted" for phase in run.refresh().phases), what="adopted")
    stop.touch()
    assert run.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    out = run.logs()
    count = out.count(b"\n")
    assert count >= 300_000
    assert out == "".join(f"{number}\n" for number in range(1, count + 1)).encode()


def test_a_password_in_the_url_is_shown_nowhere(cluster: Cluster) -> None:
    logs = Logs(cluster, "ftp://somebody:hunter2@127.0.0.1:1/logs")
    try:
        worker = cluster.worker()
        run = logs.run("seq", str(LINES))
        assert run.wait(30) is RunState.FINISHED
        wait_until(lambda: "log.store_away" in worker.log, what="the store is away")
        shown = [
            worker.log,
            str(logs.read(run)),
            str(cluster.run("launch-worker", "logs", run.id, env={"LAUNCH_LOG_URL": ""})),
            str(cluster.run("launch-worker", "show", run.id, "--json")),
            str(cluster.run("launch-worker", "doctor")),
        ]
        assert not [text for text in shown if "hunter2" in text or "somebody" in text]
        assert json.loads(cluster.run("launch-worker", "show", run.id, "--json").out)["log_url"].startswith(
            "ftp://***@"
        )
    finally:
        logs.api.store.close()


def test_a_flood_is_stored_or_counted_byte_for_byte_within_bounds(cluster: Cluster, logs: Logs, folder: Path) -> None:
    worker = cluster.worker(env={"LAUNCH_LOG_FILE_BYTES": "16M"})
    warm = logs.run("seq", str(LINES))
    assert warm.wait(30) is RunState.FINISHED
    wait_until_stored(cluster, folder, warm)
    before, peak, disk = _memory(worker.pid), 0, 0
    run = logs.run("sh", "-c", "head -c 1G /dev/zero; echo; echo the end")
    while not run.state.is_final:
        peak = max(peak, _memory(worker.pid))
        disk = max(disk, _disk(cluster.folder / "work"))
        time.sleep(0.05)
    assert run.state is RunState.FINISHED
    wait_until_stored(cluster, folder, run)
    assert max(peak, _memory(worker.pid)) - before < 60 << 20
    assert disk < 80 << 20
    kept = missing = 0
    for piece in run.read_logs():
        kept += len(piece.data)
        missing += piece.gap.bytes if piece.gap else 0
    assert kept + missing == (1 << 30) + len("\nthe end\n")
    assert run.logs(tail=1) == b"the end\n"


def _memory(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _disk(folder: Path) -> int:
    total = 0
    for path in (*folder.glob("workers/*/runs/*/output"), *folder.glob("logs/*")):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total
