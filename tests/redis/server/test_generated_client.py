"""A client that strangers generate from docs/openapi.json works."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_servers import KEY, TestServer

OPENAPI = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the package."""
    # Its hooks would format what it has made.
    (tmp_path / "config.yaml").write_text("post_hooks: []\n", encoding="utf-8")
    places = ["--path", OPENAPI, "--output-path", tmp_path / "strangers_client", "--config", tmp_path / "config.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr, "a schema that it cannot read"
    monkeypatch.syspath_prepend(tmp_path)
    return "strangers_client"


def test_a_generated_client_submits_shows_lists_and_cancels(generated: str, server: TestServer) -> None:
    def part(name: str) -> Any:
        return importlib.import_module(f"{generated}.{name}")

    models = part("models")
    client = part("client").AuthenticatedClient(
        server.url, KEY, raise_on_unexpected_status=True, httpx_args={"trust_env": False}
    )
    with client:
        options = models.SubmitRunOptions.from_dict({"command": ["true"], "name": "theirs"})
        made = part("api.submit.submit_run").sync(client=client, body=options, idempotency_key="once")
        assert made.is_new
        shown = part("api.runs.show_run").sync(made.id, client=client)
        assert (shown["name"], shown["state"]) == ("theirs", "Pending")
        page = part("api.runs.list_runs").sync(client=client, filter_='{"name": "theirs"}')
        assert [run["id"] for run in page.runs] == [made.id]
        cancelled = part("api.runs.cancel_run").sync(made.id, client=client, body=models.Cancel(reason="enough"))
        assert cancelled["cancel"] == "killed"
        refused = part("api.runs.cancel_run").sync(made.id, client=client, body=models.Cancel())
        assert (refused.status, "is already Killed" in refused.detail) == (409, True)
