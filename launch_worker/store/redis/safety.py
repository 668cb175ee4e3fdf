"""Checks that strangers cannot write to a Redis: whoever can runs commands on every worker."""

from __future__ import annotations

import ipaddress
import socket

from launch_worker.errors import SettingsError
from launch_worker.redis_url import RedisUrl
from launch_worker.settings import Settings

INSECURE = "LAUNCH_INSECURE=1"


def check_safe(settings: Settings) -> None:
    """What workers, beat, server and archive do first. Raises SettingsError, unless LAUNCH_INSECURE is 1."""
    why = "" if settings.is_insecure else why_unsafe(RedisUrl.parse(settings.redis_url))
    if why:
        raise SettingsError(why)


def why_unsafe(url: RedisUrl) -> str:
    """Why a Redis is not kept from strangers, by its URL alone; '' where it is, or is on loopback."""
    tls = url.tls
    # Where authorities of the whole world vouch for the certificate, anybody has one of them vouch for another name.
    is_of_any_host = bool(tls) and not tls["ssl_check_hostname"] and "ssl_ca_certs" not in tls
    is_verified = tls.get("ssl_cert_reqs") != "none" and not is_of_any_host
    if ((url.password or "ssl_certfile" in tls) and is_verified) or is_loopback(url):
        return ""
    if not is_verified:
        what = "ssl_check_hostname=false" if tls["ssl_cert_reqs"] != "none" else "ssl_cert_reqs=none"
        return (
            f"Redis at {url.shown} could be anybody, for LAUNCH_REDIS_URL has its certificate not verified "
            f"({what}); name its authority with ssl_ca_certs=FILE instead, or set {INSECURE} where nobody "
            "else can reach the network between"
        )
    return (
        f"Redis at {url.shown} is not on loopback, and LAUNCH_REDIS_URL has no password: whoever reaches it could run "
        "commands on every worker; give it a password (requirepass, or users: deploy/redis/users.conf), or set "
        f"{INSECURE} where nobody else can reach it"
    )


def is_loopback(url: RedisUrl) -> bool:
    """Whether all its servers are addresses of this machine alone."""
    return all(_is_loopback(host) for host, _ in url.servers)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
