"""Jobs in a sandbox of bubblewrap: what they see and may do; they start, are signalled and end as any job."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.errors import StartError
from launch_worker.runners.job import Ending, Exited
from launch_worker.runners.process import sandboxed, tree
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.devices import nodes_of
from launch_worker.runners.process.handle import JobHandle
from tests.conftest import wait_until
from tests.support.processes import Jobs, end_of
from tests.support.sandboxes import in_bubblewrap, needs_bubblewrap

pytestmark = needs_bubblewrap


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path, confinement=in_bubblewrap(tmp_path))
    yield made
    (tmp_path / "go").touch()
    made.close()


def output(jobs: Jobs, script: str, confinement: Confinement | None = None) -> list[str]:
    """The lines that a job of this script prints, which exits with 0."""
    jobs.confinement = confinement or jobs.confinement
    handle = jobs.shell(script)
    end = end_of(handle)
    said = jobs.log(handle).decode()
    assert end == Exited(0, ""), said
    return said.splitlines()


def test_it_sees_a_system_that_it_cannot_write_to_and_no_process_but_its_own(jobs: Jobs) -> None:
    secret = jobs.folder.parent / "secret"
    secret.write_text("s")
    lines = output(
        jobs,
        f"""
        echo hello > $HERE/mine && cat $HERE/mine
        for path in /etc/launch-test /usr/launch-test; do touch $path 2>/dev/null && echo wrote $path; done
        [ -e {secret} ] && echo saw the secret
        touch /tmp/own /var/tmp/own && ls /tmp | grep -cv own
        cd /proc && echo [0-9]* | wc -w
        [ -e /proc/{os.getpid()} ] && cat /proc/{os.getpid()}/cmdline
        kill -0 {os.getpid()} 2>/dev/null && echo may signal
        ls /run | grep -v systemd
        ls /dev | grep nvidia
        grep CapEff: /proc/self/status | cut -f 2
        echo $TMPDIR
        """,
    )
    # /tmp has the way to the test's folder and nothing else; /proc has three processes: bubblewrap's, bash and wc.
    assert lines[0] == "hello"
    assert int(lines[1]) <= 1
    assert int(lines[2]) <= 4
    assert lines[3:] == ["0000000000000000", ""]
    assert not Path("/tmp/own").exists()


def test_what_is_hidden_is_not_there_but_for_what_is_its_own(jobs: Jobs) -> None:
    work = jobs.folder / "work"
    own, other = work / "runs" / "mine", work / "runs" / "other"
    for folder in (own / "talk", other):
        folder.mkdir(parents=True)
    (own / "report.json").write_text("{}")
    (other / "output").write_text("its secret")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(jobs.folder / "door"))
        door.listen()
        confinement = in_bubblewrap(
            jobs.folder,
            hidden=(str(work), str(jobs.folder / "door")),
            readable=(str(own),),
            own=(str(own / "talk"),),
        )
        lines = output(
            jobs,
            f"""
            ls {work}/runs; ls {own}
            echo said > {own}/talk/to_worker
            echo forged 2>/dev/null > {own}/report.json || echo not written
            mv {own} {work}/runs/else 2>/dev/null || echo not moved
            python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("{jobs.folder}/door")' 2>&1 | tail -n 1
            """,
            confinement,
        )
    assert lines[:5] == ["mine", "report.json", "talk", "not written", "not moved"]
    assert "refused" in lines[5].lower()
    assert (own / "talk" / "to_worker").read_text() == "said\n"


def test_its_variables_reach_its_program_and_nothing_outside_of_the_sandbox(jobs: Jobs) -> None:
    hidden = jobs.folder / "hidden"
    hidden.mkdir()
    # With these the loader of each program writes such a file where it can, before the program does anything.
    loading = {"LD_DEBUG": "statistics", "LD_DEBUG_OUTPUT": f"{hidden}/loaded"}
    jobs.confinement = in_bubblewrap(jobs.folder, hidden=(str(hidden),))
    handle = jobs.shell(
        """
        printf 'said: %q %s %s\\n' "$SAID" $LD_DEBUG $LAUNCH_TOKEN
        readlink /proc/$$/fd/* | grep memfd
        touch $HERE/ready; until [ -e $HERE/go ]; do sleep 0.02; done
        """,
        env={**loading, "SAID": "it is\n=x \udcff"},
    )
    jobs.wait_for("ready")
    seen = _command(handle.pid) + Path(f"/proc/{handle.pid}/environ").read_bytes()
    (jobs.folder / "go").touch()
    assert end_of(handle) == Exited(0, "")
    lines = [line for line in jobs.log(handle).decode().splitlines() if "said: " in line or "memfd" in line]
    assert lines == [r"said: $'it is\n=x \377' statistics 1"]
    assert list(hidden.iterdir()) == []
    assert b"LD_DEBUG_OUTPUT" not in seen


def test_more_variables_than_bubblewrap_takes_are_refused(jobs: Jobs) -> None:
    assert end_of(jobs.start("true", env={f"V{number}": "" for number in range(2800)})) == Exited(0, "")
    with pytest.raises(StartError, match=r"has 3,0.. environment variables; a job in a sandbox may have 2,900"):
        jobs.start("true", env={f"V{number}": "" for number in range(3000)})


def test_a_working_directory_that_is_hidden_is_refused(jobs: Jobs) -> None:
    (jobs.folder / "work").mkdir()
    jobs.confinement = in_bubblewrap(jobs.folder, hidden=(str(jobs.folder / "work"),))
    with pytest.raises(StartError, match="is hidden from jobs in a sandbox"):
        jobs.start("true", cwd=jobs.folder / "work")


def test_no_working_directory_brings_back_what_its_own_folders_replace(jobs: Jobs, tmp_path_factory: Any) -> None:
    others = tmp_path_factory.mktemp("others")
    (jobs.folder / "link").symlink_to(others)
    for folder in (others, f"{others}/.", jobs.folder / "link"):
        with pytest.raises(StartError, match="is not there for jobs in a sandbox, which have their own"):
            jobs.start("true", cwd=folder)  # type: ignore[arg-type]
    for folder in ("/tmp", "/tmp/.", "/var/../tmp"):
        handle = jobs.start("sh", "-c", f"ls -a {others} .", cwd=folder)  # type: ignore[arg-type]
        assert end_of(handle).status != 0
        assert others.name not in jobs.log(handle).decode().replace(str(others), "")
    jobs.confinement = in_bubblewrap(jobs.folder, writable=(str(jobs.folder), str(others)))
    assert end_of(jobs.start("touch", "mine", cwd=others)) == Exited(0, "")
    assert (others / "mine").exists()


def test_strict_has_no_network(jobs: Jobs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        knock = f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected || echo not connected"
        assert output(jobs, knock) == ["connected"]
        assert output(jobs, knock, in_bubblewrap(jobs.folder, sandbox="strict")) == ["not connected"]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 3", 3), ("kill -9 $$", -9), ("kill -SEGV $$", -11), ("exit 255", 255), (":", 0)]
)
def test_it_ends_as_its_program_did(jobs: Jobs, script: str, status: int) -> None:
    assert end_of(jobs.shell(script)) == Exited(status, "")


def test_an_exit_code_stands_for_a_signal_only_where_that_ends_programs() -> None:
    assert [sandboxed.status_of(status) for status in (0, 1, 85, 128, 137, 145, 147, 150, 200, 255, -9)] == [
        *(0, 1, 85, 128, -9, 145, 147, 150, 200, 255, -9),
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-program",), "command 'no-such-program' was not found on this worker"),
        (("./plain",), "command './plain' is not executable"),
        (("./headed",), "command './headed' names an interpreter in its first line that is not there"),
        (("/",), "is not executable"),
        (("./headless",), "command './headless' could not be started: Exec format error"),
    ],
)
def test_what_cannot_be_started_is_refused_in_the_words_for_any_job(
    jobs: Jobs, command: tuple[str, ...], words: str
) -> None:
    (jobs.folder / "plain").write_text("echo\n")
    (jobs.folder / "headless").write_text("echo\n")
    (jobs.folder / "headless").chmod(0o755)
    (jobs.folder / "headed").write_text("#!/no/such/interpreter\n")
    (jobs.folder / "headed").chmod(0o755)
    with pytest.raises(StartError, match=words):
        jobs.start(*command)
    with pytest.raises(StartError, match=r"working directory .* does not exist"):
        jobs.start("true", cwd=jobs.folder / "nowhere")


def test_what_it_leaves_behind_ends_with_it_however_it_hides(jobs: Jobs) -> None:
    hide = f"""
import os, resource, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        resource.setrlimit(10, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        open("{jobs.folder}/hidden", "w").close()
        os.execve("/bin/sleep", ["sleep", "6543.25"], {{}})
    os._exit(0)
"""
    handle = jobs.start("python3", "-c", hide + "\nimport sys; sys.exit(0)")
    jobs.wait_for("hidden")
    assert end_of(handle) == Exited(0, "")
    assert not any(b"6543.25" in _command(process.id.pid) for process in tree.table())


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


TRAPS = """
trap 'echo main TERM >> $HERE/got; exit 4' TERM
bash -c 'trap "echo child TERM >> $HERE/got; exit" TERM; touch $HERE/ready; while :; do sleep 0.02; done' &
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("stops_main", [False, True])
def test_it_is_asked_to_end_by_the_signal_that_any_job_gets(jobs: Jobs, stops_main: bool) -> None:
    handle = jobs.shell(TRAPS, ending=Ending(signal.SIGTERM, stops_main=stops_main))
    jobs.wait_for("ready")
    # Whoever has stopped the monitor holds nothing up.
    os.kill(handle.pid, signal.SIGSTOP)
    handle.stop(grace_s=30.0)
    assert end_of(handle) == Exited(4, "asked")
    assert "main TERM" in (jobs.folder / "got").read_text().splitlines()


def test_a_stop_that_comes_while_the_sandbox_is_made_reaches_its_program(jobs: Jobs) -> None:
    for _ in range(5):
        handle = jobs.shell("sleep 600")
        handle.stop(grace_s=30.0)
        assert end_of(handle) == Exited(-signal.SIGTERM, "asked")


def test_a_signal_ahead_of_its_end_reaches_the_program_and_not_the_sandbox(jobs: Jobs) -> None:
    handle = jobs.shell("trap 'touch $HERE/told' USR1; touch $HERE/ready; while :; do sleep 0.02; done")
    jobs.wait_for("ready")
    handle.signal("SIGUSR1", to_all=False)
    jobs.wait_for("told")
    handle.stop(grace_s=0.0)
    assert end_of(handle) == Exited(-signal.SIGKILL, "asked")


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$"])
def test_it_outlives_its_guard_and_ends_as_it_did(jobs: Jobs, script: str) -> None:
    handle = jobs.shell(f"touch $HERE/ready; until [ -e $HERE/go ]; do sleep 0.02; done; {script}")
    jobs.wait_for("ready")
    jobs.kill_guard()
    (jobs.folder / "go").touch()
    assert end_of(handle).status == (3 if script == "exit 3" else -9)


def test_a_sandbox_whose_program_is_killed_with_its_monitor_is_gone_too(jobs: Jobs) -> None:
    handle = jobs.shell("touch $HERE/ready; sleep 600 & sleep 600")
    jobs.wait_for("ready")
    os.kill(handle.pid, signal.SIGKILL)
    assert end_of(handle) == Exited(-signal.SIGKILL, "")
    assert jobs.members(handle) == []


def test_what_its_processes_used_is_counted(jobs: Jobs) -> None:
    handle = jobs.shell("python3 -c 'x = 0\nfor i in range(2000000): x += i'")
    end_of(handle)
    assert handle.used.cpu_s is not None
    assert handle.used.cpu_s > 0.05


def _is_idle(handle: JobHandle) -> bool:
    return handle.key not in handle.runner


def test_a_brief_job_in_a_sandbox_is_told_in_one_message(jobs: Jobs) -> None:
    handle = jobs.start("true")
    wait_until(lambda: _is_idle(handle))
    assert end_of(handle) == Exited(0, "")


def test_gpus_are_the_device_files_of_the_run_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for minor, address in ((3, "0000:07:00.0"), (0, "0000:0f:00.0")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "information").write_text(
            f"Model: H200\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n"
        )
    monkeypatch.setattr("launch_worker.runners.process.devices._DRIVER", str(tmp_path))
    monkeypatch.setattr("os.path.exists", lambda path: True)
    common = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"]
    assert nodes_of(()) == []
    assert nodes_of(("0",)) == ["/dev/nvidia3", *common]
    assert nodes_of(("GPU-0",)) == ["/dev/nvidia0", *common]
    assert nodes_of(("0", "1")) == ["/dev/nvidia3", "/dev/nvidia0", *common]
