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
from launch_worker.store.keys import TRUSTED_KEYS
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
    (ada, by_ada), (bob, by_bob), (eve, by_eve), (mallory, by_mallory) = (
        signing(cluster, name) for name in ("ada", "bob", "eve", "mallory")
    )
    for name, key in (("ada", ada), ("bob", bob), ("eve", eve), ("mallory", mallory)):
        api.transport.trust_key(str(key.public), name=name, is_server=False)
    api.create_queue("signed", signers=["*"])
    api.create_queue("adas", signers=["ada", "bob"])
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
    # Each was well when its run was submitted.
    api.transport.revoke_key("eve")
    api.set_queue("adas", signers=["ada"])
    attacks.redis.hdel(TRUSTED_KEYS, mallory.public.id)
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


def test_a_worker_that_takes_signed_runs_only_believes_its_own_file_and_neither_queue_nor_redis(
    cluster: Cluster,
) -> None:
    api = cluster.api
    (ada, by_ada), (bob, by_bob) = (signing(cluster, name) for name in ("ada", "bob"))
    trusted = cluster.folder / "trusted"
    trusted.write_text(f"{ada.public} ada  # and nobody else\n")
    trusted.chmod(0o600)
    api.transport.trust_key(str(bob.public), name="bob", is_server=False)
    api.create_queue("signed", signers=["ada"])
    sealing = cluster.folder / "sealing"
    write_private(sealing / "q.key", opens := new_private("seal"))
    env = {"LAUNCH_REQUIRE_SIGNED": "1", "LAUNCH_TRUSTED_KEYS": str(trusted), "LAUNCH_SEALING_KEYS": str(sealing)}
    cluster.worker("default,signed", slots=4, env=env)
    refused = {
        "its worker takes signed runs only, and this run is not signed": submit(["true"], api=api),
        f"with key {bob.public.id}, which is not trusted": submit(["true"], api=by_bob),
    }
    # Redis knows nothing of Ada, and leaves it to the worker to say who she is.
    taken = [submit(["true"], api=by_ada), submit(["true"], queue="signed", api=by_ada)]
    for why, run in refused.items():
        assert run.wait(30) is RunState.FAILED
        assert why in run.record.reason
    assert [run.wait(30) for run in taken] == [RunState.FINISHED] * 2
    [worker] = api.transport.workers()
    assert (worker["requires_signed"], worker["has_own_trusted_keys"]) == (True, True)
    assert worker["sealing_keys"] == [opens.public.id]
    clause = "takes signed runs only, trusts the keys of its own file, has 1 sealing key"
    assert f"{worker['worker']} {clause}" in cluster.run("launch-worker", "workers").out
    api.set_queue("default", sealing_key=str(new_private("seal").public))
    found = {one.name: one.text for one in api.transport.findings()}
    assert clause in found["worker.keys"]
    assert "and queue default takes others too: they fail there" in found["queue.unsigned"]
    assert "cannot open the secrets of runs of queue default" in found["queue.unopened"]
    for made in (by_ada, by_bob):
        made.store.close()
