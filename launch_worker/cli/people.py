"""What the commands for users, groups, projects and tokens share: where people are kept, roles, passwords."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from launch_worker import terminal
from launch_worker.errors import InputError
from launch_worker.people.roles import Role
from launch_worker.settings import Settings
from launch_worker.submission.sent import me

if TYPE_CHECKING:
    from launch_worker.api.http_connection import HttpConnection
    from launch_worker.api.http_people import HttpPeople
    from launch_worker.database.database import Database
    from launch_worker.people.registry import Registry

NAME = click.argument("name")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
#: Labels of all roles that can be given, and the word that takes one away.
ROLES = [role.label for role in Role if role is not Role.NONE]
_MOST_PASSWORD = 4096

ROLE = click.option("--role", type=click.Choice([*ROLES, "none"]), help="The system-wide role; none takes it away.")
PROJECT = click.option(
    "--project", "projects", multiple=True, metavar="PROJECT=ROLE", help="A role in a project; may be repeated."
)
DISPLAY = click.option("--display", metavar="TEXT", help="The name for people.")


def registry_of(url: str | None, *, create: bool = False) -> Registry | HttpPeople:
    """The people: of the server, where the URL is one's, else of the database.

    With `create` the database is made where there is none.
    """
    settings = Settings.of_client(url=url)
    if settings.api_url:
        from launch_worker.api.http_people import HttpPeople

        return HttpPeople(server_of(settings))
    database = database_of(settings, create=create)
    from launch_worker.people.registry import Registry

    return Registry(database, actor=me())


def server_of(settings: Settings) -> HttpConnection:
    """The connection to the server of the settings, until the end of the command."""
    from launch_worker.api.http_transport import HttpTransport

    server = HttpTransport(settings).server
    click.get_current_context().call_on_close(server.close)
    return server


def database_of(settings: Settings, *, create: bool) -> Database:
    """The database of the settings, until the end of the command; with `create` it is made where there is none."""
    from launch_worker.database import open_database

    database = open_database(settings, create=create)
    click.get_current_context().call_on_close(database.close)
    from launch_worker.database.migrate import migrate
    from launch_worker.database.version import check_version, has_tables

    if create and not has_tables(database):
        migrate(database)
    check_version(database)
    return database


def given_roles(role: str | None, projects: tuple[str, ...]) -> dict[str, Role]:
    """The roles of `--role ROLE` and `--project PROJECT=ROLE`, by project."""
    given = {} if role is None else {"": Role.parse(role)}
    return given | pairs(projects, "--project PROJECT=ROLE")


def pairs(texts: tuple[str, ...], what: str) -> dict[str, Role]:
    """The roles of options such as `NAME=ROLE`."""
    found = {}
    for text in texts:
        name, _, label = text.rpartition("=")
        if not name:
            raise InputError(f"{text!r} is not {what}")
        found[name] = Role.parse(label)
    return found


def new_password() -> str:
    """A password that is typed twice, or the first line of standard input where that is no terminal."""
    if sys.stdin.isatty():
        text: str = click.prompt("password", hide_input=True, confirmation_prompt="once more", err=True)
        return text
    line = sys.stdin.readline(_MOST_PASSWORD).rstrip("\r\n")
    if not line:
        raise InputError("standard input has no password; type it at a terminal, or give it as a line")
    return line


def roles_as_text(given: Mapping[str, Role]) -> str:
    """Roles for a table: the system-wide one first."""
    texts = [given[""].label] if "" in given else []
    return ", ".join([*texts, *(f"{project}={role.label}" for project, role in sorted(given.items()) if project)])


def say(sentence: str, shown: Mapping[str, Any], *, as_json: bool) -> None:
    """Say what was done: a sentence for people, or an object for machines."""
    if as_json:
        terminal.echo_json(dict(shown))
    else:
        terminal.say(sentence)
