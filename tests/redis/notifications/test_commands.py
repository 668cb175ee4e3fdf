"""The commands `channels` and `rules`, on a database and through a server, and where no secret may be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.notifications.channels import Channels
from launch_worker.store.store import Store
from tests.support.archives import empty_sqlite
from tests.support.commands import objects, run_here
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.receivers import Receiver, mailbox

Do = Callable[..., str]


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[TestServer]:
    with serving(store.url, tmp_path) as running:
        yield running


@pytest.fixture(params=["database", "server"])
def do(request: pytest.FixtureRequest, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Do:
    """Carries out a command of `launch-worker` in this process, by each door, and returns what it prints."""
    if request.param == "server":
        monkeypatch.setenv("LAUNCH_API_URL", request.getfixturevalue("server").url)
        monkeypatch.setenv("LAUNCH_API_TOKEN", KEY)
    else:
        (tmp_path / "archive.db").write_bytes(empty_sqlite())
        monkeypatch.setenv("LAUNCH_DATABASE_URL", f"sqlite:///{tmp_path / 'archive.db'}")
        monkeypatch.setenv("LAUNCH_REDIS_URL", store.url)
    return run_here


def test_a_channel_by_both_doors(do: Do, receiver: Receiver) -> None:
    address = f"{receiver.url}/hush-hush"
    secret = do("channels", "add", "ops", "webhook", "--project", "lab/x:failed+crashed", given=f"{address}\n").strip()
    assert secret.startswith("whsec_")
    do("channels", "set", "ops", "--quiet-hours", "22:00-07:00", "--no-output")
    [shown] = objects(do("channels", "--json"))
    assert shown.pop("created_at")
    assert shown.pop("created_by")
    assert shown.pop("sending") == {
        "has_sender": False,
        "waiting": 0,
        "sent": 0,
        "sent_at": None,
        "failing_since": None,
        "error": None,
        "lost": 0,
    }
    assert shown == {
        "name": "ops",
        "kind": "webhook",
        "to": "127.0.0.1",
        "output": False,
        "quiet": "22:00-07:00 UTC",
        "projects": {"lab/x": ["failed", "crashed"]},
    }
    assert "lab/x:failed+crashed" in do("channels")
    assert do("channels", "test", "ops") == "a test was sent to the channel ops\n"
    assert [path for path, _, _ in receiver.got] == ["/hush-hush"]
    receiver.status = 500
    with pytest.raises(RefusedError, match="the test was not sent: it answered 500") as caught:
        do("channels", "test", "ops")
    assert "hush" not in str(caught.value)
    [made] = objects(do("channels", "set", "ops", "--new-secret", "--json"))
    assert made["secret"] not in ("", secret)
    assert do("channels", "delete", "ops", given="y\n").endswith("channel ops is deleted\n")
    with pytest.raises(NotFoundError, match="there is no channel ops; see: launch-worker channels"):
        do("channels", "test", "ops")


def test_a_rule_by_both_doors(do: Do) -> None:
    do("channels", "add", "team", "mail", "--address", "a@example.org")
    said = do("rules", "add", "slow", "--when", "waiting", "--for", "2h", "--queue", "gpu", "--channel", "team")
    assert said == "rule slow is made: it watches for waiting for more than 2 h in queue gpu, and tells team\n"
    [shown] = objects(do("rules", "--json"))
    assert (shown["when"], shown["seconds"], shown["queue"], shown["channel"]) == ("waiting", 7200, "gpu", "team")
    assert "waiting for more than 2 h in queue gpu" in do("rules")
    with pytest.raises(RefusedError, match="delete it first: launch-worker rules delete slow"):
        do("channels", "delete", "team", "--yes")
    do("rules", "delete", "slow")
    assert do("rules") == ""


def test_what_makes_no_sense_is_refused_by_both_doors(do: Do) -> None:
    do("channels", "add", "ops", "slack", "--address", "https://hooks.example/x")
    for words, why in (
        (("channels", "add", "ops", "slack", "--address", "https://hooks.example/x"), "there is a channel ops already"),
        (("channels", "add", "new", "slack"), "standard input has no address"),
        (("channels", "add", "new", "webhook", "--address", "hush"), "not one of http or https"),
        (("channels", "set", "ops"), "nothing to change"),
        (("channels", "set", "ops", "--quiet-hours", "at night"), "quiet hours"),
        (("channels", "set", "ops", "--new-secret"), "only a channel of kind webhook"),
        (("rules", "add", "r", "--when", "silent", "--channel", "ops"), "say for how long"),
        (("rules", "add", "r", "--when", "silent", "--for", "1h", "--channel", "x"), "there is no channel x"),
    ):
        with pytest.raises(InputError, match=why):
            do(*words, given="")


def test_no_address_and_no_secret_is_in_redis_answers_pages_audit_or_log(
    server: TestServer, redis_client: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = f"{receiver.url}/hush-hush"
    with server.client() as client:
        made = client.post("/api/v1/channels", json={"name": "ops", "kind": "webhook", "address": address})
        assert made.status_code == 201
        secret = made.json().pop("secret")
        assert client.patch("/api/v1/channels/ops", json={"address": f"{address}/2"}).status_code == 200
        assert client.post("/api/v1/channels/ops/test").status_code == 204
        receiver.status = 500
        refused = client.post("/api/v1/channels/ops/test")
        assert refused.status_code == 409
        assert (
            client.post("/api/v1/channels", json={"name": "b", "kind": "slack", "address": "hush"}).status_code == 422
        )
        answers = [client.get(path).text for path in ("/api/v1/channels", "/channels", "/audit", "/api/v1/audit")]
        assert all('"ops' in answer or "ops<" in answer for answer in answers)
    values = [str(redis_client.dump(key)) for key in redis_client.keys("*")]
    said = [*answers, refused.text, caplog.text, *values, str({k: v for k, v in made.json().items() if k != "secret"})]
    for text in said:
        assert "hush" not in text
        assert secret not in text
    assert Channels(server.shared.database).get("ops").secret == secret


def test_a_server_sends_mail_by_its_own_settings(store: Store, tmp_path: Path) -> None:
    with mailbox() as box, serving(store.url, tmp_path, LAUNCH_SMTP_URL=f"smtp://127.0.0.1:{box.port}") as running:
        with running.client() as client:
            client.post("/api/v1/channels", json={"name": "team", "kind": "mail", "address": "a@example.org"})
            assert client.post("/api/v1/channels/team/test").status_code == 204
        assert [mail["Subject"] for mail in box.got] == ["Test"]


def test_the_pages_make_change_try_and_delete_a_channel_and_a_rule(server: TestServer, receiver: Receiver) -> None:
    with server.client() as client:
        client.headers["Origin"] = server.url
        address = f"{receiver.url}/hush-hush"
        wrong = client.post("/channels", data={"name": "ops", "kind": "webhook", "address": "hush"})
        assert wrong.status_code == 422
        assert "not one of http or https" in wrong.text
        assert 'value="ops"' in wrong.text, "what was given right is not to be typed again"
        made = client.post("/channels", data={"name": "ops", "kind": "webhook", "address": address, "output": "on"})
        secret = Channels(server.shared.database).get("ops").secret
        assert secret in made.text
        assert made.headers["cache-control"] == "no-store"
        changed = {"quiet": "22:00-07:00", "projects": "lab/x:failed\nlab/y", "address": ""}
        assert client.post("/channels/ops", data=changed).headers["location"] == "/channels/ops"
        assert client.post("/channels/ops", data=changed | {"projects": "lab/y"}).status_code == 303
        kept = Channels(server.shared.database).get("ops")
        assert (kept.address, kept.has_output, kept.projects) == (address, False, {"lab/y": ()})
        assert "quiet hours" in client.post("/channels/ops", data=changed | {"quiet": "at night"}).text
        assert "A test was sent." in client.post("/channels/ops/test").text
        receiver.status = 500
        assert "answered 500" in client.post("/channels/ops/test").text
        assert secret not in client.post("/channels/ops/secret").text, "the old one holds no more"
        shown = client.get("/channels")
        assert "Nobody sends notices now" in shown.text
        rule = {"rule": "slow", "when": "waiting", "for": "2h", "queue": "gpu", "channel": "ops"}
        assert client.post("/rules", data=rule | {"for": ""}).status_code == 422
        assert client.post("/rules", data=rule).status_code == 303
        assert "waiting for more than 2 h in queue gpu" in client.get("/channels").text
        assert client.post("/channels/ops/delete").status_code == 409
        assert client.post("/rules/slow/delete").status_code == 303
        assert client.post("/channels/ops/delete").status_code == 303
        assert client.get("/channels/ops").status_code == 404
