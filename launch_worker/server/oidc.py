"""Logs people in by an identity provider: OpenID Connect's authorization code flow, with PKCE."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import httpx

from launch_worker.errors import LoginError, ServerUnavailableError, SettingsError
from launch_worker.people.claims import Claims, OidcRules, claims_of_oidc, parse_roles
from launch_worker.people.secrets import hash_of, new_session
from launch_worker.server.address import Address
from launch_worker.settings import Settings
from launch_worker.untrusted.text import clean, read_json

log = logging.getLogger("launch_worker.server")

#: Seconds in which a login must have come back from the provider.
PENDING_S = 600
#: Seconds for each answer of the provider.
_ANSWER_S = 10.0
#: Seconds by which the provider's clock may differ from ours.
_LEEWAY_S = 60
#: Algorithms by which a token may be signed: those for which the provider alone has the key.
_ALGORITHMS = tuple(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))
#: Kinds of keys of these algorithms.
_KEY_KINDS = ("RSA", "EC")


@dataclass(frozen=True)
class PendingLogin:
    """A login that a browser has begun, and that only the same browser can end.

    All of it comes from one secret, which is in that browser's cookie and nowhere else: the server keeps nothing of
    it, and has nothing to sign. `state` ties the way back to the browser, `nonce` the token, `verifier` the code.
    """

    secret: str
    #: Path to which the browser goes afterwards.
    after: str

    @classmethod
    def begin(cls, after: str) -> PendingLogin:
        return cls(new_session(), after)

    @classmethod
    def from_cookie(cls, text: str) -> PendingLogin | None:
        secret, _, after = text.partition(".")
        return cls(secret, unquote(after)) if len(secret) >= 43 else None

    def as_cookie(self) -> str:
        return f"{self.secret}.{quote(self.after, safe='')}"

    @property
    def state(self) -> str:
        return hash_of(f"state {self.secret}")

    @property
    def nonce(self) -> str:
        return hash_of(f"nonce {self.secret}")

    @property
    def verifier(self) -> str:
        return hash_of(f"verifier {self.secret}")

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def is_of(self, state: str) -> bool:
        """Whether the provider's answer with this state is for this login."""
        return hmac.compare_digest(self.state.encode(), state.encode(errors="replace"))


class Provider:
    """The identity provider. Its methods raise LoginError, and ServerUnavailableError where it does not answer.

    Nothing of it is kept from one login to the next: its addresses and keys are always those of now.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        _check_library()
        self._issuer = settings.oidc_url
        self._client_id = settings.oidc_client_id
        self._secret = _secret(settings)
        self._scopes = settings.oidc_scopes
        self._rules = OidcRules(
            name_claims=settings.oidc_name_claims,
            groups_claim=settings.oidc_groups_claim,
            roles=parse_roles(settings.oidc_roles, what="LAUNCH_OIDC_ROLES"),
        )
        parts = urlsplit(self._issuer)
        #: Name that people read.
        self.name = parts.hostname or ""
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and Address(self.name, 0).is_loopback)
        if not (is_safe and self.name):
            raise SettingsError("LAUNCH_OIDC_URL must be the provider's issuer, written as https://HOST[/PATH]")
        if not self._client_id:
            raise SettingsError("LAUNCH_OIDC_CLIENT_ID is missing: the provider names this server by it")
        # It takes a while to make, and is the same for each login.
        self._tls = httpx.create_ssl_context()

    async def begin(self, login: PendingLogin, *, callback: str) -> str:
        """The address at the provider to which the browser goes; from there it comes back to `callback`."""
        async with self._asking() as client:
            endpoint = _text(await self._metadata(client), "authorization_endpoint")
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": callback,
            "scope": self._scopes,
            "state": login.state,
            "nonce": login.nonce,
            "code_challenge": login.challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def claims(self, login: PendingLogin, code: str, *, callback: str) -> Claims:
        """What the provider says of the person who came back with this code."""
        async with self._asking() as client:
            metadata = await self._metadata(client)
            tokens = await self._tokens(client, metadata, login, code, callback)
            keys = _json(await client.get(_text(metadata, "jwks_uri")))
            claims = verified(
                _text(tokens, "id_token"),
                keys,
                issuer=_text(metadata, "issuer"),
                client_id=self._client_id,
                nonce=login.nonce,
            )
            claims = await self._with_more(client, metadata, tokens, claims)
        return claims_of_oidc(claims, self._rules)

    async def _metadata(self, client: httpx.AsyncClient) -> dict[str, Any]:
        metadata = _json(await client.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        issuer = _text(metadata, "issuer")
        if issuer.rstrip("/") != self._issuer.rstrip("/"):
            raise ValueError(f"its issuer is {issuer!r}, and LAUNCH_OIDC_URL is {self._issuer!r}")
        return metadata

    async def _tokens(
        self, client: httpx.AsyncClient, metadata: dict[str, Any], login: PendingLogin, code: str, callback: str
    ) -> dict[str, Any]:
        """The tokens for a code, which the provider gives once."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": login.verifier,
        }
        auth = None
        ways = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._secret and ("client_secret_basic" in ways or "client_secret_post" not in ways):
            auth = httpx.BasicAuth(quote(self._client_id, safe=""), quote(self._secret, safe=""))
        else:
            form |= {"client_id": self._client_id} | ({"client_secret": self._secret} if self._secret else {})
        answer = await client.post(_text(metadata, "token_endpoint"), data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)
        if 400 <= answer.status_code < 500:
            said = read_json(answer.content)
            raise refused(str(said.get("error")), str(said.get("error_description", "")))
        return _json(answer)

    async def _with_more(
        self, client: httpx.AsyncClient, metadata: dict[str, Any], tokens: dict[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        """The claims with those that the provider tells only when it is asked: many keep names and groups for that."""
        rules = self._rules
        has_all = rules.groups_claim.split(".")[0] in claims and any(name in claims for name in rules.name_claims)
        if has_all or "userinfo_endpoint" not in metadata or "access_token" not in tokens:
            return claims
        headers = {"Authorization": f"Bearer {_text(tokens, 'access_token')}"}
        more = _json(await client.get(_text(metadata, "userinfo_endpoint"), headers=headers))
        if more.get("sub") != claims["sub"]:
            raise ValueError("it tells of another person than its token")
        return more | claims

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one login; what goes wrong with it becomes a sentence, and the log has the rest."""
        try:
            async with httpx.AsyncClient(verify=self._tls, timeout=_ANSWER_S) as client:
                yield client
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("oidc.unanswered provider=%s error=%r", self.name, error)
            raise ServerUnavailableError(
                f"{self.name}, which knows people here, does not answer as it should; try again later"
            ) from None
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            log.warning("oidc.unusable provider=%s error=%s", self.name, clean(repr(error))[:300])
            raise LoginError(
                f"what {self.name} said cannot be believed; try again, or ask an admin: the server's log says why"
            ) from None


def refused(error: str, description: str = "") -> LoginError:
    """The error of a login that the provider refused, in its words."""
    said = f"{error}: {description}" if description else error
    log.warning("oidc.refused %s", clean(said)[:300])
    return LoginError(f"the login was refused where people are known: {clean(said)[:200]}")


def verified(id_token: str, keys: Any, *, issuer: str, client_id: str, nonce: str) -> dict[str, Any]:
    """The claims of a token that the provider has signed, for this server and for this login, and that is not over.

    Raises ValueError.
    """
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet
    from joserfc.jws import JWSRegistry

    usable = [key for key in keys["keys"] if key.get("kty") in _KEY_KINDS and key.get("use", "sig") == "sig"]
    checks = jwt.JWTClaimsRegistry(
        leeway=_LEEWAY_S,
        iss={"essential": True, "value": issuer},
        sub={"essential": True},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        # Some providers put more into the header than the standard names.
        registry = JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
        token = jwt.decode(id_token, KeySet.import_key_set({"keys": usable}), registry=registry)
        checks.validate(token.claims)
    except JoseError as error:
        raise ValueError(f"its token: {error}") from None
    if token.claims.get("azp", client_id) != client_id:
        raise ValueError("its token is for another client")
    return token.claims


def _json(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    value = read_json(answer.content)
    if not isinstance(value, dict):
        raise ValueError(f"{answer.url} gave no object")
    return value


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"it said no {name}")
    return value


def _secret(settings: Settings) -> str:
    file = settings.oidc_client_secret_file
    if file is None or settings.oidc_client_secret:
        return settings.oidc_client_secret
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"LAUNCH_OIDC_CLIENT_SECRET_FILE cannot be read: {error}") from None


def _check_library() -> None:
    try:
        import joserfc  # noqa: F401
    except ModuleNotFoundError:
        raise SettingsError(
            "LAUNCH_OIDC_URL needs joserfc, which is not installed; install it with: pip install 'launch_worker[oidc]'"
        ) from None
