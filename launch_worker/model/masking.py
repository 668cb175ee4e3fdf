"""Masks secrets in what is shown of a run: environment values under secret-looking names, and sealed secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from launch_worker.untrusted.text import read_map

MASK = "********"
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


def masked_spec(text: str) -> dict[str, Any]:
    """The spec for showing: secrets, and environment values under secret-looking names, are masked."""
    spec = read_map(text)
    env = spec.get("env")
    if isinstance(env, dict):
        spec["env"] = mask_env(env)
    if isinstance(spec.get("secrets"), dict):
        spec["secrets"] = dict.fromkeys(spec["secrets"], MASK)
    return spec


def mask_env(env: Mapping[str, Any]) -> dict[str, Any]:
    """An environment for showing."""
    return {name: MASK if _SECRET_NAME.search(name) else value for name, value in env.items()}


def secrets_in(env: Mapping[str, Any]) -> list[str]:
    """The values of an environment that are not shown."""
    return [str(value) for name, value in env.items() if _SECRET_NAME.search(name)]
