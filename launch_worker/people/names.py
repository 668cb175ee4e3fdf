"""Checks the names of people and what they are given: users, groups, tokens, projects."""

from __future__ import annotations

import re

from launch_worker.errors import InputError
from launch_worker.model.checks import PROJECT, PROJECT_RULE

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+:/-]{0,63}")


def check_name(kind: str, name: str) -> str:
    """Return the name of a user or group in its one spelling, lower case. Raises InputError."""
    folded = name.strip().lower()
    if not _NAME.fullmatch(folded):
        raise InputError(
            f"the name of a {kind} is of letters a to z, digits, and . _ @ + - after the first, at most 64 characters"
        )
    return folded


def folded_name(text: str) -> str:
    """The name of a user in its one spelling; '' for a text that is none."""
    try:
        return check_name("user", text)
    except InputError:
        return ""


def check_project(name: str) -> str:
    """Return the name of a project. Raises InputError."""
    if not PROJECT.fullmatch(name):
        raise InputError(f"the name of a project is {PROJECT_RULE}")
    return name


def check_token_name(name: str) -> str:
    """Return the name of a token. Raises InputError."""
    if not _TOKEN.fullmatch(name):
        raise InputError("the name of a token is of letters, digits, blanks and . _ @ + : / -, at most 64 characters")
    return name
