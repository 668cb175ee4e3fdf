"""Speaks to a server over HTTP, by the standard library: connections that are used again, proxies, problems as errors.

It imports no redis, and nothing that only Linux has: a person waits for `launch-submit`, on whatever machine.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

from launch_worker import errors
from launch_worker.errors import InputError, LaunchError, LoginError, ServerUnavailableError
from launch_worker.untrusted.text import read_json

#: Seconds without any byte of a stream, whose server says something every 15 s, after which it is gone.
SILENCE_S = 40.0
#: Seconds for a connection to be made, and for the next bytes of an answer.
_CONNECT_S = 5.0
_ANSWER_S = 60.0
#: Bytes of a piece of an answer that is read as it comes.
_PIECE_BYTES = 64 << 10
_API = "/api/v1"
#: Methods of which a repeated request changes nothing more.
_REPEATABLE = frozenset({"GET", "PUT", "PATCH"})
#: What is raised for a connection that the other side has ended.
_CUT = (ConnectionError, http.client.IncompleteRead)

Body = bytes | Iterable[bytes] | None
T = TypeVar("T")


class LostAnswerError(ServerUnavailableError):
    """The connection was cut after the request, and before the whole answer."""


class HttpConnection:
    """One server. Thread-safe: each request has a connection for itself, which another one uses again."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_secure else 80)
        self._path = f"{parts.path}{_API}"
        self._headers = {"Accept-Encoding": "gzip", "User-Agent": "launch_worker"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        #: Connections that nobody uses now.
        self._idle: list[http.client.HTTPConnection] = []
        self._proxy = _proxy_of(parts.scheme, self._authority)
        if self._proxy is not None and not self._is_secure:
            self._headers |= self._proxy.headers

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        # Nobody closes an `Api`, and a socket must not be left to the collector, which warns.
        for connection in getattr(self, "_idle", ()):
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool | None = None,
    ) -> Any:
        """The JSON of an answer; None for an empty one. Raises LaunchError for a problem. For the rest see `answer`."""
        # What is no UTF-8 is escaped: the server says where it is.
        data = None if body is None else json.dumps(body).encode()
        more = {"Content-Type": "application/json"} if data is not None else {}
        if is_repeatable is None:
            is_repeatable = method in _REPEATABLE

        def once() -> Any:
            with self.answer(
                method, path, query=query, body=data, headers={**more, **(headers or {})}, is_repeatable=is_repeatable
            ) as response:
                return _json(_inflated(response))

        return self.repeated(once) if is_repeatable else once()

    def repeated(self, request: Callable[[], T]) -> T:
        """What a request gives that may be repeated: it is made once more where its answer was lost."""
        try:
            return request()
        except LostAnswerError as lost:
            try:
                return request()
            except ServerUnavailableError:
                # The first request may have been carried out.
                raise lost from None

    def read(self, path: str, *, query: Mapping[str, Any] | None = None) -> bytes:
        """The bytes of an answer. Raises LaunchError for a problem."""

        def once() -> bytes:
            with self.answer("GET", path, query=query) as response:
                return _inflated(response)

        return self.repeated(once)

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _ANSWER_S,
        is_repeatable: bool | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and yield the answer to be read. Raises LaunchError for a problem.

        One that is not repeatable (None: as its method says) is sent on a new connection, so that no connection that
        the server is about to end makes its effect unknown. Raises ServerUnavailableError where nobody answers, as
        LostAnswerError where the connection was cut meanwhile.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = self._path + path + (f"?{urlencode(given, doseq=True)}" if given else "")
        is_repeatable = method in _REPEATABLE if is_repeatable is None else is_repeatable
        all_headers = {**self._headers, **(headers or {})}
        with self._errors(method):
            connection, response = self._send(method, target, body, all_headers, timeout_s, is_repeatable)
            try:
                if response.status >= 400:
                    raise _problem(response.status, _inflated(response))
                yield response
            except BaseException:
                connection.close()
                raise
        if response.isclosed() and not response.will_close:
            self._idle.append(connection)
        else:
            connection.close()

    def lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The lines of an answer as they come, to be taken while the answer is open."""
        inflate = _inflater(response)
        rest = b""
        while data := response.read1(_PIECE_BYTES):
            rest += inflate(data)
            *lines, rest = rest.split(b"\n")
            yield from lines
        if rest:
            yield rest

    def pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The bytes of an answer of any size, to be taken while the answer is open."""
        inflate = _inflater(response)
        while data := response.read(_PIECE_BYTES):
            yield inflate(data)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)

    def _send(
        self, method: str, target: str, body: Body, headers: dict[str, str], timeout_s: float, is_repeatable: bool
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send on a connection that was used before, where there is one and it still lives, else on a new one."""
        while True:
            is_used = bool(self._idle) and is_repeatable
            connection = self._idle.pop() if is_used else self._connect()
            try:
                connection.sock.settimeout(timeout_s)
                full = target if self._proxy is None or self._is_secure else f"http://{self._authority}{target}"
                connection.request(method, full, body=body, headers=headers, encode_chunked=_is_stream(body))
                return connection, connection.getresponse()
            except _CUT:
                connection.close()
                # The server ends connections that nobody uses.
                if not is_used or _is_stream(body):
                    raise
            except BaseException:
                connection.close()
                raise

    @property
    def _authority(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def _connect(self) -> http.client.HTTPConnection:
        host, port = (self._host, self._port) if self._proxy is None else self._proxy[:2]
        connection: http.client.HTTPConnection
        if self._is_secure:
            # The usual places of certificates, or SSL_CERT_FILE and SSL_CERT_DIR.
            connection = http.client.HTTPSConnection(host, port, timeout=_CONNECT_S)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
        if self._proxy is not None and self._is_secure:
            connection.set_tunnel(self._host, self._port, headers=self._proxy.headers)
        # Until there is a connection nothing was asked.
        with self._errors():
            connection.connect()
        return connection

    @contextmanager
    def _errors(self, asked: str = "") -> Iterator[None]:
        """Turn what is raised into ServerUnavailableError; `asked` is the method of a request that was sent."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise self._away(error, asked) from error

    def _away(self, error: Exception, asked: str) -> ServerUnavailableError:
        import ssl

        unknown = "" if asked in ("", "GET") else "; whether it did what was asked is not known"
        if asked and isinstance(error, (*_CUT, ssl.SSLEOFError)):
            return LostAnswerError(f"the server {self.url} ended the connection before it had answered{unknown}")
        why = str(getattr(error, "strerror", "") or error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted here ({error.verify_message}); name its authority by SSL_CERT_FILE"
        elif isinstance(error, TimeoutError):
            why = f"it did not answer in time{unknown}"
        return ServerUnavailableError(f"the server {self.url} cannot be used: {why}")


def part_of_path(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")


def _is_stream(body: Body) -> bool:
    return body is not None and not isinstance(body, bytes)


def _inflated(response: http.client.HTTPResponse) -> bytes:
    data: bytes = _inflater(response)(response.read())
    return data


def _inflater(response: http.client.HTTPResponse) -> Any:
    """A function that undoes the encoding of an answer, piece by piece."""
    if response.headers.get("Content-Encoding") != "gzip":
        return bytes
    import zlib

    return zlib.decompressobj(wbits=31).decompress


def _json(data: bytes) -> Any:
    try:
        return read_json(data) if data else None
    except ValueError as error:
        raise ServerUnavailableError(f"what answers there is no launch-worker server: {error}") from None


def error_of(problem: Mapping[str, Any], status: int = 500) -> LaunchError:
    """The error that a problem document tells of, of the same class as at the server."""
    kind = getattr(errors, str(problem.get("code")), None)
    if not (isinstance(kind, type) and issubclass(kind, LaunchError)):
        kind = LoginError if status == 401 else LaunchError
    return kind(str(problem.get("detail") or f"the server answered with status {status}"))


def _problem(status: int, data: bytes) -> LaunchError:
    try:
        found = read_json(data)
    except ValueError:
        found = None
    if isinstance(found, dict) and "code" in found:
        return error_of(found, status)
    return ServerUnavailableError(f"what answers there is no launch-worker server; its status is {status}")


class _Proxy(NamedTuple):
    """An HTTP proxy."""

    host: str
    port: int
    #: Headers for the proxy alone: its login.
    headers: dict[str, str]


def _proxy_of(scheme: str, authority: str) -> _Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for this server; None for none."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        return None
    # Imported where there is one: a person waits.
    from base64 import b64encode
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or proxy_bypass(authority):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if parts.scheme != "http" or not host:
        raise InputError(
            f"the proxy for {scheme} cannot be used; write {scheme.upper()}_PROXY as http://HOST:PORT, or name "
            "the server in NO_PROXY"
        )
    login = "" if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    headers = {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    return _Proxy(host, port, headers)
