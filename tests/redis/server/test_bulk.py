"""Many runs in one request: clients that go away, requests larger than memory, what the audit says."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from launch_worker.api.client import Api, submit
from launch_worker.errors import InputError
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.http_servers import KEY, TestServer

LINE = b'{"command": ["true"]}\n'


def begin(server: TestServer, body: bytes, *, length: int) -> socket.socket:
    """Send a request whose body has that length, and no more of it than `body`."""
    sock = socket.create_connection((server.address.host, server.address.port))
    head = f"POST /api/v1/runs/bulk HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
    return sock


def result(client: httpx.Client) -> str:
    """What the audit says of the one submission, once it has ended."""

    def look() -> str:
        acts: list[dict[str, Any]] = client.get("/api/v1/audit", params={"what": "submit"}).json()["acts"]
        return acts[0]["result"] or "" if acts else ""

    return wait_until(look, what="the audit has the result")


def told(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def count(client: httpx.Client) -> int:
    counts = client.get("/api/v1/runs/counts", params={"by": "state"}).json()["counts"]
    return sum(one["count"] for one in counts)


def test_of_a_request_that_is_cut_nothing_is_submitted_and_the_audit_says_so(
    server: TestServer, client: httpx.Client
) -> None:
    begin(server, LINE * 50, length=100 * len(LINE)).close()
    assert result(client) == "the client went away in the middle of its request; nothing of it was submitted"
    assert count(client) == 0


def test_of_a_whole_request_all_is_submitted_though_its_client_goes_away(
    server: TestServer, client: httpx.Client
) -> None:
    body = LINE * 2000
    with begin(server, body, length=len(body)) as sock:
        assert sock.recv(8) == b"HTTP/1.1"
    assert result(client) == "done"
    assert count(client) == 2000


def test_a_request_that_is_kept_in_a_file_is_one_group_up_to_a_wrong_line(client: httpx.Client) -> None:
    large = json.dumps({"command": ["true"], "env": {"X": "x" * 100_000}}).encode() + b"\n"
    # A name that tells of an array, and an array by another spelling of its key.
    more = b'{"command": ["true"], "name": "array"}\n{"command": ["true"], "arr\\u0061y": "0-4"}\n\n'
    body = large * 20 + more + LINE + b"wrong\n" + LINE
    *runs, problem = told(client.post("/api/v1/runs/bulk", content=body))
    assert [run["item"] for run in runs] == [*range(21), *[21] * 5, 23]
    assert problem["item"] == 24
    assert "not JSON" in problem["problem"]["detail"]
    bulk, array = runs[0]["group"], runs[21]["group"]
    assert [run["group"] for run in runs] == [bulk] * 21 + [array] * 5 + [bulk]
    assert result(client).startswith("27 runs were submitted, then line 24: not JSON")
    shown = client.get(f"/api/v1/run-groups/{bulk}").json()
    assert shown["counts"]["Pending"] == 22


def test_a_check_submits_nothing_and_answers_with_the_problem_alone(client: httpx.Client) -> None:
    check = {"check": "true"}
    assert told(client.post("/api/v1/runs/bulk", content=LINE * 3, params=check)) == []
    [problem] = told(client.post("/api/v1/runs/bulk", content=LINE * 2 + b"[]\n", params=check))
    assert problem["item"] == 2
    shown = told(client.post("/api/v1/runs/bulk", content=LINE * 2, params=check | {"specs": "true"}))
    assert [one["spec"]["command"] for one in shown] == [["true"]] * 2
    assert count(client) == 0


def test_what_is_no_utf8_is_the_same_sentence_through_a_server(server: TestServer) -> None:
    api = Api(settings=Settings(api_url=server.url, api_token=KEY))
    with pytest.raises(InputError, match="not valid UTF-8"):
        submit(["echo", "\udcff"], api=api)
