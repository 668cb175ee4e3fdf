"""Output in floods, output that fills the disk, memory that runs out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from launch_worker.runners.process.exits import keep_exit, read_exits
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, wait_for_output, wait_for_pid, waits_for

MIB = 1 << 20
FLOODS = {
    "1 GB at full speed": "head -c 1G /dev/zero; echo; echo the end",
    "1 MB lines": "for i in $(seq 100); do head -c 1M /dev/zero | tr '\\0' x; echo; done; echo the end",
    "binary without any newline": "head -c 200M /dev/urandom; printf 'the end\\n'",
    "a million log lines": "seq 1000000; echo the end",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_log_flood_stays_bounded_and_its_newest_part_is_kept(cluster: Cluster, flood: str) -> None:
    worker = cluster.worker(env={"LAUNCH_LOG_BYTES": "1M", "LAUNCH_LOG_FILE_BYTES": "16M"})
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    redis = redis_of(cluster.redis_url)
    memory_before, redis_before = _memory(worker.pid), redis.info("memory")["used_memory"]
    run = submit(["sh", "-c", FLOODS[flood]], api=cluster.api)
    peak, disk, redis_peak = 0, 0, 0
    while not run.state.is_final:
        peak = max(peak, _memory(worker.pid))
        disk = max(disk, _disk(cluster.folder / "work"))
        redis_peak = max(redis_peak, redis.info("memory")["used_memory"])
        time.sleep(0.05)
    assert run.state is RunState.FINISHED
    assert run.logs().endswith(b"the end\n")
    assert len(run.logs()) <= MIB
    assert peak - memory_before < 40 * MIB
    assert redis_peak - redis_before < 16 * MIB
    assert disk < 40 * MIB


def test_a_job_that_floods_is_not_slowed(cluster: Cluster, tmp_path: Path) -> None:
    """X5: 30 MB of output take little longer than writing them to a file."""
    cluster.worker()
    script = "import sys\nfor i in range(300_000): sys.stdout.write('x' * 99 + '\\n')"
    begun = time.monotonic()
    with (tmp_path / "plain").open("wb") as plain:
        subprocess.run([sys.executable, "-c", script], stdout=plain, check=True)
    to_a_file = time.monotonic() - begun
    run = submit([sys.executable, "-c", script], api=cluster.api)
    assert run.wait(30) is RunState.FINISHED
    record = run.refresh()
    assert record.ended_at is not None
    assert record.started_at is not None
    assert (record.ended_at - record.started_at) / 1e6 < 3 * to_a_file + 2, (
        "two seconds, and the machine's load may change meanwhile"
    )


@pytest.fixture
def small_disk(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """A folder with room for 2 MiB."""
    work = tmp_path / "small"
    work.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(work)], check=False).returncode
    ):
        pytest.skip("mounting a small tmpfs is not allowed here")
    try:
        yield work
    finally:
        cluster.close()
        subprocess.run(["umount", "-l", str(work)], check=False)


def test_disk_full_what_cannot_start_waits_and_jobs_and_worker_go_on(
    cluster: Cluster, tmp_path: Path, small_disk: Path
) -> None:
    work = small_disk
    worker = cluster.worker(slots=4, env={"LAUNCH_WORK_DIR": str(work)})
    end, hush, shout = (tmp_path / name for name in ("end", "hush", "shout"))
    stays = submit(["sh", "-c", f"{waits_for(end)}; exit 3"], api=cluster.api)
    wait_for_pid(stays)
    talk = f"i=0; until [ -e {hush} ]; do i=$((i+1)); echo $i || exit 9; sleep 0.1; done"
    talker = submit(["sh", "-c", talk], api=cluster.api)
    # Not before `refused`: its output gives disk back once there is no room ahead of it.
    noise = f"{waits_for(shout)}; for i in $(seq 80); do head -c 16k /dev/zero; sleep 0.05; done; touch {hush}"
    loud = submit(["sh", "-c", noise], api=cluster.api)
    wait_for_output(talker, b"3")
    wait_for_pid(loud)
    filler = work / "filler"
    _fill(filler)
    talks = wait_until(lambda: talker.logs().count(b"\n"))
    assert wait_until(lambda: talker.logs().count(b"\n") > talks + 5), "the job goes on, and its output is seen"
    refused = submit(["true"], api=cluster.api)
    end.touch()
    assert stays.wait(20) is RunState.FAILED
    assert stays.exit_code == 3
    shout.touch()
    wait_until(hush.exists, what="the loud one has printed all, on a full disk")
    filler.unlink()
    assert refused.wait(60) is RunState.FINISHED, "it had gone back to its queue, or was never taken"
    assert refused.record.first_attempt == refused.record.attempt, "no retry was used up"
    assert talker.wait(20) is RunState.FINISHED
    said = talker.logs().split()
    assert said == [str(number).encode() for number in range(1, len(said) + 1)]
    assert talker.record.message == ""
    assert loud.wait(20).is_final
    assert "disk was full" in loud.record.message
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert worker.process.poll() is None
    worker.process.terminate()
    worker.wait()


def test_who_reports_for_a_killed_worker_and_guard_says_that_the_disk_was_full(
    cluster: Cluster, tmp_path: Path, small_disk: Path
) -> None:
    first = cluster.worker(slots=4, env={"LAUNCH_WORK_DIR": str(small_disk)})
    shout = tmp_path / "shout"
    noise = f"{waits_for(shout)}; for i in $(seq 80); do head -c 16k /dev/zero; sleep 0.02; done"
    loud = submit(["sh", "-c", noise], api=cluster.api)
    guard = psutil.Process(wait_for_pid(loud)).parent()
    assert guard is not None
    filler = small_disk / "filler"
    _fill(filler)
    first.signal(signal.SIGSTOP)
    shout.touch()
    exits = next((small_disk / "workers").glob("*/exits"))
    wait_until(lambda: loud.id in exits.read_text(), what="the guard has kept its end")
    guard.kill()
    first.kill()
    filler.unlink()
    cluster.worker(slots=4, env={"LAUNCH_WORK_DIR": str(small_disk)})
    assert loud.wait(60) is RunState.FINISHED
    assert "disk was full" in loud.record.message


def test_who_reports_for_a_killed_worker_and_guard_says_that_memory_was_too_little(
    cluster: Cluster, tmp_path: Path
) -> None:
    first, gone_on = cluster.worker(), tmp_path / "gone-on"
    waits = f'test "$LAUNCH_ATTEMPT" = 2 || {{ {waits_for(gone_on)}; kill -9 $$; }}'
    run = submit(["sh", "-c", waits], memory="8M..64M", api=cluster.api)
    guard = psutil.Process(wait_for_pid(run)).parent()
    assert guard is not None
    first.signal(signal.SIGSTOP)
    gone_on.touch()
    exits = next((cluster.folder / "work" / "workers").glob("*/exits"))
    wait_until(lambda: run.id in exits.read_text(), what="the guard has kept its end")
    guard.kill()
    # No kernel is made to kill it: what the guard writes then is tried with a memory cgroup below.
    name, ended = next(iter(read_exits(str(exits.parent)).items()))
    assert keep_exit(str(exits.parent), name, ended._replace(is_out_of_memory=True))
    first.kill()
    cluster.worker()
    assert run.wait(60) is RunState.FINISHED
    assert (run.record.attempt, run.record.retried, run.record.needs) == (2, "oom:1", f"0:0:{16 * MIB}")
    assert "out of memory" in cluster.api.store.history(run.id)[2].reason


def test_jobs_process_killed_oom_says_so_by_the_kernels_word(cluster: Cluster) -> None:
    """P35: in a memory cgroup of this test's own."""
    group = _memory_cgroup(200 * MIB)
    if group is None:
        pytest.skip("a memory cgroup cannot be made here")
    try:
        worker = cluster.worker()
        for pid in [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))]:
            (group / "cgroup.procs").write_text(str(pid))
        eats = [sys.executable, "-c", "x = bytearray(600 << 20); print(len(x))"]
        run = submit(eats, memory="64M..100M", api=cluster.api)
        assert run.wait(30) is RunState.FAILED
        assert (run.record.attempt, run.record.retried, run.record.needs) == (2, "oom:1", f"0:0:{100 * MIB}")
        assert run.record.signal == "SIGKILL"
        assert "out of memory" in run.record.reason
        exits = next((cluster.folder / "work" / "workers").glob("*/exits")).read_text()
        assert exits.count(" oom\n") == 2, "the guard has kept it of both attempts"
        killed = submit(["sleep", "600"], api=cluster.api)
        os.kill(wait_for_pid(killed), 9)
        assert killed.wait(20) is RunState.FAILED
        assert "out of memory" not in killed.record.reason
    finally:
        cluster.close()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), timeout_s=5)
        group.rmdir()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * block)


def _memory(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _disk(folder: Path) -> int:
    total = 0
    for path in folder.rglob("output"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _memory_cgroup(limit: int) -> Path | None:
    for root, knob in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"launch-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / knob).write_text(str(limit))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return group
    return None


def test_what_a_job_prints_is_in_its_log_though_it_opens_its_outputs_anew(cluster: Cluster) -> None:
    cluster.worker()
    script = "seq 1 2000; sleep 0.3; echo WARN > /dev/stderr; seq 3001 3010; echo THE-ERROR >&2; exit 1"
    run = submit(["sh", "-c", script], api=cluster.api)
    assert run.wait(20) is RunState.FAILED
    numbers = [*range(1, 2001), "WARN", *range(3001, 3011), "THE-ERROR"]
    assert run.logs().decode().split() == [str(number) for number in numbers]
