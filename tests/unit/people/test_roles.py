"""Who may do what: the whole table of acts and roles, and what a person sees."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from launch_worker.errors import InputError
from launch_worker.people.roles import RULES, Act, Person, Role, Sight, lowered, may, refusal, visible

NONE, VIEWER, MEMBER, OPERATOR, ADMIN = Role

#: For each act the least role: for everybody's things, and for one's own.
LEAST = {
    Act.SEE_SELF: (NONE, NONE),
    Act.OWN_TOKENS: (ADMIN, NONE),
    Act.SEE_RUNS: (VIEWER, VIEWER),
    Act.SEE_SYSTEM: (VIEWER, VIEWER),
    Act.UPLOAD: (MEMBER, MEMBER),
    Act.SUBMIT: (MEMBER, MEMBER),
    Act.ACT_ON_RUN: (OPERATOR, MEMBER),
    Act.SET_SWEEPS: (OPERATOR, MEMBER),
    Act.SET_SCHEDULES: (OPERATOR, MEMBER),
    Act.CONFIRM_RUN: (OPERATOR, OPERATOR),
    Act.SEE_PROBLEMS: (OPERATOR, OPERATOR),
    Act.SEE_METRICS: (VIEWER, VIEWER),
    Act.SEE_CELERY: (VIEWER, VIEWER),
    Act.ACT_IN_CELERY: (OPERATOR, OPERATOR),
    Act.SET_PROJECT: (ADMIN, ADMIN),
    Act.SET_QUEUES: (ADMIN, ADMIN),
    Act.SET_POOLS: (ADMIN, ADMIN),
    Act.SET_WORKERS: (ADMIN, ADMIN),
    Act.SET_PEOPLE: (ADMIN, ADMIN),
    Act.SET_KEYS: (ADMIN, ADMIN),
    Act.SET_CHANNELS: (ADMIN, ADMIN),
    Act.SEE_AUDIT: (ADMIN, ADMIN),
}
#: The acts for which a role in one project is enough, in that project; and those for which one in any project is.
IN_A_PROJECT = {
    Act.SEE_RUNS,
    Act.SUBMIT,
    Act.ACT_ON_RUN,
    Act.SET_SWEEPS,
    Act.SET_SCHEDULES,
    Act.CONFIRM_RUN,
    Act.SET_PROJECT,
}
IN_ANY_PROJECT = {Act.SEE_SELF, Act.SEE_SYSTEM, Act.UPLOAD}


def test_each_act_has_a_rule_and_is_in_the_table() -> None:
    assert set(Act) == set(RULES) == set(LEAST)


def test_the_table_in_the_docs_is_that_of_the_program() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "(`" in line[:120]]
    told = {re.findall(r"\(`(\w+)`\)", row[0])[0]: row[1:] for row in rows if len(row) == 5}
    assert told == {
        act.value: [
            rule.least.label,
            "" if rule.own is None else rule.own.label,
            rule.scope.value,
            "all projects" if rule.whole else "",
        ]
        for act, rule in RULES.items()
    }


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("role", Role)
def test_a_system_wide_role_does_what_the_table_says(act: Act, role: Role) -> None:
    ada = Person("ada", role=role)
    others, own = LEAST[act]
    for project in ("", "vision"):
        assert may(ada, act, project=project, owner="bob") == (role >= others)
        assert may(ada, act, project=project) == (role >= others), "what nobody owns is not one's own"
        assert may(ada, act, project=project, owner="ada") == (role >= min(others, own))
    assert act.least == min(others, own)


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("is_private", [False, True])
def test_a_role_in_a_project_does_the_same_there_and_nothing_elsewhere(act: Act, role: Role, is_private: bool) -> None:
    ada = Person("ada", projects={"vision": role}, private=frozenset({"vision"} if is_private else ()))
    others, own = LEAST[act]
    if act in IN_A_PROJECT:
        assert may(ada, act, project="vision", owner="bob") == (role >= others)
        assert may(ada, act, project="vision", owner="ada") == (role >= min(others, own))
        assert not may(ada, act, project="speech", owner="ada")
        assert not may(ada, act, owner="ada"), "no project is a project of its own"
    elif act in IN_ANY_PROJECT:
        assert may(ada, act) == (role >= others)
    else:
        assert not may(ada, act, project="vision", owner="bob")


@pytest.mark.parametrize("role", Role)
def test_a_private_project_is_closed_to_all_system_wide_roles_but_admins(role: Role) -> None:
    ada = Person("ada", role=role, private=frozenset({"secret"}))
    for act in IN_A_PROJECT:
        assert may(ada, act, project="secret", owner="bob") == (role is ADMIN)
        assert may(ada, act, project="secret", owner="ada") == (role is ADMIN), "also what was one's own once"
    assert visible(ada).sees("secret") == (role is ADMIN)


@pytest.mark.parametrize("act", [Act.SEE_PROBLEMS, Act.SEE_METRICS, Act.SEE_CELERY, Act.ACT_IN_CELERY])
def test_what_tells_of_all_projects_is_for_those_who_see_them_all(act: Act) -> None:
    operator = Person("ada", role=OPERATOR, private=frozenset({"secret"}))
    assert not may(operator, act)
    assert "does not see all projects" in refusal(operator, act)
    assert may(replace(operator, projects={"secret": VIEWER}), act)
    assert may(replace(operator, role=ADMIN), act)


def test_a_role_in_a_project_adds_to_the_system_wide_one_and_takes_nothing_away() -> None:
    ada = Person("ada", role=OPERATOR, projects={"vision": VIEWER, "speech": ADMIN})
    assert ada.role_in("vision") is OPERATOR
    assert ada.role_in("speech") is ADMIN
    assert ada.highest is ADMIN
    assert not may(ada, Act.SET_QUEUES)


@pytest.mark.parametrize(
    ("person", "sight", "condition"),
    [
        (Person("ada"), Sight(only=frozenset()), {"project": {"$in": []}}),
        (Person("ada", role=VIEWER), Sight(), {}),
        (
            Person("ada", projects={"b": MEMBER, "a": VIEWER, "c": NONE}, private=frozenset({"a", "x"})),
            Sight(only=frozenset({"a", "b"})),
            {"project": {"$in": ["a", "b"]}},
        ),
        (
            Person("ada", role=OPERATOR, projects={"a": VIEWER}, private=frozenset({"a", "y", "x"})),
            Sight(hidden=frozenset({"x", "y"})),
            {"project": {"$nin": ["x", "y"]}},
        ),
        (Person("ada", role=ADMIN, private=frozenset({"x"})), Sight(), {}),
    ],
)
def test_sight_is_the_roles_as_a_filter(person: Person, sight: Sight, condition: dict[str, object]) -> None:
    assert visible(person) == sight
    assert sight.as_filter() == condition
    assert sight.is_everything == (condition == {})
    for project in ("", "a", "b", "c", "x", "y"):
        assert sight.sees(project) == may(person, Act.SEE_RUNS, project=project)


@pytest.mark.parametrize("most", Role)
def test_a_lesser_token_has_no_more_than_its_role_anywhere(most: Role) -> None:
    ada = Person("ada", role=OPERATOR, projects={"vision": ADMIN, "speech": VIEWER}, private=frozenset({"vision"}))
    less = lowered(ada, most)
    for project in ("", "vision", "speech"):
        assert less.role_in(project) == min(most, ada.role_in(project))


def test_nobody_is_an_owner_without_a_name() -> None:
    assert not may(Person("", role=MEMBER), Act.ACT_ON_RUN, owner="")


def test_a_refusal_says_what_is_there_and_what_it_takes() -> None:
    ada = Person("ada", role=MEMBER, projects={"vision": VIEWER})
    assert refusal(ada, Act.ACT_ON_RUN) == (
        "ada has the role member; this takes operator unless it is one's own; ask an admin"
    )
    assert refusal(replace(ada, role=NONE), Act.ACT_ON_RUN, project="vision") == (
        "ada has the role viewer in the project vision; this takes operator, or member for one's own; ask an admin"
    )
    assert refusal(Person("bob"), Act.SUBMIT, project="vision") == (
        "bob has no role in the project vision; this takes member; ask an admin"
    )
    assert refusal(ada, Act.SET_QUEUES) == "ada has the role member; this takes admin; ask an admin"


def test_a_role_is_read_from_its_label() -> None:
    assert [Role.parse(role.label) for role in Role] == list(Role)
    with pytest.raises(InputError, match="none, viewer, member, operator, admin"):
        Role.parse("root")
