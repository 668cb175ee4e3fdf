"""Notices from submission to receiver: real workers, a real `archive run` that is killed, a real webhook."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler

from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.notifications.channels import Channels
from tests.conftest import wait_until
from tests.support.receivers import Receiver, receiving
from tests.system.conftest import Cluster, Part, through_both_doors


@contextmanager
def sending(cluster: Cluster) -> Iterator[Part]:
    """An archive's process until the end of the block."""
    part = cluster.archive()
    wait_until(lambda: cluster.api.store.notice_channels() is not None, timeout_s=30, what="it sends")
    yield part
    part.kill()


def add_channel(cluster: Cluster, receiver: Receiver) -> None:
    url = f"sqlite:///{cluster.folder}/archive.db"
    cluster.env["LAUNCH_DATABASE_URL"] = url
    database = Database(url)
    migrate(database)
    Channels(database).add("ops", "webhook", receiver.url)
    database.close()


def told(receiver: Receiver) -> list[tuple[str, str, str]]:
    """The id, the type and the subject of each request."""
    found = [(headers["webhook-id"], json.loads(body)) for _, headers, body in list(receiver.got)]
    return [(notice_id, body["type"], body["data"]["id"]) for notice_id, body in found]


@through_both_doors
def test_a_channel_is_told_of_an_end_and_once_of_an_array(cluster: Cluster) -> None:
    refused = cluster.run("launch-submit", "--notify", "ops", "--", "true")
    assert refused.code == 2
    assert "no process sends notices now; start launch-worker server" in refused.err
    with receiving() as receiver:
        add_channel(cluster, receiver)
        with sending(cluster):
            unknown = cluster.run("launch-submit", "--notify", "opz:failed", "--", "true")
            assert (unknown.code, "there is no channel 'opz'; did you mean 'ops'?" in unknown.err) == (2, True), unknown
            cluster.worker()
            sent = cluster.run("launch-submit", "--quiet", "--notify", "ops:failed", "--", "sh", "-c", "exit 3")
            run_id = sent.out.strip()
            wait_until(lambda: receiver.got, what="it is told")
            now_s = time.time()
            [(notice_id, kind, subject)] = told(receiver)
            assert (notice_id, kind, subject) == (f"{run_id}.1.Failed.ops", "run.failed", run_id)
            data = json.loads(receiver.got[0][2])["data"]
            assert now_s - datetime.fromisoformat(data["ended_at"]).timestamp() < 2.0
            assert (data["exit_code"], data["state"]) == (3, "Failed")
            cluster.run("launch-submit", "--notify", "ops", "--array", "0-9", "--", "true")
            wait_until(lambda: len(receiver.got) == 2, what="the array is told")
            [_, (_, kind, subject)] = told(receiver)
            counts = json.loads(receiver.got[1][2])["data"]["counts"]
            assert (kind, subject[0], counts["Finished"]) == ("group.ended", "a", 10)


def test_a_sender_that_is_killed_in_a_send_has_another_one_tell_it_by_the_same_id(cluster: Cluster) -> None:
    hanging = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        hanging.wait(30)

    with receiving() as receiver:
        add_channel(cluster, receiver)
        cluster.worker()
        receiver.answer = hang
        with sending(cluster) as killed:
            run_id = cluster.run("launch-submit", "--quiet", "--notify", "ops", "--", "true").out.strip()
            wait_until(lambda: receiver.got, what="it is being told")
            killed.kill()
        hanging.set()
        receiver.answer = None
        with sending(cluster):
            # The one that has died on this machine holds its channel no longer.
            wait_until(lambda: len(receiver.got) == 2, timeout_s=10, what="it is told again")
            wait_until(lambda: not cluster.api.store.outbox_state().waiting, what="nothing waits")
    assert told(receiver) == [(f"{run_id}.1.Finished.ops", "run.finished", run_id)] * 2
