"""Says who is logged in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed

router = APIRouter(tags=["account"])


class Account(BaseModel):
    """A person as the server knows them."""

    name: str = Field(examples=["ada"])
    role: str = Field(description="Role for the whole system.", examples=["member"])
    how: str = Field(description="Kind of the proof: token, session, proxy, loopback.", examples=["token"])


@router.get("/whoami")
def whoami(asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Account:
    """Who is logged in."""
    person = asker.person
    return Account(name=person.name, role=person.role.label, how=person.how)
