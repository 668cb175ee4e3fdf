"""What an identity provider signs is believed only where it is meant for this login; settings get sentences."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from launch_worker.errors import LaunchError, LoginError, ServerUnavailableError, SettingsError
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


class Scripted(BaseHTTPRequestHandler):
    """A provider that says what a test has it say."""

    answers: dict[str, Any]

    def do_GET(self) -> None:
        said = self.answers.get(self.path, 404)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(said if isinstance(said, int) else 400 if b'"error"' in body else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def scripted() -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of a provider, and its answers, all of them good for LOGIN."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        metadata = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize?tenant=x",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/keys",
            "userinfo_endpoint": f"{url}/userinfo",
        }
        tokens = {"access_token": "a", "id_token": signed(iss=url, nonce=LOGIN.nonce)}
        userinfo = {"sub": "1", "preferred_username": "ada", "groups": ["staff"]}
        Scripted.answers = {METADATA: metadata, "/token": tokens, "/keys": PUBLISHED, "/userinfo": userinfo}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield url, Scripted.answers
        server.shutdown()
        thread.join()


LOGIN = PendingLogin.begin("/")
METADATA = "/.well-known/openid-configuration"


def claims_from(url: str) -> Any:
    return asyncio.run(Provider(settings(LAUNCH_OIDC_URL=url)).claims(LOGIN, "code", callback="http://here"))


def test_names_and_groups_that_are_not_in_the_token_are_asked_for(scripted: tuple[str, dict[str, Any]]) -> None:
    found = claims_from(scripted[0])
    assert (found.name, found.groups, found.subject) == ("ada", {"staff"}, f"{scripted[0]} 1")
    there = asyncio.run(Provider(settings(LAUNCH_OIDC_URL=f"{scripted[0]}/")).begin(LOGIN, callback="http://here"))
    assert there.startswith(f"{scripted[0]}/authorize?tenant=x&response_type=code&")


@pytest.mark.parametrize(
    ("path", "said", "kind"),
    [
        (METADATA, {"issuer": "https://evil.example"}, LoginError),
        (METADATA, [], LoginError),
        (METADATA, b"<html>", LoginError),
        (METADATA, 404, ServerUnavailableError),
        (METADATA, 302, ServerUnavailableError),
        ("/token", 503, ServerUnavailableError),
        ("/token", {"error": "invalid_grant", "error_description": "no"}, LoginError),
        ("/token", {"error": 5}, LoginError),
        ("/token", {}, LoginError),
        ("/token", {"id_token": 5}, LoginError),
        ("/keys", {}, LoginError),
        ("/keys", {"keys": [5]}, LoginError),
        ("/keys", {"keys": [{"kty": "EC"}, {"kty": "RSA"}]}, LoginError),
        ("/userinfo", {"sub": "2", "preferred_username": "root"}, LoginError),
        ("/userinfo", b"a.signed.text", LoginError),
    ],
)
def test_nonsense_of_a_provider_is_a_sentence(
    scripted: tuple[str, dict[str, Any]], path: str, said: Any, kind: type[LaunchError]
) -> None:
    url, answers = scripted
    answers[path] = said
    with pytest.raises(kind, match=r"try again|refused"):
        claims_from(url)


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
