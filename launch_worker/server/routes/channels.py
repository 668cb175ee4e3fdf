"""Serves channels of notices, without their addresses and secrets, and rules: both are for admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.units import parse_duration
from launch_worker.notifications.channel import KINDS, Channel, with_sending
from launch_worker.notifications.channels import Channels
from launch_worker.notifications.rule import CONDITIONS
from launch_worker.notifications.senders.senders import Senders
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.routes.people import changing
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(tags=["channels"])

Setting = Annotated[Asker, allowed(Act.SET_CHANNELS)]
Adding = Annotated[Asker, changing(Act.SET_CHANNELS, "created", "channel")]
Changing = Annotated[Asker, changing(Act.SET_CHANNELS, "changed", "channel")]
Testing = Annotated[Asker, changing(Act.SET_CHANNELS, "tested", "channel")]
Deleting = Annotated[Asker, changing(Act.SET_CHANNELS, "deleted", "channel")]
AddingRule = Annotated[Asker, changing(Act.SET_CHANNELS, "created", "rule")]
DeletingRule = Annotated[Asker, changing(Act.SET_CHANNELS, "deleted", "rule")]

_QUIET = Field(default=None, description="Quiet hours, or none.", examples=["22:00-07:00 Europe/Vienna"])
_PROJECTS: Any = Field(
    default=[],
    description="Projects all of whose runs tell it something: PROJECT, PROJECT:STATES with + between, PROJECT:none.",
    examples=[["lab/x:failed+crashed"]],
)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewChannel(_Given):
    """A channel to be made."""

    name: str = Field(examples=["ops"])
    kind: str = Field(description=f"One of {', '.join(KINDS)}.", examples=["webhook"])
    address: str = Field(description="A URL, or addresses of mail. Nobody can read it again.")
    output: bool = Field(default=True, description="Whether the last lines of a failed run's output are sent.")
    quiet: str | None = _QUIET
    projects: list[str] = _PROJECTS


class ChannelChange(_Given):
    """Changes of a channel. What is not there stays."""

    address: str | None = None
    output: bool | None = None
    quiet: str | None = _QUIET
    projects: list[str] = _PROJECTS
    new_secret: bool = Field(default=False, description="Make a new secret, for a webhook.")


class Sending(BaseModel):
    """How the sending to a channel goes."""

    has_sender: bool = Field(description="Whether a process sends notices now.")
    waiting: int = Field(description="Notices that wait.")
    sent: int
    sent_at: str | None = Field(description="When the last one was taken.")
    failing_since: str | None = Field(description="Since when no try succeeds; null for a channel that works.")
    error: str | None = Field(description="Why the last try failed.")
    lost: int = Field(description="Notices that were refused, given up, or found no room.")


class ChannelShown(BaseModel):
    """A channel, without its address and its secret."""

    name: str = Field(examples=["ops"])
    kind: str = Field(examples=["webhook"])
    to: str | None = Field(description="The part of its address that is no secret.", examples=["hooks.example.org"])
    output: bool
    quiet: str | None
    projects: dict[str, list[str]] = Field(description="States by project; none for every end.")
    created_at: str
    created_by: str | None
    sending: Sending | None = Field(description="Null while Redis is away.")


class ChannelSet(ChannelShown):
    """A channel that was made or changed, and the secret that was made for it, which is shown this once."""

    secret: str | None = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])


class ChannelsShown(BaseModel):
    """All channels."""

    channels: list[ChannelShown]


class NewRule(_Given):
    """A rule to be made."""

    name: str = Field(examples=["slow"])
    when: str = Field(description=f"One of {', '.join(CONDITIONS)}.", examples=["waiting"])
    duration: str | None = Field(default=None, description="For how long it must be so.", examples=["2h"])
    channel: str = Field(examples=["ops"])
    queue: str = Field(default="", description="Only this queue.")
    project: str = Field(default="", description="Only this project.")


class RuleShown(BaseModel):
    """A rule."""

    name: str
    when: str
    seconds: float
    queue: str | None
    project: str | None
    channel: str
    created_at: str | None
    created_by: str | None
    findings: int = Field(description="What it has told and is not over: queues, runs or workers.")
    since: str | None = Field(description="Since when the first of them is so.")


class RulesShown(BaseModel):
    """All rules."""

    rules: list[RuleShown]


@router.get("/channels", response_model=ChannelsShown)
def list_channels(shared: SharedHere, asker: Setting) -> Response:
    """Every channel, without addresses and secrets."""
    return as_json({"channels": [channel.as_json() for channel in seen_channels(shared, asker)]})


@router.post("/channels", status_code=201)
def add_channel(channel: NewChannel, shared: SharedHere, asker: Adding) -> ChannelSet:
    """Make a channel; refused where there is one of that name. A webhook's secret is in this answer only."""
    asker.about(channel.name)
    made, secret = channels_of(shared, asker).add(
        channel.name,
        channel.kind,
        channel.address,
        has_output=channel.output,
        quiet=channel.quiet or "",
        projects=channel.projects,
    )
    return ChannelSet(**made.as_json(), secret=secret or None)


@router.patch("/channels/{name}")
def set_channel(name: str, change: ChannelChange, shared: SharedHere, asker: Changing) -> ChannelSet:
    """Change a channel: address, quiet hours, projects, secret."""
    changed, secret = channels_of(shared, asker).set(
        name,
        address=change.address,
        has_output=change.output,
        quiet=change.quiet,
        projects=change.projects,
        has_new_secret=change.new_secret,
    )
    return ChannelSet(**changed.as_json(), secret=secret or None)


@router.post("/channels/{name}/test", status_code=204, responses={409: {"description": "It was not sent."}})
def test_channel(name: str, shared: SharedHere, asker: Testing) -> None:
    """Send a test to a channel, from the server, and say how that ended."""
    channels_of(shared, asker).test(name)


@router.delete("/channels/{name}", status_code=204, responses={409: {"description": "A rule tells it something."}})
def delete_channel(name: str, shared: SharedHere, asker: Deleting) -> None:
    """Delete a channel; notices that wait for it are dropped."""
    channels_of(shared, asker).delete(name)


@router.get("/rules", response_model=RulesShown)
def list_rules(shared: SharedHere, asker: Setting) -> Response:
    """Every rule."""
    return as_json({"rules": [rule.as_json() for rule in channels_of(shared, asker).rules()]})


@router.post("/rules", status_code=201, responses={404: {"description": "There is no such channel."}})
def add_rule(rule: NewRule, shared: SharedHere, asker: AddingRule) -> RuleShown:
    """Make a rule; refused where there is one of that name."""
    asker.about(rule.name)
    seconds = parse_duration(rule.duration, what="duration") if rule.duration is not None else None
    made = channels_of(shared, asker).add_rule(
        rule.name, rule.when, rule.channel, seconds=seconds, queue=rule.queue, project=rule.project
    )
    return RuleShown(**made.as_json())


@router.delete("/rules/{name}", status_code=204)
def delete_rule(name: str, shared: SharedHere, asker: DeletingRule) -> None:
    """Delete a rule."""
    channels_of(shared, asker).delete_rule(name)


def seen_channels(shared: Shared, asker: Asker) -> list[Channel]:
    """All channels, with how the sending goes where Redis says."""
    found = channels_of(shared, asker).shown()
    try:
        return with_sending(found, shared.connection.store.outbox_state())
    except BrokerUnavailableError:
        return found


def channels_of(shared: Shared, asker: Asker) -> Channels:
    """The channels, as who asks changes them."""
    senders = Senders(shared.settings)
    return Channels(shared.database, actor=asker.person.name, address=asker.address, senders=senders)
