"""Delivery: real receivers that fail in every way, senders that die at each step, and what is told in the end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import ArchiveUnavailableError, BrokerUnavailableError
from launch_worker.notifications import deliver
from launch_worker.notifications.channel import Channel, QuietHours, new_secret
from launch_worker.notifications.deliver import Deliverer, pid_space
from launch_worker.notifications.senders.senders import Senders
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FAILED, FINISHED, running
from tests.support.receivers import Receiver, receiving
from tests.support.redis_client import redis_of


class System:
    """A store, the channels of its senders, and the senders that a test starts."""

    def __init__(self, store: Store, channels: list[Channel]) -> None:
        self.store = store
        self.channels = channels
        self.senders: list[Deliverer] = []

    def start(self, **options: Any) -> Deliverer:
        made = Deliverer(
            self.store,
            lambda: self.channels,
            options.pop("senders", Senders(Settings.from_env({}, redis_url=self.store.url))),
            **{"look_s": 0.2, **options},
        )
        made.start()
        self.senders.append(made)
        return made

    def end(self, channel: str = "ops", step: Any = FINISHED, **options: Any) -> str:
        """A run that ends, and tells it."""
        record = running(self.store, notify=(channel,), **options)
        self.store.finish(record, step)
        return record.id

    def state(self, channel: str = "ops") -> Any:
        return self.store.outbox_state().channels.get(channel)


@pytest.fixture
def system(store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    # Quick pauses; that they grow is computed from the same numbers.
    monkeypatch.setattr(deliver, "_PAUSE_S", 0.05)
    monkeypatch.setattr(deliver, "_AGAIN_S", 0.05)
    made = System(store, [webhook("ops", receiver)])
    yield made
    for sender in made.senders:
        sender.stop()


def webhook(name: str, receiver: Receiver, **options: Any) -> Channel:
    return Channel(name, "webhook", address=f"{receiver.url}/{name}", secret=new_secret(), **options)


def ids(receiver: Receiver, channel: str = "ops") -> list[str]:
    return [headers["webhook-id"] for path, headers, _ in list(receiver.got) if path == f"/{channel}"]


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """Type and run of each message."""
    return [(body["type"], body["data"].get("id")) for body in bodies(receiver)]


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in list(receiver.got)]


def test_an_end_is_told_within_two_seconds_and_nothing_is_left(system: System, receiver: Receiver) -> None:
    system.start(look_s=60.0)
    wait_until(lambda: system.store.notice_channels() == ("ops",))
    began = time.monotonic()
    run_id = system.end(step=FAILED, name="train")
    wait_until(lambda: receiver.got)
    assert time.monotonic() - began < 2.0, "by news: it looks by itself once a minute"
    assert told(receiver) == [("run.failed", run_id)]
    assert ids(receiver) == [f"{run_id}.1.Failed.ops"]
    wait_until(lambda: system.state().sent == 1)
    left = {key.decode() for key in redis_of(system.store.url).keys("launch:outbox*")}
    assert left == {"launch:outbox:ops:state"}


def test_what_is_told_is_the_state_at_the_arrow_though_the_run_goes_on(system: System, receiver: Receiver) -> None:
    run_id = system.end(step=FAILED, name="train")
    system.store.requeue(run_id, reason="again")
    gone = system.end(step=FAILED, name="gone")
    system.store.delete(gone, who="me", keep_s=60.0)
    system.start()
    wait_until(lambda: len(receiver.got) == 2)
    first, second = (body["data"] for body in bodies(receiver))
    assert (first["id"], first["state"], first["exit_code"], first["name"]) == (run_id, "Failed", 3, "train")
    assert (second["id"], second["state"], second["name"]) == (gone, "Failed", "gone")


def test_each_try_says_the_same_though_the_run_goes_on(system: System, receiver: Receiver) -> None:
    receiver.status = 500
    record = running(system.store, notify=("ops:running",))
    system.start()
    wait_until(lambda: receiver.got)
    system.store.cancel(record.id, reason="no")
    redis_of(system.store.url).hset(keys.run(record.id), "reason", "a later word")
    seen = len(receiver.got)
    wait_until(lambda: len(receiver.got) > seen + 1)
    assert {(body["data"]["state"], body["data"]["reason"]) for body in bodies(receiver)} == {("Running", None)}


def test_a_channels_notices_come_in_their_order(system: System, receiver: Receiver) -> None:
    runs = [system.end() for _ in range(30)]
    system.start()
    system.start()
    wait_until(lambda: len(receiver.got) == 30)
    assert [run for _, run in told(receiver)] == runs


@pytest.mark.parametrize("status", [500, 503, 429, 404])
def test_a_receiver_that_fails_is_told_again_with_the_same_id(system: System, receiver: Receiver, status: int) -> None:
    receiver.status = status
    run_id = system.end()
    system.start()
    wait_until(lambda: len(receiver.got) >= 3)
    assert str(status) in system.state().error
    assert system.state().failing_since > 0
    receiver.status = 204
    wait_until(lambda: system.state().sent == 1)
    assert set(ids(receiver)) == {f"{run_id}.1.Finished.ops"}
    assert (system.state().error, system.state().failing_since) == ("", 0)


def test_a_receiver_that_closes_or_is_not_there_is_told_later(system: System, receiver: Receiver) -> None:
    def close(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.close()

    receiver.answer = close
    with receiving() as gone:
        system.channels = [webhook("ops", receiver), webhook("away", gone)]
    system.end()
    system.end("away")
    system.start()
    wait_until(lambda: len(receiver.got) >= 2 and system.state("away").error)
    receiver.answer = None
    wait_until(lambda: system.state().sent == 1)
    assert system.state("away").waiting == 1


@pytest.mark.parametrize("status", [410, 400])
def test_a_notice_that_is_refused_for_good_is_counted_and_the_next_one_goes(
    system: System, receiver: Receiver, status: int
) -> None:
    def refuse_first(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status if len(receiver.got) == 1 else 204)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answer = refuse_first
    system.end()
    system.end()
    system.start()
    wait_until(lambda: system.state().sent == 1)
    assert (system.state().refused, len(receiver.got)) == (1, 2)
    assert system.store.outbox_state().refused == 1


def test_retry_after_is_obeyed(system: System, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 429, {"Retry-After": "3600"}
    system.end()
    system.start()
    wait_until(lambda: system.state().next_at)
    assert system.state().next_at - system.store.now_us() > 3500 * 10**6
    system.end()
    time.sleep(0.5)
    assert len(receiver.got) == 1


def test_a_receiver_that_hangs_holds_no_other_one_up(system: System, receiver: Receiver) -> None:
    hanging = threading.Event()

    def hang(_: BaseHTTPRequestHandler) -> None:
        hanging.wait(20)

    with ExitStack() as stack:
        stack.callback(hanging.set)
        slow = [stack.enter_context(receiving()) for _ in range(8)]
        for each in slow:
            each.answer = hang
        system.channels += [webhook(f"slow{number}", each) for number, each in enumerate(slow)]
        for number in range(8):
            system.end(f"slow{number}")
        system.start()
        wait_until(lambda: all(each.got for each in slow))
        began = time.monotonic()
        for _ in range(5):
            system.end()
        wait_until(lambda: len(ids(receiver)) == 5)
        assert time.monotonic() - began < 2.0


def test_a_sender_that_dies_after_a_send_has_it_sent_again_with_the_same_id(system: System, receiver: Receiver) -> None:
    """As kill -9 between the send and its note: the note never comes."""
    run_id = system.end()
    lent = system.store.lend_notices("ops", "dead", lease_s=0.5)
    assert len(lent.notices) == 1
    system.start()
    wait_until(lambda: receiver.got)
    assert ids(receiver) == [f"{run_id}.1.Finished.ops"]


def test_a_channel_whose_sender_dies_on_this_machine_is_taken_before_its_lease_is_over(
    system: System, receiver: Receiver
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        system.end()
        name = f"{pid_space()}:{holder.pid}:abcd"
        assert system.store.lend_notices("ops", name, lease_s=600.0).notices
        system.start()
        wait_until(lambda: system.store.notice_channels())
        assert not receiver.got
    finally:
        holder.kill()
        holder.communicate()
    wait_until(lambda: receiver.got)


def test_an_outage_of_redis_is_no_failure_of_the_receiver(
    system: System, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = [True]
    log_end = system.store.log_end

    def read(run_id: str, attempt: int) -> bytes:
        if away:
            away.clear()
            raise BrokerUnavailableError("Redis is away")
        return log_end(run_id, attempt)

    monkeypatch.setattr(system.store, "log_end", read)
    system.start()
    system.end(step=FAILED)
    wait_until(lambda: receiver.got)
    assert not [record for record in caplog.records if record.exc_info]
    assert "notices.later" not in caplog.text


def test_two_senders_send_nothing_twice(system: System, receiver: Receiver) -> None:
    for _ in range(2):
        system.start()
    runs = [system.end() for _ in range(40)]
    wait_until(lambda: system.state() and system.state().sent == 40)
    assert sorted(ids(receiver)) == sorted(f"{run_id}.1.Finished.ops" for run_id in runs)


def test_a_fault_of_a_sender_holds_nothing_up(system: System, receiver: Receiver) -> None:
    class Faulty(Senders):
        def send(self, channel: Channel, message: Any, *, timeout_s: float = 1.0) -> None:
            if message.run.name == "bad":
                raise ZeroDivisionError
            super().send(channel, message, timeout_s=timeout_s)

    system.end(name="bad")
    good = system.end(name="good")
    system.start(senders=Faulty(Settings.from_env({}, redis_url=system.store.url)))
    wait_until(lambda: told(receiver) == [("run.finished", good)])
    assert system.state().waiting == 1


def test_a_notice_is_given_up_in_the_end(system: System, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "GIVE_UP_S", 0.5)
    receiver.status = 500
    system.end()
    system.start()
    wait_until(lambda: system.store.outbox_state().given_up == 1)
    assert system.state().waiting == 0


def test_a_channel_that_is_not_there_is_forgotten_and_a_new_one_is_found_at_once(
    system: System, receiver: Receiver
) -> None:
    system.start(look_s=60.0)
    wait_until(lambda: system.store.notice_channels() == ("ops",))
    system.end("gone")
    wait_until(lambda: system.store.outbox_state().unknown == 1)
    system.channels.append(webhook("new", receiver))
    system.end("new")
    wait_until(lambda: ids(receiver, "new"))


def test_a_database_that_is_away_loses_nothing(system: System, receiver: Receiver) -> None:
    channels, is_away = system.channels, True

    class Away(list[Channel]):
        def __iter__(self) -> Iterator[Channel]:
            if is_away:
                raise ArchiveUnavailableError("the database is away")
            return iter(channels)

    system.channels = Away()
    system.start()
    system.end()
    time.sleep(0.3)
    assert not receiver.got
    is_away = False
    wait_until(lambda: len(receiver.got) == 1)
    is_away = True
    system.end()
    wait_until(lambda: len(receiver.got) == 2)
    assert system.store.notice_channels() == ("ops",)


def test_a_night_is_one_digest_with_an_id_that_stays(system: System, receiver: Receiver) -> None:
    quiet = {"until": 0}

    class Quiet(Channel):
        def quiet_until(self, now_us: int) -> int | None:
            return quiet["until"] if quiet["until"] > now_us else None

    [plain] = system.channels
    quiet["until"] = system.store.now_us() + 1_500_000
    system.channels = [Quiet("ops", "webhook", address=plain.address, secret=plain.secret)]
    receiver.status = 500
    system.start()
    runs = [system.end(), system.end(step=FAILED)]
    wait_until(lambda: len(receiver.got) >= 2)
    receiver.status = 204
    wait_until(lambda: system.state().sent == 2)
    assert len(set(ids(receiver))) == 1
    body = bodies(receiver)[-1]
    assert body["type"] == "digest"
    assert all(run_id in json.dumps(body) for run_id in runs)
    later = system.end()
    wait_until(lambda: told(receiver)[-1] == ("run.finished", later))


def test_quiet_hours_put_off(system: System, receiver: Receiver) -> None:
    [plain] = system.channels
    always = QuietHours.parse("00:00-23:59")
    system.channels = [Channel("ops", "webhook", address=plain.address, secret=plain.secret, quiet=always)]
    system.start()
    system.end()
    now = system.store.now_us()
    if always is not None and always.until(now) is not None:
        wait_until(lambda: redis_of(system.store.url).zcount(keys.outbox("ops"), now + 1, "+inf") == 1)
        assert not receiver.got


def test_redis_that_restarts_loses_no_notice(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "_PAUSE_S", 0.05)
    monkeypatch.setattr(deliver, "_AGAIN_S", 0.05)
    server = RedisServer(aof="always")
    server.start()
    system = System(Store(server.url), [webhook("ops", receiver)])
    try:
        receiver.status = 500
        run_id = system.end()
        system.start()
        wait_until(lambda: receiver.got)
        server.kill()
        receiver.status = 204
        server.start()
        wait_until(lambda: (state := system.state()) and state.sent == 1)
        assert set(ids(receiver)) == {f"{run_id}.1.Finished.ops"}
        other = system.end()
        wait_until(lambda: told(receiver)[-1] == ("run.finished", other))
    finally:
        for sender in system.senders:
            sender.stop()
        system.store.close()
        server.stop()
