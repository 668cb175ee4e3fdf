"""People of every standing, whom a test's server knows, each with a token."""

from __future__ import annotations

from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.support.http_servers import TestServer

#: Project that only members of it see, and one that all see.
PRIVATE, OPEN = "ada/private", "team/open"
#: Roles of each person, system-wide ('') or in a project.
PEOPLE: dict[str, dict[str, Role]] = {
    "viewer": {"": Role.VIEWER},
    "outsider": {"other/project": Role.MEMBER},
    "member": {"": Role.MEMBER},
    "insider": {"": Role.MEMBER, PRIVATE: Role.MEMBER},
    "operator": {"": Role.OPERATOR},
    "admin": {"": Role.ADMIN},
}


def tokens_of_everybody(server: TestServer) -> dict[str, str]:
    """Make the people; returns a token of each, with all that its owner may do."""
    registry = Registry(server.shared.database, actor="test")
    registry.set_project(PRIVATE, is_private=True)
    tokens = {}
    for name, given in PEOPLE.items():
        registry.add_user(name, given=given)
        tokens[name], _ = registry.create_token(name, "test")
    return tokens
