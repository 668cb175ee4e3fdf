"""Both ways to start a process do the same."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch_worker.runners.process import spawn as module
from launch_worker.runners.process.spawn import spawn

Run = Callable[..., bytes]


@pytest.fixture(params=["posix_spawn", "an old libc"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts a process, waits for it, and returns its output."""
    monkeypatch.chdir(tmp_path)  # brings this process back from where `spawn` leaves it
    if request.param == "an old libc":

        def refuse(*_: Any, **__: Any) -> int:
            raise NotImplementedError("The setsid option is not supported on this system.")

        monkeypatch.setattr(os, "posix_spawn", refuse)
    (tmp_path / "log").touch()

    def start(*argv: str, path: str | None = os.environ["PATH"], cwd: Path = tmp_path, status: int = 0) -> bytes:
        env = {"A": "b"} if path is None else {"A": "b", "PATH": path}
        before = (tmp_path / "log").stat().st_size
        output = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND)
        try:
            pid = spawn([*argv], env=env, cwd=str(cwd), output=output)
        finally:
            os.close(output)
            assert os.getcwd() == "/"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
        return (tmp_path / "log").read_bytes()[before:]

    return start


def program(path: Path, *, mode: int = 0o755, says: str = "here") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(mode)
    return path


def test_both_outputs_go_to_the_descriptor_and_input_is_at_its_end(run: Run) -> None:
    assert run("sh", "-c", "echo one; echo two >&2; cat") == b"one\ntwo\n"
    assert run("sh", "-c", "exit 7", status=7) == b""
    assert run("sh", "-c", "kill -9 $$", status=-9) == b""


def test_it_leads_a_session_in_its_folder_with_its_environment(run: Run, tmp_path: Path) -> None:
    assert run("sh", "-c", 'test "$(ps -o sid= -p $$ | tr -d " ")" = $$ && pwd && echo $A') == (
        f"{tmp_path}\nb\n".encode()
    )


def test_signals_have_their_usual_meaning(run: Run) -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        told = run("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status").split()
    finally:
        signal.signal(signal.SIGUSR1, before)
    ignored, blocked = (int(word, 16) for word in (told[3], told[1]))
    # 32 and 33 are the C library's own: its posix_spawn leaves them ignored, and it sets them where threads need them.
    assert not ignored & ~(0b11 << 31)
    assert not blocked


def test_the_program_is_searched_in_the_path_that_it_gets(run: Run, tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", mode=0o644)
    program(tmp_path / "b" / "tool", says="b")
    program(tmp_path / "c" / "tool", says="c")
    program(tmp_path / "tool", says="cwd")
    assert run("tool", path=f"{tmp_path}/no:{tmp_path}/tool/x:{tmp_path}/a:{tmp_path}/b:{tmp_path}/c") == b"b\n"
    assert run("tool", path=f"{tmp_path}/no::{tmp_path}/b") == b"cwd\n"
    assert run("tool", path="") == b"cwd\n"
    assert run("./tool", path=f"{tmp_path}/b") == b"cwd\n"
    assert run(str(tmp_path / "c" / "tool"), path=f"{tmp_path}/b") == b"c\n"
    assert run("true", path=None) == b""


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (["no-such-command"], "/usr/bin:/bin"),
        (["tool"], "a"),
        (["tool"], "a:no"),
        (["a"], "."),
        (["./a"], "/bin"),
        (["./plain"], "/bin"),
        (["script"], "a"),
        (["./a/script"], "/bin"),
        (["garbage"], "a"),
        (["plain/x"], "/bin"),
        ([""], "/bin"),
        (["true", "a\0b"], "/bin"),
        (["tr\0ue"], "/bin"),
        (["true", "x" * 3_000_000], "/usr/bin:/bin"),
    ],
)
def test_what_cannot_be_started_is_refused_as_by_subprocess(
    run: Run, tmp_path: Path, argv: list[str], path: str
) -> None:
    program(tmp_path / "a" / "tool", mode=0o644)
    (tmp_path / "plain").write_text("")
    (tmp_path / "a" / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "a" / "script").chmod(0o755)
    (tmp_path / "a" / "garbage").write_bytes(b"\x7fELF garbage")
    (tmp_path / "a" / "garbage").chmod(0o755)
    with pytest.raises((OSError, ValueError)) as expected:
        subprocess.run(argv, env={"PATH": path}, cwd=tmp_path, check=False)
    with pytest.raises((OSError, ValueError)) as refused:
        run(*argv, path=path)
    assert type(refused.value) is type(expected.value)
    assert getattr(refused.value, "errno", None) == getattr(expected.value, "errno", None)


def test_a_folder_that_is_not_there_or_none_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        run("true", cwd=tmp_path / "gone")
    with pytest.raises(NotADirectoryError):
        run("true", cwd=tmp_path / "file")
    assert run("true") == b""


def test_descriptors_do_not_pile_up(run: Run) -> None:
    run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run("true")
        with pytest.raises(FileNotFoundError):
            run("no-such-command")
    assert len(os.listdir("/proc/self/fd")) == before
    assert module.no_input() == module.no_input()
