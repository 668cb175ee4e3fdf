"""Reads a person out of the tables, with all roles: what the person was given, and what their groups were."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, and_, or_, select

from launch_worker.people.roles import Person, Role
from launch_worker.people.schema import members, projects, roles, users


def person_of(connection: Connection, name: str) -> Person | None:
    """The person of this name; None where there is none, or where the user is disabled."""
    query = select(users.c.display).where(users.c.name == name, users.c.disabled_at.is_(None))
    display = connection.execute(query).scalar_one_or_none()
    if display is None:
        return None
    found = connection.execute(select(members.c.group_name).where(members.c.user_name == name)).scalars()
    return with_roles(connection, Person(name=name, display=display, groups=frozenset(found)))


def with_roles(connection: Connection, person: Person) -> Person:
    """The person with the roles that the name and the groups have now."""
    holders = and_(roles.c.kind == "user", roles.c.name == person.name)
    if person.groups:
        holders = or_(holders, and_(roles.c.kind == "group", roles.c.name.in_(person.groups)))
    highest: dict[str, Role] = {}
    for project, label in connection.execute(select(roles.c.project, roles.c.role).where(holders)):
        highest[project] = max(highest.get(project, Role.NONE), _role(label))
    private = connection.execute(select(projects.c.name).where(projects.c.is_private)).scalars()
    return replace(person, role=highest.pop("", Role.NONE), projects=highest, private=frozenset(private))


def _role(label: str) -> Role:
    """The role of a label; none for one that a newer program wrote."""
    return Role[label.upper()] if label.upper() in Role.__members__ else Role.NONE
