"""Stores of whole logs for tests: a folder, and a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec import filesystem

from launch_worker.logs.stored import StoredLogs
from tests.support.s3 import S3Server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    server.make(bucket="logs")
    yield server
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def logs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredLogs:
    """An empty store of logs."""
    if request.param == "folder":
        return StoredLogs(f"file://{tmp_path}/logs")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    # Clients are kept by their URLs, whatever the environment says now.
    filesystem("s3").clear_instance_cache()
    return StoredLogs(f"s3://logs/{tmp_path.name}")


def url_of(logs: StoredLogs) -> str:
    """Its LAUNCH_LOG_URL."""
    return logs.objects._url
