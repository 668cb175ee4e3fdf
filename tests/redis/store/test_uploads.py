"""Uploads in a real Redis and in folders: whole or not there, once, with an expiry; and the pin of a commit."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch_worker.code.fetch import fetch_code
from launch_worker.code.patience import Patience
from launch_worker.code.send import send_folder
from launch_worker.code.storage import FolderStorage, RedisStorage, Storage, storage_of
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import CodeError, LaunchError, SettingsError, StartGivenUpError
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import enlist_for
from tests.support.redis_client import redis_of

LIMIT = 8 << 20
#: Three chunks in Redis.
DATA = os.urandom((2 << 20) + 5)
SHA256 = hashlib.sha256(DATA).hexdigest()
HOUR_S = 3600.0


@pytest.fixture(params=["redis", "file", "memory"])
def storage(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Storage:
    urls = {"redis": "redis", "file": f"file://{tmp_path}/shared/uploads", "memory": f"memory://{tmp_path.name}"}
    return storage_of(Settings(upload_url=urls[request.param], retention_s=HOUR_S), store)


def get(storage: Storage, sha256: str = SHA256, limit_bytes: int = LIMIT) -> bytes | None:
    target = io.BytesIO()
    return target.getvalue() if storage.get(sha256, target, limit_bytes=limit_bytes) else None


# -- every storage -------------------------------------------------------------------------------------------------


def test_what_was_put_is_there(storage: Storage) -> None:
    assert not storage.renew(SHA256)
    assert get(storage) is None
    storage.put(SHA256, io.BytesIO(DATA))
    assert storage.renew(SHA256)
    assert get(storage) == DATA
    storage.put(SHA256, io.BytesIO(DATA))
    assert get(storage) == DATA


def test_another_content_is_refused_and_makes_room_for_the_right_one(storage: Storage) -> None:
    storage.put(SHA256, io.BytesIO(b"something else"))
    with pytest.raises(CodeError, match="submit again"):
        get(storage)
    assert not storage.renew(SHA256), "else it would not be sent again"
    storage.put(SHA256, io.BytesIO(DATA))
    assert get(storage) == DATA


def test_more_than_the_worker_takes_is_refused(storage: Storage) -> None:
    storage.put(SHA256, io.BytesIO(DATA))
    with pytest.raises(CodeError, match="LAUNCH_UPLOAD_BYTES"):
        get(storage, limit_bytes=len(DATA) - 1)


# -- Redis ---------------------------------------------------------------------------------------------------------


def test_every_key_of_an_upload_expires(store: Store, redis_client: Any) -> None:
    storage = RedisStorage(store, HOUR_S)
    storage.put(SHA256, io.BytesIO(DATA))
    redis = redis_client
    names = redis.keys("launch:upload:*")
    assert len(names) == 4
    assert all(0 < redis.pttl(name) <= HOUR_S * 1000 for name in names)
    for name in names:
        redis.pexpire(name, 50_000)
    assert storage.renew(SHA256)
    assert all(redis.pttl(name) > 50_000 for name in names)
    for name in names:
        redis.pexpire(name, 50_000)
    get(storage)
    assert all(redis.pttl(name) > 50_000 for name in names), "also for one that fetches it"


def test_a_half_written_upload_is_not_there_and_expires(store: Store, redis_client: Any) -> None:
    store.put_upload_chunk(SHA256, 0, DATA[: 1 << 20])
    store.put_upload_chunk(SHA256, 1, DATA[1 << 20 : 2 << 20])
    assert not store.keep_upload(SHA256, chunks=3, size=len(DATA), keep_s=HOUR_S)
    assert store.renew_upload(SHA256, keep_s=HOUR_S) == 0
    assert get(RedisStorage(store, HOUR_S)) is None
    assert all(redis_client.ttl(name) > 0 for name in redis_client.keys("launch:upload:*"))


def test_an_upload_that_lost_a_part_is_not_there(store: Store, redis_client: Any) -> None:
    storage = RedisStorage(store, HOUR_S)
    storage.put(SHA256, io.BytesIO(DATA))
    redis_client.delete(keys.upload_chunk(SHA256, 1))
    assert not storage.renew(SHA256)
    assert get(storage) is None


def test_nothing_can_be_kept_without_a_part(store: Store) -> None:
    assert not store.keep_upload(SHA256, chunks=0, size=0, keep_s=HOUR_S)


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_cut_upload_leaves_nothing_that_could_be_taken_for_whole(tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionError("cut")
            return super().read(size)

    storage = FolderStorage(f"file://{tmp_path}")
    with pytest.raises(LaunchError, match="cut"):
        storage.put(SHA256, Cut(DATA))
    assert not list(tmp_path.iterdir())


def test_a_renewed_file_is_not_old(tmp_path: Path) -> None:
    storage = FolderStorage(f"file://{tmp_path}")
    storage.put(SHA256, io.BytesIO(DATA))
    os.utime(tmp_path / f"{SHA256}.tar.gz", (1, 1))
    assert storage.renew(SHA256)
    assert (tmp_path / f"{SHA256}.tar.gz").stat().st_mtime > 1
    assert get(storage) == DATA


def test_a_kind_of_storage_that_is_not_installed_is_said() -> None:
    with pytest.raises(SettingsError, match="LAUNCH_UPLOAD_URL nosuchthing://") as error:
        FolderStorage("nosuchthing://user:hunter2@h/x")
    assert "hunter2" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="cannot write to the uploads at file://"):
        FolderStorage(f"file://{tmp_path}/file/uploads").put(SHA256, io.BytesIO(DATA))


# -- from a submitter to a worker ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print('hi')")
    return tmp_path / "project"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path / "work", upload_bytes=LIMIT)


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(store: Store, settings: Settings, tmp_path: Path) -> Fetch:
    count = iter(range(100))

    def fetch(sha256: str, *, limit_s: float = 10.0, store: Store = store, settings: Settings = settings) -> Path:
        code = tmp_path / f"code{next(count)}"
        spec = RunSpec(command=("a",), upload=sha256)
        record = Record.from_hash({"id": "x"})
        assert fetch_code(spec, record, code, settings=settings, store=store, patience=Patience.of(limit_s)) == ""
        return code

    return fetch


def test_a_folder_gets_from_submitter_to_worker_and_is_sent_once(
    folder: Path, settings: Settings, store: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = send_folder(folder, settings=settings, store=store)
    assert (fetch(sha256) / "train.py").read_text() == "print('hi')"
    sent: list[str] = []
    monkeypatch.setattr(RedisStorage, "put", lambda *_: sent.append("again"))
    assert send_folder(folder, settings=settings, store=store) == sha256
    assert not sent


def test_a_worker_keeps_what_it_fetched(
    folder: Path, settings: Settings, store: Store, redis_client: Any, fetch: Fetch
) -> None:
    sha256 = send_folder(folder, settings=settings, store=store)
    fetch(sha256)
    redis_client.delete(*redis_client.keys("launch:upload:*"))
    assert (fetch(sha256) / "train.py").exists()
    kept = settings.work_dir / "code" / "uploads" / f"{sha256}.tar.gz"
    kept.write_bytes(b"damaged")
    with pytest.raises(CodeError, match="is gone: submit again"):
        fetch(sha256)
    send_folder(folder, settings=settings, store=store)
    assert (fetch(sha256) / "train.py").exists()


def test_an_upload_that_is_gone_is_said(fetch: Fetch, settings: Settings) -> None:
    with pytest.raises(CodeError, match=f"the upload {'a' * 12} is gone: submit again"):
        fetch("a" * 64)
    assert not [path for path in (settings.work_dir / "code" / "uploads").iterdir() if path.suffix != ".lock"]


def test_the_longest_unused_archives_are_thrown_away(
    folder: Path, settings: Settings, store: Store, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.code.fetch.KEPT_ARCHIVES", 2)
    for number in range(4):
        (folder / "n").write_text(str(number))
        newest = send_folder(folder, settings=settings, store=store)
        fetch(newest)
    kept = sorted(path.name for path in (settings.work_dir / "code" / "uploads").glob("*.gz"))
    assert len(kept) == 2
    assert f"{newest}.tar.gz" in kept


def test_a_worker_waits_for_redis_until_the_start_timeout(tmp_path: Path, settings: Settings, fetch: Fetch) -> None:
    store = Store("redis://127.0.0.1:1/0")
    with pytest.raises(CodeError, match="within the start timeout"):
        fetch("a" * 64, limit_s=0.3, store=store)
    store.close()


def test_a_worker_goes_on_when_redis_is_back(folder: Path, settings: Settings, fetch: Fetch) -> None:
    server = RedisServer(aof="always")
    server.start()
    store = Store(server.url)
    try:
        sha256 = send_folder(folder, settings=settings, store=store)
        server.kill()
        with pytest.raises(CodeError, match="start timeout"):
            fetch(sha256, limit_s=0.3, store=store)
        server.start()
        assert (fetch(sha256, store=store) / "train.py").exists()
    finally:
        store.close()
        server.stop()


def test_waiting_ends_when_the_code_is_no_longer_wanted() -> None:
    hung = threading.Event()
    with pytest.raises(StartGivenUpError):
        Patience.of(10, unwanted=lambda: True).await_thread(lambda: hung.wait(10))
    hung.set()


# -- the pin -------------------------------------------------------------------------------------------------------

ONE, TWO = "1" * 40, "2" * 40


def claimed(store: Store, run_id: str) -> Record:
    seq = int(redis_of(store.url).hget(keys.run(run_id), "seq"))
    enlist_for(store, "o", run_id)
    record, why = store.claim(run_id, seq, owner="o", worker="w@h", host="h", lease_s=60)
    assert record is not None, why
    return record


def test_the_first_commit_stays_for_every_later_attempt(store: Store) -> None:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("a",), uri="https://h/r"))
    first = claimed(store, run_id)
    assert first.commit == ""
    assert store.pin(run_id, first.token, ONE) == ONE
    assert store.pin(run_id, first.token, ONE) == ONE, "a call whose answer was lost"
    store.finish(first, NextStep(Outcome(RunState.FAILED), retry_delay_s=0.0, retry_reason="retry"))
    second = claimed(store, run_id)
    assert second.commit == ONE
    assert store.pin(run_id, second.token, TWO) == ONE
    store.finish(second, NextStep(Outcome(RunState.FAILED)))
    store.requeue(run_id, reason="by hand")
    assert claimed(store, run_id).commit == ONE


def test_a_stale_attempt_pins_nothing(store: Store) -> None:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("a",), uri="https://h/r"))
    assert store.pin(run_id, 0, ONE) == "", "not Running"
    first = claimed(store, run_id)
    store.finish(first, NextStep(Outcome(RunState.FAILED), retry_delay_s=0.0))
    second = claimed(store, run_id)
    assert store.pin(run_id, first.token, ONE) == ""
    assert store.get(run_id).commit == ""
    assert store.pin(run_id, second.token, TWO) == TWO
    assert store.pin("0nosuchrun", 1, ONE) == ""


def test_a_record_that_redis_lost_comes_back_with_its_commit(store: Store, redis_client: Any) -> None:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("a",), uri="https://h/r"))
    record = claimed(store, run_id)
    store.pin(run_id, record.token, ONE)
    kept = store.get(run_id)
    redis_client.flushall()
    store.restore(kept, lease_s=60, owner="o")
    assert store.get(run_id).commit == ONE
