"""The value of a secret is known to its submitter and its job, and to nobody who reads Redis, logs, files or pages."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit, submit_many
from launch_worker.errors import InputError
from launch_worker.model.states import RunState
from launch_worker.store.redis.connection import connect
from launch_worker.trust.keys import new_private, write_private
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, cluster, server_for_all, through_both_doors, wait_for_output

__all__ = ["cluster", "server_for_all"]

VALUE = "correct-horse-battery-staple"
#: A job that proves that it has the value, and does not tell it.
PROVES = ["sh", "-c", 'printf %s "$TOKEN" | sha256sum; until [ -e done ]; do sleep 0.05; done; exit 3']
DIGEST = hashlib.sha256(VALUE.encode()).hexdigest().encode()


@pytest.fixture
def watched(cluster: Cluster) -> Iterator[list[bytes]]:
    """All that Redis is told by whoever, as MONITOR shows it."""
    client: Any = connect(cluster.redis_url, name="monitor")
    seen: list[bytes] = []

    def read(monitor: Any) -> None:
        for command in monitor.listen():
            seen.append(str(command).encode())
            if b"the test is over" in seen[-1]:
                return

    with client.monitor() as monitor:
        reader = threading.Thread(target=read, args=(monitor,), daemon=True)
        reader.start()
        yield seen
        client.echo("the test is over")
        reader.join(10)
    client.close()


def kept(cluster: Cluster) -> bytes:
    """Everything that is in Redis."""
    redis = redis_of(cluster.redis_url)
    return b"".join(redis.execute_command("DUMP", key, NEVER_DECODE=[]) for key in redis.scan_iter())


def below(folder: Path) -> bytes:
    """The content of all files below a folder."""
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@through_both_doors
def test_a_secret_is_seen_by_its_job_alone(
    cluster: Cluster, watched: list[bytes], tmp_path: Path, door: str, request: pytest.FixtureRequest
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    home = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": ""}
    worker = cluster.worker(env=home | {"LAUNCH_SEALING_KEYS": str(keys)})
    made = cluster.run("launch-worker", "keys", "new", "--for-queue", "default", env=home)
    assert made.code == 0, made
    command = ("launch-submit", "--secret", "TOKEN", "--cwd", str(tmp_path), "--quiet", "--", *PROVES)
    sent = cluster.run(*command, env=home | {"TOKEN": VALUE})
    assert sent.code == 0, sent
    run = cluster.api.run(sent.out.strip())
    # The worker has no key for it yet: it goes back, and is executed once there is one.
    wait_until(lambda: "the start failed through its worker" in (run.refresh().reason or ""), what="it went back")
    assert "which its worker does not have" in (run.record.reason or "")
    (key,) = (tmp_path / "home" / ".config" / "launch-worker" / "sealing-keys").iterdir()
    key.rename(keys / key.name)
    wait_for_output(run, DIGEST, timeout_s=60)
    found = {
        "Redis' commands": b"\n".join(watched),
        "Redis' content": kept(cluster),
        "files of the worker": below(tmp_path / "work"),
        "the worker's log": worker.log.encode(),
    }
    shown = cluster.show(run.id)
    assert shown["spec"]["secrets"] == {"TOKEN": "********"}
    found["show"] = json.dumps(shown).encode()
    if door == "http":
        with request.getfixturevalue("server_for_all").client() as client:
            page = client.get(f"/runs/{run.id}").text
        assert "--secret TOKEN" in page
        found["page"] = page.encode()
    for place, content in found.items():
        assert content, place
        assert VALUE.encode() not in content, place
    (tmp_path / "done").touch()
    assert run.wait(30) is RunState.FAILED
    assert run.exit_code == 3
    # What a person has tried again has the same secret.
    run.retry()
    assert run.wait(30) is RunState.FAILED
    assert DIGEST in run.logs()


def test_a_sealed_secret_opens_for_no_other_command_and_no_other_run(cluster: Cluster, tmp_path: Path) -> None:
    key, path = new_private("seal"), tmp_path / "a.key"
    write_private(path, key)
    cluster.api.create_queue("sealed", sealing_key=str(key.public))
    cluster.worker("sealed", env={"LAUNCH_SEALING_KEYS": str(path)})
    redis = redis_of(cluster.redis_url)

    def secret_run(*command: str) -> str:
        return submit(list(command), queue="sealed", name="n", secrets={"TOKEN": VALUE}, delay=2.0, api=cluster.api).id

    def rewrite(run_id: str, **fields: object) -> dict[str, str]:
        spec = json.loads(redis.hget(f"launch:run:{run_id}", "spec"))
        redis.hset(f"launch:run:{run_id}", "spec", json.dumps(spec | fields))
        return dict(spec.get("secrets", {}))

    stolen = secret_run("true")
    sealed = rewrite(stolen, command=["sh", "-c", 'echo "$TOKEN"'])
    copied = submit(["sh", "-c", 'echo "$TOKEN"'], queue="sealed", name="n", delay=2.0, api=cluster.api).id
    rewrite(copied, secrets=sealed)
    renamed = secret_run("true")
    redis.hset(f"launch:run:{renamed}", "name", "x;id")
    why = {stolen: "sealed for another run", copied: "sealed for another run", renamed: "its name is not"}
    for run_id in why:
        run = cluster.api.run(run_id)
        assert run.wait(30) is RunState.FAILED
        assert why[run_id] in run.record.reason
        assert VALUE.encode() not in run.logs()
    # Arrays too, each run by itself; and a queue without a key takes no secret.
    line = {"command": ["sh", "-c", '[ "$TOKEN" = here ]'], "queue": "sealed", "secrets": {"TOKEN": "here"}}
    runs = submit_many([line | {"array": "0-2"}], api=cluster.api)
    assert [run.wait(30) for run in runs] == [RunState.FINISHED] * 3
    with pytest.raises(InputError, match="keys new --for-queue default"):
        submit(["true"], secrets={"TOKEN": VALUE}, api=cluster.api)
    with pytest.raises(InputError, match="PATH is a secret and another variable"):
        submit(["true"], queue="sealed", secrets={"PATH": "x"}, env={"PATH": "y"}, api=cluster.api)
