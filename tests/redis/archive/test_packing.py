"""Small outputs are packed before Redis forgets their runs, and read afterwards; packs lose what is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select, update

from launch_worker.api.client import Api, Run
from launch_worker.api.doctor import diagnosis, kept
from launch_worker.archive import packer, schema
from launch_worker.archive.deletion import delete_runs
from launch_worker.archive.selection import Selection
from launch_worker.archive.status import status
from launch_worker.database.database import Database
from launch_worker.errors import InputError, LaunchError
from launch_worker.logs import zstd
from launch_worker.logs.manifest import Block, Manifest, Segment
from launch_worker.logs.packing import read_pack
from launch_worker.logs.stored import StoredLogs
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.redis.archive.stores import logs, s3, url_of
from tests.support.archives import Follower
from tests.support.arrows import FAILED, FAILED_AGAIN, FINISHED, claim, create

__all__ = ["logs", "s3"]

Make = Callable[..., Follower]


def printed(store: Store, *outputs: bytes, **options: Any) -> str:
    """An ended run, each of whose attempts has printed something."""
    run_id = create(store, retries=5, **options)
    for number, output in enumerate(outputs, 1):
        record = claim(store, run_id)
        if output:
            store.append_log(run_id, record.attempt, output, offset=0, line=0)
        store.finish(record, FINISHED if number == len(outputs) else FAILED_AGAIN)
    return run_id


@contextmanager
def client(store: Store, database_url: str, log_url: str) -> Iterator[Api]:
    """A person's side of a system with an archive."""
    made = Api(settings=Settings(redis_url=store.url, database_url=database_url, log_url=log_url))
    try:
        yield made
    finally:
        made.store.close()
        if database := made.direct.archive():
            database.close()


@pytest.fixture
def api(store: Store, database_url: str, logs: StoredLogs) -> Iterator[Api]:
    with client(store, database_url, url_of(logs)) as made:
        yield made


def forget(store: Store, archive: Follower) -> None:
    """Have Redis forget what it may, and the archive know that."""
    while store.retire(retention_s=0.0):
        pass
    archive.archive.walk()


def packs(database: Database) -> dict[str, int]:
    """The packs that the archive knows, with their sizes."""
    with database.reading() as connection:
        return {row.name: row.stored for row in connection.execute(select(schema.packs))}


def objects(logs: StoredLogs) -> set[str]:
    return {name.partition("/")[2].partition(".")[0] for name in logs.objects.names("packs")}


def read(api: Api, run_id: str, attempt: int | None = None) -> bytes:
    return Run(api, run_id).logs(attempt=attempt)


def delete(database: Database, store: Store, *run_ids: str) -> None:
    """Delete these runs as `archive delete` does."""
    with database.writing() as connection:
        connection.execute(update(schema.runs).where(schema.runs.c.id.in_(run_ids)).values(project="a/b"))
    assert sum(delete_runs(database, store, Selection(project="a/b"), who="a", keep_s=9.0)) == len(run_ids)


def test_small_outputs_are_one_object_before_redis_forgets_them_and_are_read_then(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    runs = [printed(store, b"first of %d\n" % number, b"second of %d\nend" % number) for number in range(30)]
    silent, in_line = printed(store, b""), create(store)
    store.cancel(in_line, reason="not wanted")
    archive.catch_up()
    assert store.retire(retention_s=0.0) == 0, "Redis keeps them until their outputs are packed"
    archive.keep_logs()
    assert len(objects(logs)) == 1
    assert not store.unarchived()
    forget(store, archive)
    assert not [run_id for run_id in runs if store.exists(run_id)]
    for number in (0, 17, 29):
        assert read(api, runs[number]) == b"second of %d\nend" % number
        assert read(api, runs[number], 1) == b"first of %d\n" % number
    assert b"".join(piece.data for piece in Run(api, runs[3]).read_logs(tail=1)) == b"end"
    assert [read(api, run_id) for run_id in (silent, in_line)] == [b"", b""]
    with pytest.raises(InputError, match="there is no attempt 3"):
        read(api, runs[0], 3)
    said = pytest.raises(InputError, match="set LAUNCH_LOG_URL as for the archive's process")
    with client(store, api.settings.database_url, "") as without, said:
        read(without, runs[0])


def test_without_a_store_of_logs_redis_forgets_outputs_and_that_is_said(
    store: Store, follower: Make, database_url: str
) -> None:
    archive = follower()
    run_id = printed(store, b"gone\n")
    archive.catch_up()
    forget(store, archive)
    with client(store, database_url, "") as api, pytest.raises(InputError, match="archive had no LAUNCH_LOG_URL"):
        read(api, run_id)


def test_a_few_young_outputs_wait_for_others(
    store: Store, database: Database, follower: Make, logs: StoredLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "_RUNS", 3)
    archive = follower(log_url=url_of(logs), retention_s=7200.0)
    first = [printed(store, b"x\n") for _ in range(2)]
    archive.catch_up()
    archive.keep_logs()
    assert (objects(logs), len(store.unarchived())) == (set(), len(first))
    printed(store, b"x\n")
    archive.catch_up()
    archive.keep_logs()
    assert (len(objects(logs)), len(store.unarchived())) == (1, 0)


def test_a_store_that_is_away_keeps_outputs_in_redis(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url="ftp://127.0.0.1:1/logs")
    run_id = printed(store, b"kept\n")
    archive.catch_up()
    with pytest.raises(LaunchError, match="LAUNCH_LOG_URL"):
        archive.keep_logs()
    archive.archive.walk()
    assert store.retire(retention_s=0.0) == 0
    archive = follower(log_url=url_of(logs))
    archive.keep_logs()
    forget(store, archive)
    assert read(api, run_id) == b"kept\n"


def test_a_death_between_the_pack_and_its_note_loses_nothing_and_leaves_no_pack(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = printed(store, b"kept\n")
    archive.catch_up()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packer.Packer, "_note_packed", die)
        with pytest.raises(KeyboardInterrupt):
            archive.keep_logs()
    archive.archive.walk()
    assert store.retire(retention_s=0.0) == 0
    [left] = objects(logs)
    archive = follower(log_url=url_of(logs))
    archive.keep_logs()
    forget(store, archive)
    assert read(api, run_id) == b"kept\n"
    assert len(objects(logs)) == 2
    with database.writing() as connection:
        connection.execute(update(schema.packs).where(schema.packs.c.name == left).values(begun_at=0))
    archive.keep_logs()
    assert objects(logs) == set(packs(database))
    assert left not in packs(database)


def test_a_death_between_the_note_and_its_word_to_redis_is_made_up(
    store: Store, database: Database, follower: Make, logs: StoredLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower(log_url=url_of(logs))
    printed(store, b"kept\n")
    archive.catch_up()
    with monkeypatch.context() as patched:
        patched.setattr(Store, "confirm_archived", lambda *_: 0)
        archive.keep_logs()
    assert store.unarchived()
    follower(log_url=url_of(logs)).catch_up()
    assert not store.unarchived()


def test_a_pack_goes_with_its_last_run_and_is_written_anew_when_most_of_it_is_gone(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    runs = [printed(store, b"output of %d\n" % number) for number in range(6)]
    archive.catch_up()
    archive.keep_logs()
    [first] = objects(logs)
    forget(store, archive)

    delete(database, store, runs[0])
    archive.keep_logs()
    assert objects(logs) == {first}
    assert read(api, runs[1]) == b"output of 1\n"
    opened = Run(api, runs[5]).read_logs()
    delete(database, store, *runs[1:4])
    archive.keep_logs()
    [second] = objects(logs)
    assert second != first
    assert [read(api, run_id) for run_id in runs[4:]] == [b"output of 4\n", b"output of 5\n"]
    assert b"".join(piece.data for piece in opened) == b"output of 5\n", "a reader that began before finds it"
    assert [manifest.run_id for manifest in read_pack(logs, second)] == sorted(runs[4:])
    delete(database, store, *runs[4:])
    archive.keep_logs()
    assert objects(logs) == set() == set(packs(database))


def test_a_run_that_a_person_deletes_is_out_of_its_pack(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = printed(store, b"secret\n")
    archive.catch_up()
    archive.keep_logs()
    assert objects(logs)
    store.delete(run_id, who="ada@host", keep_s=60.0)
    archive.catch_up()
    archive.keep_logs()
    assert not objects(logs)


def test_a_run_that_ends_once_more_is_packed_once_more(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = printed(store, b"first\n")
    archive.catch_up()
    archive.keep_logs()
    store.requeue(run_id, reason="retried")
    record = claim(store, run_id)
    store.append_log(run_id, record.attempt, b"second\n", offset=0, line=0)
    archive.catch_up()
    archive.keep_logs()
    store.finish(record, FAILED)
    archive.catch_up()
    assert store.retire(retention_s=0.0) == 0
    archive.keep_logs()
    forget(store, archive)
    assert (read(api, run_id), read(api, run_id, 1)) == (b"second\n", b"first\n")
    assert objects(logs) == set(packs(database))
    assert len(objects(logs)) == 1


def large(store: Store) -> str:
    """An ended run of whose output Redis has the newest bytes only."""
    run_id = create(store)
    record = claim(store, run_id)
    store.append_log(run_id, record.attempt, b"newest\n", offset=1000, line=10)
    store.finish(record, FINISHED)
    return run_id


def test_an_output_that_has_a_log_of_its_own_is_in_no_pack(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = large(store)
    logs.put_manifest(Manifest(run_id, 1, 1, end=1007, is_complete=True))
    archive.catch_up()
    archive.keep_logs()
    forget(store, archive)
    assert not objects(logs)
    logs.delete_run(run_id)
    [piece] = Run(api, run_id).read_logs()
    assert str(piece.gap) == "… 1,007 bytes of output before this are kept nowhere"


def test_what_no_worker_has_stored_is_packed_and_joined_with_what_one_has(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower(log_url=url_of(logs))
    alone, joined = large(store), large(store)
    data = b"x" * 49 + b"\n"
    frame = zstd.compress(data * 10)
    logs.objects.put(f"{joined}/1/a.zst", [frame])
    block = Block(500, len(frame), 10, 1)
    part = Manifest(joined, 1, 1).with_segment(Segment(f"{joined}/1/a.zst", 0, 0, 0, (block,)), end_ms=1)
    logs.put_manifest(part)
    archive.catch_up()
    archive.keep_logs()
    forget(store, archive)
    [piece] = Run(api, alone).read_logs()
    assert (piece.data, piece.gap and piece.gap.bytes) == (b"newest\n", 1000)
    pieces = list(Run(api, joined).read_logs())
    assert b"".join(piece.data for piece in pieces) == data * 10 + b"newest\n"
    assert [piece.gap.bytes for piece in pieces if piece.gap] == [500]


def test_the_outputs_that_were_there_before_the_setting_are_packed_too(
    store: Store, database: Database, follower: Make, logs: StoredLogs, api: Api
) -> None:
    archive = follower()
    run_id, gone = printed(store, b"before\n"), printed(store, b"x\n")
    archive.catch_up()
    assert not store.unarchived()
    store._redis.delete(f"launch:run:{gone}")
    archive = follower(log_url=url_of(logs))
    archive.keep_logs()
    assert status(database, store).undeleted_logs == 0
    forget(store, archive)
    assert read(api, run_id) == b"before\n"
    with pytest.raises(InputError, match="kept nowhere"):
        read(api, gone)


def test_packs_have_a_size(
    store: Store, database: Database, follower: Make, logs: StoredLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "_BYTES", 100)
    monkeypatch.setattr(packer, "_PAGE", 2)
    archive = follower(log_url=url_of(logs))
    for _ in range(8):
        printed(store, b"x" * 60)
    archive.catch_up()
    archive.keep_logs()
    assert len(objects(logs)) == 4
    assert not store.unarchived()


def test_doctor_says_when_outputs_cannot_be_stored(
    store: Store, database_url: str, follower: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower(log_url="ftp://127.0.0.1:1/logs")
    printed(store, b"x\n")
    archive.catch_up()

    def found() -> list[str]:
        return [finding.name for finding in diagnosis.check(store, Settings(database_url=database_url))]

    assert "logs.unpacked" not in found()
    monkeypatch.setattr(kept, "_PACK_LATE_S", 0.0)
    assert "logs.unpacked" in found()
