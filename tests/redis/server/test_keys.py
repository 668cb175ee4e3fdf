"""Signing keys are set through a server as through Redis, and a server signs for its people."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launch_worker import submit
from launch_worker.agent.outage import Outage
from launch_worker.agent.signatures import Signatures
from launch_worker.api.client import Api
from launch_worker.cli.schedules import add_schedule
from launch_worker.errors import InputError, NotFoundError, SettingsError
from launch_worker.model.run import Record
from launch_worker.model.spec import parse_spec
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.submission.options import read_options
from launch_worker.trust.keys import new_private, write_private
from tests.conftest import wait_until
from tests.support.http_servers import serving
from tests.support.people import tokens_of_everybody
from tests.support.workers import Worker


def test_a_key_is_trusted_and_revoked(through: Api) -> None:
    transport, ada, front = through.transport, new_private("sign").public, new_private("sign").public
    made = transport.trust_key(str(ada), name="ada", is_server=False)
    assert (made.id, made.name, made.is_server, made.revoked_at) == (ada.id, "ada", False, None)
    with pytest.raises(InputError, match=f"is another key's \\({ada.id}\\)"):
        transport.trust_key(str(front), name="ada", is_server=True)
    transport.trust_key(str(front), name="front", is_server=True)
    gone = transport.revoke_key("ada")
    assert gone.revoked_at is not None
    assert transport.revoke_key(ada.id) == gone
    assert [(key.name, key.is_server, key.revoked_at is None) for key in transport.trusted_keys()] == [
        ("ada", False, False),
        ("front", True, True),
    ]
    with pytest.raises(InputError, match="was revoked, and all that it has signed would be executed again"):
        transport.trust_key(str(ada), name="ada", is_server=False)
    again = new_private("sign").public
    assert transport.trust_key(str(again), name="ada", is_server=False).revoked_at is None
    assert transport.revoke_key("ada").id == again.id
    with pytest.raises(NotFoundError, match="launch-worker keys"):
        transport.revoke_key("bob")
    for wrong in ("sign:abc", str(new_private("seal").public), "private-sign:abc"):
        with pytest.raises(InputError):
            transport.trust_key(wrong, name="x", is_server=False)


def test_a_queue_with_signers_takes_nothing_that_nobody_can_sign(through: Api, store: Store) -> None:
    through.create_queue("signed", signers=["*"])
    assert through.queue("signed").as_json()["signers"] == ["*"]
    with pytest.raises(InputError, match=r"takes signed runs only, and (you have|this server has) no signing key"):
        submit(["true"], queue="signed", api=through)
    with pytest.raises(InputError, match="the runs of a schedule are submitted by the system"):
        add_schedule(
            through,
            read_options({"command": ["true"], "queue": "signed"}),
            cron="0 3 * * *",
            name=None,
            timezone=None,
            missed=None,
            overlap=None,
            strict=False,
        )
    config = {"method": "grid", "parameters": {"x": {"values": [1]}}, "command": ["true"]}
    with pytest.raises(InputError, match="the runs of a sweep are submitted by the system"):
        through.create_sweep(config, queue="signed")
    with pytest.raises(InputError, match="not allowed for a key"):
        through.set_queue("signed", signers=["a\nb"])
    with pytest.raises(InputError, match="this is a signing key"):
        through.set_queue("signed", sealing_key=str(new_private("sign").public))
    assert list(store.runs()) == []
    [found] = (one for one in through.findings() if one.name == "queue.signers")
    assert "signed by any trusted key, and Redis has no" in found.text
    through.set_queue("signed", signers=None)
    assert submit(["true"], queue="signed", api=through).is_new


def test_a_server_signs_for_its_people_and_only_its_key_may_say_who_they_are(
    redis_url: str, store: Store, tmp_path: Path
) -> None:
    key, path = new_private("sign"), tmp_path / "server.key"
    write_private(path, key)
    with serving(redis_url, tmp_path, variables={"LAUNCH_SIGNING_KEY": str(path)}) as server:
        token = tokens_of_everybody(server)["member"]
        with server.client(token) as client:
            assert client.put("/api/v1/keys/x", json={"key": str(key.public), "name": "front"}).status_code == 403
            answer = client.post("/api/v1/runs", json={"command": ["true"], "tags": ["a"]})
            assert answer.status_code == 201, answer.text
    worker = Worker(store)
    [run_id] = worker.work()
    record = worker.jobs[run_id]
    assert record.user == "member"
    signatures = Signatures(Settings(redis_url=redis_url, requires_signed=True), store=store, outage=_outage())
    assert signatures.needed(record)

    def refusal(claimed: Record) -> str:
        try:
            signatures.check(claimed, parse_spec(claimed.spec))
        except InputError as error:
            return str(error)
        return ""

    assert "which is not trusted" in refusal(record)
    api = Api(redis_url)
    api.transport.trust_key(str(key.public), name="front", is_server=False)
    assert "which only a server can prove" in refusal(record)
    api.transport.trust_key(str(key.public), name="front", is_server=True)
    assert refusal(record) == ""
    api.store.close()


def test_a_key_that_may_not_sign_is_refused_when_the_run_is_submitted(redis_url: str, tmp_path: Path) -> None:
    key, path = new_private("sign"), tmp_path / "ada.key"
    write_private(path, key)
    api = Api(settings=Settings(redis_url=redis_url, signing_key=path))
    api.create_queue("signed", signers=["*"])
    api.create_queue("bobs", signers=["bob"])

    def refusal(queue: str) -> str:
        with pytest.raises(InputError) as refused:
            submit(["true"], queue=queue, api=api)
        return str(refused.value).partition("yours are signed with key ")[2]

    assert (
        refusal("signed") == f"{key.public.id}, which is not trusted; an admin can trust it: launch-worker keys trust"
    )
    api.transport.trust_key(str(key.public), name="ada", is_server=False)
    assert submit(["true"], queue="signed", api=api).is_new
    assert refusal("bobs") == f"ada ({key.public.id}), which may not sign runs of queue bobs"
    api.transport.revoke_key("ada")
    assert "which was revoked" in wait_until(lambda: _why_not(api), what="it is not believed any more")
    api.store.close()


def _why_not(api: Api) -> str:
    try:
        submit(["true"], queue="signed", api=api)
    except InputError as error:
        return str(error)
    return ""


def test_a_server_whose_key_is_trusted_as_no_servers_submits_nothing_that_would_fail(
    redis_url: str, tmp_path: Path
) -> None:
    key, path = new_private("sign"), tmp_path / "server.key"
    write_private(path, key)
    with serving(redis_url, tmp_path, variables={"LAUNCH_SIGNING_KEY": str(path)}) as server, server.client() as client:
        client.post("/api/v1/queues", json={"name": "signed", "signers": ["*"]}).raise_for_status()
        run = {"command": ["true"], "queue": "signed"}
        for is_server, wanted in (
            (None, f"this server signs with key {key.public.id}, which is not trusted"),
            (False, "which is trusted as no server's; an admin: launch-worker keys trust --server"),
        ):
            if is_server is not None:
                body = {"key": str(key.public), "name": "front", "server": is_server}
                client.put(f"/api/v1/keys/{key.public.id}", json=body).raise_for_status()
            assert wanted in client.post("/api/v1/runs", json=run).json()["detail"]
        client.put(f"/api/v1/keys/{key.public.id}", json=body | {"server": True}).raise_for_status()
        assert client.post("/api/v1/runs", json=run).status_code == 201


def _outage() -> Outage:
    return Outage(threading.Event())


def test_a_worker_that_trusts_its_own_file_asks_redis_nothing(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "trusted"
    path.write_text("sign:abc ada\n")
    with pytest.raises(SettingsError, match="line 1"):
        Signatures(Settings(trusted_keys=path), store=store, outage=_outage())
