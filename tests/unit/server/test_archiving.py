"""What the server tells its child that keeps the archive and sends notices."""

from __future__ import annotations

import pytest

from launch_worker.server.address import Address
from launch_worker.server.archiving import archive_inside
from launch_worker.settings import Settings


@pytest.mark.parametrize(
    ("settings", "address", "url"),
    [
        (Settings(), "127.0.0.1:7600", "http://127.0.0.1:7600"),
        (Settings(server_hosts=("launch.example", "launch")), "0.0.0.0:7600", "http://launch.example:7600"),
        (Settings(server_url="https://launch.example"), "0.0.0.0:7600", "https://launch.example"),
    ],
)
def test_links_in_notices_lead_to_the_server(settings: Settings, address: str, url: str) -> None:
    assert archive_inside(settings, Address.parse(address))._env["LAUNCH_SERVER_URL"] == url
