"""Jobs that Landlock confines: what they can reach, and that nothing else of them or of their guard changes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch_worker.errors import StartError
from launch_worker.runners.job import Exited
from launch_worker.runners.process import landlock
from launch_worker.runners.process.confinement import Confinement
from tests.support.processes import Jobs, end_of, guard_of

pytestmark = pytest.mark.skipif(
    landlock.abi() < landlock.LEAST_ABI, reason="the kernel has no Landlock with scoped signals (Linux 6.12)"
)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    work, shared = tmp_path / "work", tmp_path / "shared"
    for folder in (work / "mine" / "talk", work / "other", shared):
        folder.mkdir(parents=True)
    (work / "other" / "output").write_text("its secret")
    (work / "mine" / "report.json").write_text("{}")
    confinement = Confinement(
        "private",
        hidden=(str(work),),
        readable=(str(work / "mine"),),
        own=(str(work / "mine" / "talk"),),
        writable=(str(shared),),
    )
    made = Jobs(tmp_path, confinement=confinement)
    yield made
    (shared / "go").touch()
    made.close()


def output(jobs: Jobs, script: str) -> list[str]:
    handle = jobs.shell(script)
    end = end_of(handle)
    said = jobs.log(handle).decode()
    assert end == Exited(0, ""), said
    return said.splitlines()


def test_it_reads_the_system_and_writes_in_its_own_folders_only(jobs: Jobs) -> None:
    lines = output(
        jobs,
        """
        cd $HERE/work/mine
        echo said > talk/to_worker && echo told its worker
        echo kept > ../../shared/kept && echo kept
        cat report.json; echo
        (echo forged > report.json) 2>/dev/null || echo did not forge
        cat ../other/output 2>/dev/null || echo did not read
        (echo > ../other/output) 2>/dev/null || echo did not write
        ls .. 2>/dev/null || echo did not look
        mv ../other ../../shared/other 2>/dev/null || echo did not move
        (echo > /etc/launch-test) 2>/dev/null || echo did not write there
        grep -c root /etc/passwd > /dev/null && echo read the system
        """,
    )
    assert lines == [
        *("told its worker", "kept", "{}", "did not forge", "did not read", "did not write", "did not look"),
        *("did not move", "did not write there", "read the system"),
    ]
    assert (jobs.folder / "work/mine/talk/to_worker").read_text() == "said\n"


def test_it_signals_traces_and_reads_no_process_but_its_own(jobs: Jobs) -> None:
    guard = guard_of(jobs.runner)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"\0launch-test-{os.getpid()}")
        door.listen()
        lines = output(
            jobs,
            f"""
            for pid in {guard} {os.getpid()}; do
                kill -0 $pid 2>/dev/null && echo may signal $pid
                # The kernel lets root read the environments of all, as CAP_PERFMON does.
                [ $UID = 0 ] || cat /proc/$pid/environ >/dev/null 2>&1 && [ $UID != 0 ] && echo reads $pid
                (: < /proc/$pid/mem) 2>/dev/null && echo opens $pid
            done
            sleep 60 & kill $! && echo signals its own
            python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("\\0launch-test-{os.getpid()}")' 2>&1 |
                tail -n 1
            """,
        )
    assert lines[0] == "signals its own"
    assert "not permitted" in lines[1]


def test_its_guard_signals_it_and_starts_others_as_ever(jobs: Jobs) -> None:
    handle = jobs.shell("trap 'exit 4' TERM; touch $HERE/shared/ready; while :; do sleep 0.02; done")
    jobs.wait_for("shared/ready")
    handle.stop(grace_s=30.0)
    assert end_of(handle) == Exited(4, "asked")
    jobs.confinement = None
    # Another job of the same guard is free.
    assert output(jobs, "cat $HERE/work/other/output") == ["its secret"]


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("exit 137", 137), ("kill -9 $$", -signal.SIGKILL)])
def test_it_ends_as_any_job(jobs: Jobs, script: str, status: int) -> None:
    assert end_of(jobs.shell(script)) == Exited(status, "")


def test_what_cannot_be_started_is_refused_in_the_words_for_any_job(jobs: Jobs) -> None:
    with pytest.raises(StartError, match="command 'no-such-program' was not found on this worker"):
        jobs.start("no-such-program")


def test_no_job_has_what_was_allowed_to_the_one_before_it(jobs: Jobs) -> None:
    for name in ("first", "second", "third"):
        own = str(jobs.folder / "work" / name)
        Path(own).mkdir()
        assert jobs.confinement is not None
        jobs.confinement = replace(jobs.confinement, readable=(own,), own=(own,))
        lines = output(
            jobs, f"for each in first second third; do touch $HERE/work/$each/{name} 2>/dev/null && echo $each; done; :"
        )
        assert lines == [name]


def test_what_is_mounted_between_two_jobs_is_there_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = landlock._make

    def counted(common: landlock._Common) -> int:
        made.append(1)
        return make(common)

    monkeypatch.setattr(landlock, "_make", counted)
    rules = landlock.Rules(hidden=[], readable=[], writable=[], devices=[])
    landlock.prepare(rules)
    os.close(landlock._taken(rules))
    assert len(made) == 1
    landlock.prepare(rules)
    monkeypatch.setattr(landlock, "_are_mounts_as_before", lambda: False)
    os.close(landlock._taken(rules))
    assert len(made) == 3
    landlock._forget()


def test_a_link_in_the_place_of_what_was_listed_leads_nowhere(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.confinement is not None
    [hidden] = jobs.confinement.hidden
    (jobs.folder / "beside").symlink_to(hidden)
    rules = landlock.Rules(hidden=[hidden], readable=[], writable=[], devices=[])
    monkeypatch.setattr(landlock, "around", lambda hidden, top="/": ["/usr", "/lib", "/lib64", f"{jobs.folder}/beside"])

    def read() -> int:
        try:
            return len(Path(hidden, "other", "output").read_text())
        except PermissionError:
            return 0

    assert landlock.confined(rules, read) == 0


def test_it_has_no_capability(jobs: Jobs) -> None:
    assert output(jobs, "grep -E 'Cap(Eff|Prm)' /proc/self/status | cut -f 2") == ["0000000000000000"] * 2


def test_what_lies_around_hidden_folders_is_named_and_no_link_leads_back(tmp_path: Path) -> None:
    for name in ("a/b/hidden/in", "a/b/beside", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "back").symlink_to("b")
    hidden = (f"{tmp_path}/a/b/hidden",)

    def around(top: str) -> list[str]:
        return sorted(path for path in landlock.around(hidden, top) if os.path.isdir(path))

    assert around(str(tmp_path)) == [f"{tmp_path}/{name}" for name in ("a/b/beside", "a/c", "d")]
    # A job's own folder lies in a hidden one.
    assert around(f"{hidden[0]}/in") == [f"{hidden[0]}/in"]
    assert around(f"{tmp_path}/d") == [f"{tmp_path}/d"]
    # What comes later is there for the next job.
    (tmp_path / "e").mkdir()
    assert f"{tmp_path}/e" in around(str(tmp_path))
