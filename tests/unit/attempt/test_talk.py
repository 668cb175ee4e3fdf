"""What a worker makes of the lines that a job tells it: the protocol, and whatever else is in the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.attempt import talk
from launch_worker.attempt.talk import MAX_LINE_BYTES, MAX_ROWS, Talk, numbers_in, read_words
from launch_worker.model.job_words import CheckpointReady, Finish, HeedsStop, Preempting, Word, Words, outcome_by_words
from launch_worker.model.outcome import Outcome
from launch_worker.model.states import RunState
from launch_worker.runners.talk_folder import announce_stop
from launch_worker.store.store import Store
from launch_worker.store.talk import MAX_SUMMARY_BYTES, TalkSoFar, merge_summary


class Job:
    """A job that writes, and what its worker hears. Its store is a list of the calls to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words: list[Word] = []
        folder.mkdir(exist_ok=True)
        self.talk = Talk("r1", 7, folder, on_word=self.words.append)
        self.sent: list[dict[str, Any]] = []
        self.so_far = TalkSoFar(0, {}, -1)

    def write(self, *lines: object) -> None:
        with self.talk.path.open("ab") as file:
            for line in lines:
                file.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")

    def tell(
        self, run_id: str, token: int, summary: Any, metrics: list[str], message: str, *, end: int, preempting: bool
    ) -> bool:
        assert (run_id, token) == ("r1", 7)
        rows = [json.loads(row) for row in metrics]
        self.sent.append({"summary": summary, "rows": rows, "message": message, "end": end, "preempting": preempting})
        return True

    def talk_so_far(self, run_id: str, token: int) -> TalkSoFar:
        return self.so_far

    def ship(self) -> None:
        self.talk.ship(self.store)

    @property
    def store(self) -> Store:
        return self  # type: ignore[return-value]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path / "talk")
    yield made
    made.talk.close()


def test_words_are_heard_once_and_kept_beside_the_file(job: Job) -> None:
    job.write({"heeds_stop": True}, {"preempting": True}, {"finish": 3}, {"finish": 0}, {"preempting": True})
    job.talk.look()
    job.talk.look()
    assert job.words == [HeedsStop(), Preempting(), Finish(3)]
    assert read_words(job.folder) == job.talk.words == Words(finish=3, preempting=True, heeds_stop=True)


def test_what_a_job_does_to_the_file_again_and_again_is_logged_once(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        job.talk.path.symlink_to("/dev/zero")
        job.talk.look()
        job.talk.path.unlink()
        job.talk.path.mkdir()
        job.talk.look()
        job.talk.path.rmdir()
    for size in range(1, 5):
        with job.talk.path.open("ab") as file:
            file.truncate(size << 30)
        job.talk.look()
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        *("talk.unreadable", "talk.unreadable", "talk.flood", "talk.not_understood"),
    ]


def test_a_flood_of_words_is_kept_by_one_file_a_piece(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    monkeypatch.setattr(talk, "replace", lambda folder, name, text: kept.append(text))
    job.write(*({"checkpoint": number} for number in range(1, 900)))
    job.talk.look()
    assert len(kept) == 1
    assert json.loads(kept[0])["checkpoint"] == 899


def test_each_checkpoint_is_heard_by_its_number_and_the_latest_is_kept_for_the_next_worker(job: Job) -> None:
    job.write({"checkpoint": 3}, {"checkpoint": 3}, {"checkpoint": 4}, {"checkpoint": 0}, {"checkpoint": 1 << 63})
    job.write({"checkpoint": "5"}, {"checkpoint": False})
    job.talk.look()
    assert job.words == [CheckpointReady(3), CheckpointReady(4)]
    assert read_words(job.folder) == Words(checkpoint=4)
    job.write({"checkpoint": True})
    job.talk.look()
    job.write({"checkpoint": True})
    job.talk.look()
    assert len(set(job.words)) == 4, "each without a number is another one"


def test_the_file_is_the_jobs_to_make_and_is_heard_once_it_is_there(tmp_path: Path) -> None:
    job = Job(tmp_path / "talk")
    job.talk.look()
    job.ship()
    assert list(job.folder.iterdir()) == []
    job.write({"finish": 3}, {"summary": {"x": 1}})
    job.talk.look()
    job.ship()
    assert job.words == [Finish(3)]
    assert [sent["summary"] for sent in job.sent] == [{"x": 1}]
    assert job.talk.open() == job.folder
    job.talk.close()
    job.write({"preempting": True})
    job.talk.look()
    assert job.words == [Finish(3)], "what is closed is heard no more"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_put_in_the_files_place_blocks_and_reaches_nothing(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path / "talk")
    (tmp_path / "other").write_text('{"finish": 0}\n')
    make = {"pipe": os.mkfifo, "link": lambda path: path.symlink_to(tmp_path / "other"), "folder": os.mkdir}
    make[kind](job.talk.path)
    job.talk.look()
    job.talk.open()
    job.talk.look()
    job.talk.close()
    assert job.words == []
    assert (tmp_path / "other").read_text() == '{"finish": 0}\n'


@pytest.mark.parametrize("code", [-1, 256, 10**30])
def test_an_exit_code_that_no_process_can_have_is_a_failure(job: Job, code: int) -> None:
    job.write({"finish": code})
    job.talk.look()
    assert job.words == [Finish(1)]


@pytest.mark.parametrize(
    "line",
    [
        *(b"garbage", b"[]", b"3", b"null", b"{", b"\xff\xfe", b"{}", b'{"finish": true}', b'{"finish": "0"}'),
        *(b'{"finish": 0.5}', b'{"preempting": 1}', b'{"log": 3}', b'{"summary": ["x"]}', b'{"message": 3}'),
        *(b'{"log": {"x": 1e999}}', b'{"finish":' + b"[" * 50_000, b"\0" * 100, b'{"heartbeat": null}'),
    ],
)
def test_a_line_that_is_none_of_the_protocol_does_nothing_and_the_next_is_heard(job: Job, line: bytes) -> None:
    job.write(line, {"finish": 0})
    job.ship()
    assert job.words == [Finish(0)]
    assert job.sent == []


def test_rows_are_numbered_and_are_in_the_summary_too(job: Job) -> None:
    job.write({"log": {"loss": 2}}, {"log": {"loss": 1}, "step": 10}, {"log": {"loss": 0.5, "acc": 1}})
    job.write({"summary": {"loss": 0.25}}, {"message": "two\nlines"})
    job.ship()
    (sent,) = job.sent
    assert [(row["_step"], row["loss"]) for row in sent["rows"]] == [(0, 2), (10, 1), (11, 0.5)]
    assert abs(sent["rows"][0]["_timestamp"] - time.time()) < 10
    assert sent["summary"] == {"loss": 0.25, "acc": 1}
    assert sent["message"] == "two lines"
    assert sent["end"] == job.talk.path.stat().st_size


def test_a_line_that_is_not_whole_yet_waits_for_its_end(job: Job) -> None:
    with job.talk.path.open("ab") as file:
        file.write(b'{"summary": {"x": 1}}\n{"fini')
        file.flush()
        job.ship()
        assert job.words == []
        assert job.sent[0]["end"] == 22
        file.write(b'sh": 0}\n')
    job.talk.look()
    assert job.words == [Finish(0)]


def test_nan_is_kept_as_text(job: Job) -> None:
    job.write(b'{"log": {"loss": NaN, "gain": -Infinity}}')
    job.ship()
    assert job.sent[0]["summary"] == {"loss": "NaN", "gain": "-Infinity"}


def test_what_redis_did_not_take_is_sent_again_unchanged(job: Job) -> None:
    job.write({"summary": {"x": 1}})
    real, job.tell = job.tell, lambda *_, **__: 1 / 0  # type: ignore[assignment,method-assign]
    with pytest.raises(ZeroDivisionError):
        job.ship()
    job.write({"summary": {"x": 2}})
    job.tell = real  # type: ignore[method-assign]
    job.ship()
    assert [sent["summary"] for sent in job.sent] == [{"x": 1}, {"x": 2}]
    assert job.sent[0]["end"] < job.sent[1]["end"]


def test_the_next_worker_goes_on_where_redis_says_and_hears_the_words_again(job: Job) -> None:
    job.write({"log": {"x": 1}}, {"finish": 3})
    job.ship()
    job.write({"log": {"x": 2}})
    nxt = Job(job.folder)
    nxt.so_far = TalkSoFar(job.sent[0]["end"], {"x": 1}, 0)
    nxt.talk.resume(nxt.store)
    nxt.ship()
    assert nxt.words == [Finish(3)]
    nxt.talk.close()
    assert [[row["_step"] for row in sent["rows"]] for sent in nxt.sent] == [[1]]


def test_a_file_that_was_written_anew_is_read_from_its_start(job: Job) -> None:
    job.write({"summary": {"long": "x" * 100}})
    job.ship()
    job.talk.path.write_text('{"finish": 0}\n')
    job.talk.look()
    assert job.words == [Finish(0)]


def test_one_endless_line_takes_no_memory_and_the_next_line_is_heard(job: Job) -> None:
    with job.talk.path.open("ab") as file:
        for _ in range(10):
            file.write(b"x" * (1 << 20))
            file.flush()
            job.talk.look()
            assert len(job.talk._rest) <= MAX_LINE_BYTES
        file.write(b'\n{"finish": 0}\n')
    job.talk.look()
    assert job.words == [Finish(0)]


def test_a_flood_is_read_in_little_time_its_newest_rows_are_kept_and_no_word_is_lost(job: Job) -> None:
    row = b'{"log": {"x": %d}}\n'
    with job.talk.path.open("ab") as file:
        file.write(b'{"preempting": true}\n')
        file.write(b"".join(row % number for number in range(600_000)))
        file.write(b'{"summary": {"end": 1}}\n{"finish": 3}\n')
    assert job.talk.path.stat().st_size < 16 << 20
    begun = time.process_time()
    job.ship()
    assert time.process_time() - begun < 5.0
    assert job.words == [Preempting(), Finish(3)]
    rows = job.sent[0]["rows"]
    assert len(rows) == MAX_ROWS
    assert rows[-1]["x"] == 599_999
    assert job.sent[0]["summary"] == {"x": 599_999, "end": 1}


def test_what_was_heard_gives_its_disk_back(job: Job) -> None:
    line = b'{"heartbeat": true, "x": "%s"}\n' % (b"x" * 1000)
    for _ in range(20):
        with job.talk.path.open("ab") as file:
            file.write(line * 1000)
        job.write({"summary": {"x": 1}})
        job.ship()
    assert job.talk.path.stat().st_size > 19 << 20
    assert job.talk.path.stat().st_blocks * 512 < 4 << 20


def test_a_backlog_of_hundred_megabytes_is_passed_over_but_for_its_newest(job: Job) -> None:
    with job.talk.path.open("ab") as file:
        for _ in range(100):
            file.write(b"garbage\n" * (1 << 17))
        file.write(b'{"finish": 0}\n')
    begun = time.process_time()
    job.talk.look()
    assert time.process_time() - begun < 5.0
    assert job.words == [Finish(0)]


def test_a_summary_stays_within_its_bound(job: Job) -> None:
    job.write({"summary": {"small": 1}})
    for number in range(10):
        job.write({"summary": {f"large{number}": "x" * 20_000}})
    job.ship()
    assert job.sent[0]["summary"]["small"] == 1
    assert len(json.dumps(job.sent[0]["summary"])) <= MAX_SUMMARY_BYTES + 100


def test_a_summary_in_redis_keeps_what_it_has_when_more_does_not_fit() -> None:
    known = merge_summary("", {"a": 1, "b": "x" * 1000})
    assert json.loads(merge_summary(known, {"a": 2, "c": "y" * MAX_SUMMARY_BYTES})) == {"a": 2, "b": "x" * 1000}
    assert json.loads(merge_summary("damaged", {"a": 0.1234567890123456})) == {"a": 0.1234567890123456}


def test_the_last_lines_of_an_output_may_be_a_sweeps_result(job: Job, tmp_path: Path) -> None:
    output = b'epoch 1\n{"loss": 3}\nepoch 2\n{"loss": 0.5, "name": "x", "ok": true}\n{"acc": 1}\n\n{"broken\n'
    assert numbers_in(output) == {"loss": 0.5, "acc": 1}
    assert numbers_in(b'{"loss": 1}\n' + b"text\n" * 30) == {}
    (tmp_path / "output").write_bytes(output)
    job.write({"summary": {"loss": 0.25}})
    job.talk.look()
    job.talk.add_results(tmp_path / "output")
    job.ship()
    assert job.sent[0]["summary"] == {"loss": 0.25, "acc": 1}


def test_the_file_that_says_stop_has_the_reason(tmp_path: Path) -> None:
    talk = tmp_path / "talk"
    talk.mkdir()
    announce_stop(talk, "cancelled by ada", 1_800_000_000.9)
    assert (talk / "stop").read_text() == "cancelled by ada\ndeadline=1800000000\n"
    announce_stop(talk, "two\nlines", 1_800_000_000.0)
    assert (talk / "stop").read_text() == "two lines\ndeadline=1800000000\n"
    announce_stop(tmp_path / "gone", "never raises", 1_800_000_000.0)


@pytest.mark.parametrize("name", ["talk", "talk/stop", "stop.partial", "words.partial", "words.json.partial"])
def test_what_the_worker_writes_follows_no_link_that_a_job_has_put_there(tmp_path: Path, name: str) -> None:
    victim, attempt = tmp_path / "victim", tmp_path / "attempt"
    for folder in (victim, attempt):
        folder.mkdir()
    for kept in ("stop", "words.json", "to_worker", "file"):
        (victim / kept).write_text('{"finish": 0}\n')
    job = Job(attempt / "talk")
    job.write({"finish": 3})
    if name == "talk":
        os.rename(attempt / "talk", attempt / "away")
    (attempt / name).symlink_to(victim if name == "talk" else victim / "file")
    job.talk.look()
    announce_stop(attempt / "talk", "cancelled", 1_800_000_000.0)
    job.talk.close()
    assert {path.name: path.read_text() for path in victim.iterdir()} == dict.fromkeys(
        ("stop", "words.json", "to_worker", "file"), '{"finish": 0}\n'
    )
    assert job.words == ([] if name == "talk" else [Finish(3)])


F, X, K, C = RunState.FINISHED, RunState.FAILED, RunState.KILLED, RunState.CRASHED


@pytest.mark.parametrize(
    ("ended", "words", "status", "state", "preempted", "late_exit"),
    [
        (Outcome(F, exit_code=0), Words(), 0, F, False, ""),
        (Outcome(X, exit_code=1), Words(finish=0), 1, F, False, "1"),
        (Outcome(F, exit_code=0), Words(finish=3), 0, X, False, "0"),
        (Outcome(X, signal="SIGKILL"), Words(finish=0), -9, F, False, "SIGKILL"),
        (Outcome(C), Words(finish=0), None, F, False, "unknown"),
        (Outcome(K, reason="cancelled"), Words(finish=0), -15, F, False, "SIGTERM"),
        (Outcome(F, exit_code=0), Words(preempting=True), 0, X, True, ""),
        (Outcome(X, exit_code=1), Words(preempting=True), 1, X, True, ""),
        (Outcome(C), Words(preempting=True), None, C, True, ""),
        (Outcome(K, reason="cancelled"), Words(preempting=True), -15, K, False, ""),
        (Outcome(K, by_shutdown=True), Words(preempting=True), -15, K, True, ""),
        (Outcome(F, exit_code=0), Words(finish=0, preempting=True), 0, F, False, "0"),
        (Outcome(F, exit_code=0), Words(finish=85), 0, X, True, "0"),
    ],
)
def test_what_a_job_said_of_its_end_decides_the_outcome(
    ended: Outcome, words: Words, status: int | None, state: RunState, preempted: bool, late_exit: str
) -> None:
    outcome = outcome_by_words(ended, words, status=status, preempt_exit_code=85)
    assert (outcome.state, outcome.preempted, outcome.late_exit) == (state, preempted, late_exit)
