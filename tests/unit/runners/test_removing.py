"""One at a time copies and removes a container, of all workers of a machine and all their threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launch_worker.errors import StartError
from launch_worker.runners.container import removing
from launch_worker.runners.container.removing import alone_with

_HOLDS = "import sys; from launch_worker.runners.container.removing import alone_with\n" + (
    "with alone_with('c1', sys.argv[1]):\n    print('has it', flush=True)\n    sys.stdin.read()\n"
)


def test_another_worker_is_waited_for_and_other_containers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        with alone_with("c2", str(tmp_path)):
            pass
        monkeypatch.setattr(removing, "_PATIENCE_S", 0.0)
        with pytest.raises(StartError, match="somebody else on this machine"), alone_with("c1", str(tmp_path)):
            pass
        monkeypatch.undo()
        other.kill()
        with alone_with("c1", str(tmp_path)):
            pass


def test_threads_keep_each_other_away(tmp_path: Path) -> None:
    inside, most, go = [0], [0], threading.Event()

    def work() -> None:
        go.wait()
        for _ in range(20):
            with alone_with("c1", str(tmp_path)):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert most == [1]
