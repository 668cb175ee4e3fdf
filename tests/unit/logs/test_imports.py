"""Large libraries are loaded with the first large log, not with the worker or a reader."""

from __future__ import annotations

import subprocess
import sys


def test_neither_a_worker_nor_a_reader_loads_what_only_large_logs_need() -> None:
    modules = "launch_worker.agent.launch_agent, launch_worker.api.client, launch_worker.cli.logs"
    script = f"import sys, {modules}; print(sorted({{'fsspec', 's3fs', 'zstandard'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
