"""A job's process tree is found by session, environment and descent, and signals hit nobody else."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch_worker.ids import new_run_id
from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId
from tests.conftest import wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def env() -> dict[str, str]:
    """An environment that no other process has."""
    return {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "77"}


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Start]:
    """Starts processes, and ends all that is left of them."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(script: str, *, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        environment = env if environment is None else environment
        process = subprocess.Popen(["bash", "-c", script], env=environment, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
    assert tree.end(lambda: tree.members(None, marked=tree.marks(env)), wait=time.sleep)


def identify(pid: int) -> ProcessId:
    found = tree.look_up(pid)
    assert found is not None
    return found.id


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip(), what=f"{path.name} is written")
    return int(path.read_text())


def test_a_process_is_looked_up_with_its_parent_and_session(start: Start) -> None:
    process = start("sleep 60")
    found = tree.look_up(process.pid)
    assert found is not None
    assert (found.id.pid, found.ppid, found.session, found.zombie) == (process.pid, os.getpid(), process.pid, False)
    assert found in tree.table()


def test_a_program_name_with_parentheses_and_spaces_does_not_confuse(tmp_path: Path, env: dict[str, str]) -> None:
    program = tmp_path / "a ) 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"], env=env)
    try:
        found = tree.look_up(process.pid)
        assert found is not None
        assert found.ppid == os.getpid()
    finally:
        process.kill()
        process.wait()


def test_what_does_not_exist_is_not_found() -> None:
    unused = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert tree.look_up(unused) is None
    assert tree.children(unused) is None
    assert not tree.has_environ(unused, [b"A=1"])
    assert not tree.is_alive(ProcessId(unused, 1))


def test_a_zombie_is_not_alive_and_cannot_be_signalled(start: Start) -> None:
    process = start("exit 0")
    started = identify(process.pid)
    wait_until(lambda: (found := tree.look_up(process.pid)) is not None and found.zombie)
    assert not tree.is_alive(started)
    assert not tree.send(started, signal.SIGTERM)


def test_a_signal_reaches_the_process_it_is_for(start: Start) -> None:
    process = start("exec sleep 60")
    assert tree.send(identify(process.pid), signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM
    assert not tree.send(ProcessId(process.pid, 1), signal.SIGTERM)


def test_a_stranger_that_reused_the_pid_is_not_signalled(start: Start) -> None:
    """P24."""
    process = start("exec sleep 60")
    stranger = identify(process.pid)
    ours = ProcessId(stranger.pid, stranger.start - 1)
    assert not tree.is_alive(ours)
    assert not tree.send(ours, signal.SIGKILL)
    assert process.poll() is None


def test_children_are_listed(start: Start) -> None:
    process = start("sleep 60 & sleep 60 & wait")
    if tree.children(process.pid) is None:
        pytest.skip("this kernel does not list children")
    wait_until(lambda: len(tree.children(process.pid) or []) == 2)


def test_an_environment_matches_only_whole_and_together(start: Start, env: dict[str, str]) -> None:
    process = start("exec sleep 60")
    marks = tree.marks(env)
    wait_until(lambda: tree.has_environ(process.pid, marks))
    assert not tree.has_environ(process.pid, [marks[0] + b"x"])
    assert not tree.has_environ(process.pid, [marks[0][:-1]])
    assert not tree.has_environ(process.pid, [marks[0], b"LAUNCH_TOKEN=78"])


def test_what_is_started_with_a_cookie_carries_it_whatever_it_does(env: dict[str, str], tmp_path: Path) -> None:
    """Section 7: double-forks, daemonises; its session, parents and environment are gone."""
    marks, limit = tree.marks(env), resource.getrlimit(10)
    script = f"(env -i setsid bash -c 'echo $$ > {tmp_path}/pid; exec sleep 60' > /dev/null 2>&1 &)"
    with tree.carrying(marks):
        subprocess.run(["bash", "-c", script], env={}, check=True, start_new_session=True)
    assert resource.getrlimit(10) == limit
    daemon = identify(pid_in(tmp_path / "pid"))
    try:
        assert tree.has_cookie(daemon.pid, tree.cookie(marks))
        assert tree.members(None, marked=marks) == [daemon]
        other = tree.marks({**env, "LAUNCH_TOKEN": "78"})
        assert not tree.has_cookie(daemon.pid, tree.cookie(other))
        assert not tree.has_cookie(os.getpid(), tree.cookie(marks))
    finally:
        tree.send(daemon, signal.SIGKILL)


def test_the_members_are_the_session_with_the_main_process_first(start: Start, env: dict[str, str]) -> None:
    process = start("sleep 60 & sleep 60 & wait")
    main = identify(process.pid)
    wait_until(lambda: len(tree.members(main, marked=tree.marks(env))) == 3)
    assert tree.members(main, marked=tree.marks(env))[0] == main


def test_a_descendant_in_a_session_of_its_own_is_a_member(start: Start, env: dict[str, str], tmp_path: Path) -> None:
    process = start(f"env -i setsid bash -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & wait")
    away = identify(pid_in(tmp_path / "pid"))
    members = tree.members(identify(process.pid), marked=tree.marks(env))
    assert away in members
    tree.send(away, signal.SIGKILL)


def test_a_daemon_is_a_member_by_its_environment(start: Start, env: dict[str, str], tmp_path: Path) -> None:
    process = start(f"setsid bash -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & disown; exit 0")
    daemon = identify(pid_in(tmp_path / "pid"))
    main = identify(process.pid)
    process.wait()
    assert tree.members(main, marked=tree.marks(env)) == [daemon]
    assert tree.members(None, marked=tree.marks(env)) == [daemon]
    assert tree.members(None, marked=tree.marks({**env, "LAUNCH_TOKEN": "78"})) == [], "another attempt's"


def test_a_daemon_without_its_environment_is_a_member_when_it_was_known(
    start: Start, env: dict[str, str], tmp_path: Path
) -> None:
    process = start(f"env -i setsid bash -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & disown; exit 0")
    daemon = identify(pid_in(tmp_path / "pid"))
    main = identify(process.pid)
    process.wait()
    try:
        assert tree.members(main, marked=tree.marks(env)) == []
        assert tree.members(main, marked=tree.marks(env), known=[daemon]) == [daemon]
        assert tree.members(main, marked=tree.marks(env), known=[ProcessId(daemon.pid, daemon.start - 1)]) == []
    finally:
        tree.send(daemon, signal.SIGKILL)


def test_a_spared_process_and_what_it_started_are_no_members(start: Start, env: dict[str, str]) -> None:
    process = start("sleep 60 & wait")
    main = identify(process.pid)
    wait_until(lambda: len(tree.members(main, marked=tree.marks(env))) == 2)
    assert main not in tree.members(main, marked=tree.marks(env), spare=[main.pid])


def test_the_session_of_a_stranger_that_reused_the_main_pid_is_left_alone(start: Start, env: dict[str, str]) -> None:
    """P24."""
    process = start("sleep 60 & wait", environment={"PATH": env["PATH"]})
    stranger = identify(process.pid)
    wait_until(lambda: len(tree.members(stranger, marked=tree.marks(env))) == 2)
    gone = ProcessId(stranger.pid, stranger.start - 1)
    assert tree.members(gone, marked=tree.marks(env)) == []
    assert tree.end(lambda: tree.members(stranger, marked=tree.marks(env)), wait=time.sleep)


def test_ending_kills_until_nothing_is_found(start: Start, env: dict[str, str]) -> None:
    process = start("trap '' TERM; sleep 60 & sleep 60 & wait")
    main = identify(process.pid)
    wait_until(lambda: len(tree.members(main, marked=tree.marks(env))) == 3)
    assert tree.end(lambda: tree.members(main, marked=tree.marks(env)), wait=time.sleep)
    assert process.wait(5) == -signal.SIGKILL


def test_ending_gives_up_on_what_cannot_be_killed() -> None:
    ghost = ProcessId(int(Path("/proc/sys/kernel/pid_max").read_text()) + 1, 1)
    waited: list[float] = []
    assert not tree.end(lambda: [ghost], wait=waited.append, timeout_s=1.0)
    assert 1.0 <= sum(waited) < 1.3


def test_own_children_are_told_again_and_again_ended_ones_too(start: Start) -> None:
    known = tree.Children()
    before = known.pids()
    assert before is not None
    process = start("exit 0")
    wait_until(lambda: (found := tree.look_up(process.pid)) is not None and found.zombie)
    assert sorted(known.pids() or []) == sorted([*before, process.pid]) == sorted(tree.children(os.getpid()) or [])
    process.wait()
    assert known.pids() == before
