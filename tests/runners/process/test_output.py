"""What a job prints is in its file: whole, in order, once, whoever dies meanwhile; on a full disk the newest of it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.ids import new_run_id
from launch_worker.runners import output
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.output import (
    RESERVE_BYTES,
    OutputFile,
    OutputWriter,
    Piped,
    make_pipe,
    make_room,
    open_for_printing,
)
from launch_worker.runners.process import tree
from launch_worker.runners.process.descriptors import receive, send_all
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.protocol import SOCKET
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.takeover import take_over
from tests.conftest import wait_until
from tests.support.disks import Disk, fill
from tests.support.processes import guard_of

MIB = 1 << 20
PYTHON = sys.executable


class Printing:
    """Jobs of one worker, each with a file for its output."""

    def __init__(self, folder: Path, *, log_file_bytes: int = 64 << 20, in_folder: bool = False) -> None:
        self.folder = folder
        (folder / "lock").touch()
        self.lock_fd = os.open(folder / "lock", os.O_RDWR)
        self.runner = ProcessRunner(
            lock_fd=self.lock_fd, folder=folder if in_folder else None, log_file_bytes=log_file_bytes
        ).open()
        self.envs: dict[str, dict[str, str]] = {}

    def start(self, script: str, *, brief_s: float = 0.0, log_path: Path | None = None) -> JobHandle:
        key = new_run_id()
        own = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": key, "LAUNCH_TOKEN": "1", "HERE": str(self.folder)}
        self.envs[key] = own
        return self.runner.start(
            ["bash", "-c", script],
            key=key,
            env=own,
            cwd=self.folder,
            log_path=log_path or self.path_of(key),
            grace_s=10.0,
            lease=None,
            events=queue.SimpleQueue(),
            timeout_s=20.0,
            brief_s=brief_s,
        )

    def path_of(self, key: str) -> Path:
        return self.folder / f"{key}.log"

    def printed(self, handle: JobHandle) -> bytes:
        return self.path_of(handle.key).read_bytes()

    def size(self, handle: JobHandle) -> int:
        path = self.path_of(handle.key)
        return path.stat().st_size if path.exists() else 0

    def kill_guard(self) -> None:
        pid = guard_of(self.runner)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: guard_of(self.runner) != pid, what="another guard is there")

    def close(self) -> None:
        self.runner.close()
        os.close(self.lock_fd)
        for env in self.envs.values():
            assert wait_until(lambda env=env: not tree.members(None, marked=tree.marks(env)), what="all jobs ended")  # type: ignore[misc]


@pytest.fixture
def printing(tmp_path: Path) -> Iterator[Printing]:
    made = Printing(tmp_path)
    yield made
    made.close()


def end_of(handle: JobHandle) -> int | None:
    exited = handle.events.get(timeout=60.0)
    assert isinstance(exited, Exited)
    assert handle.events.get(timeout=20.0) == Gone()
    return exited.status


def seq(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def test_an_order_that_fails_leaves_its_pipe_to_no_other_job(printing: Printing) -> None:
    stray = make_pipe()
    bad = {"do": "start", "key": "k", "piped": True, "of_a_later_release": 1}
    printing.runner.guard.greeted.wait(20)
    with printing.runner.guard.lock:
        printing.runner.guard.send(json.dumps(bad).encode() + b"\n", [stray])
    os.close(stray)
    for word in ("first", "second"):
        handle = printing.start(f"echo {word}")
        assert end_of(handle) == 0
        assert printing.printed(handle).decode() == f"{word}\n"


# -- what a job does to its own descriptors ----------------------------------------------------------------------------

OPENERS = {
    "> /dev/stdout": "echo WARN > /dev/stdout",
    "> /dev/stderr": "echo WARN > /dev/stderr",
    ">> /dev/stderr": "echo WARN >> /dev/stderr",
    "> /proc/self/fd/2": "echo WARN > /proc/self/fd/2",
    "> /dev/fd/1": "echo WARN > /dev/fd/1",
    "tee": "echo WARN | tee /dev/stderr > /dev/null",
    "python": f'{PYTHON} -c \'open("/dev/stderr", "w").write("WARN\\n")\'',
    "python appends": f'{PYTHON} -c \'open("/dev/stdout", "a").write("WARN\\n")\'',
    "dd": "echo WARN | dd of=/dev/stdout status=none",
    "opened anew for all that follows": "exec > /dev/stdout 2> /dev/stderr; echo WARN",
    "truncated": f"{PYTHON} -c 'import os; os.truncate(1, 0)' 2> /dev/null; echo WARN",
}


@pytest.mark.parametrize("brief_s", [0.0, 60.0], ids=["lasting", "brief"])
@pytest.mark.parametrize("opener", OPENERS)
def test_every_line_is_kept_in_order_whatever_a_job_does_to_its_descriptors(
    printing: Printing, opener: str, brief_s: float
) -> None:
    script = f"seq 1 2000; {OPENERS[opener]}; seq 3001 3010; echo THE-ERROR >&2; exit 1"
    handle = printing.start(script, brief_s=brief_s)
    assert end_of(handle) == 1
    assert printing.printed(handle) == seq(1, 2000) + b"WARN\n" + seq(3001, 3010) + b"THE-ERROR\n"


def test_the_same_after_the_beginning_was_given_back_to_the_disk(tmp_path: Path) -> None:
    printing = Printing(tmp_path, log_file_bytes=MIB)
    handle = printing.start("seq 1 1000000; echo WARN > /dev/stdout; seq 3001 3010; echo THE-ERROR >&2")
    assert end_of(handle) == 0
    everything = seq(1, 1_000_000) + b"WARN\n" + seq(3001, 3010) + b"THE-ERROR\n"
    printed = printing.printed(handle)
    assert len(printed) == len(everything)
    assert printed[-MIB:] == everything[-MIB:]
    assert printing.path_of(handle.key).stat().st_blocks * 512 <= 3 * MIB + RESERVE_BYTES
    printing.close()


def test_a_process_that_became_another_user_may_open_its_outputs_too(printing: Printing) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    handle = printing.start(
        "setpriv --reuid=65534 --clear-groups sh -c 'echo one > /dev/stdout; echo two > /dev/stderr'"
    )
    assert end_of(handle) == 0
    assert printing.printed(handle) == b"one\ntwo\n"


def test_nobody_may_read_lines_away(printing: Printing) -> None:
    pipe = make_pipe()
    assert os.fstat(pipe).st_mode & 0o777 == 0o222
    os.close(pipe)


def test_lines_of_both_outputs_and_of_many_processes_are_in_order(printing: Printing) -> None:
    handle = printing.start('for i in $(seq 500); do echo $i; sh -c "echo $i >&2"; done')
    assert end_of(handle) == 0
    assert printing.printed(handle) == b"".join(b"%d\n%d\n" % (number, number) for number in range(1, 501))


def test_a_brief_job_that_prints_nothing_has_no_file(printing: Printing) -> None:
    handle = printing.start("exit 3", brief_s=60.0)
    assert end_of(handle) == 3
    assert not printing.path_of(handle.key).exists()


def test_a_brief_jobs_output_is_whole_when_its_start_returns(printing: Printing) -> None:
    handle = printing.start("seq 5000", brief_s=60.0)
    assert printing.printed(handle) == seq(1, 5000)
    end_of(handle)


def test_what_is_printed_is_in_the_file_soon(printing: Printing) -> None:
    handle = printing.start("for i in 1 2 3; do echo $i; while [ ! -e go-$i ]; do sleep 0.01; done; done")
    for number in range(1, 4):
        wait_until(lambda number=number: printing.size(handle) == 2 * number)  # type: ignore[misc]
        (printing.folder / f"go-{number}").touch()
    assert end_of(handle) == 0


def test_a_job_that_prints_line_by_line_does_not_wake_its_guard_with_each(printing: Printing) -> None:
    script = "import os, time\nfor i in range(2000):\n os.write(1, b'%d\\n' % i)\n time.sleep(0.0005)"
    handle = printing.start(f'exec {PYTHON} -c "{script}"')
    wait_until(lambda: printing.size(handle) > 100)
    before, begun = num_waits(guard_of(printing.runner)), time.monotonic()
    end_of(handle)
    took_s = time.monotonic() - begun
    assert num_waits(guard_of(printing.runner)) - before <= 250 * took_s + 20
    assert printing.printed(handle).count(b"\n") == 2000


def num_waits(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def test_one_that_has_closed_its_outputs_holds_nobody_up(printing: Printing) -> None:
    handle = printing.start("echo one; exec > /dev/null 2>&1; sleep 0.5; exit 4")
    wait_until(lambda: printing.size(handle) == 4)
    before = cpu_s(guard_of(printing.runner))
    assert end_of(handle) == 4
    assert cpu_s(guard_of(printing.runner)) - before < 0.3, "nobody looks at a pipe that is at its end"
    assert printing.printed(handle) == b"one\n"


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("brief_s", [0.0, 60.0], ids=["lasting", "brief"])
def test_who_escaped_from_the_job_does_not_hold_up_its_end(printing: Printing, brief_s: float) -> None:
    """This process has the job's output open, and prints into it, if that is looked at, all the time."""
    started: queue.SimpleQueue[JobHandle] = queue.SimpleQueue()
    script = "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo last"
    threading.Thread(target=lambda: started.put(printing.start(script, brief_s=brief_s)), daemon=True).start()
    pid = wait_until(lambda: (printing.folder / "pid").exists() and (printing.folder / "pid").read_text().strip())
    escaped = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)
    (printing.folder / "go").touch()

    def flood() -> None:
        with contextlib.suppress(BrokenPipeError):
            while True:
                os.write(escaped, b"x" * 4096)
                while brief_s and not handles:
                    time.sleep(0.01)

    handles: list[JobHandle] = []
    thread = threading.Thread(target=flood)
    thread.start()
    handles.append(handle := started.get(timeout=20.0))
    assert end_of(handle) == 0
    thread.join(10.0)
    assert not thread.is_alive(), "it prints into nothing"
    os.close(escaped)
    assert b"last\n" in printing.printed(handle)


# -- deaths in the middle of a flood -----------------------------------------------------------------------------------

NUMBERS = 3_000_000
FLOOD = f"seq 1 {NUMBERS}; exit 5"


def is_whole(data: bytes) -> bool:
    return data == subprocess.run(["seq", "1", str(NUMBERS)], stdout=subprocess.PIPE, check=True).stdout


def test_guards_that_are_killed_lose_no_line_and_double_none(printing: Printing) -> None:
    handle = printing.start(FLOOD)
    for number in range(1, 4):
        wait_until(lambda number=number: printing.size(handle) > number * 2 * MIB, what="it prints")  # type: ignore[misc]
        printing.kill_guard()
    assert end_of(handle) == 5
    assert is_whole(printing.printed(handle))


def test_a_brief_job_whose_guard_is_killed_keeps_what_it_printed(printing: Printing) -> None:
    results: queue.SimpleQueue[JobHandle] = queue.SimpleQueue()
    script = "seq 1000; touch began; while [ ! -e go ]; do sleep 0.01; done; echo more"
    threading.Thread(target=lambda: results.put(printing.start(script, brief_s=60.0)), daemon=True).start()
    wait_until((printing.folder / "began").exists)
    printing.kill_guard()
    (printing.folder / "go").touch()
    handle = results.get(timeout=20.0)
    end_of(handle)
    assert printing.printed(handle) == seq(1, 1000) + b"more\n"


def test_a_frozen_guard_blocks_a_job_that_prints_much_and_loses_nothing(printing: Printing) -> None:
    handle = printing.start(FLOOD)
    wait_until(lambda: printing.size(handle) > 2 * MIB)
    os.kill(guard_of(printing.runner), signal.SIGSTOP)
    time.sleep(0.3)
    before = printing.size(handle)
    time.sleep(0.3)
    assert printing.size(handle) == before
    os.kill(guard_of(printing.runner), signal.SIGCONT)
    assert end_of(handle) == 5
    assert is_whole(printing.printed(handle))


WORKER = """
import json, queue, sys, time
from pathlib import Path
from launch_worker.runners.process.runner import ProcessRunner
env, folder, script = json.loads(sys.argv[1])
runner = ProcessRunner().open()
runner.start(["bash", "-c", script], key="k", env=env, cwd=folder, log_path=Path(folder) / "output", grace_s=10.0,
             lease=None, events=queue.SimpleQueue(), timeout_s=20.0)
print("started", flush=True)
time.sleep(600)
"""


def test_the_output_of_a_killed_workers_job_is_kept_to_its_last_line(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "1"}
    script = "trap 'echo bye; exit' TERM; i=0; while :; do echo $i; i=$((i + 1)); done"
    worker = subprocess.Popen([PYTHON, "-c", WORKER, json.dumps([env, str(tmp_path), script])], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"started\n"
    path = tmp_path / "output"
    wait_until(lambda: path.exists() and path.stat().st_size > 100_000)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not tree.members(None, marked=tree.marks(env)), what="the guard has ended the job")
    wait_until(lambda: path.read_bytes().endswith(b"bye\n"), what="the rest is in the file")
    # Bash says so of a line that the signal kept it from writing into a full pipe.
    lines = [line for line in path.read_bytes().splitlines() if not line.endswith(b"Interrupted system call")]
    assert lines[:-1] == [b"%d" % number for number in range(len(lines) - 1)]


def test_a_job_that_is_handed_over_in_the_middle_of_a_flood_loses_no_line_and_doubles_none(tmp_path: Path) -> None:
    printing = Printing(tmp_path, in_folder=True)
    guard_pid = guard_of(printing.runner)
    handle = printing.start(FLOOD)
    wait_until(lambda: printing.size(handle) > MIB)
    printing.runner.detach()
    os.close(printing.lock_fd)
    for turn in range(2, 5):
        wait_until(lambda turn=turn: printing.size(handle) > turn * MIB, what="it prints without a worker")  # type: ignore[misc]
        runner, (left,), lock_fd = wait_until(lambda: take_over(tmp_path), what="the guard answers")
        assert left.pipe is not None
        next_handle = runner.claim(left, env=printing.envs[handle.key], grace_s=5.0, events=queue.SimpleQueue())
        runner.open()
        if turn == 4:
            os.kill(guard_pid, signal.SIGKILL)
            wait_until(lambda runner=runner: runner.guard.process is not None, what="another guard is there")  # type: ignore[misc]
            assert end_of(next_handle) in (5, None), "its status went with its guard"
            assert is_whole(printing.printed(handle))
            runner.close()
        else:
            runner.detach()
        os.close(lock_fd)


def test_a_job_of_a_guard_of_an_older_release_is_taken_over_and_prints_on_into_its_file(tmp_path: Path) -> None:
    """That guard gave its jobs the file itself."""
    env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "7"}
    script = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exit 3"
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    file = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    job = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env, stdout=file, start_new_session=True)
    os.close(file)
    found = tree.look_up(job.pid)
    assert found is not None
    here = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"/proc/self/fd/{here}/{SOCKET}")
        door.listen(1)
        guests: list[socket.socket] = []

        def answer() -> None:
            guest, _ = door.accept()
            guest.recv(1000)
            told = {"key": "r.1", "folder": str(tmp_path), "pid": job.pid, "start": found.id.start, "exited": False}
            jobs = [told | {"status": None, "stopped_by": ""}]
            socket.send_fds(guest, [json.dumps({"on": "taken", "jobs": jobs}).encode() + b"\n"], [lock])
            guests.append(guest)

        threading.Thread(target=answer, daemon=True).start()
        runner, (left,), lock_fd = wait_until(lambda: take_over(tmp_path))
        handle = runner.claim(left, env=env, grace_s=5.0, events=queue.SimpleQueue())
        assert not handle.bounds_output
        runner.open()
        wait_until(lambda: guests)
        guests[0].close()  # that guard dies, and one of this release adopts the job
        wait_until(lambda: runner.guard.process is not None and runner.guard.knows, what="another guard is there")
        (tmp_path / "go").touch()
        job.returncode = 0  # reaped by the runner
        assert end_of(handle) == 3
        assert (tmp_path / "output").read_bytes() == b"one\ntwo\n"
        runner.close()
    for fd in (here, lock, lock_fd):
        os.close(fd)


def test_more_pipes_than_one_message_takes_are_handed_over_in_their_order() -> None:
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(2)]
    fds = [pipes[number % 2][0] for number in range(300)]
    with ours, theirs:
        send_all(ours, b"x" * 1000 + b"\n", fds)
        data, got = b"", list[int]()
        while not data.endswith(b"\n"):
            more, brought, _, _ = socket.recv_fds(theirs, 1 << 16, 253)
            data, got = data + more, [*got, *brought]
    assert data == b"x" * 1000 + b"\n"
    assert [os.fstat(fd).st_ino for fd in got] == [os.fstat(fd).st_ino for fd in fds]
    for fd in [*got, *itertools.chain(*pipes)]:
        os.close(fd)


def test_a_pipe_that_could_not_be_given_is_noticed() -> None:
    """The process that gets it has too many open files; the next order's pipe is not taken for it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [0, 0, 0])
        brought: list[int] = []
        assert receive(theirs, brought) == b"x"
    assert brought[-1] == -1
    for fd in brought[:-1]:
        os.close(fd)


# -- the writer --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its read end and a write end."""
    read_end = make_pipe()
    write_end = open_for_printing(read_end)
    yield read_end, write_end
    for fd in (read_end, write_end):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize("way", ["splice", "a kernel without it", "a file system without it"])
def test_a_pipe_is_moved_into_the_file_with_and_without_splice(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "a kernel without it":
        monkeypatch.delattr(os, "splice")
    elif way == "a file system without it":

        def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.EINVAL, "no splice")

        monkeypatch.setattr(os, "splice", refuse)
    piped = Piped(pipe[0], str(tmp_path / "output"), limit_bytes=MIB)
    data = os.urandom(150_000)
    for start in range(0, len(data), 50_000):
        os.write(pipe[1], data[start : start + 50_000])
        assert piped.move() is not None
    os.write(pipe[1], b"the end")
    piped.finish()
    assert (tmp_path / "output").read_bytes() == data + b"the end"


def test_a_pipe_that_nobody_has_open_is_at_its_end(tmp_path: Path, pipe: tuple[int, int]) -> None:
    piped = Piped(pipe[0], str(tmp_path / "output"), limit_bytes=MIB)
    assert piped.move() is not None
    os.write(pipe[1], b"x")
    os.close(pipe[1])
    assert piped.move() is not None
    assert piped.move() is None
    piped.finish()


def test_a_reader_is_told_what_was_given_back_before_it_read_that(tmp_path: Path) -> None:
    writer = OutputWriter(tmp_path / "output", limit_bytes=MIB)
    reader = OutputFile(tmp_path / "output")
    for _ in range(80):
        writer.write(b"x" * (64 << 10))
    kept = reader.first_kept(0)
    assert 3 * MIB <= kept <= 4 * MIB
    assert reader.read(kept, 1) == b"x"
    assert reader.first_kept(kept + 5) == kept + 5
    assert reader.first_kept(reader.size()) == reader.size() == 5 * MIB
    assert (tmp_path / "output").stat().st_blocks * 512 <= 2 * MIB + 2 * RESERVE_BYTES
    for file in (writer, reader):
        file.close()


def test_a_writer_goes_on_where_another_one_stopped(tmp_path: Path) -> None:
    for number in range(3):
        writer = OutputWriter(tmp_path / "output", limit_bytes=MIB)
        writer.write(b"%d\n" % number)
        writer.close()
    assert (tmp_path / "output").read_bytes() == b"0\n1\n2\n"


def test_where_no_part_of_a_file_can_be_given_back_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_allocate", lambda *_: errno.EOPNOTSUPP)
    writer = OutputWriter(tmp_path / "output", limit_bytes=MIB)
    for number in range(100):
        writer.write(b"%02d" % number * (32 << 10))
        assert (tmp_path / "output").stat().st_blocks * 512 <= 2 * MIB + RESERVE_BYTES
    assert (tmp_path / "output").read_bytes().endswith(b"99" * 100)
    writer.close()


@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_what_a_job_puts_in_its_outputs_place_is_not_written_to(tmp_path: Path, what: str) -> None:
    (tmp_path / "of somebody else").write_text("theirs")
    path = tmp_path / "output"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        path.symlink_to(tmp_path / "of somebody else")
    else:
        path.mkdir()
    with pytest.raises(OSError, match="output"):
        OutputWriter(path, limit_bytes=MIB)
    assert (tmp_path / "of somebody else").read_text() == "theirs"


def test_a_job_whose_output_can_be_kept_nowhere_goes_on(printing: Printing) -> None:
    handle = printing.start("seq 1000000; exit 6", log_path=printing.folder / "gone" / "output")
    assert end_of(handle) == 6
    assert handle.disk_was_full


# -- a full disk -------------------------------------------------------------------------------------------------------


def used(folder: Path) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def newest(path: Path) -> bytes:
    """What of a file was not given back."""
    data = path.read_bytes()
    return data[data.rindex(b"\0") + 1 :] if b"\0" in data else data


def test_one_job_leaves_most_of_a_small_disk_to_others(printing: Printing, disk: Disk) -> None:
    folder = disk("64m")
    handle = printing.start("seq 1 40000000; exit 7", log_path=folder / "output")
    most = 0
    while handle.exited is None:
        most = max(most, used(folder))
        time.sleep(0.02)
    assert end_of(handle) == 7
    assert most <= 20 * MIB
    assert not handle.disk_was_full
    kept = newest(folder / "output")
    assert len(kept) >= 4 * MIB
    assert kept.endswith(b"39999999\n40000000\n")


def test_on_a_disk_that_others_fill_the_newest_is_kept_and_the_job_sees_no_error(
    printing: Printing, disk: Disk
) -> None:
    folder = disk("32m")
    script = "seq 1 1000000; touch $HERE/printed; while [ ! -e $HERE/go ]; do sleep 0.01; done; "
    handle = printing.start(script + "seq 1000001 2000000 || exit 9; exit 8", log_path=folder / "output")
    wait_until((printing.folder / "printed").exists)
    fill(folder)
    (printing.folder / "go").touch()
    filling = threading.Event()

    def go_on_filling() -> None:
        # What is given up for newer output is free for an instant. Who takes each such instant takes all.
        while not filling.wait(0.002):
            fill(folder)

    filler = threading.Thread(target=go_on_filling)
    filler.start()
    try:
        assert end_of(handle) == 8
    finally:
        filling.set()
        filler.join()
    kept = newest(folder / "output")
    # How much of what came before the end stays is up to whoever fills the disk.
    assert kept.endswith(seq(1_999_500, 2_000_000))


def test_a_job_finds_room_ahead_on_a_disk_that_was_filled_after_its_start(disk: Disk) -> None:
    folder = disk("4m")
    make_room(folder / "output", limit_bytes=MIB)
    fill(folder)
    writer = OutputWriter(folder / "output", limit_bytes=MIB)
    data = seq(1, 30_000)
    assert len(data) < RESERVE_BYTES
    writer.write(data)
    was_full = [writer.disk_was_full]
    assert (folder / "output").read_bytes() == data
    writer.write(data + data)
    was_full.append(writer.disk_was_full)
    assert was_full == [False, True]
    assert newest(folder / "output").endswith(data[-10_000:])
    writer.close()


def test_while_a_disk_takes_nothing_the_newest_waits_in_the_pipe(disk: Disk, pipe: tuple[int, int]) -> None:
    folder = disk("1m")
    fill(folder)
    piped = Piped(pipe[0], str(folder / "output"), limit_bytes=MIB)
    os.set_blocking(pipe[1], False)
    data = seq(1, 20_000)
    for start in range(0, len(data), 4096):
        os.write(pipe[1], data[start : start + 4096])
        assert piped.move() is not None
    assert piped.disk_was_full
    (folder / "filler").unlink()
    piped.finish()
    kept = (folder / "output").read_bytes()
    assert len(kept) >= 24 << 10
    assert data.endswith(kept)
