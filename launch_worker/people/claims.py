"""Reads what an identity provider or a trusted proxy says of a person: name, groups, role."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from launch_worker.errors import InputError, LoginError, SettingsError
from launch_worker.people.names import check_name
from launch_worker.people.roles import Role
from launch_worker.untrusted.text import clean

#: Groups of one person, at most; more are left out.
_MOST_GROUPS = 200

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Claims:
    """What somebody trusted says of a person who logs in."""

    name: str
    #: Name at the identity provider that never changes, `ISSUER SUBJECT`; '' for a proxy, whose names are ours.
    subject: str = ""
    display: str = ""
    groups: frozenset[str] = frozenset()
    #: Highest system-wide role of the groups.
    role: Role = Role.NONE


@dataclass(frozen=True)
class ProxyRules:
    """Which proxies are trusted, and in which headers they name a person."""

    #: Networks from which the proxies ask; none: no proxy is trusted.
    networks: tuple[Network, ...] = ()
    user_header: str = "X-Forwarded-User"
    #: Header with the groups, separated by commas; '' for none.
    groups_header: str = "X-Forwarded-Groups"
    #: Roles of groups, by the names that the proxy says.
    roles: Mapping[str, Role] = field(default_factory=dict)

    def trusts(self, peer: str) -> bool:
        """Whether a request from this address is a proxy's."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


@dataclass(frozen=True)
class OidcRules:
    """Which claims of an identity provider say what."""

    #: Claims with the name, the first that is there. An address of mail counts only where it was verified.
    name_claims: tuple[str, ...] = ("preferred_username", "email")
    #: Claim with the list of groups; dots lead into nested claims.
    groups_claim: str = "groups"
    #: Roles of groups, by the names that the provider says.
    roles: Mapping[str, Role] = field(default_factory=dict)


def claims_of_proxy(headers: Iterable[tuple[str, str]], peer: str, rules: ProxyRules) -> Claims | None:
    """What a trusted proxy says of who asks; None from any other address, and where no header names somebody.

    Raises LoginError for headers that can be read in two ways.
    """
    if not rules.trusts(peer):
        return None
    wanted = (rules.user_header.lower(), rules.groups_header.lower())
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if name not in wanted or not name:
            continue
        if name in found:
            raise LoginError(f"the proxy sent the header {name} twice; it must replace the one of the client")
        found[name] = value
    user = found.get(wanted[0], "").strip()
    if not user:
        return None
    said = (part.strip() for part in found.get(wanted[1], "").split(","))
    groups, role = groups_and_role(filter(None, said), rules.roles)
    return Claims(_name(user), groups=groups, role=role)


def claims_of_oidc(claims: Mapping[str, Any], rules: OidcRules) -> Claims:
    """What an identity provider says in a token that was verified. Raises LoginError."""
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not (isinstance(issuer, str) and isinstance(subject, str) and issuer and subject and " " not in issuer):
        raise LoginError("the identity provider did not say who this is: the claims iss and sub are missing")
    name = next(filter(None, (_name_claim(claims, claim) for claim in rules.name_claims)), "")
    if not name:
        raise LoginError(f"the identity provider said no name in {' or '.join(rules.name_claims)}; ask an admin")
    said: Any = claims
    for part in rules.groups_claim.split("."):
        said = said.get(part) if isinstance(said, Mapping) else None
    said = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    groups, role = groups_and_role((text for text in said if isinstance(text, str)), rules.roles)
    display = claims.get("name")
    return Claims(
        _name(name),
        subject=f"{issuer} {subject}",
        display=clean(display)[:100] if isinstance(display, str) else "",
        groups=groups,
        role=role,
    )


def _name_claim(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or (claim == "email" and claims.get("email_verified") is not True):
        return ""
    return value


def _name(text: str) -> str:
    try:
        return check_name("user", text)
    except InputError as error:
        raise LoginError(f"the login gave a name that cannot be used: {error}") from None


def parse_networks(text: str, *, what: str) -> tuple[Network, ...]:
    """Read addresses and networks with commas between. Raises SettingsError."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"{what} must be addresses or networks, with commas between: {error}") from None


def groups_and_role(said: Iterable[str], roles: Mapping[str, Role]) -> tuple[frozenset[str], Role]:
    """Our groups of those that were said, and the highest role that one of them has; what is no name is left out."""
    groups = set()
    role = Role.NONE
    for text in islice(said, _MOST_GROUPS):
        role = max(role, roles.get(text, Role.NONE))
        try:
            groups.add(check_name("group", text.removeprefix("/").replace("/", ".").replace(" ", "-")))
        except InputError:
            continue
    return frozenset(groups), role


def parse_roles(text: str, *, what: str) -> dict[str, Role]:
    """Read `GROUP=ROLE,GROUP=ROLE`. Raises SettingsError."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        group, _, label = part.rpartition("=")
        try:
            found[group.strip()] = Role.parse(label.strip())
        except InputError as error:
            raise SettingsError(f"{what} must be GROUP=ROLE, with commas between: {error}") from None
        if not group.strip():
            raise SettingsError(f"{what} must be GROUP=ROLE, with commas between")
    return found
