"""Submissions as data: what a line may say is read, everything else is refused with its place."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec
from launch_worker.submission.array import Array, parse_array, parse_values
from launch_worker.submission.options import MAX_LINE_BYTES, UNSENT, Item, read_jobs, read_options


def jobs(*lines: Any, **options: Any) -> list[Item]:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(read_jobs(io.BytesIO(b"\n".join(texts)), name="jobs.jsonl", **options))


@pytest.mark.parametrize(
    ("text", "indexes", "limit"),
    [
        ("0-3", (0, 1, 2, 3), None),
        ("7", (7,), None),
        ("1,3,5-7", (1, 3, 5, 6, 7), None),
        ("0-10:4", (0, 4, 8), None),
        ("0-9%3", tuple(range(10)), 3),
        ("5,1,1-2%1", (1, 2, 5), 1),
        (" 1, 2 ", (1, 2), None),
        ("1000000", (1_000_000,), None),
    ],
)
def test_an_array_is_read_as_slurm_reads_it(text: str, indexes: tuple[int, ...], limit: int | None) -> None:
    assert parse_array(text) == Array(indexes, limit)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", "1,", "a", "-1", "3-1", "0-10:0", "0-9%0", "0-9%", "0-9%x", "%3", "1.5", "0-1000001", "²"),
        *("0-99999999999", "0-999999999", "0-999999,0-999999", "0-3:1:2", "0--3", "9" * 5000, "0-9%1000001", "0-9%3%4"),
        *(None, 5, ["1"]),
    ],
)
def test_what_is_no_array_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="array"):
        parse_array(text)


@given(st.text(alphabet="0123456789-,:% ", max_size=12))
def test_any_text_is_an_array_or_refused(text: str) -> None:
    try:
        array = parse_array(text)
    except InputError:
        return
    assert list(array.indexes) == sorted(set(array.indexes)) != []


def test_a_value_is_json_or_text() -> None:
    pairs = ["lr=0.1", "name=resnet", "n=3", "on=true", 'l=[1,"a"]', "empty=", "eq=a=b", "nan=NaN", "n=4", 'q="5"']
    assert parse_values(pairs) == {
        "lr": 0.1,
        "name": "resnet",
        "n": 4,
        "on": True,
        "l": [1, "a"],
        "empty": "",
        "eq": "a=b",
        "nan": "NaN",
        "q": "5",
    }


@pytest.mark.parametrize("pair", ["x", "", "x=" + "[" * 200_000])
def test_what_is_no_value_is_refused(pair: str) -> None:
    with pytest.raises(InputError):
        parse_values([pair])


def test_only_what_was_said_is_given() -> None:
    assert read_options({"command": ["true"], "timeout": None}) == Item(given={"command": ("true",)})


def test_every_option_reaches_its_argument_of_a_run() -> None:
    item = read_options(
        {
            "command": ["a", "b"],
            "queue": "gpu",
            "name": "n",
            "project": "e/p",
            "tag": "x",
            "env": {"A": "1"},
            "env-from": ["S"],
            "cwd": "sub",
            "image": "img",
            "memory": "2G",
            "cpus": 2,
            "gpus": 1,
            "timeout": "2h",
            "start-timeout": 60,
            "stall_timeout": "5m",
            "grace": "0",
            "retries": 2,
            "retry-delay": "1.5m",
            "retry_on": "Failed, crashed",
            "priority": "high",
            "set": {"lr": 0.1},
            "after": ["0" * 15],
            "concurrency-key": "k",
            "limit-key": 2,
            "expires": "1d",
            "max_preemptions": 3,
            "preempt_exit_code": 7,
            "checkpoint_every": "10m",
            "notify": "ops",
            "output": ["*.pt", "!tmp/"],
            "input": "1m83cyvtfq1tc69:model.pt",
            "entrypoint": "sh",
            "mount": ["data:/v"],
            "no_init": True,
            "read-only": False,
            "container": {"user": "u"},
        },
        folder="/home/me",
    )
    assert item.given == {
        "command": ("a", "b"),
        "queue": "gpu",
        "name": "n",
        "project": "e/p",
        "tags": ("x",),
        "env": {"A": "1"},
        "env_from": ("S",),
        "cwd": "/home/me/sub",
        "cwd_required": True,
        "image": "img",
        "memory": 2 << 30,
        "cpus": 2.0,
        "gpus": 1,
        "timeout_s": 7200.0,
        "start_timeout_s": 60.0,
        "stall_timeout_s": 300.0,
        "grace_s": 0,
        "retries": 2,
        "retry_delay_s": 90.0,
        "retry_on": ("failed", "crashed"),
        "priority": "high",
        "values": {"lr": 0.1},
        "after": ("0" * 15,),
        "concurrency_key": "k",
        "limit_key": 2,
        "expires_s": 86400.0,
        "max_preemptions": 3,
        "preempt_exit_code": 7,
        "checkpoint_every_s": 600.0,
        "notify": ("ops",),
        "outputs": ("*.pt", "!tmp/"),
        "inputs": ("1m83cyvtfq1tc69:model.pt",),
        "container": {"user": "u", "entrypoint": "sh", "mounts": ["data:/v"], "init": False, "read_only": False},
    }
    assert RunSpec(**item.given).needs == "1:2000:2147483648"


def test_a_time_a_delay_an_array_and_a_folder_are_no_arguments_of_the_run() -> None:
    at_s = int(time.time()) + 3600
    item = read_options({"command": ["true"], "at": at_s, "array": "0-2%2"})
    assert (item.at_us, item.array) == (at_s * 1_000_000, Array((0, 1, 2), 2))
    item = read_options({"command": ["true"], "delay": "5m", "upload": "code", "cwd": "sub"}, folder="/here")
    assert (item.delay_s, item.upload) == (300.0, "/here/code")
    assert item.given == {"command": ("true",), "upload": UNSENT, "cwd": "sub", "cwd_required": True}


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (
            {"command": "python x.py"},
            r"command must be a list of arguments, not one text; write \[\"python\", \"x.py\"\]",
        ),
        ({"command": ["a", 1]}, "command must be a list of texts; one of them is a number"),
        ({"queue": 5}, "queue must be a text, not 5"),
        ({"env": ["A=1"]}, "env must be a map of names to values, not a list"),
        ({"env": {"A": 1}}, "the value of environment variable A must be a text, not a number"),
        ({"retries": "2"}, "retries must be a whole number, not a text"),
        ({"retries": True}, "retries must be a whole number, not a truth value"),
        ({"gpus": 1.5}, r"gpus must be a whole number, not 1\.5"),
        ({"timeout": [5]}, "timeout must be a duration: .* not a list"),
        ({"timeout": "soon"}, "timeout 'soon' is not a duration"),
        ({"timeout": 10**400}, "timeout"),
        ({"cpus": 10**400}, "cpus is too large"),
        ({"memory": 1.5}, "memory must be a size"),
        ({"tags": {"a": 1}}, "tags must be a list of texts, not a map"),
        ({"read_only": "yes"}, "read only must be true or false, not a text"),
        ({"at": True}, "at must be a time, not a truth value"),
        ({"at": "soon"}, "at 'soon' is not a time"),
        ({"at": "12:00", "delay": 5}, "not both"),
        ({"array": ""}, "array '' is not a list of indexes"),
        ({"array": 5}, "array must be a text"),
        ({"cwd": ""}, "cwd must name a folder"),
        ({"quue": "x"}, "'quue' is not an option of a run; do you mean 'queue'"),
        ({"cwd_required": True}, "'cwd_required' is not an option"),
        ({"tag": "a", "tags": ["b"]}, "given twice, in two spellings"),
        ({"env-from": "A", "env_from": "B"}, "given twice, in two spellings"),
    ],
)
def test_a_wrong_option_is_named(option: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_options({"command": ["true"]} | option)
    with pytest.raises(InputError, match=r"^jobs.jsonl:2: .*" + problem):
        jobs({"command": ["true"]}, {"command": ["true"]} | option)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON: .* at column 2"),
        (b'{"command": ["a"]} x', "not JSON: Extra data"),
        (b"[]", "the line is a list, not an object"),
        (b"null", "the line is null"),
        (b'{"name": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"name": "a", "name": "b"}', "'name' is written twice"),
        (b'{"cpus": NaN}', "NaN is not JSON"),
        (b'{"cpus": ' + b"1" * 5000 + b"}", "."),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"set": ' + b'{"a":' * 200_000, "nested too deeply"),
        (b" " * (MAX_LINE_BYTES + 1), "the line has more than"),
        (b"\x00", "not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_place(line: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=rf"^jobs.jsonl:3: .*{problem}"):
        jobs({"command": ["true"]}, b"", line)


def test_blank_lines_a_mark_of_byte_order_and_line_ends_of_windows_do_no_harm() -> None:
    items = jobs(b'\xef\xbb\xbf{"command": ["a"]}\r', b"  ", b'{"command": ["\xc3\xbc"]}\r')
    assert [(item.given["command"], item.where) for item in items] == [
        (("a",), "jobs.jsonl:1"),
        (("ü",), "jobs.jsonl:3"),
    ]


def test_a_line_wins_over_the_command_line_name_by_name_in_maps() -> None:
    at_s = int(time.time()) + 3600
    defaults = {
        "command": ("default",),
        "env": {"A": "1", "B": "1"},
        "set": {"x": 1},
        "retries": 1,
        "tags": ("a",),
        "delay": "5s",
        "upload": "folder",
    }
    first, second = jobs(
        {"env": {"B": "2"}, "set": {"y": 2}, "retries": 0, "tag": "b", "at": at_s, "uri": "https://h/r.git"},
        {"command": ["own"]},
        defaults=defaults,
    )
    assert first.given == {
        "command": ("default",),
        "env": {"A": "1", "B": "2"},
        "values": {"x": 1, "y": 2},
        "retries": 0,
        "tags": ("b",),
        "uri": "https://h/r.git",
    }
    assert (first.delay_s, first.at_us, first.upload) == (None, at_s * 1_000_000, None)
    assert (second.given["command"], second.delay_s, second.upload) == (("own",), 5.0, "folder")


@given(st.binary(max_size=60))
def test_any_bytes_are_items_or_refused(data: bytes) -> None:
    try:
        items = jobs(data)
    except InputError as error:
        message = str(error)
    else:
        message = "jobs.jsonl:"
        assert all(item.where for item in items)
    assert message.startswith("jobs.jsonl:")
