"""Finds the credential by which a worker pulls images from a registry: in files of the form of docker's config.json.

A credential is read anew for each pull, so that a changed one holds at once. It goes to the engine with that pull, is
kept nowhere, and is cut out of what the engine and the registry say.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker import auth

from launch_worker.errors import StartError
from launch_worker.untrusted.text import clean, read_json

log = logging.getLogger("launch_worker.container")

#: Name of the file in a folder of credentials, as docker has it in the folder DOCKER_CONFIG.
FILE = "config.json"
#: Seconds that a credential helper may take.
_HELPER_S = 30.0
_HELPER = "docker-credential-"
#: Words of a credential helper that has no credential for a registry.
_HAS_NONE = "credentials not found"
_MASK = "***"


@dataclass(frozen=True)
class Credential:
    """How an image is pulled from one registry: by which account, or by none."""

    registry: str
    #: Name of the account, or a word for a token; '' for a pull without a login.
    account: str = ""
    #: Login as engines take it; empty for none.
    login: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        who = f"as account {clean(self.account)!r}" if self.account else "without a login"
        return f"from registry {self.registry} {who}"

    def cut_from(self, text: str) -> str:
        """The text without the secret, in any form in which a registry or an engine may repeat it."""
        for secret in filter(None, (self.login.get("password"), self.login.get("identitytoken"))):
            pair = base64.b64encode(f"{self.account}:{secret}".encode()).decode()
            for form in (secret, json.dumps(secret)[1:-1], pair, pair.rstrip("=")):
                text = text.replace(form, _MASK)
        return text


def registry_of(image: str) -> str:
    """The registry of an image, as docker names it. Raises StartError."""
    try:
        return str(auth.resolve_repository_name(image)[0])
    except auth.errors.InvalidRepository as error:
        raise StartError(f"image {image} cannot be pulled: {error}") from None


class Credentials:
    """The credentials of one worker: those in its folder, and those in the folder's subfolders, by their names."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: None for docker's own, DOCKER_CONFIG or ~/.docker."""
        self._folder = folder

    @property
    def folder(self) -> Path:
        # Not pathlib's: a user may have no home.
        return self._folder or Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))

    def path(self, name: str = "") -> Path:
        """The path of the file with the credential of this name, or of the worker's own."""
        return self.folder / name / FILE

    def find(self, registry: str, *, name: str = "") -> Credential:
        """The credential for a registry; one without a login where the file has none. Raises StartError.

        Without `name` it is the worker's own.
        """
        path = self.path(name)
        try:
            config = _read(path)
        except StartError as error:
            if self._folder is not None or name:
                raise
            # Nobody gave it to the worker: an image that needs no login must not fail by it.
            log.warning("registry_auth.unreadable: %s; images are pulled without a login", error)
            return Credential(registry)
        except FileNotFoundError:
            if not name:
                return Credential(registry)
            raise StartError(
                f"this worker has no registry credential {name!r}, with which its queue pulls images; an admin gives "
                f"it one: docker --config {path.parent} login {registry}"
            ) from None
        return _credential(path, config, registry)

    def all_of(self, name: str = "") -> list[Credential]:
        """The credentials with a login in one file. Raises FileNotFoundError, StartError.

        A helper for all registries (`credsStore`) is asked for those that `auths` names.
        """
        path = self.path(name)
        config = _read(path)
        found = [_credential(path, config, registry) for registry in config.registries()]
        return [credential for credential in found if credential.login]


class _Config:
    """The content of one docker config.json, as far as it is about credentials."""

    def __init__(self, content: Any) -> None:
        self._auths: Mapping[str, Mapping[str, str]] = content.get("auths") or {}
        self._helpers: Mapping[str, str] = content.get("credHelpers") or {}
        self._store: str = content.get("credsStore") or ""

    def registries(self) -> list[str]:
        return sorted({str(auth.resolve_index_name(name)) for name in (*self._auths, *self._helpers)})

    def login(self, registry: str) -> dict[str, str]:
        """The login at a registry; an empty one where there is none. Raises StartError, ValueError, TypeError."""
        # Docker calls its own registry by a URL here.
        address = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
        helper = self._helpers.get(address) or self._helpers.get(registry) or self._store
        if helper and (found := _ask_helper(helper, address)):
            return found
        for name, entry in self._auths.items():
            if auth.resolve_index_name(name) == registry and entry:
                return _login_of(entry, address)
        return {}


def _read(path: Path) -> _Config:
    """Raises FileNotFoundError, StartError."""
    try:
        return _Config(read_json(path.read_bytes()))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StartError(f"the registry credentials in {path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError):
        raise _bad_form(path) from None


def _credential(path: Path, config: _Config, registry: str) -> Credential:
    try:
        login = config.login(registry)
    except (ValueError, TypeError, AttributeError):
        raise _bad_form(path) from None
    return Credential(registry, login.get("username") or ("a token" if login else ""), login)


def _bad_form(path: Path) -> StartError:
    # No more: the error's own text may have a part of a secret.
    return StartError(f"the registry credentials in {path} are not of the form of docker's {FILE}")


def _login_of(entry: Mapping[str, str], address: str) -> dict[str, str]:
    if token := entry.get("identitytoken"):
        return {"identitytoken": token, "serveraddress": address}
    user, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        user, password = auth.decode_auth(entry["auth"])
    return {"username": user, "password": password, "serveraddress": address} if user and password else {}


def _ask_helper(helper: str, address: str) -> dict[str, str]:
    """The login that a credential helper gives, as docker asks it. Raises StartError, ValueError, TypeError."""
    program = shutil.which(f"{_HELPER}{helper}")
    if program is None:
        raise StartError(f"the credential helper {_HELPER}{helper} is not on this worker's PATH; install it there")
    try:
        # What it says on standard error is not kept: nobody knows what is in it.
        done = subprocess.run(
            [program, "get"],
            input=address.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_HELPER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise StartError(
            f"the credential helper {_HELPER}{helper} gave no answer for registry {address}; try: echo {address} | "
            f"{_HELPER}{helper} get"
        ) from None
    if done.returncode:
        if _HAS_NONE in done.stdout.decode(errors="replace"):
            return {}
        raise StartError(
            f"the credential helper {_HELPER}{helper} has failed for registry {address} (exit code {done.returncode}); "
            f"try as the worker's user: echo {address} | {_HELPER}{helper} get"
        )
    answer = read_json(done.stdout)
    user, secret = answer.get("Username"), answer.get("Secret")
    if not secret:
        return {}
    if user == auth.TOKEN_USERNAME:
        return {"identitytoken": secret, "serveraddress": address}
    return {"username": user, "password": secret, "serveraddress": address}
