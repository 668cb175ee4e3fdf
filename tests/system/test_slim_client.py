"""A machine that is no Linux, without the packages of Redis, SQL and containers, is enough for commands to a server."""

from __future__ import annotations

import json
import subprocess
import sys
from socket import gethostname
from typing import Any

from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.support import mac
from tests.support.http_servers import serving
from tests.system.conftest import TIMES, Cluster

PYTHON = """
from launch_worker import Api, submit, submit_many
run = submit(["sh", "-c", "echo by python"], name="mine")
assert run.wait(60) == "Finished" and run.logs() == b"by python\\n"
runs = submit_many([{"command": ["true"], "array": "0-2"}])
assert len({one.id for one in runs}) == 3 and len(Api().runs(filters={"display_name": "mine"})) == 1
"""
SWEEP = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"], "name": "tries"}


def on_a_mac(cluster: Cluster, *commands: list[str], secret: str) -> list[tuple[list[str], Any, str, str]]:
    """Each command with its exit code, output and errors."""
    env = {name: value for name, value in cluster.env.items() if not name.startswith("LAUNCH_")}
    done = subprocess.run(
        [sys.executable, mac.__file__, json.dumps(commands)],
        cwd=cluster.folder,
        env=env | {"HOME": str(cluster.folder), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""},
        input=secret,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [(words, *said) for words, said in zip(commands, json.loads(done.stdout), strict=True)]


def test_people_without_linux_log_in_submit_follow_look_and_steer(cluster: Cluster) -> None:
    code = cluster.folder / "code"
    code.mkdir()
    (code / "main.sh").write_text("echo from the folder\n")
    (cluster.folder / "runs.jsonl").write_text('{"command": ["true"]}\n{"command": ["true"]}\n')
    (cluster.folder / "sweep.json").write_text(json.dumps(SWEEP))
    cluster.worker()
    first, sent, idle = (f"{at:015d}" for at in range(3))
    with serving(cluster.redis_url, cluster.folder / "server", variables=TIMES) as server:
        registry = Registry(server.shared.database, actor="test")
        registry.add_user("ada", given={"": Role.ADMIN})
        token, _ = registry.create_token("ada", "mac")
        submits = f"""
            --follow --id {first} -- echo hello
            --upload code --id {sent} --wait -- sh main.sh
            --from-file runs.jsonl
            --array 0-2 --wait -- true
            --array 0-2 --dry-run -- true
            --wait --json -- true
            -q nobody --id {idle} -- true
            --cron @daily --cron-name nightly -- true
        """
        steers = f"""
            wait {first}
            logs {sent}
            logs -f {sent}
            logs {sent} --grep fold.r
            logs {sent} --since 1h
            cancel {idle}
            retry {idle}
            delete {idle}
            runs
            runs --json
            runs --count-by state
            show {first}
            files {first}
            metrics {first}
            report {first}
            usage --by user
            schedules
            schedules show nightly
            schedules delete nightly
            queues create gpu --limit 2
            queues pause gpu
            queues show gpu
            queues
            pools
            workers
            workers drain w1@{gethostname()}
            status
            status --json
            doctor
            sweep create sweep.json
            sweep list
            allowances
            audit --since 1h
            users
            groups
            projects
            tokens
            whoami
            logout
        """
        here = [["launch-worker", "login", server.url, "--token"]]
        here += [["launch-submit", *line.split()] for line in submits.split("\n") if line.strip()]
        here += [["python", PYTHON]]
        here += [["launch-worker", *line.split()] for line in steers.split("\n") if line.strip()]
        here += [["launch-worker", word] for word in ("dev", "server", "start")]
        said = on_a_mac(cluster, *here, secret=f"{token}\n")
    *done, dev, part, start = said
    assert [one for one in done if one[1] != 0] == []
    for words, exit_code, out, err in (dev, part, start):
        assert (exit_code, out, err.count("\n")) == (2, "", 1), words
        assert "works on Linux only" in err
    outputs = [out for words, _, out, _ in said if sent in words and "logs" in words]
    assert outputs == ["from the folder\n"] * 4
