"""The archive's process deletes what jobs of deleted runs left, beside their logs, and one store waits for no other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch_worker.database.database import Database
from launch_worker.errors import LaunchError
from launch_worker.logs.manifest import Manifest as LogManifest
from launch_worker.logs.stored import StoredLogs
from launch_worker.outputs.content import store_folder
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.archives import Follower
from tests.support.arrows import FINISHED, claim, create

Make = Callable[..., Follower]


def ended_run(store: Store, stored: StoredOutputs, tmp_path: Path) -> str:
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    folder = tmp_path / run_id
    folder.mkdir()
    (folder / "a").write_text(run_id)
    stored.put_manifest(store_folder(folder, stored, run_id=run_id, attempt=1))
    return run_id


def test_outputs_of_deleted_runs_go_and_their_content_once_it_is_old(
    store: Store, follower: Make, tmp_path: Path
) -> None:
    stored = StoredOutputs(f"file://{tmp_path}/outputs")
    archive = follower(output_url=stored.objects.url)
    gone, kept = ended_run(store, stored, tmp_path), ended_run(store, stored, tmp_path)
    stored.objects.put(f"checkpoints/{gone}/1/{'ab' * 32}", [b"state"])
    archive.catch_up()
    store.delete(gone, who="ada@host", keep_s=60.0)
    archive.catch_up()
    assert stored.runs() == {gone, kept}
    for path in (tmp_path / "outputs").rglob("*"):
        os.utime(path, (time.time() - 2 * 86400, time.time() - 2 * 86400))
    archive.keep_logs()
    assert (stored.runs(), stored.attempts(kept)) == ({kept}, [1])
    wait_until(lambda: len(stored.objects.names("content")) == 1, what="the content is collected")
    found = stored.manifest(kept, 1)
    assert found is not None
    assert b"".join(stored.pieces(found.files[0])) == kept.encode()


def test_a_store_of_logs_that_is_away_keeps_no_outputs(
    store: Store, database: Database, follower: Make, tmp_path: Path
) -> None:
    stored = StoredOutputs(f"file://{tmp_path}/outputs")
    archive = follower(log_url="ftp://127.0.0.1:1/logs", output_url=stored.objects.url)
    run_id = ended_run(store, stored, tmp_path)
    archive.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    archive.catch_up()
    with pytest.raises(LaunchError, match="LAUNCH_LOG_URL"):
        archive.keep_logs()
    assert stored.runs() == set()


def test_no_name_of_a_run_leads_to_another_folder(store: Store, follower: Make, tmp_path: Path) -> None:
    stored = StoredOutputs(f"file://{tmp_path}/outputs")
    StoredLogs(f"file://{tmp_path}/logs").put_manifest(LogManifest("01hq2mzk8q00000", 1, 7))
    archive = follower(log_url=f"file://{tmp_path}/logs", output_url=stored.objects.url)
    kept = ended_run(store, stored, tmp_path)
    store.want_changes()
    archive.catch_up()
    for name in ("..", ".", "../outputs", "*"):
        store._redis.xadd("launch:changes", {"kind": "gone", "id": name, "at": str(store.now_us())})
    archive.catch_up()
    archive.keep_logs()
    assert stored.runs() == {kept}
    assert (tmp_path / "logs/01hq2mzk8q00000/1/manifest.json").exists()
