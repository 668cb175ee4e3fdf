"""What an identity provider signs is believed only where it is meant for this login; settings get sentences."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from launch_worker.errors import SettingsError
from launch_worker.server.oidc import PendingLogin, Provider, verified
from launch_worker.server.routes.login_page import local
from launch_worker.settings import Settings

ISSUER, CLIENT, NONCE = "https://idp.example", "launch", "n" * 64
KEY, OTHER = ECKey.generate_key("P-256", auto_kid=True), ECKey.generate_key("P-256", auto_kid=True)
PUBLISHED = KeySet([KEY]).as_dict(private=False)


def claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {"iss": ISSUER, "sub": "1", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": NONCE} | change
    return {name: value for name, value in given.items() if value is not None}


def signed(key: Any = KEY, alg: str = "ES256", kid: str | None = "", **change: Any) -> str:
    header = {"alg": alg, "kid": key.kid if kid == "" else kid}
    return jwt.encode({k: v for k, v in header.items() if v is not None}, claims(**change), key, algorithms=[alg])


def check(text: str, keys: Any = PUBLISHED) -> dict[str, Any]:
    return verified(text, keys, issuer=ISSUER, client_id=CLIENT, nonce=NONCE)


@pytest.mark.parametrize("change", [{}, {"aud": [CLIENT]}, {"aud": [CLIENT, "x"], "azp": CLIENT}, {"groups": ["a"]}])
def test_a_token_for_this_login_is_believed(change: dict[str, Any]) -> None:
    assert check(signed(**change))["sub"] == "1"


def test_of_the_published_keys_the_one_that_is_named_counts_and_strange_ones_are_left_out() -> None:
    rsa = RSAKey.generate_key(2048, auto_kid=True)
    keys: dict[str, Any] = {"keys": [{"kty": "AKP", "kid": "x"}, *KeySet([KEY, rsa]).as_dict(private=False)["keys"]]}
    assert check(signed(), keys)
    assert check(signed(rsa, "RS256"), keys)


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": "another", "azp": CLIENT},
        {"azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"iat": int(time.time()) + 86400},
    ],
)
def test_a_token_for_anything_else_is_not(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        check(signed(**change))


def test_a_token_of_another_key_is_not_whatever_it_says_of_its_key() -> None:
    for text in (signed(OTHER), signed(OTHER, kid=KEY.kid), signed(OTHER, kid=None)):
        with pytest.raises(ValueError):
            check(text)


def test_a_token_without_a_signature_or_with_one_that_anybody_can_make_is_not() -> None:
    oct_key = OctKey.import_key("the published key " * 4, {"kid": KEY.kid or ""})
    head, body, signature = signed().split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for text in (
        signed(oct_key, "HS256"),
        f"{unsigned}.{body}.",
        f"{head}.{body}.",
        f"{head}.{signed(sub='2').split('.')[1]}.{signature}",
        "",
        "a.b.c",
    ):
        with pytest.raises(ValueError):
            check(text, {"keys": [*PUBLISHED["keys"], oct_key.as_dict(private=True)]})


def test_each_login_has_its_own_secrets_and_the_cookie_has_them_all() -> None:
    first, second = PendingLogin.begin("/a?b=c;d"), PendingLogin.begin("/")
    assert PendingLogin.from_cookie(first.as_cookie()) == first
    seen = {first.state, first.nonce, first.verifier, first.challenge, second.state, second.nonce, second.verifier}
    assert len(seen) == 7
    assert first.secret not in f"{first.state}{first.nonce}{first.challenge}"
    assert first.is_of(first.state)
    assert not first.is_of(second.state)
    assert not first.is_of("\udce4")
    for text in ("", ".", "short./", "\udce4"):
        assert PendingLogin.from_cookie(text) is None


@pytest.mark.parametrize("path", ["//evil", "https://evil", "/\\evil", "x", "", "/a\nb", "/" + "x" * 3000])
def test_only_a_path_of_this_server_is_gone_to(path: str) -> None:
    assert local(path) == "/"
    assert local("/celery/tasks?x=1") == "/celery/tasks?x=1"


def settings(**variables: str) -> Settings:
    given = {"LAUNCH_OIDC_URL": ISSUER, "LAUNCH_OIDC_CLIENT_ID": CLIENT}
    return Settings.from_env(given | variables)


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"LAUNCH_OIDC_URL": "http://idp.example"}, "LAUNCH_OIDC_URL must be"),
        ({"LAUNCH_OIDC_URL": "idp.example"}, "LAUNCH_OIDC_URL must be"),
        ({"LAUNCH_OIDC_CLIENT_ID": ""}, "LAUNCH_OIDC_CLIENT_ID is missing"),
        ({"LAUNCH_OIDC_ROLES": "admins"}, "LAUNCH_OIDC_ROLES must be"),
        ({"LAUNCH_OIDC_CLIENT_SECRET_FILE": "/nowhere/secret"}, "LAUNCH_OIDC_CLIENT_SECRET_FILE cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_gets_a_sentence(variables: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Provider(settings(**variables))


def test_a_secret_in_a_file_is_read_and_is_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hush hush\n")
    assert Provider(settings(LAUNCH_OIDC_CLIENT_SECRET_FILE=str(file)))._secret == "hush hush"
    assert "hush" not in repr(settings(LAUNCH_OIDC_CLIENT_SECRET="hush"))


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(SettingsError, match=r"pip install 'launch_worker\[oidc\]'"):
        Provider(settings())


def test_nobody_is_left_without_a_way_in() -> None:
    with pytest.raises(SettingsError, match="LAUNCH_PASSWORDS=0 leaves nobody"):
        Settings.from_env({"LAUNCH_PASSWORDS": "0"})
    assert not settings(LAUNCH_PASSWORDS="0").takes_passwords
