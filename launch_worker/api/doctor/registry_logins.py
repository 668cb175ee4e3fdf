"""Checks the credentials with which this machine's workers pull images: their files, and what the registries say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch_worker.errors import EngineAwayError, StartError
from launch_worker.model.finding import Finding
from launch_worker.runners.container.engine import REFUSED, Engine
from launch_worker.runners.container.registry_auth import Credential, Credentials


def check_logins(folder: Path, names: Sequence[str], *, is_shared: bool) -> Iterator[Finding]:
    """What is wrong with the credentials of these names ('' for the worker's own), each tried at its registry.

    `is_shared`: the machine may have other users.
    """
    credentials = Credentials(folder)
    engine = Engine()
    try:
        for name in names:
            yield from _check_file(credentials, name, is_shared=is_shared)
            try:
                for credential in credentials.all_of(name):
                    yield _try(engine, credential, credentials.path(name))
            except FileNotFoundError:
                if name:
                    yield Finding(
                        "error",
                        "registry.missing",
                        f"a queue pulls images with the registry credential {name!r}, which is not in {folder}",
                        f"if workers here consume it: docker --config {folder / name} login REGISTRY",
                    )
            except StartError as error:
                cause, _, advice = str(error).partition("; ")
                yield Finding("error", "registry.unreadable", cause, advice or "mend the file, or log in again")
    finally:
        engine.close()


def _check_file(credentials: Credentials, name: str, *, is_shared: bool) -> Iterator[Finding]:
    path = credentials.path(name)
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if is_shared and mode & 0o077:
        yield Finding(
            "warning",
            "registry.open",
            f"{path} has registry credentials, and other users of this machine may read it",
            f"chmod 600 {path}",
        )


def _try(engine: Engine, credential: Credential, path: Path) -> Finding:
    who = f"{credential} ({path})"
    if not credential.login.get("password"):
        return Finding("ok", "registry", f"images are pulled {who}; a token is not tried")
    try:
        engine.log_in(credential.login)
    except EngineAwayError as error:
        return Finding("warning", "registry.untried", f"the login {who} was not tried: {error}")
    except StartError as error:
        why = credential.cut_from(str(error).removeprefix(REFUSED))
        return Finding(
            "error",
            "registry.refused",
            f"no image can be pulled {who}: {why}",
            f"if the password is wrong: docker --config {path.parent} login {credential.registry}",
        )
    return Finding("ok", "registry", f"images are pulled {who}")
