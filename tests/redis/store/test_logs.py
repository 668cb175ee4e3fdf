"""Output files reach Redis: in order, once, bounded to the newest, and also when Redis was away."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.attempt.shipping import LogShipper
from launch_worker.attempt.tail import Tail
from launch_worker.attempt.talk import Talk
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import BrokerUnavailableError, UnknownRunError
from launch_worker.ids import new_run_id
from launch_worker.model.job_words import HeedsStop, Preempting, Word
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.runners import output as runners_output
from launch_worker.runners.output import OutputWriter
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import claim, enlist_for

KEEP = 256 << 10
FILE = 4 << 20


@pytest.fixture
def run_id(store: Store) -> str:
    return create(store)


Follow = Callable[..., Tail]


@pytest.fixture
def follow(run_id: str, tmp_path: Path) -> Iterator[Follow]:
    """Makes the tail of the run's output."""
    made: list[Tail] = []

    def make(*, run_id: str = run_id, **options: Any) -> Tail:
        made.append(Tail(run_id, 1, tmp_path / "output", **{"keep_bytes": KEEP, **options}))
        made[-1].open()
        return made[-1]

    yield make
    for tail in made:
        tail.close()


@pytest.fixture
def shipper(store: Store, tmp_path: Path) -> Iterator[LogShipper]:
    made = LogShipper(store, keep_bytes=KEEP, file_bytes=FILE)
    yield made
    close(made, tmp_path)


def create(store: Store) -> str:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",)))
    return run_id


def close(shipper: LogShipper, tmp_path: Path) -> None:
    (tmp_path / "wake").touch()
    shipper.close()
    shipper._inotify.close()
    for tail in shipper._tails.values():
        tail.close()


def kept(store: Store, run_id: str) -> bytes:
    return b"".join(chunk.data for chunk in store.log(run_id, 1))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, last))


# -- one file ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_shipped_in_order_with_its_offsets(store: Store, run_id: str, follow: Follow) -> None:
    tail = follow()
    for number in range(5):
        append(tail.path, b"line %d\n" % number)
        assert tail.ship(store) == 7
    assert [(chunk.offset, chunk.data) for chunk in store.log(run_id, 1)] == [
        (7 * number, b"line %d\n" % number) for number in range(5)
    ]


def test_nothing_new_ships_nothing(store: Store, run_id: str, follow: Follow) -> None:
    tail = follow()
    assert tail.ship(store) == 0
    append(tail.path, b"x")
    assert (tail.ship(store), tail.ship(store), tail.ship(store)) == (1, 0, 0)
    tail.close()
    assert tail.ship(store) == 0
    assert kept(store, run_id) == b"x"


def test_any_bytes_arrive_as_they_are(store: Store, run_id: str, follow: Follow) -> None:
    """Section 7: binary log, lines of any length."""
    data = bytes(range(256)) * 200 + b"\xff\xfe\x00" + b"y" * 100_000 + b"\r\n\x1b[31m"
    tail = follow()
    append(tail.path, data)
    assert tail.ship(store) == len(data)
    assert kept(store, run_id) == data


@pytest.mark.parametrize("keep_bytes", [4096, 100_000, KEEP])
@pytest.mark.parametrize("piece", [100, 3000, 70_000, 1_000_000])
def test_the_newest_output_is_kept_and_no_more(
    store: Store, run_id: str, follow: Follow, keep_bytes: int, piece: int
) -> None:
    """Section 7: bounded memory in Redis, the newest log kept."""
    tail = follow(keep_bytes=keep_bytes)
    written = b""
    for number in range(40 if piece < 1_000_000 else 3):
        data = (b"%d " % number * piece)[:piece]
        append(tail.path, data)
        written += data
        tail.ship(store)
    log = kept(store, run_id)
    assert len(log) <= keep_bytes
    assert written.endswith(log)
    # A chunk that does not fit whole is dropped whole; a chunk is never larger than 64 KiB.
    assert len(log) >= min(len(written), keep_bytes - min(piece, 65536), piece)


def test_a_lost_reply_doubles_nothing(
    store: Store, run_id: str, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has taken the chunk, and the connection broke before it could say so."""
    tail = follow()
    append(tail.path, b"one\n")
    append_log = store.append_log

    def lose_reply(run_id: str, attempt: int, data: bytes, **options: Any) -> str:
        append_log(run_id, attempt, data, **options)
        raise BrokerUnavailableError("the reply was lost")

    with monkeypatch.context() as patched:
        patched.setattr(store, "append_log", lose_reply)
        with pytest.raises(BrokerUnavailableError):
            tail.ship(store)
    append(tail.path, b"two\n")
    tail.ship(store)
    assert kept(store, run_id) == b"one\ntwo\n"


def test_what_was_sent_in_pieces_whose_replies_were_lost_is_kept_with_what_follows(
    store: Store, run_id: str, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks again and again: Redis has each piece, and the worker knows of none."""
    tail = follow()
    append_log = store.append_log

    def lose_reply(run_id: str, attempt: int, data: bytes, **options: Any) -> str:
        append_log(run_id, attempt, data, **options)
        raise BrokerUnavailableError("the reply was lost")

    with monkeypatch.context() as patched:
        patched.setattr(store, "append_log", lose_reply)
        for line in (b"one\n", b"two\n", b"three\n"):
            append(tail.path, line)
            with pytest.raises(BrokerUnavailableError):
                tail.ship(store)
    for line in (b"", b"four\n", b"five\n"):
        append(tail.path, line)
        tail.ship(store)
    assert kept(store, run_id) == b"one\ntwo\nthree\nfour\nfive\n"


def test_the_output_of_a_run_that_was_deleted_goes_nowhere(store: Store, redis_client: Any, follow: Follow) -> None:
    """P41."""
    redis_client.flushall()
    tail = follow(run_id="0" * 15, keep_bytes=4096)
    for _ in range(3):
        append(tail.path, b"x" * 3000)
        with pytest.raises(UnknownRunError):
            tail.ship(store)
    assert redis_client.keys("*") == []


def test_a_file_to_which_a_job_appends_by_itself_takes_bounded_disk(store: Store, run_id: str, follow: Follow) -> None:
    """Section 7: log flood. Its guard was of an older release."""
    tail = follow()
    tail.bound(1 << 20)
    for number in range(20):
        append(tail.path, b"%02d" % number * (1 << 19))
        tail.ship(store)
        assert tail.path.stat().st_blocks * 512 <= 4 << 20
    assert set(kept(store, run_id).decode()) == set("19")


def test_the_record_says_how_much_of_the_latest_attempts_output_is_missing(
    store: Store, run_id: str, follow: Follow
) -> None:
    enlist_for(store, "o", run_id)
    store.claim(run_id, 1, owner="o", worker="w", host="h", lease_s=60)
    tail = follow(keep_bytes=10_000)
    append(tail.path, b"x" * 4000)
    tail.ship(store)
    missing = [store.get(run_id).log_missing]
    for _ in range(5):
        append(tail.path, b"y" * 4000)
        tail.ship(store)
        missing.append(store.get(run_id).log_missing)
        assert missing[-1] + len(kept(store, run_id)) == tail.size()
    assert missing[0] == 0 < missing[-1]
    record = store.get(run_id)
    store.finish(record, NextStep(Outcome(RunState.FAILED)), owner="o")
    store.requeue(run_id, reason="again")
    assert store.get(run_id).log_missing == 0


def test_what_was_given_back_to_the_disk_before_it_was_read_is_missing_and_not_shipped_as_zeros(
    store: Store, run_id: str, follow: Follow, api: Api
) -> None:
    tail = follow(keep_bytes=8 << 20)
    writer = OutputWriter(tail.path, limit_bytes=1 << 20)
    output = lines(0, 500_000)
    for start in range(0, len(output), 1 << 16):
        writer.write(output[start : start + (1 << 16)])
    tail.ship(store)
    log = kept(store, run_id)
    assert b"\0" not in log
    assert output.endswith(log)
    assert len(log) >= 1 << 20
    shown = api.run(run_id).output(attempt=1)
    assert shown.missing + len(shown.data) == len(output)
    assert shown.data.startswith(b"line ")
    writer.close()


def test_where_a_file_has_to_begin_anew_what_follows_is_shipped(
    store: Store, run_id: str, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system cannot free a part of a file."""
    monkeypatch.setattr(runners_output, "_allocate", lambda *_: errno.EOPNOTSUPP)
    tail = follow()
    writer = OutputWriter(tail.path, limit_bytes=1 << 20)
    output = lines(0, 300_000)
    for start in range(0, len(output), 1 << 14):
        writer.write(output[start : start + (1 << 14)])
        tail.ship(store)
    assert writer.end < len(output)
    assert output.endswith(kept(store, run_id))
    assert [chunk.offset for chunk in store.log(run_id, 1)][-1] + (1 << 14) >= len(output)
    writer.close()


# -- the shipper -------------------------------------------------------------------------------------------------------


def test_output_is_shipped_soon_after_it_was_written(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    tail = shipper.watch(run_id, 1, tmp_path / "output")
    for number in range(3):
        before = time.monotonic()
        append(tail.path, lines(number, number + 1))
        wait_until(lambda number=number: kept(store, run_id) == lines(0, number + 1))  # type: ignore[misc]
        assert tail.last_output_s >= before
    shipper.finish(tail)


def test_finish_ships_the_rest_and_nothing_twice(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    tail = shipper.watch(run_id, 1, tmp_path / "output")
    with tail.path.open("ab", buffering=0) as file:
        for number in range(2000):
            file.write(lines(number, number + 1))
    shipper.finish(tail)
    assert kept(store, run_id) == lines(0, 2000)
    shipper.finish(tail)
    assert kept(store, run_id) == lines(0, 2000)


def test_the_files_of_many_runs_do_not_mix(store: Store, shipper: LogShipper, tmp_path: Path) -> None:
    ids = [create(store) for _ in range(20)]
    tails = [shipper.watch(run_id, 1, tmp_path / run_id) for run_id in ids]
    for number in range(50):
        for tail in tails:
            append(tail.path, f"{tail.run_id} {number}\n".encode())
    for tail in tails:
        shipper.finish(tail)
    for run_id in ids:
        assert kept(store, run_id) == b"".join(f"{run_id} {number}\n".encode() for number in range(50))


def test_a_closed_shipper_gives_its_descriptors_back(store: Store, run_id: str, tmp_path: Path) -> None:
    shipper = LogShipper(store, keep_bytes=KEEP, file_bytes=FILE)
    shipper.finish(shipper.watch(run_id, 1, tmp_path / "output"))
    (tmp_path / "wake").touch()
    shipper.close()
    left_open = not shipper._inotify.closed
    shipper._inotify.close()
    assert not left_open


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    """P41."""
    bad, good = shipper.watch(create(store), 1, tmp_path / "bad"), shipper.watch(run_id, 1, tmp_path / "good")
    bad.close()
    append(bad.path, b"x")
    append(good.path, b"y")
    wait_until(lambda: kept(store, run_id) == b"y")


def test_a_flood_stays_bounded_and_its_newest_part_is_kept(
    store: Store, redis_client: Any, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    """X5, section 7: 50 MB written as fast as the disk takes them."""
    tail = shipper.watch(run_id, 1, tmp_path / "output")
    block = b"".join(b"%07d\n" % number for number in range(125_000))
    largest = 0
    begun = time.monotonic()
    with tail.path.open("ab", buffering=0) as file:
        for at in range(0, 50 * len(block), 1 << 16):
            file.write(block[at % len(block) :][: 1 << 16].ljust(1 << 16, b"."))
            if at % (8 << 20) == 0:
                largest = max(largest, len(kept(store, run_id)))
        file.write(b"the end\n")
    took_s = time.monotonic() - begun
    shipper.finish(tail)
    log = kept(store, run_id)
    assert max(largest, len(log)) <= KEEP
    assert log.endswith(b"the end\n")
    assert len(log) >= KEEP - (64 << 10)
    assert took_s < 10, "the job is not held up"
    assert redis_client.memory_usage(f"launch:run:{run_id}:log:1") < 2 * KEEP


def num_waits(shipper: LogShipper) -> int:
    """How often its thread has slept and woken."""
    status = Path(f"/proc/self/task/{shipper._thread.native_id}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt"))


def test_a_brief_jobs_output_is_shipped_at_its_end_and_the_thread_sleeps_on(
    store: Store, shipper: LogShipper, tmp_path: Path
) -> None:
    ids = [create(store) for _ in range(20)]
    wait_until(lambda: num_waits(shipper))
    before = num_waits(shipper)
    for number, run_id in enumerate(ids):
        tail = shipper.tail(run_id, 1, tmp_path / run_id)
        assert not tail.path.exists()
        if number % 2:
            append(tail.path, lines(number, number + 1))
        shipper.finish(tail)
        shipper.finish(tail)
    assert [kept(store, run_id) for run_id in ids] == [lines(n, n + 1) if n % 2 else b"" for n in range(20)]
    assert (shipper._tails, num_waits(shipper)) == ({}, before)


def test_a_flood_of_a_brief_job_is_cut_to_its_newest_part(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    tail = shipper.tail(run_id, 1, tmp_path / "output")
    append(tail.path, b"x" * (8 << 20) + b"the end\n")
    shipper.finish(tail)
    log = kept(store, run_id)
    assert KEEP - (64 << 10) <= len(log) <= KEEP
    assert log.endswith(b"the end\n")


def test_what_a_job_printed_before_it_was_followed_is_shipped_at_once_and_what_follows_too(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    tail = shipper.tail(run_id, 1, tmp_path / "output")
    append(tail.path, lines(0, 1))
    shipper.follow(tail)
    wait_until(lambda: kept(store, run_id) == lines(0, 1))
    before = time.monotonic()
    shipper.follow(tail)
    append(tail.path, lines(1, 2))
    wait_until(lambda: kept(store, run_id) == lines(0, 2))
    assert tail.last_output_s >= before
    shipper.finish(tail)


def test_what_a_job_tells_is_heard_soon_whenever_it_makes_the_file(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    """And what else lies in the folder is no sign of life."""
    words: list[Word] = []
    enlist_for(store, "o", run_id)
    store.claim(run_id, 1, owner="o", worker="w", host="h", lease_s=60)
    talk = Talk(run_id, store.get(run_id).token, tmp_path, on_word=words.append)
    shipper.follow(talk)
    heard_at = talk.last_output_s
    (tmp_path / "other").write_text("x")
    time.sleep(0.1)
    assert talk.last_output_s == heard_at
    append(talk.path, b'{"heeds_stop": true, "summary": {"x": 1}}\n')
    wait_until(lambda: store.get(run_id).summary)
    assert words == [HeedsStop()]
    assert talk.last_output_s > heard_at
    append(talk.path, b'{"preempting": true}\n')
    wait_until(lambda: words == [HeedsStop(), Preempting()])
    shipper.finish(talk)


def test_a_file_that_cannot_be_watched_is_looked_at_all_the_same(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's watches are used up: that is no reason to end a job, or to call it silent."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no watches left")

    with monkeypatch.context() as patched:
        patched.setattr(shipper._inotify, "add_watch", refuse)
        tail = shipper.tail(run_id, 1, tmp_path / "output")
        shipper.follow(tail)
        for number in range(2):
            before = time.monotonic()
            append(tail.path, lines(number, number + 1))
            wait_until(lambda number=number: kept(store, run_id) == lines(0, number + 1))  # type: ignore[misc]
            assert tail.last_output_s >= before
    wait_until(lambda: shipper._tails, what="it is watched as soon as that can be")
    shipper.finish(tail)
    assert (shipper._tails, shipper._blind) == ({}, set())


def test_what_a_job_puts_in_its_outputs_place_holds_nobody_up(
    store: Store, run_id: str, shipper: LogShipper, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of somebody else")
    for name in ("pipe", "link", "gone"):
        tail = shipper.tail(run_id, 1, tmp_path / name)
        if name == "pipe":
            os.mkfifo(tail.path)
        elif name == "link":
            tail.path.symlink_to(tmp_path / "secret")
        shipper.finish(tail)
    assert kept(store, run_id) == b""


# -- Redis away --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A Redis that a test may kill."""
    server = RedisServer(aof="always")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_store(own_server: RedisServer) -> Iterator[Store]:
    made = Store(own_server.url)
    yield made
    made.close()


@pytest.fixture
def own_shipper(own_store: Store, tmp_path: Path) -> Iterator[LogShipper]:
    made = LogShipper(own_store, keep_bytes=KEEP, file_bytes=FILE)
    yield made
    close(made, tmp_path)


def is_away(call: Callable[[], object]) -> bool:
    try:
        call()
    except BrokerUnavailableError:
        return True
    return False


def test_shipping_goes_on_by_itself_when_redis_is_back(
    own_server: RedisServer, own_store: Store, own_shipper: LogShipper, tmp_path: Path
) -> None:
    """P33: a job that ran on keeps its log."""
    run_id = create(own_store)
    tail = own_shipper.watch(run_id, 1, tmp_path / "output")
    append(tail.path, lines(0, 100))
    wait_until(lambda: kept(own_store, run_id) == lines(0, 100))
    own_server.kill()
    append(tail.path, lines(100, 200))
    time.sleep(0.2)
    append(tail.path, lines(200, 300))
    own_server.start()
    wait_until(lambda: kept(own_store, run_id) == lines(0, 300), timeout_s=10.0)
    append(tail.path, lines(300, 400))
    own_shipper.finish(tail)
    assert kept(own_store, run_id) == lines(0, 400)


def test_every_job_that_printed_during_an_outage_is_shipped_after_it(
    own_server: RedisServer, own_store: Store, own_shipper: LogShipper, tmp_path: Path
) -> None:
    """P33: also those that print nothing more."""
    ids = [create(own_store) for _ in range(8)]
    tails = [own_shipper.watch(run_id, 1, tmp_path / run_id) for run_id in ids]
    own_server.kill()
    for tail in tails:
        append(tail.path, b"printed once\n")
    time.sleep(0.3)
    own_server.start()
    wait_until(lambda: all(kept(own_store, run_id) == b"printed once\n" for run_id in ids), timeout_s=8.0)


def test_finish_says_that_redis_is_away_and_can_be_repeated(
    own_server: RedisServer, own_store: Store, own_shipper: LogShipper, tmp_path: Path
) -> None:
    """P33."""
    run_id = create(own_store)
    tail = own_shipper.watch(run_id, 1, tmp_path / "output")
    own_server.kill()
    append(tail.path, lines(0, 10))
    assert is_away(lambda: own_shipper.finish(tail))
    assert is_away(lambda: own_shipper.finish(tail))
    own_server.start()
    own_shipper.finish(tail)
    assert kept(own_store, run_id) == lines(0, 10)


def test_output_is_sent_again_to_a_redis_that_had_lost_the_run(
    store: Store, redis_client: Any, shipper: LogShipper, tmp_path: Path
) -> None:
    """After a restore from a snapshot the worker writes the record again, and all that its file has follows."""
    record = claim(store, create(store))
    tail = shipper.watch(record.id, 1, tmp_path / "output")
    append(tail.path, b"before\n")
    wait_until(lambda: kept(store, record.id))
    redis_client.delete(keys.run(record.id), keys.history(record.id), keys.log(record.id, 1))
    append(tail.path, b"after\n")
    with pytest.raises(UnknownRunError):
        shipper.finish(tail)
    assert store.restore(record, owner=record.owner)
    shipper.finish(tail)
    assert kept(store, record.id) == b"before\nafter\n"


def test_output_of_a_long_outage_is_cut_to_its_newest_part(
    own_server: RedisServer, own_store: Store, own_shipper: LogShipper, tmp_path: Path
) -> None:
    """Section 7: the file is the buffer, and only what Redis keeps is sent."""
    run_id = create(own_store)
    tail = own_shipper.watch(run_id, 1, tmp_path / "output")
    append(tail.path, b"before\n")
    wait_until(lambda: kept(own_store, run_id))
    own_server.kill()
    for number in range(20):
        append(tail.path, b"%02d" % number * (KEEP // 4))
    own_server.start()
    own_shipper.finish(tail)
    log = kept(own_store, run_id)
    assert len(log) <= KEEP
    assert log.endswith(b"1919")
    assert b"before" not in log
