"""Has schemathesis ask every route of a server with people and runs in it: no 500, and no undocumented answer.

Usage, from the repository's root, with schemathesis in the environment (pip install schemathesis), which CI has not:
    python tools/fuzz_api.py [EXAMPLES]      # for each route; 25 without it
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch_worker.api.client import Api, submit, submit_many
from launch_worker.dev.redis_server import find_redis_server, free_port
from launch_worker.errors import BrokerUnavailableError
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.people import OPEN, PRIVATE, tokens_of_everybody

#: Streams and waits, whose answers have no end or come late; and what would end the login with which all is asked.
_LEFT_OUT = r"/events$|/tail$|/wait$|/follow$|/login|/logout$|/first-admin$|/celery|/live$|/ready$|/static"
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


#: Things of which the path of a route has the name, by the beginning of that path.
_NAMED = {"queues": "gpu", "pools": "gpus", "schedules": "nightly", "users": "viewer", "projects": OPEN}


def fill(server: TestServer, store: Store) -> dict[str, list[str]]:
    """Make people of each kind, runs, groups, a queue, a pool, a schedule and a sweep; returns names for paths."""
    tokens_of_everybody(server)
    api = Api(settings=Settings(api_url=server.url, api_token=KEY))
    ended = submit(["true"], name="ended", project=OPEN, tags=["a"], api=api)
    store.finish(claim(store, ended.id), FINISHED)
    submit_many([{"command": ["true"], "project": project} for project in (OPEN, PRIVATE)], api=api)
    array = submit_many([{"command": ["true"], "array": "0-2"}], api=api)[0]
    deleted = submit(["true"], api=api)
    deleted.delete()
    grid = {"method": "grid", "parameters": {"x": {"values": [1, 2]}}, "command": ["true"]}
    sweep = api.create_sweep(grid, queue="nobodys")
    with server.client() as client:
        made = [
            client.post("/api/v1/pools", json={"name": "gpus", "limit": 4}),
            client.post("/api/v1/queues", json={"name": "gpu", "pool": "gpus"}),
            client.put("/api/v1/schedules/nightly", json={"cron": "@daily", "given": {"command": ["true"]}}),
        ]
        assert all(answer.status_code in (200, 201) for answer in made), [answer.text for answer in made]
    return {
        "run_id": [ended.id, deleted.id, array.id, new_run_id()],
        "group_id": [array.group, sweep.id],
        "sweep_id": [sweep.id],
    }


def config(found: dict[str, list[str]]) -> str:
    """Schemathesis' configuration: what it puts into paths."""
    lines: list[str] = []
    for name, values in found.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines += ["[parameters]", *(f'"path.{name}" = {{ dictionary = "{name}" }}' for name in found)]
    for place, name in _NAMED.items():
        place_of = f'include-path-regex = "^/api/v1/{place}/"'
        lines += ["[[operations]]", place_of, f'parameters = {{ "path.name" = "{name}" }}']
    return "\n".join(lines)


def main() -> int:
    examples = sys.argv[1] if len(sys.argv) > 1 else "25"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        redis = subprocess.Popen(
            [find_redis_server(), "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        try:
            store = Store(f"redis://127.0.0.1:{port}/0")
            wait_until(lambda: answers(store), what="Redis answers")
            with serving(store.url, Path(folder), with_archive=True) as server:
                written = Path(folder) / "schemathesis.toml"
                written.write_text(config(fill(server, store)))
                # What deletes comes last: nothing would be left for the others.
                ways = (["--exclude-method", "DELETE"], ["--include-method", "DELETE"])
                codes = [ask(server, written, [*way, "--max-examples", examples]) for way in ways]
            return max(codes)
        finally:
            redis.terminate()
            redis.wait()


def ask(server: TestServer, written: Path, more: list[str]) -> int:
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(written), "run"),
        *(f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--checks", _CHECKS),
        *("--exclude-path-regex", _LEFT_OUT, "--request-timeout", "30", *more),
    ]
    environment = os.environ | {"NO_PROXY": "127.0.0.1"}
    return subprocess.run(command, cwd=written.parent, env=environment, check=False).returncode


def answers(store: Store) -> bool:
    try:
        store.ping()
    except BrokerUnavailableError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
