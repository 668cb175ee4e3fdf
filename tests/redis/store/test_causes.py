"""Why Redis cannot be used: the cause in a sentence, and what to do, on real servers."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.dev.redis_server import RedisServer, find_redis_server
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.store.store import Store
from launch_worker.submission.submitter import Submitter
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.support.tls import TlsFront, make_certificate


class Places:
    """Addresses of a Redis, with and without TLS."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.password = server.url.partition("@")[0].rpartition(":")[2]
        self.port = server.port
        self.right, key = make_certificate(folder, name="right", san="IP:127.0.0.1")
        self.other, other_key = make_certificate(folder, name="other", san="DNS:elsewhere.example")
        self.fronts = {
            "right": TlsFront(server.port, self.right, key),
            "other": TlsFront(server.port, self.other, other_key),
            "asks": TlsFront(server.port, self.right, key, asks_clients=self.other),
        }

    def url(self, text: str) -> str:
        ports = {f"{name.upper()}_PORT": str(front.port) for name, front in self.fronts.items()}
        words = {"PASSWORD": self.password, "PORT": str(self.port), **ports, "FREE": str(own_port())}
        words |= {"RIGHT_CA": str(self.right), "OTHER_CA": str(self.other)}
        return re.sub(r"\{(\w+)\}", lambda word: words[word[1]], text)


@pytest.fixture(scope="module")
def places(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = Places(redis_server, tmp_path_factory.mktemp("tls"))
    yield made
    for front in made.fronts.values():
        front.close()


def why(url: str) -> str:
    """What is said of it, the same by every part: without its password, its driver and Redis' own advice."""
    store = Store(url)
    with pytest.raises(LaunchError) as asked:
        store.ping()
    store.close()
    submitter = Submitter(url)
    with pytest.raises(LaunchError) as submitted:
        submitter.store.queue_names()
    submitter.store.close()
    assert str(submitted.value) == str(asked.value)
    assert asked.value.exit_code == 69
    assert "\n" not in str(asked.value)
    assert not re.search(r"Errno|HELLO|_ssl\.c|<redis|Error\(", str(asked.value))
    return str(asked.value)


@pytest.mark.parametrize(
    ("url", "cause", "advice"),
    [
        ("redis://:{PASSWORD}@127.0.0.1:{FREE}/0", "nothing listens there", "start it"),
        ("redis://:{PASSWORD}@no-such-host.invalid/0", "host name is not known", "check the name"),
        ("redis://:wrong@127.0.0.1:{PORT}/0", "wrong user name or password", "LAUNCH_REDIS_URL"),
        ("redis://127.0.0.1:{PORT}/0", "wants a password, and was given none", "redis://:PASSWORD@HOST"),
        ("redis://:{PASSWORD}@127.0.0.1:{RIGHT_PORT}/0", "closed the connection", "begins with rediss://"),
        ("rediss://:{PASSWORD}@127.0.0.1:{PORT}/0", "", "begins with redis://"),
        ("rediss://:{PASSWORD}@127.0.0.1:{RIGHT_PORT}/0", "nobody trusted here vouches for", "ssl_ca_certs=FILE"),
        (
            "rediss://:{PASSWORD}@127.0.0.1:{OTHER_PORT}/0?ssl_ca_certs={OTHER_CA}",
            "certificate for another host name",
            "use that name",
        ),
        (
            "rediss://:{PASSWORD}@127.0.0.1:{ASKS_PORT}/0?ssl_ca_certs={RIGHT_CA}",
            "asks clients for certificates",
            "ssl_certfile",
        ),
        ("sentinel://127.0.0.1:{FREE}/main/0", "none of the sentinels of", "start them"),
    ],
)
def test_the_cause_and_what_to_do_are_said(places: Places, url: str, cause: str, advice: str) -> None:
    said = why(places.url(url))
    assert cause in said
    assert advice in said
    assert places.password not in said


@pytest.mark.parametrize("waits", [False, True])
def test_a_server_that_resets_a_tls_connection_after_the_handshake_may_ask_for_certificates(
    places: Places, waits: bool
) -> None:
    """Whether the client finds the end as it writes or as it reads: what is said must not depend on that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(places.right, places.right.with_suffix(".key"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = Store(f"rediss://127.0.0.1:{listener.getsockname()[1]}/0?ssl_ca_certs={places.right}")

        def reset() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as client:
                    if waits:
                        client.recv(1000)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        threading.Thread(target=reset, daemon=True).start()
        with pytest.raises(BrokerUnavailableError, match="asks clients for certificates"):
            store.ping()
        store.close()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("more", ["", "&ssl_check_hostname=true", "&ssl_cert_reqs=required"])
def test_tls_with_a_trusted_certificate_works(places: Places, more: str) -> None:
    store = Store(places.url("rediss://:{PASSWORD}@127.0.0.1:{RIGHT_PORT}/0?ssl_ca_certs={RIGHT_CA}" + more))
    store.ping()
    store.close()


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=false&ssl_ca_certs={OTHER_CA}"])
def test_tls_whose_check_is_switched_off_works_with_any_certificate(places: Places, option: str) -> None:
    store = Store(places.url("rediss://:{PASSWORD}@127.0.0.1:{OTHER_PORT}/0?" + option))
    store.ping()
    store.close()


def test_protected_mode_is_said_in_our_words(tmp_path: Path) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address that is not loopback")
    port = own_port()
    words = [find_redis_server(), "--port", str(port), "--bind", address, "127.0.0.1", "--save", ""]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        local = Store(f"redis://127.0.0.1:{port}/0")
        wait_until(lambda: _answers(local))
        local.close()
        said = why(f"redis://{address}:{port}/0")
    finally:
        server.kill()
        server.wait()
    assert "takes connections from its own machine only, for it has no password (protected mode)" in said


def own_address() -> str | None:
    """An address of this machine that is not loopback; None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def _answers(store: Store) -> bool:
    try:
        store.ping()
    except BrokerUnavailableError:
        return False
    return True


def test_a_port_of_another_service_is_said(places: Places) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://:pw@127.0.0.1:{listener.getsockname()[1]}/0"
        store = Store(url)

        def answer() -> None:
            taken, _ = listener.accept()
            taken.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            taken.recv(1000)
            taken.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(BrokerUnavailableError, match="does not speak as Redis does"):
            store.ping()
        store.close()
