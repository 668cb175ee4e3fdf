"""Who logs in over a network without encryption is told so before the password is asked for."""

from __future__ import annotations

import pytest

from launch_worker.cli.login import is_readable_on_the_way


@pytest.mark.parametrize(
    ("url", "is_readable"),
    [
        ("http://launch.example", True),
        ("http://10.0.0.7:7600", True),
        ("http://[fd00::1]:7600", True),
        ("http://127.0.0.1.evil.example", True),
        ("http://127.0.0.1:7600", False),
        ("http://[::1]:7600", False),
        ("http://localhost:7600", False),
        ("https://launch.example", False),
    ],
)
def test_an_address_without_encryption_is_readable_unless_it_is_this_machine(url: str, is_readable: bool) -> None:
    assert is_readable_on_the_way(url) is is_readable
