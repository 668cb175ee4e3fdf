"""Says why Redis could not be asked or would not answer: one sentence, with what to do, for each cause."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    DataError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.sentinel import MasterNotFoundError

from launch_worker.errors import (
    BrokerUnavailableError,
    DamagedError,
    ForbiddenError,
    LaunchError,
    RedisFullError,
    SettingsError,
)
from launch_worker.redis_url import mask_url

#: Refusals for the server's condition, whatever was asked. (redis-py drops the first word where it has a class for it;
#: in a script's error Redis 6.2 has the word within the text.)
_TRANSIENT = re.compile(r"(^|-)(LOADING|READONLY|MISCONF|OOM|BUSY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN)\b")

#: Refusals within a script whose caller lacks a right: of Redis 7.0, and of newer servers.
_FORBIDDEN = re.compile(r"user executing the script can't|ACL failure in script")

#: Refusals of a server that is too old to have functions.
_TOO_OLD = re.compile(r"unknown command\W+(FCALL|FUNCTION)\b", re.IGNORECASE)

#: OpenSSL's numbers for a certificate of another host name, and for one that is not valid now.
_OTHER_NAME = (62, 64)
_EXPIRED = (9, 10)

#: What is said of a TLS connection that the server ended after the client's part of the handshake. With TLS 1.3 that
#: part is over before the server looks at the client's certificate, and a server that refuses it may send an alert, or
#: just reset the connection, before or after the first command is written.
_ENDED_TLS = (
    "ended the TLS connection; it may be stopping, or asks clients for certificates: then name ours with ssl_certfile "
    "and ssl_keyfile in LAUNCH_REDIS_URL"
)

#: Errors of a connection that the other side has closed, seen while something is read or written.
_CLOSED = (ConnectionResetError, BrokenPipeError)

_FULL = re.compile(r"\bOOM\b|command not allowed when used memory")
_NOT_SAVED = re.compile(r"\bMISCONF\b|configured to save RDB snapshots|stop-writes-on-bgsave-error")
_READ_ONLY = re.compile(r"\bREADONLY\b|read only replica|\bMASTERDOWN\b|Link with MASTER is down")


def explained(url: str, error: Exception) -> LaunchError:
    """The error of ours that explains an error of redis-py or of the operating system."""
    shown, text = f"Redis at {mask_url(url)}", str(error)
    if isinstance(error, NoPermissionError) and "function|load" in text:
        return ForbiddenError(
            f"{shown} does not have the functions of this version, and its user may not load them ({text}); start a "
            "worker or beat of this version, which does, and then try again"
        )
    if isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and _FORBIDDEN.search(text)):
        return ForbiddenError(f"the user of {shown} may not do this ({text}); log in as one who may: LAUNCH_REDIS_URL")
    if isinstance(error, DataError):
        return DamagedError(f"this cannot be sent to Redis: {text}")
    why = _login(text, error) or _protected(text)
    if why:
        return BrokerUnavailableError(f"{shown} {why}")
    if isinstance(error, MasterNotFoundError):
        return BrokerUnavailableError(_no_master(url, text))
    if isinstance(error, (ConnectionError, TimeoutError, OSError)):
        return BrokerUnavailableError(f"{shown} {_unreachable(url, error)}")
    if isinstance(error, InvalidResponse):
        return BrokerUnavailableError(
            f"what answers at {mask_url(url)} does not speak as Redis does; if its port is for TLS, LAUNCH_REDIS_URL "
            "begins with rediss://, else check host and port"
        )
    if isinstance(error, ResponseError):
        return _refused(shown, error)
    return BrokerUnavailableError(f"{shown} failed: {text}")


def _login(text: str, error: Exception) -> str:
    lower = text.lower()
    if "without any password configured" in lower:
        return "has no password, but LAUNCH_REDIS_URL gives one; set it there (requirepass), or leave it out of the URL"
    # A client of a newer protocol begins with HELLO.
    if "noauth" in lower or "authentication required" in lower or "hello must be called" in lower:
        return (
            "wants a password, and was given none; write it into LAUNCH_REDIS_URL as redis://:PASSWORD@HOST:PORT/DB, "
            "or USER:PASSWORD@ for a user of its own"
        )
    if isinstance(error, AuthenticationError) or "wrongpass" in lower or "invalid password" in lower:
        return "refused the login: wrong user name or password in LAUNCH_REDIS_URL, or the user is switched off"
    return ""


def _protected(text: str) -> str:
    if "protected mode" not in text:
        return ""
    return (
        "takes connections from its own machine only, for it has no password (protected mode); give it one "
        "(requirepass, or users: deploy/redis/users.conf) and write it into LAUNCH_REDIS_URL"
    )


def _no_master(url: str, text: str) -> str:
    # redis-py repeats each sentinel's own error.
    if re.search(r" - (\w+:)?\w*Error", text):
        return (
            f"none of the sentinels of {mask_url(url)} could be asked; start them, or set LAUNCH_REDIS_URL to where "
            "they are"
        )
    return (
        f"the sentinels of {mask_url(url)} know no living master of this name; check the name in LAUNCH_REDIS_URL, or "
        "wait for their failover"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(url: str, error: Exception) -> str:
    has_tls = url.startswith("rediss:")
    plain_port = "its port may be one without TLS: then LAUNCH_REDIS_URL begins with redis://"
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause)
        if isinstance(cause, ssl.SSLError):
            if "ALERT" in (cause.reason or "") or "connecting" not in str(error):
                return _ENDED_TLS
            return f"did not complete a TLS handshake; {plain_port}"
        if isinstance(cause, socket.gaierror):
            return "is not reachable: its host name is not known here; check the name in LAUNCH_REDIS_URL"
        if isinstance(cause, ConnectionRefusedError):
            return "is not reachable: nothing listens there; start it, or set LAUNCH_REDIS_URL to where it is"
    text = str(error)
    if "max number of clients" in text:
        return "takes no more connections (maxclients); raise its maxclients, or start fewer workers"
    if isinstance(error, TimeoutError) or any(isinstance(cause, socket.timeout) for cause in _chain(error)):
        if has_tls and "connecting" in text:
            return f"did not answer in time; check that it is well, or {plain_port}"
        return "did not answer in time; check that it is well, and LAUNCH_REDIS_URL"
    if "closed by server" in text.lower() or any(isinstance(cause, _CLOSED) for cause in _chain(error)):
        if has_tls and "connecting" not in text:
            return _ENDED_TLS
        other = plain_port if has_tls else "its port may be one for TLS: then LAUNCH_REDIS_URL begins with rediss://"
        return f"is not reachable: it closed the connection; it may be stopping, or {other}"
    return "is not reachable; start it, or set LAUNCH_REDIS_URL to where it is"


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            "has a certificate for another host name; use that name in LAUNCH_REDIS_URL, or give the server a "
            "certificate for this one"
        )
    if error.verify_code in _EXPIRED:
        return (
            f"has a certificate that is not valid now ({error.verify_message}); renew it, or set this machine's clock"
        )
    return (
        f"has a certificate that nobody trusted here vouches for ({error.verify_message}); name its authority with "
        "?ssl_ca_certs=FILE in LAUNCH_REDIS_URL, or install it on this machine"
    )


def _refused(shown: str, error: ResponseError) -> LaunchError:
    text = str(error)
    if _TOO_OLD.search(text):
        return SettingsError(f"{shown} is too old: it has no functions; use Redis 7.0 or newer, or Valkey 8 or newer")
    if "DB index is out of range" in text:
        return SettingsError(f"{shown} has no such database; check LAUNCH_REDIS_URL")
    if isinstance(error, OutOfMemoryError) or _FULL.search(text):
        return RedisFullError(f"{shown} is full (maxmemory); raise its maxmemory or lower LAUNCH_RETENTION")
    if _NOT_SAVED.search(text):
        return BrokerUnavailableError(
            f"{shown} cannot save its data to disk, and takes no writes until it can (MISCONF); make room on its disk, "
            "and read its log"
        )
    if isinstance(error, (ReadOnlyError, MasterDownError)) or _READ_ONLY.search(text):
        return BrokerUnavailableError(
            f"{shown} is a replica that only reads; set LAUNCH_REDIS_URL to its master, or wait for the failover"
        )
    if "max number of clients" in text:
        return BrokerUnavailableError(
            f"{shown} takes no more connections (maxclients); raise its maxclients, or start fewer workers"
        )
    if _TRANSIENT.search(text):
        return BrokerUnavailableError(f"{shown} refuses to work now: {text}")
    return DamagedError(f"{shown} holds something unexpected: {text}")
