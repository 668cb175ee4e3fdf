"""runqd, whose programs are named gflow: a daemon for one machine, asked by HTTP. Jobs are processes of it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from bench.peers.producer import Argv, serve, wait_until

#: In the folder that worker and producer share.
_CONFIG = Path("gflow.toml")
_CONFIGURATION = """
[daemon]
host = "127.0.0.1"
port = {port}
[executor]
type = "process"
[quota.default_user]
max_running_jobs = {slots}
"""


def work(slots: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _CONFIG.write_text(_CONFIGURATION.format(port=port, slots=slots))
    program = str(Path(sys.executable).parent / "gflowd")
    here = str(Path.cwd())
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "TMUX_TMPDIR"), here)
    os.execve(program, [program, "--config", str(_CONFIG.absolute())], os.environ | homes)


def produce() -> None:
    wait_until(lambda: _CONFIG.exists() and "port" in _CONFIG.read_text())
    port = int(_CONFIG.read_text().partition("port = ")[2].split()[0])
    daemon = HTTPConnection("127.0.0.1", port)
    here = str(Path.cwd())

    def job(argv: Argv) -> dict[str, str]:
        return {"command": shlex.join(argv), "run_dir": here}

    def post(path: str, body: object) -> None:
        daemon.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = daemon.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"gflowd answers {answer.status}: {said[:300]!r}")

    def many(jobs: Sequence[Argv]) -> None:
        post("/jobs/batch", [job(argv) for argv in jobs])

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers)
    serve(lambda argv: post("/jobs", job(argv)), many=many)
