"""What others wrote reaches a terminal as text only, and no record of theirs keeps a command from its work."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.api.client import Api
from launch_worker.store import keys
from launch_worker.sweeps.config import parse_config
from launch_worker.terminal.cells import width_of
from launch_worker.terminal.say import Styled
from tests.conftest import wait_until
from tests.support.hostile import DEEP, fill, sweep_of
from tests.support.http_servers import KEY, serving
from tests.support.redis_client import redis_of
from tests.support.window import Window

#: A title, a bell, colours, a cleared screen, C1, a turned direction, lines written over and forged, the end of a text.
EVIL = "\x1b]0;PWN\x07\x1b[2J\x1b[31mRED\x9b31m\x85\u202eevil\rover\r\nforged\x00\x7f\u2066"

#: Runs the commands one after another: each as its own program, in one process, for an import takes longer than all.
PROGRAM = """
import importlib, json, sys
for words in json.loads(sys.argv[1]):
    print("=====", json.dumps(words), flush=True)
    sys.argv = words
    module = {"launch-worker": "launch_worker.cli.main", "launch-submit": "launch_worker.cli.submit"}[words[0]]
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        print("exit code", end.code, flush=True)
"""


def on_terminal(
    url: str,
    commands: Sequence[Sequence[str]],
    folder: Path,
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """What these commands write to a terminal that is their standard output and standard error."""
    all_env = {name: value for name, value in os.environ.items() if not name.startswith("LAUNCH_")}
    all_env |= {
        "LAUNCH_REDIS_URL": url,
        "LAUNCH_WORK_DIR": str(folder),
        "COLUMNS": "300",
        "TERM": "xterm-256color",
    }
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=all_env | dict(env or {}),
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(ours, 1 << 16)
            except OSError:
                break
            if not data:
                break
            written += data
        process.kill() if time.monotonic() > deadline else None
        assert process.wait(10) == 0, written.decode("utf-8", "replace")[-3000:]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return written


def steering(written: bytes) -> list[str]:
    """What of this would steer a terminal, but for colours; a terminal makes CR LF of each line's end."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n")
    return re.findall(r"[^\n]{0,40}[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069][^\n]{0,40}", text)


@pytest.fixture
def hostile(api: Api) -> dict[str, str]:
    """A system of which every text is hostile; ids of two runs of it."""
    return fill(api, EVIL)


def looks_at(hostile: dict[str, str]) -> list[list[str]]:
    """The words of all commands that only look."""
    return [
        *(["runs"], ["runs", "--pending"], ["runs", "--sort", "name"], ["show", hostile["run"]], ["queues"], ["pools"]),
        *(
            ["show", hostile["waiting"]],
            ["queues", "show", "waiting"],
            ["queues", "show", EVIL],
            ["pools", "show", EVIL],
        ),
        *(
            ["pools", "show", "lab"],
            ["workers"],
            ["status"],
            ["doctor"],
            ["schedules"],
            ["schedules", "show", "nightly"],
        ),
        *(["sweep", "list"], ["sweep", "status", "01sweep"], ["sweep", "status", "01deep"], ["files", hostile["run"]]),
        *(["wait", hostile["run"]], ["show", "gone"], ["health"]),
    ]


def test_no_text_of_others_steers_a_terminal(hostile: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    looks = looks_at(hostile)
    acts: list[list[str]] = [
        *(["logs", hostile["run"]], ["logs", "--tail", "5", hostile["run"]], ["logs", "-f", hostile["run"]]),
        *(["files", hostile["run"], "kept"], ["files", hostile["run"], EVIL], ["show", EVIL], ["nothing" + EVIL]),
        *(["queues", "set", EVIL, "--limit", "1"], ["cancel", EVIL], ["schedules", "delete", "x" + EVIL]),
        *(["workers", "drain", "x" + EVIL], ["workers", "drain", EVIL], ["sweep", "pause", "01sweep"]),
        *(["retry", hostile["run"]], ["cancel", hostile["waiting"]], ["delete", hostile["waiting"]]),
        *(["runs", "--filter", EVIL], ["runs", "--state", EVIL], ["--api", f"redis://{EVIL}", "runs"]),
    ]
    # An argument holds no NUL.
    commands = [["launch-worker", *words] for words in (*looks, *([*look, "--json"] for look in looks), *acts)]
    commands += [["launch-submit", "-q", EVIL, "--name", EVIL, "--", EVIL], ["launch-submit", "-q", "waiting", "true"]]
    commands = [[word.replace("\0", "") for word in words] for words in commands]
    written = on_terminal(redis_url, commands, tmp_path)
    assert written.count(b"exit code") == len(commands), written[-2000:]
    assert b"Traceback" not in written
    assert written.count(b"PWN") > 200, "they did show what is hostile"
    assert not steering(written)
    # A colour of theirs is none of ours, but in a log.
    seen = written.decode().split("=====")
    assert not [part for part in seen if "\x1b[31mRED" in part and '"logs"' not in part and '"files"' not in part]


def test_no_text_of_others_steers_a_terminal_through_a_server(
    hostile: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    looks = [*looks_at(hostile), ["explain", hostile["waiting"]], ["metrics", hostile["run"]], ["allowances"]]
    looks += [["report", hostile["run"]], ["usage"], ["audit"], ["channels"], ["groups"], ["users"], ["tokens"]]
    commands = [["launch-worker", *(word.replace("\0", "") for word in words)] for words in looks]
    with serving(redis_url, tmp_path) as server:
        env = {"LAUNCH_API_URL": server.url, "LAUNCH_API_TOKEN": KEY}
        written = on_terminal(redis_url, commands, tmp_path, env=env)
    assert written.count(b"exit code") == len(commands), written[-2000:]
    assert b"Traceback" not in written
    assert written.count(b"PWN") > 50, "they did show what is hostile"
    assert not steering(written)
    assert b"\x1b[31mRED" not in written


#: What the full screen writes itself: modes, places of the cursor, what is deleted.
_OWN = re.compile(rb"\x1b\[(?:\?\d+[hl]|\d*[JK]|[\d;]*H|\d*[A-D])|\r")


@pytest.mark.parametrize("command", ["runs", "status"])
def test_no_text_of_others_steers_a_full_screen(hostile: dict[str, str], redis_url: str, command: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LAUNCH_")}
    program = str(Path(sys.executable).parent / "launch-worker")
    with Window(program, command, "--watch", env=env | {"LAUNCH_REDIS_URL": redis_url}, columns=200, rows=60) as window:
        wait_until(lambda: any("PWN" in row for row in window.shown()), timeout_s=30, what="what is hostile is shown")
        window.press(b"\x03")
        window.process.wait(20)
    assert not steering(_OWN.sub(b"", window.written))


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a_terminal_on_which_no_colours_are_wanted_gets_no_escape_at_all(
    hostile: dict[str, str], redis_url: str, tmp_path: Path, variable: dict[str, str]
) -> None:
    # The log of the run has colours of the job's.
    commands = [["launch-worker", *words] for words in looks_at(hostile)]
    commands += [
        ["launch-worker", "logs", hostile["run"]],
        ["launch-worker", "sweep", "--help"],
        ["launch-worker", "x"],
    ]
    commands += [["launch-worker", "cancel", hostile["waiting"]], ["launch-submit", "-q", "waiting", "true"]]
    written = on_terminal(redis_url, commands, tmp_path, env=variable)
    assert written.count(b"exit code") == len(commands), written[-2000:]
    assert b"Crashed" in written
    assert b"\x1b" not in written


#: Lists, and what is wrong: of everything that the hostile fixture has.
LISTS = (
    *(["runs"], ["runs", "--each"], ["runs", "--pending"], ["runs", "-o", "name,reason,tags,summary.list"]),
    *(["runs", "--count-by", "queue"], ["status"], ["doctor"], ["queues"], ["pools"], ["workers"], ["schedules"]),
    *(["sweep", "list"], ["sweep", "status", "01sweep"], ["schedules", "show", "nightly"], ["pools", "show", "lab"]),
    ["runs", "--state", "no-state"],
)


@pytest.mark.parametrize("columns", [80, 200])
def test_no_line_of_a_list_is_longer_than_the_terminal(
    hostile: dict[str, str], redis_url: str, tmp_path: Path, columns: int
) -> None:
    commands = [["launch-worker", *words] for words in LISTS]
    written = on_terminal(redis_url, commands, tmp_path, env={"COLUMNS": str(columns)}).decode()
    assert "Traceback" not in written
    lines = [line for line in written.replace("\r\n", "\n").split("\n") if not line.startswith("=====")]
    assert [line for line in lines if width_of(Styled(line)) > columns] == []
    assert any(hostile["run"] in line for line in lines), "ids are whole"


def test_a_jobs_colours_reach_a_terminal_and_its_control_bytes_are_shown(
    api: Api, redis_url: str, tmp_path: Path
) -> None:
    run = submit(["true"], api=api)
    redis = redis_of(api.store.url)
    redis.hset(keys.run(run.id), mapping={"attempt": "1", "state": "Finished", "exit_code": "0"})
    # Colour, emoji and line's end are cut in two by the pieces in which a log comes.
    offset = 0
    for piece in (
        b"\x1b[3",
        b"1mRED\x1b[0m \xf0\x9f",
        b"\x98\x80 bell\x07 \xff \xc2\x9b5m " + "\u202eturned".encode() + b" 10%\r20%\r",
        b"\nlast\x1b[2J\x1b",
    ):
        redis.xadd(keys.log(run.id, 1), {"o": offset, "d": piece})
        offset += len(piece)
    written = on_terminal(redis_url, [["launch-worker", "logs", "-f", run.id]], tmp_path).decode()
    assert (
        "\x1b[31mRED\x1b[0m \N{GRINNING FACE} bell^G \\xff \\x9b5m \\u202eturned 10%^M\r\n20%\r\nlast^[[2J^[\x1b[0m"
        in (written)
    )
    raw = on_terminal(redis_url, [["launch-worker", "logs", "--raw", run.id]], tmp_path)
    assert b"bell\x07 \xff" in raw


def test_logs_in_a_pipe_are_the_jobs_bytes(api: Api, redis_url: str) -> None:
    run = submit(["true"], api=api)
    redis, data = redis_of(api.store.url), EVIL.encode() + bytes(range(256))
    redis.hset(keys.run(run.id), mapping={"attempt": "1", "state": "Finished", "exit_code": "0"})
    redis.xadd(keys.log(run.id, 1), {"o": "0", "d": data})
    program = Path(sys.executable).parent / "launch-worker"
    for more in ([], ["-f"], ["--raw"]):
        done = subprocess.run(
            [program, "logs", run.id, *more], env=os.environ | {"LAUNCH_REDIS_URL": redis_url}, capture_output=True
        )
        assert (done.returncode, done.stdout) == (0, data), done.stderr


@pytest.mark.parametrize("field", ["tags", "waits_for", "gpus", "phases", "files", "summary", "spec"])
def test_a_deeply_nested_record_hides_no_other_run(api: Api, redis_url: str, field: str, tmp_path: Path) -> None:
    damaged, sound = submit(["true"], api=api), submit(["true"], api=api)
    redis_of(api.store.url).hset(keys.run(damaged.id), field, DEEP)
    commands = [["launch-worker", "runs", *more] for more in ([], ["--pending"], ["--json"], ["--tag", "x"])]
    written = on_terminal(redis_url, [*commands, ["launch-worker", "show", damaged.id]], tmp_path).decode()
    assert written.count(sound.id) == 3, written
    assert "Traceback" not in written
    assert "exit code 1" not in written


def test_sweeps_config_of_the_hostile_fixture_is_one() -> None:
    """Else the fixture would try a damaged sweep only."""
    assert parse_config(sweep_of(EVIL), where="x").method == "grid"


def described(**more: Any) -> str:
    said = {"worker": "w1@h", "owner": "o", "host": "h", "state": "running", "pid": 1, "slots": 1, "running": 0}
    return json.dumps(said | {"queues": ["default"]} | more)


@pytest.mark.parametrize(
    "text",
    [
        *(DEEP, "[]", "null", "{}", "5", '"x"', described(queues=5), described(pid="x"), described(devices=[5])),
        *(described(devices=[{"id": 1, "runs": 5}], cpus=5, memory={}), described(devices=[], cpus={}, memory=None)),
    ],
)
def test_a_damaged_description_of_a_worker_hides_no_other_worker(api: Api, text: str) -> None:
    redis = redis_of(api.store.url)
    redis.set(keys.worker("damaged"), text)
    redis.set(keys.worker("sound"), described(worker="sound@h"))
    redis.zadd(keys.WORKERS, {"damaged": 9e15, "sound": 9e15})
    assert "sound@h" in [worker["worker"] for worker in api.store.workers()]
    assert all(isinstance(worker["queues"], list) for worker in api.store.workers())
