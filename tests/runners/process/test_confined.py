"""Jobs in control groups of their own, and as other users: what they may take, and that none of them stays."""

from __future__ import annotations

import errno
import os
import pwd
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch_worker.errors import InputError, StartError
from launch_worker.ids import new_run_id
from launch_worker.queues.confinement import NO_LIMITS, Demands, Limits
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.process import confined_spawn, control_groups, layers, runner, tree
from launch_worker.runners.process.accounts import Account, find_account, why_no_other_user
from launch_worker.runners.process.confined_spawn import spawn_confined
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.control_groups import (
    Group,
    Hierarchies,
    end_group,
    find_group,
    find_hierarchies,
    hierarchies,
    make_group,
)
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.runner import ProcessRunner
from tests.conftest import wait_until
from tests.support.processes import guard_of

needs_groups = pytest.mark.skipif(
    bool(hierarchies().why_not({"memory": 1, "pids": 1})), reason="no control group of this machine can be divided"
)
needs_root = pytest.mark.skipif(bool(why_no_other_user()), reason="this user may not start processes as others")

ENV = {"PATH": os.environ["PATH"]}

#: A process that hides: a session and a parent of its own, no environment, and another limit than its job's.
HIDE = """
import os, resource, sys
resource.setrlimit(10, (1 << 40, resource.getrlimit(10)[1]))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", "echo $$ > hidden.partial; mv hidden.partial hidden; exec sleep 300"], {})
    os._exit(0)
os.wait()
"""


class Jobs:
    """Starts confined jobs of one worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hide.py").write_text(HIDE)
        self.runner = ProcessRunner(folder=folder).open()
        self.count = 0

    def start(
        self, script: str, *, limits: Limits = NO_LIMITS, account: Account | None = None, cwd: str = "", **env: str
    ) -> JobHandle:
        self.count += 1
        attempt = self.folder / "runs" / f"{new_run_id()}.1.7"
        attempt.mkdir(parents=True)
        known = {**ENV, "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "7", **env}
        return self.runner.start(
            ["sh", "-c", script],
            key=f"r{self.count}.1",
            env=known,
            cwd=cwd or self.folder,
            log_path=attempt / "output",
            grace_s=5.0,
            lease=None,
            events=queue.SimpleQueue(),
            timeout_s=30.0,
            confinement=Confinement(limits=limits, account=account),
        )

    def output(self, handle: JobHandle) -> str:
        path = Path(handle.order["folder"]) / "output"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    # Not below pytest's own folder, which no other account may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        made = Jobs(Path(folder))
        yield made
        made.runner.close()


def end_of(handle: JobHandle) -> Exited:
    exited = handle.events.get(timeout=30.0)
    assert isinstance(exited, Exited)
    assert isinstance(handle.events.get(timeout=30.0), Gone)
    return exited


def attempt_of(handle: JobHandle) -> str:
    return Path(handle.order["folder"]).name


@needs_groups
def test_a_job_that_needs_more_memory_than_its_limit_is_ended_and_its_neighbour_is_not(jobs: Jobs) -> None:
    greedy = f'{sys.executable} -c \'a = b"x" * (300 << 20); print("had it")\''
    alone = jobs.start(greedy)
    limited = jobs.start(f"exec {greedy}", limits=Limits(memory=64 << 20))
    child = jobs.start(f"{greedy} || exit 4", limits=Limits(memory=64 << 20))
    ended, child_ended = end_of(limited), end_of(child)
    assert (ended.status, ended.is_out_of_memory) == (-9, True)
    assert (child_ended.status, child_ended.is_out_of_memory) == (4, True)
    assert end_of(alone).status == 0
    assert "had it" not in jobs.output(limited)


@needs_groups
def test_a_job_gets_no_more_processes_than_its_limit(jobs: Jobs) -> None:
    fork = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 30 & done; echo all"
    job = jobs.start(f"({fork}) 2>&1; exit 3", limits=Limits(pids=5))
    assert end_of(job) == Exited(3, "")
    assert "all" not in jobs.output(job)


@needs_groups
def test_a_process_that_hides_ends_with_its_job_and_the_group_is_deleted(jobs: Jobs) -> None:
    job = jobs.start(f"{sys.executable} hide.py; exit 3", limits=Limits(pids=100))
    wait_until((jobs.folder / "hidden").exists, what="it hides")
    hidden = int((jobs.folder / "hidden").read_text())
    assert end_of(job) == Exited(3, "")
    found = tree.look_up(hidden)
    assert found is None or found.zombie
    jobs.runner.close()
    wait_until(lambda: find_group(attempt_of(job)) is None, what="the group is deleted")


@needs_groups
def test_what_a_dead_guard_left_in_a_group_is_ended_by_the_next_worker(jobs: Jobs) -> None:
    job = jobs.start(f"{sys.executable} hide.py; exec sleep 300", limits=Limits(pids=100))
    wait_until((jobs.folder / "hidden").exists, what="it hides")
    hidden = int((jobs.folder / "hidden").read_text())
    assert tree.look_up(hidden) is not None
    group = find_group(attempt_of(job))
    assert group is not None
    assert hidden in {process.pid for process in group.living()}
    assert end_group(attempt_of(job))
    assert find_group(attempt_of(job)) is None
    assert end_of(job).status == -9


@needs_groups
def test_a_new_guard_goes_on_with_the_group_of_a_job(jobs: Jobs) -> None:
    job = jobs.start(f"{sys.executable} hide.py; exec sleep 300", limits=Limits(pids=100))
    wait_until((jobs.folder / "hidden").exists, what="it hides")
    hidden = int((jobs.folder / "hidden").read_text())
    former = guard_of(jobs.runner)
    os.kill(former, 9)
    wait_until(lambda: guard_of(jobs.runner) != former, what="another guard")
    job.stop(grace_s=0)
    end_of(job)
    found = tree.look_up(hidden)
    assert found is None or found.zombie


def test_a_start_on_a_mount_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard waits for the start of a process, and serves no other job meanwhile."""
    begun = tmp_path / "begun"

    def hang(_: str) -> None:
        begun.write_text(str(os.getpid()))
        time.sleep(60)

    monkeypatch.setattr(confined_spawn, "_START_S", 1.0)
    monkeypatch.setattr(os, "chdir", hang)
    with pytest.raises(TimeoutError, match="a mount that hangs"):
        spawn_confined(["true"], env=ENV, cwd="/", output=1, group=None, user=None)
    assert os.waitstatus_to_exitcode(os.waitpid(int(begun.read_text()), 0)[1]) == -9


def test_a_start_that_another_process_stops_holds_up_no_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"

    def be_stopped(_: str) -> None:
        begun.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr(confined_spawn, "_START_S", 60.0)
    monkeypatch.setattr(os, "chdir", be_stopped)
    with pytest.raises(TimeoutError, match="another process has stopped it"):
        spawn_confined(["true"], env=ENV, cwd="/", output=1, group=None, user=None)
    assert os.waitstatus_to_exitcode(os.waitpid(int(begun.read_text()), 0)[1]) == -9


def test_a_process_leads_its_session_before_anything_else_of_its_start(tmp_path: Path) -> None:
    """By that a worker finds a job whose guard died as it started it."""
    told = tmp_path / "told"

    class Entered(Group):
        def enter(self, *, but_v2: bool) -> None:
            told.write_text("leader" if os.getsid(0) == os.getpid() else "none")

    pid = spawn_confined(["true"], env=ENV, cwd="/", output=1, group=Entered({}, ""), user=None)
    os.waitpid(pid, 0)
    assert told.read_text() == "leader"


def test_a_job_whose_guard_died_just_after_the_fork_is_adopted_and_not_started_again(jobs: Jobs) -> None:
    """The fork has become the worker's child, and does not lead a session yet."""
    marks = {"LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "7"}
    jobs.runner.guard.await_hello()
    former = guard_of(jobs.runner)
    os.kill(former, signal.SIGSTOP)
    with tree.carrying(tree.marks(marks)):
        forked = subprocess.Popen(["sleep", "300"], start_new_session=False)
    try:
        with ThreadPoolExecutor() as thread:
            started = thread.submit(lambda: jobs.start("touch again", LAUNCH_RUN_ID=marks["LAUNCH_RUN_ID"]))
            wait_until(lambda: bool(jobs.runner._handles), what="the start is ordered")
            os.kill(former, signal.SIGKILL)
            job = started.result(timeout=30.0)
        assert job.pid == forked.pid
        assert not (jobs.folder / "again").exists()
        job.stop(grace_s=0)
        assert end_of(job) == Exited(-9, "asked")
    finally:
        forked.kill()
        forked.wait()


@needs_groups
def test_a_job_that_needs_too_much_memory_after_its_guard_died_is_out_of_memory_too(jobs: Jobs) -> None:
    greedy = f'{sys.executable} -c \'a = b"x" * (300 << 20); print("had it")\''
    wait = "until [ -e go ]; do sleep 0.05; done"
    job = jobs.start(f"{wait}; {greedy} || exit 4", limits=Limits(memory=64 << 20))
    calm = jobs.start(f"{wait}; exit 4", limits=Limits(memory=64 << 20))
    former = guard_of(jobs.runner)
    os.kill(former, signal.SIGKILL)
    wait_until(lambda: guard_of(jobs.runner) != former, what="another guard")
    (jobs.folder / "go").touch()
    ended, calm_ended = end_of(job), end_of(calm)
    assert (ended.status, ended.is_out_of_memory) == (4, True)
    assert (calm_ended.status, calm_ended.is_out_of_memory) == (4, False)


def test_what_cannot_be_enforced_is_refused_and_not_left_out() -> None:
    nothing = Hierarchies()
    assert "memory" in nothing.why_not({"memory": 1, "pids": 0, "millicores": 0})
    assert not nothing.why_not({"memory": 0, "pids": 0, "millicores": 0})
    v1 = Hierarchies("/v2", frozenset(), {"memory": "/m"})
    assert not v1.why_not({"memory": 1})
    assert "cpu and pids" in v1.why_not({"memory": 1, "pids": 1, "millicores": 1})


def fake(folder: Path, files: Mapping[str, str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_groups_are_made_where_a_service_manager_has_delegated_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is in a subgroup of its service's group, which has no process of its own."""
    has = {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu", "cgroup.procs": ""}
    service = fake(tmp_path / "system.slice" / "w.service", has)
    fake(tmp_path / "system.slice" / "w.service" / "launch_worker", {"cgroup.procs": ""})
    mounts = [("/", str(tmp_path), "cgroup2", "rw")]
    own = [("", "/system.slice/w.service/launch_worker")]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = find_hierarchies(own, mounts)
    assert found == Hierarchies(service, frozenset({"cpu", "memory", "pids"}), {})
    # A container's topmost group, whose processes the worker's trial has moved before the guard looks.
    top = fake(tmp_path / "top", has)
    fake(tmp_path / "top" / "launch_worker", {"cgroup.procs": ""})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for path in ("/", "/launch_worker"):
        assert find_hierarchies([("", path)], [("/", top, "cgroup2", "rw")]).v2 == top
    # Root may write everywhere, and a service manager's own groups are not its to divide.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_hierarchies(own, mounts) == Hierarchies()
    monkeypatch.setattr(os, "getxattr", lambda *_: b"1")
    assert find_hierarchies(own, mounts).v2 == service


def test_a_job_without_limits_has_a_group_of_v1_where_there_is_no_v2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: fake(tmp_path / name, {}) for name in ("memory", "pids", "cpu")}
    monkeypatch.setattr(control_groups, "hierarchies", lambda: Hierarchies("", frozenset(), folders))
    made = make_group("run.1.7", {})
    assert made is not None
    assert [path.name for path in tmp_path.glob("*/launch.*")] == ["launch.run.1.7"]
    assert (tmp_path / "pids" / "launch.run.1.7").is_dir()
    assert made.remove()


def test_a_limit_that_cannot_be_set_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["the kernel is busy", ""]
    monkeypatch.setattr(layers, "_try_limits", lambda _: said.pop(0))
    monkeypatch.setattr(layers, "_AGAIN_S", 0.0)
    found, demands = layers.Layers(tmp_path), Demands(limits=Limits(pids=5))
    assert found.why_not(demands) == "the kernel is busy"
    assert [found.why_not(demands) for _ in range(3)] == ["", "", ""]


def test_a_group_that_cannot_be_entered_is_the_workers_fault_and_not_the_jobs() -> None:
    class Closed(Group):
        def enter(self, *, but_v2: bool) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(OSError, match="its control group could not be entered: Permission denied") as refused:
        spawn_confined(["true"], env=ENV, cwd="/", output=1, group=Closed({}, ""), user=None)
    assert refused.value.errno in runner._OF_THE_MACHINE


def test_the_files_of_a_group_of_v2_get_the_limits(tmp_path: Path) -> None:
    group = Group({}, fake(tmp_path / "g", dict.fromkeys(("memory.max", "pids.max", "cpu.max"), "")))
    group.set_limits({"memory": 1 << 30, "pids": 7, "millicores": 1500})
    read = {path.name: path.read_text() for path in (tmp_path / "g").iterdir()}
    assert read == {"memory.max": "1073741824", "pids.max": "7", "cpu.max": "150000 100000"}
    (tmp_path / "g" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2


@pytest.fixture
def account(jobs: Jobs) -> Account:
    """An account that every machine has, and that can come to the folder of the jobs."""
    (jobs.folder / "runs").mkdir()
    (jobs.folder / "runs").chmod(0o711)
    return find_account("nobody")


@needs_root
def test_a_job_of_another_account_has_its_groups_and_no_way_to_other_rights(jobs: Jobs, account: Account) -> None:
    job = jobs.start("id -u; id -G; grep -E 'CapPrm|CapBnd|CapAmb|NoNewPrivs' /proc/self/status", account=account)
    assert end_of(job) == Exited(0, "")
    user, groups, *facts = jobs.output(job).splitlines()
    assert int(user) == account.uid
    assert tuple(sorted(map(int, groups.split()))) == tuple(sorted(account.groups))
    none = "0000000000000000"
    assert dict(fact.split(":\t") for fact in facts) == {
        "CapPrm": none,
        "CapBnd": none,
        "CapAmb": none,
        "NoNewPrivs": "1",
    }


@needs_root
def test_what_another_accounts_job_cannot_start_is_said_as_for_the_workers_own(jobs: Jobs, account: Account) -> None:
    secret = jobs.folder / "secret"
    secret.mkdir(mode=0o700)
    with pytest.raises(StartError, match=f"working directory '{secret}' may not be entered by nobody"):
        jobs.start("true", account=account, cwd=str(secret))
    with pytest.raises(StartError, match="command 'sh' was not found on this worker"):
        jobs.start("true", account=account, PATH=str(jobs.folder))
    assert jobs.runner.is_idle


@needs_root
def test_another_accounts_job_is_stopped_and_adopted_like_any_other(jobs: Jobs, account: Account) -> None:
    job = jobs.start("trap 'exit 3' TERM; echo begun; while :; do sleep 0.05; done", account=account)
    wait_until(lambda: "begun" in jobs.output(job))
    former = guard_of(jobs.runner)
    os.kill(former, 9)
    wait_until(lambda: guard_of(jobs.runner) != former, what="another guard")
    job.stop(grace_s=10)
    assert end_of(job) == Exited(3, "asked")


@pytest.mark.parametrize(
    ("name", "said"),
    [("no-such-account", "there is no account"), ("root", "root's"), (pwd.getpwuid(os.geteuid()).pw_name, "account")],
)
def test_an_account_that_confines_nothing_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_account(name)
