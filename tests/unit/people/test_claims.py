"""What an identity provider or a proxy says becomes a name, groups and a role, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.errors import LoginError, SettingsError
from launch_worker.people.claims import (
    Claims,
    OidcRules,
    ProxyRules,
    claims_of_oidc,
    claims_of_proxy,
    parse_networks,
    parse_roles,
)
from launch_worker.people.roles import Role

PROXY = ProxyRules(
    networks=parse_networks("10.0.0.0/8, ::1", what="X"),
    roles={"admins": Role.ADMIN, "Ops Team": Role.OPERATOR},
)
OIDC = OidcRules(roles={"admins": Role.ADMIN, "/staff/ml": Role.MEMBER})
GOOD = {"iss": "https://idp", "sub": "1", "preferred_username": "Ada", "name": "Ada\x1b L.", "groups": ["/staff/ml"]}


@pytest.mark.parametrize("peer", ["10.1.2.3", "::1", "::ffff:10.1.2.3"])
def test_a_trusted_proxy_names_a_person(peer: str) -> None:
    headers = [("x-forwarded-user", " Ada "), ("X-Forwarded-Groups", "ml, Ops Team,,ÄÖ"), ("Other", "x")]
    assert claims_of_proxy(headers, peer, PROXY) == Claims(
        "ada", groups=frozenset({"ml", "ops-team"}), role=Role.OPERATOR
    )


@pytest.mark.parametrize("peer", ["192.0.2.1", "", "unix", "::2", "11.0.0.1"])
def test_from_anywhere_else_the_headers_mean_nothing(peer: str) -> None:
    assert claims_of_proxy([("X-Forwarded-User", "root")], peer, PROXY) is None
    assert claims_of_proxy([("X-Forwarded-User", "root")], "127.0.0.1", ProxyRules()) is None


def test_a_proxy_that_names_nobody_is_nobody() -> None:
    assert claims_of_proxy([], "10.0.0.1", PROXY) is None
    assert claims_of_proxy([("X-Forwarded-User", "  "), ("X-Forwarded-Groups", "admins")], "10.0.0.1", PROXY) is None


@pytest.mark.parametrize("name", ["X-Forwarded-User", "x-forwarded-groups"])
def test_a_header_that_comes_twice_is_refused(name: str) -> None:
    headers = [("X-Forwarded-User", "ada"), ("X-Forwarded-Groups", ""), (name, "root")]
    with pytest.raises(LoginError, match="twice"):
        claims_of_proxy(headers, "10.0.0.1", PROXY)


def test_without_a_header_for_groups_none_is_read() -> None:
    rules = ProxyRules(networks=PROXY.networks, groups_header="", roles=PROXY.roles)
    headers = [("X-Forwarded-User", "ada"), ("X-Forwarded-Groups", "admins"), ("", "admins")]
    assert claims_of_proxy(headers, "10.0.0.1", rules) == Claims("ada")


def test_a_provider_names_a_person() -> None:
    assert claims_of_oidc(GOOD, OIDC) == Claims(
        "ada",
        subject="https://idp 1",
        display="Ada\N{REPLACEMENT CHARACTER} L.",
        groups=frozenset({"staff.ml"}),
        role=Role.MEMBER,
    )


@pytest.mark.parametrize(
    ("change", "groups", "role"),
    [
        ({"groups": "admins"}, {"admins"}, Role.ADMIN),
        ({"groups": ["admins", 5, None, {"a": 1}, "x" * 100]}, {"admins"}, Role.ADMIN),
        ({"groups": {"admins": True}}, set(), Role.NONE),
        ({"groups": None}, set(), Role.NONE),
        ({"groups": [f"g{at}" for at in range(5000)] + ["admins"]}, {f"g{at}" for at in range(200)}, Role.NONE),
    ],
)
def test_groups_may_be_anything(change: dict[str, Any], groups: set[str], role: Role) -> None:
    found = claims_of_oidc(GOOD | change, OIDC)
    assert (set(found.groups), found.role) == (groups, role)


def test_a_claim_may_lie_in_another() -> None:
    rules = OidcRules(groups_claim="realm_access.roles", roles=OIDC.roles)
    assert claims_of_oidc(GOOD | {"realm_access": {"roles": ["admins"]}}, rules).role is Role.ADMIN
    assert claims_of_oidc(GOOD | {"realm_access": "admins"}, rules).role is Role.NONE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sub": None}, "iss and sub"),
        ({"iss": ""}, "iss and sub"),
        ({"iss": "https://idp 1"}, "iss and sub"),
        ({"sub": 5}, "iss and sub"),
        ({"preferred_username": ""}, "no name"),
        ({"preferred_username": None, "email": "ada@x.org"}, "no name"),
        ({"preferred_username": None, "email": "ada@x.org", "email_verified": "true"}, "no name"),
        ({"preferred_username": "a b"}, "cannot be used"),
        ({"preferred_username": "x" * 100}, "cannot be used"),
    ],
)
def test_a_login_without_a_good_name_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(LoginError, match=why):
        claims_of_oidc(GOOD | change, OIDC)


def test_an_address_of_mail_that_was_verified_is_a_name() -> None:
    found = claims_of_oidc(GOOD | {"preferred_username": None, "email": "Ada@X.org", "email_verified": True}, OIDC)
    assert found.name == "ada@x.org"


def test_settings_are_read_or_refused() -> None:
    assert parse_roles(" admins=admin, a=b=member,", what="X") == {"admins": Role.ADMIN, "a=b": Role.MEMBER}
    assert parse_roles("", what="X") == {}
    for text in ("admins", "admins=root", "=admin"):
        with pytest.raises(SettingsError, match="X must be GROUP=ROLE"):
            parse_roles(text, what="X")
    assert parse_networks("", what="X") == ()
    for text in ("10.0.0.1/8", "host", "10.0.0.0/99"):
        with pytest.raises(SettingsError, match="X must be addresses"):
            parse_networks(text, what="X")
