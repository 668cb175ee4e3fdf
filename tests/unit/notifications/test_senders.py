"""Notices reach real receivers on loopback: HTTP, SMTP, and one of Apprise's; errors say whether to try again."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from standardwebhooks.webhooks import Webhook

from launch_worker.errors import InputError, SettingsError
from launch_worker.model.group import KINDS, GroupRecord
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.notifications.channel import Channel, check_address, hint_of, new_secret
from launch_worker.notifications.message import Alarm, Best, Message, digest, of_alarm, of_group, of_run, of_test
from launch_worker.notifications.senders.by_apprise import check_with_apprise
from launch_worker.notifications.senders.error import SendError
from launch_worker.notifications.senders.post import is_allowed, seconds_of
from launch_worker.notifications.senders.senders import Senders
from launch_worker.settings import Settings
from tests.support.receivers import Receiver, mailbox, receiving
from tests.support.tls import TlsFront, make_authority, make_certificate

#: Its plug-in for mail imports a module of the standard library that Python 3.13 has no more.
with_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
SCHEMA = Path(__file__).parents[3] / "docs" / "notice-1.schema.json"
#: What a stranger may call a run, and print.
HOSTILE = (
    "x<!channel> @everyone `</b>` [a](http://evil.test) ![i](http://evil.test/i)\x1b[31m\u202e\r\nBcc: eve@evil.test"
)
RUN = Record(
    id="1m83cyvtfq1tc69",
    name="train",
    project="lab/x",
    queue="gpu",
    state=RunState.FAILED,
    reason="exit code 3",
    exit_code=3,
    attempt=1,
    worker="celery@vm",
    host="vm",
    created_at=1_700_000_000_000_000,
    started_at=1_700_000_001_000_000,
    ended_at=1_700_000_124_000_000,
    user="ada",
)
FAILED = of_run("n1", RUN.ended_at or 0, RUN, RunState.FAILED, output="one\ntwo\nKeyError: 'x'\n")


def channel(kind: str, address: str, **more: Any) -> Channel:
    return Channel("ops", kind, check_address(kind, address), hint=hint_of(kind, address), **more)


def send(to: Channel, message: Message = FAILED, *, timeout_s: float = 10.0, **settings: Any) -> None:
    Senders(Settings(server_url="https://launch.example", **settings)).send(to, message, timeout_s=timeout_s)


# -- webhooks ----------------------------------------------------------------------------------------------------------


def test_a_receiver_verifies_a_webhook_by_the_library_of_its_standard(receiver: Receiver) -> None:
    secret = new_secret()
    send(channel("webhook", receiver.url + "/hook?a=1", secret=secret))
    [(path, headers, body)] = receiver.got
    assert path == "/hook?a=1"
    told = Webhook(secret).verify(body.decode(), dict(headers))
    assert headers["webhook-id"] == "n1"
    assert told["type"] == "run.failed"
    data = told["data"]
    assert (data["id"], data["state"], data["exit_code"], data["seconds"]) == (RUN.id, "Failed", 3, 123.0)
    assert data["text"] == "train failed after 2 min 3 s on celery@vm: exit code 3."
    assert data["url"] == f"https://launch.example/runs/{RUN.id}"
    assert data["output"] == ["one", "two", "KeyError: 'x'"]


def test_a_channel_without_output_sends_none(receiver: Receiver) -> None:
    for kind in ("webhook", "slack"):
        send(channel(kind, receiver.url, secret=new_secret(), has_output=False))
    assert all(b"one" not in body.replace(b'one"', b"") for _, _, body in receiver.got)


def every_message() -> list[Message]:
    group = GroupRecord("a1m83cyvtfq1tc69", "array", RUN.id, 3, {**dict.fromkeys(KINDS, 0), "Finished": 2, "Failed": 1})
    sweep = replace(group, id="1m83cyvtfq1tc70", kind="sweep")
    alarm = Alarm("slow", "queue", "gpu", 1, "2 runs wait longer than 2 h.", "launch-worker queues show gpu")
    told = [of_run("n", 1, replace(RUN, state=state), state) for state in RunState]
    told += [of_group("g", 1, group, failed=[RUN]), of_group("s", 1, sweep, best=Best(RUN, "loss", 0.125))]
    told += [of_group("s", 1, sweep, best=Best(RUN, "loss", float("nan"))), of_alarm("a", 1, alarm), of_test("t", 1)]
    return [*told, digest("d", 1, told * 10)]


def test_every_message_is_as_the_schema_says(receiver: Receiver) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for message in every_message():
        send(channel("webhook", receiver.url, secret=new_secret()), message)
        validator.validate(json.loads(receiver.got[-1][2]))
        assert len(receiver.got[-1][2]) < 200_000


@pytest.mark.parametrize(("status", "is_final"), [(500, False), (404, False), (429, False), (410, True), (422, True)])
def test_an_answer_says_whether_to_try_again(receiver: Receiver, status: int, is_final: bool) -> None:
    receiver.status, receiver.headers = status, {"Retry-After": "7"}
    with pytest.raises(SendError, match=str(status)) as caught:
        send(channel("webhook", receiver.url + "/hidden-path", secret=new_secret()))
    assert caught.value.is_final is is_final
    assert caught.value.retry_after_s == 7
    assert not {"hidden-path", "127.0.0.1"} & {*str(caught.value).replace("/", " ").split()}


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving() as other:
        receiver.status, receiver.headers = 307, {"Location": other.url}
        with pytest.raises(SendError, match="redirect"):
            send(channel("webhook", receiver.url, secret=new_secret()))
        assert not other.got


def test_a_receiver_that_hangs_or_drips_costs_no_more_than_the_time_limit(receiver: Receiver) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.05)

    receiver.answer = drip
    with pytest.raises(SendError, match="did not answer in time") as caught:
        send(channel("webhook", receiver.url, secret=new_secret()), timeout_s=0.5)
    assert not caught.value.is_final
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SendError, match="did not answer in time"):
            send(channel("webhook", url, secret=new_secret()), timeout_s=0.5)


def test_a_webhook_over_tls_is_bounded_too(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate, key = make_authority(tmp_path, san="DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    front = TlsFront(int(receiver.url.rpartition(":")[2]), certificate, key)
    try:
        to = channel("webhook", f"https://localhost:{front.port}/x", secret=new_secret())
        send(to)
        assert len(receiver.got) == 1
        stopped = threading.Event()

        def drip(handler: BaseHTTPRequestHandler) -> None:
            with contextlib.suppress(OSError):
                while not stopped.wait(0.05):
                    handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        receiver.answer = drip
        with pytest.raises(SendError, match="did not answer in time"):
            send(to, timeout_s=0.5)
        stopped.set()
    finally:
        front.close()


def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    sent = 0

    def flood(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while sent < 1 << 30:
                sent += handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    receiver.answer = flood
    send(channel("webhook", receiver.url, secret=new_secret()))
    assert sent < 1 << 28


def test_nobody_there_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
        with pytest.raises(SendError, match=r"cannot be reached|has no address") as caught:
            send(channel("webhook", url, secret=new_secret()))
        assert not caught.value.is_final
    with receiving() as plain, pytest.raises(SendError):
        send(channel("webhook", plain.url.replace("http:", "https:"), secret=new_secret()))


def test_no_notice_goes_to_addresses_where_clouds_keep_keys() -> None:
    for address in (
        "169.254.169.254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "0.0.0.0",
        "224.0.0.1",
        "junk",
    ):
        assert not is_allowed(address), address
    for address in ("127.0.0.1", "10.1.2.3", "192.0.2.1", "::1", "2001:db8::1"):
        assert is_allowed(address), address
    with pytest.raises(SendError, match="link-local"):
        send(channel("slack", "http://169.254.169.254/latest/meta-data"))


def test_a_certificate_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, name="here", san="IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            plain = listening.accept()[0]
            with plain, contextlib.suppress(OSError):
                context.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(SendError, match=r"^its certificate is not valid: self-signed certificate$"):
            send(channel("webhook", f"https://127.0.0.1:{listening.getsockname()[1]}", secret=new_secret()))
        thread.join()


def test_a_wait_that_a_receiver_asks_for_is_a_number_or_a_date_and_bounded() -> None:
    assert seconds_of("7") == 7
    assert seconds_of("99999999") == 86400
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (seconds_of(""), seconds_of("soon"), seconds_of("-1")) == (None, None, None)


# -- Slack, mail, Apprise ----------------------------------------------------------------------------------------------


def test_slack_finds_nothing_in_what_others_wrote(receiver: Receiver) -> None:
    run = replace(RUN, name=HOSTILE, reason=HOSTILE)
    send(channel("slack", receiver.url), of_run("n", 1, run, RunState.FAILED, output=f"```\n{HOSTILE}\n"))
    [(_, _, body)] = receiver.got
    text: str = json.loads(body)["text"]
    assert "<!channel>" not in text
    assert "\x1b" not in text
    # All that is not code is ours.
    head, code, link = text.split("\n```")
    assert head.startswith("*Failed* `")
    assert head.count("`") == 2
    assert "`" not in code
    assert link.strip() == f"https://launch.example/runs/{RUN.id}"


def test_a_mail_says_it_in_plain_text_and_no_name_makes_a_header() -> None:
    with mailbox() as box:
        run = replace(RUN, name=HOSTILE)
        to = channel("mail", "ops@example.org, bob@example.org")
        settings: dict[str, Any] = {"smtp_url": f"smtp://127.0.0.1:{box.port}", "mail_from": "launch@example.org"}
        send(to, of_run("n.1/2", 1_700_000_000_000_000, run, RunState.FAILED, output="last word"), **settings)
        [mail], [recipients] = box.got, box.to
    assert recipients == ["ops@example.org", "bob@example.org"]
    assert mail["Bcc"] is None
    assert mail["From"] == "launch@example.org"
    assert mail["Message-ID"] == "<n.1.2@example.org>"
    assert mail["Subject"].startswith("Failed: x<!channel> @everyone")
    assert mail.get_content_type() == "text/plain"
    body = mail.get_content()
    assert "  last word" in body
    assert f"launch-worker retry {RUN.id}" in body
    assert f"https://launch.example/runs/{RUN.id}" in body


def test_a_mail_server_takes_a_login_and_a_wrong_one_is_a_sentence_without_it() -> None:
    with mailbox() as box:
        send(channel("mail", "a@example.org"), smtp_url=f"smtp://u%40x:right@127.0.0.1:{box.port}")
        assert box.logins == [("u@x", "right")]
        with pytest.raises(SendError, match="refuses the login") as caught:
            send(channel("mail", "a@example.org"), smtp_url=f"smtp://u:hush-hush@127.0.0.1:{box.port}")
        assert "hush-hush" not in str(caught.value)
        assert not caught.value.is_final


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_mail_goes_over_tls_to_who_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    authority, certificate, key = make_authority(tmp_path, san="DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    how = {"ssl_context": context} if scheme == "smtps" else {"tls_context": context, "require_starttls": True}
    with mailbox(**how) as box:
        with pytest.raises(SendError, match="the mail server: its certificate is not valid"):
            send(channel("mail", "a@example.org"), smtp_url=f"{scheme}://localhost:{box.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        send(channel("mail", "a@example.org"), smtp_url=f"{scheme}://u:right@localhost:{box.port}")
        with pytest.raises(SendError, match="certificate is not valid"):
            send(channel("mail", "a@example.org"), smtp_url=f"{scheme}://127.0.0.1:{box.port}")
    assert len(box.got) == 1


def test_a_mail_server_that_refuses_says_whether_for_good() -> None:
    with mailbox() as box:
        for answer, is_final in (("550 no such user", True), ("451 later", False)):
            box.rcpt = answer
            with pytest.raises(SendError, match="takes none of the addresses") as caught:
                send(channel("mail", "a@example.org"), smtp_url=f"smtp://127.0.0.1:{box.port}")
            assert caught.value.is_final is is_final
    with pytest.raises(SendError, match="LAUNCH_SMTP_URL is not set"):
        send(channel("mail", "a@example.org"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        smtp_url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SendError, match="in time"):
            send(channel("mail", "a@example.org"), smtp_url=smtp_url, timeout_s=0.5)


@with_apprise
def test_apprise_sends_what_we_say_and_calls_nobody_by_a_name(receiver: Receiver) -> None:
    run = replace(RUN, name="@everyone")
    send(channel("apprise", receiver.url.replace("http://", "json://") + "/x"), replace(FAILED, run=run))
    [(_, _, body)] = receiver.got
    told = json.loads(body)
    assert told["title"] == "Failed: @\u200beveryone"
    assert "KeyError: 'x'" in told["message"]
    with receiving() as other:
        receiver.status, receiver.headers = 307, {"Location": other.url}
        with pytest.raises(SendError):
            send(channel("apprise", receiver.url.replace("http://", "json://") + "/x"))
        assert not other.got, "a redirect is not followed"
    receiver.status = 500
    with pytest.raises(SendError, match=r"Apprise could not send to json://…$") as caught:
        send(channel("apprise", receiver.url.replace("http://", "json://") + "/x"))
    assert not caught.value.is_final


@with_apprise
def test_an_address_that_apprise_does_not_know_is_refused() -> None:
    check_with_apprise("json://localhost")
    with pytest.raises(InputError, match="does not know"):
        check_with_apprise("nothing-of-apprise://x")


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("webhook", "ftp://example.org/secret-word"),
        ("webhook", "https:///secret-word"),
        ("webhook", "https://user:secret-word@example.org"),
        ("webhook", "https://example.org/a b/secret-word"),
        ("webhook", "https://example.org:99999/secret-word"),
        ("slack", "file:///secret-word"),
        ("mail", "secret-word"),
        ("mail", "a@example.org, Eve <secret-word@example.org>"),
        ("mail", "a@example.org\nBcc: secret-word@example.org"),
        ("apprise", "secret-word"),
        ("pigeon", "secret-word"),
        ("mail", ""),
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(kind: str, address: str) -> None:
    with pytest.raises(InputError) as caught:
        check_address(kind, address)
    assert "secret-word" not in str(caught.value)


def test_an_smtp_url_that_is_none_is_refused_and_not_repeated() -> None:
    for url in ("http://hush@example.org", "smtp://", "smtp://x:hush", "hush"):
        with pytest.raises(SettingsError, match="LAUNCH_SMTP_URL must be written") as caught:
            Settings(smtp_url=url)
        assert "hush" not in str(caught.value)
    with pytest.raises(SettingsError, match="LAUNCH_SERVER_URL"):
        Settings(server_url="launch.example")


def test_a_channel_is_shown_without_its_address_and_its_secret() -> None:
    made = channel("slack", "https://hooks.example/services/T0/hush", secret="whsec_hush")
    assert "hush" not in repr(made)
    assert "hush" not in json.dumps(made.as_json())
    assert "hush" not in repr(Channel.from_json(made.as_json()))
