"""What each user of the shipped files may do in Redis itself, past all commands of ours."""

from __future__ import annotations

import pytest
import redis

from launch_worker.model.states import RunState
from launch_worker.store import keys
from tests.conftest import wait_until
from tests.security.rows import not_held
from tests.security.site import Site

LOOP = "while true do end"
#: What a user tries, by row.
REFUSED: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "C20": ("producer", [("eval", LOOP, "0"), ("script", "load", LOOP), ("evalsha", "0" * 40, "0")]),
    "C20 functions": ("producer", [("function", "load", f"#!lua name=x\n{LOOP}"), ("function", "restore", "x")]),
    "C25": ("producer", [("select", "5"), ("swapdb", "0", "1"), ("move", "launch:runs", "5"), ("copy", "a", "b")]),
    "C25 viewer": ("viewer", [("select", "5")]),
    "C25 worker": ("worker", [("select", "5")]),
    "C25 server": ("server", [("select", "5")]),
    "C26": (
        "producer",
        [
            *(("flushall",), ("config", "set", "dir", "/tmp"), ("keys", "*"), ("acl", "setuser", "x"), ("shutdown",)),
            *(("publish", "launch:admin:x", "{}"), ("publish", "/0.celery.pidbox", "{}"), ("set", "launch:hold", "1")),
            *(("hset", "launch:queue:default", "config", "{}"), ("hset", "launch:pool:lab", "config", "{}")),
            *(("zadd", "launch:workers", "1", "x"), ("zadd", "launch:consumers:default", "1", "x"), ("save",)),
            *(
                ("slaveof", "h", "1"),
                ("migrate", "h", "1", "k", "0", "1"),
            ),
        ],
    ),
    "C33": (
        "viewer",
        [
            *(("lpush", "default", "x"), ("evalsha", "0" * 40, "0"), ("dump", "launch:runs"), ("sort", "launch:runs")),
            *(("memory", "usage", "launch:runs"), ("object", "encoding", "launch:runs")),
            *(("client", "list"), ("client", "kill", "id", "1"), ("client", "pause", "1000"), ("slowlog", "get")),
            *(("acl", "list"), ("monitor",), ("subscribe", "launch:admin:x")),
        ],
    ),
    "C36": (
        "worker",
        [
            *(("config", "get", "*"), ("hset", "launch:queue:default", "config", "{}"), ("del", "launch:pool:lab")),
            *(("acl", "list"), ("flushall",), ("shutdown",), ("set", "launch:other", "1"), ("function", "flush")),
        ],
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_a_user_of_redis_may_not_do_is_refused(site: Site, row: str) -> None:
    user, commands = REFUSED[row]
    client = site.redis.client(user)
    try:
        for command in commands:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    finally:
        client.close()


#: What a producer can do to others' runs, queues and memory, by row: RUN is another's that runs or waits.
TRUSTED: dict[str, list[tuple[str, ...]]] = {
    "C7": [("hset", "launch:run:RUN", "spec", '{"command":["id"]}')],
    "C8": [("hget", "launch:run:RUN", "spec")],
    "C9": [("hset", "launch:run:RUN", "cancel_at", "1")],
    "C10": [("hset", "launch:run:RUN", "state", "Finished", "exit_code", "0")],
    "C11": [("hset", "launch:run:RUN", "token", "9" * 15)],
    "C12": [("del", "launch:run:RUN")],
    "C13": [("zadd", "launch:leases", "1", "RUN")],
    "C34": [("hget", "launch:run:RUN", "spec")],
    "C24": [("set", "launch:upload:junk", "x")],
}


@pytest.mark.parametrize("row", [pytest.param(row, marks=not_held(row)) for row in TRUSTED])
def test_a_producer_cannot_change_what_is_anothers(site: Site, row: str) -> None:
    client, admin = site.client("viewer" if row == "C34" else "producer"), site.client("admin")
    run = site.submit("true", user="server", delay=600)
    before = admin.dump(keys.run(run.id))
    try:
        for command in TRUSTED[row]:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*(word.replace("RUN", run.id) for word in command))
    finally:
        admin.restore(keys.run(run.id), 0, before, replace=True)
        admin.zrem(keys.LEASES, run.id)
        admin.delete("launch:upload:junk")
        run.cancel()


def test_a_record_that_is_gone_while_its_job_runs_comes_back(site: Site) -> None:
    run = site.submit("sleep", "600")
    wait_until(lambda: run.refresh().state is RunState.RUNNING, what="it runs")
    site.client("producer").delete(keys.run(run.id))

    def is_back() -> bool:
        return bool(site.client("admin").hget(keys.run(run.id), "state") == b"Running")

    wait_until(is_back, what="its worker brings it back")
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
