"""Where signatures are asked for, only what a trusted key has signed is executed, and a neighbour is unharmed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Api, Run
from launch_worker.errors import InputError
from launch_worker.model.states import RunState
from launch_worker.trust import signatures
from launch_worker.trust.keys import PrivateKey, new_private, write_private
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, cluster, states

__all__ = ["cluster"]

#: Seconds until the attacked runs are due: time to attack them on a slow machine.
DUE_S = 2.0


def signing(cluster: Cluster, name: str) -> tuple[PrivateKey, Api]:
    """A new key, and a connection that signs with it."""
    key, path = new_private("sign"), cluster.folder / f"{name}.key"
    write_private(path, key)
    return key, Api(settings=replace(cluster.api.settings, signing_key=path))


class Attacks:
    """Runs that were signed as they should be, and then attacked by whoever may write to Redis."""

    def __init__(self, cluster: Cluster) -> None:
        self.redis, self.stamps = redis_of(cluster.redis_url), cluster.folder / "stamps"
        #: The reason that each run must be refused with, by its name.
        self.wanted: dict[str, tuple[Run, str]] = {}

    def add(self, name: str, why: str, api: Api, attack: Callable[[str], object], queue: str = "signed") -> None:
        command = ["sh", "-c", f"echo {name.replace(' ', '-')} >> {self.stamps}"]
        run = submit(command, queue=queue, name="job", delay=DUE_S, project="lab/iris", env={"A": "1"}, api=api)
        attack(f"launch:run:{run.id}")
        self.wanted[name] = run, why

    def spec(self, **changes: Any) -> Callable[[str], None]:
        return lambda key: self.set("spec", json.dumps(json.loads(self.redis.hget(key, "spec")) | changes))(key)

    def set(self, field: str, value: str) -> Callable[[str], None]:
        return lambda key: self.redis.hset(key, field, value)


def test_what_was_not_signed_so_is_refused_with_a_reason_and_never_begins(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = cluster.api
    (ada, by_ada), (bob, by_bob), (eve, by_eve), (_, by_mallory) = (
        signing(cluster, name) for name in ("ada", "bob", "eve", "mallory")
    )
    for name, key in (("ada", ada), ("bob", bob), ("eve", eve)):
        api.transport.trust_key(str(key.public), name=name, is_server=False)
    api.create_queue("signed", signers=["*"])
    api.create_queue("adas", signers=["ada"])
    cluster.worker("default,signed,adas", slots=4)
    neighbour = submit(["sleep", "600"], api=api)
    with pytest.raises(InputError, match="takes signed runs only, and you have no signing key"):
        submit(["true"], queue="signed", api=api)
    with monkeypatch.context() as patch:
        patch.setattr(signatures, "SUBMIT_WITHIN_S", -1)
        with pytest.raises(InputError, match="signature of this run has expired before"):
            submit(["true"], queue="signed", api=by_ada)
    attacks = Attacks(cluster)
    honest = submit(["sh", "-c", "exit 3"], queue="adas", priority="high", env={"A": "1"}, api=by_ada)
    signed = attacks.redis.hget(f"launch:run:{honest.id}", "signature")
    add, was_changed = attacks.add, "not as it was signed"
    add("another command", was_changed, by_ada, attacks.spec(command=["sh", "-c", f"echo evil >> {attacks.stamps}"]))
    add("another environment", was_changed, by_ada, attacks.spec(env={"LD_PRELOAD": "/tmp/evil.so"}))
    add("another run's signature", was_changed, by_ada, attacks.set("signature", signed))
    add("a cut signature", "signature is damaged", by_ada, attacks.set("signature", signed[:-1]))
    add("no signature", "is not signed", by_ada, lambda key: attacks.redis.hdel(key, "signature"))
    add(
        "settings of its own",
        "is not signed",
        by_ada,
        lambda key: (attacks.redis.hset(key, "queue_config", "{}"), attacks.redis.hdel(key, "signature")),
    )
    add("a bound of its own", "its bound of failures is not", by_ada, attacks.set("max_fails", "1"))
    add("another user", "names user root", by_ada, attacks.set("user", "root"))
    add("another name", "its name is not", by_ada, attacks.set("name", "x;id"))
    add("another project", "its project is not", by_ada, attacks.set("project", "lab/secret"))
    add("another priority", "its priority is not", by_ada, attacks.set("priority", "0"))
    add("another queue", "its queue is not", by_ada, attacks.set("queue", "signed"), queue="default")
    add("another queue than its signer's", "may not sign runs of queue adas", by_bob, lambda _: None, queue="adas")
    add("a revoked key", "with key eve .*, which was revoked", by_eve, lambda _: None)
    add("a key that nobody trusts", "which is not trusted", by_mallory, lambda _: None)
    add("a late submission", "when its signature had expired", by_ada, attacks.set("created_at", "9" * 16))
    api.transport.revoke_key("eve")
    for name, (run, why) in attacks.wanted.items():
        assert run.wait(30) is RunState.FAILED, name
        assert re.search(why, run.record.reason), (name, run.record.reason)
        assert run.record.phase == "agent"
    assert not attacks.stamps.exists()
    # A signed run ends as it should, and what a person has tried again is the same signed run.
    assert honest.wait(30) is RunState.FAILED
    assert honest.exit_code == 3
    honest.retry()
    wait_until(lambda: honest.refresh().attempt == 2 and honest.state is RunState.FAILED, what="tried again")
    assert neighbour.refresh().state is RunState.RUNNING
    assert states(neighbour) == ["Pending", "Running"]
    neighbour.cancel(grace_s=0)
    neighbour.wait(20)
    for made in (by_ada, by_bob, by_eve, by_mallory):
        made.store.close()
