"""Defines the options by which runs are chosen: of the list, and of what is done to many runs at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from launch_worker.api.client import Api
from launch_worker.cli.words import id_of, sweep_id_of
from launch_worker.errors import InputError, NotFoundError
from launch_worker.model.checks import PROJECT
from launch_worker.model.units import since_ms
from launch_worker.untrusted.text import read_json

_OPTIONS = (
    click.option("--state", default="", help="Only runs in this state, in any letter case."),
    click.option("--project", default="", metavar="ENTITY/PROJECT", help="Only runs of this project."),
    click.option("--queue", default="", help="Only runs of this queue."),
    click.option("--sweep", default="", metavar="SWEEP", help="Only runs of this sweep."),
    click.option("--group", default="", metavar="GROUP", help="Only runs of this array, bulk submission or sweep."),
    click.option("--tag", "tags", multiple=True, help="Only runs with this tag; may be repeated."),
    click.option(
        "--filter",
        "filters",
        metavar="JSON",
        help="""Only runs that fit, as in W&B: '{"config.lr": {"$gt": 0.01}}' (docs/reference/python.md).""",
    ),
    click.option("--name", default="", help="Only runs with this name."),
    click.option("--author", default="", metavar="USER@HOST", help="Only runs whose submitter said this."),
    click.option("--user", default="", help="Only runs that this user submitted through a server, which proved it."),
    click.option(
        "--text", "texts", multiple=True, help="Only runs with this in their name, command, tags, config or reason."
    ),
    click.option("--since", metavar="WHEN", help="Only runs created since then: 30d, 2h, 14:30, 2030-01-31."),
    click.option("--until", metavar="WHEN", help="Only runs created before then."),
)
Command = TypeVar("Command", bound=Callable[..., Any])
_FIELDS = ("state", "project", "queue", "name", "author", "user")


def selecting(command: Command) -> Command:
    """Decorate a command with the options; it gets them as further arguments, for `conditions_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def conditions_of(api: Api, selection: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The filters that these options are, all of which a run must fit; none for no option. Raises InputError."""
    project = selection["project"]
    if project and not PROJECT.fullmatch(project):
        raise InputError(f"project {project[:60]!r} is not a project; write it as ENTITY/PROJECT")
    given: list[dict[str, Any]] = [{field: selection[field]} for field in _FIELDS if selection[field]]
    for field, find in (("group", id_of), ("sweep", sweep_id_of)):
        if selection[field]:
            given.append({field: _known(api, find, selection[field])})
    given += [{"tags": tag} for tag in selection["tags"]]
    given += [{"text": {"$contains": text}} for text in selection["texts"]]
    if selection["filters"] is not None:
        given.append(_read_filter(selection["filters"]))
    since, until = selection["since"], selection["until"]
    if since or until:
        now_ms = api.transport.now_us() // 1000
        for what, word, at in (("--since", "$gte", since), ("--until", "$lt", until)):
            given += [{"created_at": {word: since_ms(at, now_ms, what=what) / 1000}}] if at else []
    return given


def _known(api: Api, find: Callable[[Api, str], str], word: str) -> str:
    """The id of what the word means; the word itself where there is nothing, of which runs may be left."""
    try:
        return find(api, word)
    except NotFoundError:
        return word


def _read_filter(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        raise InputError(
            f"""--filter {text[:60]!r} is not JSON; write it as '{{"config.lr": {{"$gt": 0.01}}}}'"""
        ) from None
