"""What is shown of a Redis URL."""

from __future__ import annotations

import pytest

from launch_worker.redis_url import mask_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:6379/0",
        "redis://me:hunter2@host/0",
        "rediss://me:p@hunter2@host/0",
        "redis://me:hun/hunter2@host/0",
        "redis://host/0?password=hunter2",
        "redis://host/0?db=1&password=hunter2&username=hunter2",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    assert "hunter2" not in mask_url(url)
    assert "host" in mask_url(url)


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    assert mask_url("redis://localhost:6379/0") == "redis://localhost:6379/0"
