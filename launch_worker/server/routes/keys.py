"""Serves the signing keys that workers trust: everybody sees them, admins trust and revoke them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.errors import InputError
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.shared import SharedHere
from launch_worker.trust.keys import read_public

router = APIRouter(tags=["keys"])


class TrustedKeyShown(BaseModel):
    """A signing key."""

    id: str = Field(examples=["0f2a9c04d1e76b33"])
    name: str
    key: str = Field(description="The public key.", examples=["sign:…"])
    server: bool = Field(description="Whether it is a server's, which says who submitted a run.")
    trusted_at: str | None
    revoked_at: str | None


class TrustedKeys(BaseModel):
    """All signing keys, revoked ones too."""

    keys: list[TrustedKeyShown]


class KeyToTrust(BaseModel):
    """A signing key to be trusted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str = Field(description="The public key, as launch-worker keys new prints it.", examples=["sign:…"])
    name: str = Field(examples=["ada"])
    server: bool = False


@router.get("/keys", response_model=TrustedKeys)
def list_keys(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """The signing keys that workers trust, and those that were revoked."""
    return as_json({"keys": [key.as_json() for key in shared.connection.trusted_keys()]})


@router.put("/keys/{key_id}")
def trust_key(
    key_id: str,
    wanted: KeyToTrust,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_KEYS, what="trust", kind="key")],
) -> TrustedKeyShown:
    """Trust a signing key: runs that it has signed are executed where signatures are asked for."""
    if read_public(wanted.key, "sign").id != key_id:
        raise InputError("the id is not that of this key")
    made = shared.transport(asker.person.name).trust_key(wanted.key, name=wanted.name, is_server=wanted.server)
    return TrustedKeyShown(**made.as_json())


@router.post("/keys/{key_id}/revoke")
def revoke_key(
    key_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_KEYS, what="revoke", kind="key")],
) -> TrustedKeyShown:
    """Revoke a signing key, by its id or name: runs that it has signed do not start any more."""
    return TrustedKeyShown(**shared.transport(asker.person.name).revoke_key(key_id).as_json())
