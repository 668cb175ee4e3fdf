"""Who has no login, or another account of the worker's machine."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys

import psutil
import pytest

from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.security.site import STRANGER_UID, WORKER_UID, Site, as_account
from tests.system.conftest import wait_for_pid
from tests.system.test_failures import guard_of

REQUESTS = {
    "a path that leads up": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path in percents": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "another method": b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "a path of 70 kB": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "200 headers": b"GET /other HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    "TLS": bytes.fromhex("16030100f4010000f003034a"),
    "line ends and escapes": b"GET /other?x=%0d%0aSet-Cookie:a\x1b]0;PWN\x07 HTTP/1.1\r\n\r\n",
    "nothing of HTTP": b"\x00\xff\xfe\r\n\r\n",
}


def ask(port: int, request: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        while data := client.recv(1 << 16):
            answer += data
    return answer


@pytest.mark.parametrize("what", REQUESTS)
def test_no_request_gets_more_from_the_probes_than_a_refusal(site: Site, what: str) -> None:
    assert site.worker
    answer = ask(site.health_port, REQUESTS[what])
    # A request without a version gets an answer without a head.
    is_refused = answer.split(b" ")[1:2] in ([b"400"], [b"404"], [b"414"], [b"431"], [b"501"])
    assert is_refused or answer == b"" or b"Error code: 400" in answer, answer[:300]
    assert b"root:" not in answer
    assert b"\x1b" not in answer
    assert b"\nSet-Cookie" not in answer


def test_hundreds_of_unfinished_requests_hold_up_nothing(site: Site) -> None:
    assert site.worker
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.health_port), timeout=10))
            client.sendall(b"GET /live HTTP/1.1\r\nHost:")
        assert site.submit("true").wait(20) is RunState.FINISHED
        assert ask(site.health_port, b"GET /health HTTP/1.0\r\n\r\n").split(b" ")[1] == b"200"


STRANGER = r"""
import glob, json, os, socket, sys
work, pids, tried = sys.argv[1], sys.argv[2].split(), {}
def attempt(name, act):
    try:
        tried[name] = str(act())[:100]
    except OSError as error:
        tried[name] = error.errno
attempt("list", lambda: os.listdir(work + "/workers/" + sys.argv[3]))
attempt("output", lambda: open(sys.argv[4] + "/output").read())
attempt("planted", lambda: open(work + "/workers/planted", "w"))
attempt("renamed", lambda: os.rename(work, work + ".old"))
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
attempt("guard", lambda: door.connect(work + "/workers/" + sys.argv[3] + "/guard.sock"))
for pid in pids:
    attempt("environ " + pid, lambda: open("/proc/" + pid + "/environ").read())
    attempt("signal " + pid, lambda: os.kill(int(pid), 0))
print(json.dumps(tried))
"""


def test_another_account_of_the_machine_reaches_neither_files_nor_processes(site: Site, accounts: None) -> None:
    run = site.submit("sh", "-c", "echo mine; exec sleep 600")
    wait_until(lambda: b"mine" in run.logs(), what="it has printed")
    work = site.home / "work"
    [folder] = work.glob(f"workers/*/runs/{run.id}.*")
    pids = [str(pid) for pid in (wait_for_pid(run), site.worker.pid, guard_of(site.worker.pid))]
    words = [sys.executable, "-c", STRANGER, str(work), " ".join(pids), folder.parents[1].name, str(folder)]
    done = subprocess.run(as_account(STRANGER_UID)(*words), capture_output=True, text=True, check=True)
    tried = json.loads(done.stdout)
    # EPERM or EACCES.
    assert {name: what for name, what in tried.items() if what not in (1, 13)} == {}


def processes_of(uid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == uid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_no_password_is_on_a_command_line(site: Site, accounts: None) -> None:
    run = site.submit("sleep", "600")
    wait_until(lambda: run.refresh().state is RunState.RUNNING, what="it runs")
    lines = []
    for process in processes_of(WORKER_UID):
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    assert len(lines) >= 3
    assert not [line for line in lines if "-pw" in line or "redis://" in line]
