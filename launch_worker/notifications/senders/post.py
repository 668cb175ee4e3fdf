"""Posts JSON to an address that an admin named: one try, bounded in time and in bytes, and never led elsewhere."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Timer
from urllib.parse import urlsplit

from launch_worker.notifications.senders.error import SendError

#: Bytes of an answer that are read: nothing of it is used.
_MOST_ANSWER = 16 << 10
#: Longest wait for which a receiver may ask, in seconds.
_MOST_WAIT_S = 86400.0
#: Answers to which the same message will get the same answer: it is refused, or the receiver is gone for good.
_FINAL = frozenset({400, 410, 413, 415, 422})
#: Addresses at which clouds have the keys of a machine, beside link-local ones.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


def post_json(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> None:
    """Post once. Raises SendError, in which nothing of the address is: it is kept in Redis, and logged.

    A redirect is not followed: it is an error, as any status other than 2xx.
    """
    parts = urlsplit(url)
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    deadline = time.monotonic() + timeout_s
    sock = connect(host, parts.port or (443 if is_secure else 80), timeout_s=timeout_s)
    try:
        # A receiver that sends a byte now and then keeps no wait from being over.
        with cut_at(sock, deadline), _clear_errors(deadline):
            if is_secure:
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
            connection.sock = sock
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            sent = {"Content-Type": "application/json", "User-Agent": "launch_worker", "Connection": "close", **headers}
            connection.request("POST", target, body=body, headers=sent)
            with connection.getresponse() as response:
                response.read(_MOST_ANSWER)
                status, retry_after = response.status, response.getheader("Retry-After", "")
    finally:
        sock.close()
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise SendError(f"it answered {status}, a redirect, which is not followed; set the address that it names")
    raise SendError(
        f"it answered {status} {http.client.responses.get(status, '')}".rstrip(),
        is_final=status in _FINAL,
        retry_after_s=seconds_of(retry_after),
    )


def connect(host: str, port: int, *, timeout_s: float) -> socket.socket:
    """A connection to the first address of the host that takes one. Raises SendError.

    Link-local addresses are refused: clouds have the keys of a machine there. What is checked is the address that is
    connected to, so that no name can lead elsewhere a moment later.
    """
    deadline = time.monotonic() + timeout_s
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SendError("its name has no address now") from None
    why = "its name has no address"
    for family, kind, protocol, _, place in found:
        if not is_allowed(str(place[0])):
            why = "its address is a link-local or special one, to which no notice is sent"
            continue
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            why = "it does not take a connection in time"
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s)
            sock.connect(place)
        except TimeoutError:
            sock.close()
            why = "it does not take a connection in time"
        except OSError as error:
            sock.close()
            why = (error.strerror or "no reason").lower()
        else:
            return sock
    raise SendError(f"it cannot be reached: {why}")


def is_allowed(address: str) -> bool:
    """Whether notices may be sent to this numeric address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found not in _METADATA and not (found.is_link_local or found.is_multicast or found.is_unspecified)


@contextmanager
def cut_at(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Have the connection cut at a time (monotonic seconds), whatever is waited for then."""
    # TLS takes the socket over; another one of the same connection cuts it too.
    same = sock.dup()

    def cut() -> None:
        with suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)

    timer = Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        same.close()


def seconds_of(retry_after: str) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date; None for none."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), _MOST_WAIT_S)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.now(UTC)).total_seconds()), _MOST_WAIT_S)


def why_invalid(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with a certificate, without the name that it is not for."""
    return f"its certificate is not valid: {error.verify_message.partition(', certificate')[0].lower()}"


@contextmanager
def _clear_errors(deadline: float) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise SendError(why_invalid(error)) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            raise SendError("it did not answer in time") from None
        if isinstance(error, http.client.HTTPException):
            raise SendError("what it answered is no HTTP") from None
        raise SendError("it cut the connection") from None
