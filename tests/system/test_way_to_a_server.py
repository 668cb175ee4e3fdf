"""The way from a command to a server: through proxies, and by TLS with an authority of one's own."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.http_proxy import HttpProxy
from tests.support.http_servers import KEY, TestServer, serving
from tests.support.ports import own_port
from tests.support.tls import TlsFront, make_authority
from tests.system.conftest import NOWHERE, Cluster

NAME = "launch.example"


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path / "server", LAUNCH_SERVER_HOSTS=NAME) as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[HttpProxy]:
    with closing(HttpProxy()) as made:
        yield made


def submit(cluster: Cluster, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Submit two runs, in two requests, by a command that has these variables."""
    env = {name: value for name, value in cluster.env.items() if "proxy" not in name.lower()}
    env |= {"LAUNCH_API_URL": url, "LAUNCH_API_TOKEN": KEY, "LAUNCH_REDIS_URL": NOWHERE} | variables
    words = ["launch-submit", "--from-file", "-", "--quiet"]
    said = '{"command": ["true"]}\n' * 2
    return subprocess.run(words, env=env, input=said, capture_output=True, text=True, timeout=60, check=False)


def test_http_goes_through_the_proxy_with_its_login(cluster: Cluster, server: TestServer, proxy: HttpProxy) -> None:
    url = f"http://{NAME}:{server.address.port}"
    done = submit(cluster, url, HTTP_PROXY=f"http://ada:s%20t@127.0.0.1:{proxy.port}")
    assert (done.returncode, done.stdout.count("\n")) == (0, 2), done
    assert proxy.heads[0][0].startswith(f"POST {url}/api/v1/runs/bulk?")
    login = f"Proxy-Authorization: Basic {base64.b64encode(b'ada:s t').decode()}"
    assert all(login in head for head in proxy.heads)
    assert len(cluster.runs()) == 2


def test_a_server_that_no_proxy_names_is_reached_without_the_proxy(cluster: Cluster, server: TestServer) -> None:
    away = f"http://127.0.0.1:{own_port()}"
    for named in ("127.0.0.1", f"127.0.0.1:{server.address.port}"):
        assert submit(cluster, server.url, HTTP_PROXY=away, NO_PROXY=named).returncode == 0
    refused = submit(cluster, server.url, HTTP_PROXY=away, NO_PROXY="elsewhere.example")
    assert (refused.returncode, refused.stderr.count("\n")) == (69, 1), refused
    unfit = submit(cluster, server.url, HTTP_PROXY="socks5://ada:secret@127.0.0.1:1")
    assert (unfit.returncode, unfit.stderr.count("\n")) == (2, 1), unfit
    assert "write HTTP_PROXY as http://HOST:PORT" in unfit.stderr
    assert "secret" not in unfit.stderr


def test_tls_by_an_authority_of_ones_own_directly_and_through_a_proxy(
    cluster: Cluster, server: TestServer, proxy: HttpProxy, tmp_path: Path
) -> None:
    authority, certificate, key = make_authority(tmp_path, san=f"DNS:{NAME},IP:127.0.0.1")
    with closing(TlsFront(server.address.port, certificate, key)) as front:
        url = f"https://127.0.0.1:{front.port}"
        assert submit(cluster, url, SSL_CERT_FILE=str(authority)).returncode == 0
        refused = submit(cluster, url)
        assert (refused.returncode, refused.stderr.count("\n")) == (69, 1), refused
        assert "name its authority by SSL_CERT_FILE" in refused.stderr
        named = f"{NAME}:{front.port}"
        through = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(authority)}
        assert submit(cluster, f"https://{named}", **through).returncode == 0
    assert {head[0].rpartition(" ")[0] for head in proxy.heads} == {f"CONNECT {named}"}
