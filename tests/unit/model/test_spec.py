"""A spec validates itself: hostile input is refused with one sentence, odd but legal input survives as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_RETRIES, PRIORITIES, RESERVED_QUEUES
from launch_worker.model.spec import (
    MAX_ARG_BYTES,
    RunSpec,
    default_name,
    make_spec,
    parse_spec,
)
from launch_worker.model.units import MAX_DURATION_S
from launch_worker.submission.array import parse_env


def make(**options: Any) -> RunSpec:
    return RunSpec(**{"command": ("true",), **options})


def refused(**options: Any) -> str:
    with pytest.raises(InputError) as error:
        make(**options)
    text = str(error.value)
    assert "\n" not in text, "one sentence"
    assert len(text) < 600, "also about a huge value"
    text.encode()
    return text


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_smallest_spec_has_the_defaults_of_the_contract() -> None:
    spec = make()
    assert (spec.queue, spec.priority, spec.retries, spec.grace_s) == ("default", "medium", None, 10.0)
    assert (spec.start_timeout_s, spec.timeout_s, spec.stall_timeout_s) == (1800.0, None, None)
    assert spec.retry_on == ("failed", "crashed")


@pytest.mark.parametrize("command", [(), [], ("",), ("", "x")])
def test_an_empty_command_is_refused(command: Any) -> None:
    """P8, W14."""
    assert "command is empty" in refused(command=command)


def test_one_string_instead_of_a_list_is_refused_and_split_for_the_reader() -> None:
    assert "['python', 'train.py']" in refused(command="python train.py")


@pytest.mark.parametrize("argument", [3, None, b"x", 1.5, ["x"], object()])
def test_an_argument_that_is_no_string_is_refused_with_its_type(argument: Any) -> None:
    assert type(argument).__name__ in refused(command=("echo", argument))


@pytest.mark.parametrize("argument", ["a\x00b", "\x00"])
def test_a_nul_byte_is_refused(argument: str) -> None:
    assert "NUL" in refused(command=("echo", argument))
    assert "NUL" in refused(env={"A": argument})


@pytest.mark.parametrize("argument", ["\ud800", "ok\udcff", "\udfff\ud800"])
def test_a_lone_surrogate_is_refused(argument: str) -> None:
    assert "UTF-8" in refused(command=("echo", argument))
    assert "UTF-8" in refused(env={"A": argument})
    refused(name=argument)
    refused(tags=(argument,))


@pytest.mark.parametrize(
    "argument", ["", " ", "a b", "'", '"', ";", "$(rm -rf /)", "`x`", "a\nb", "\t", "é😀", "-", "--", "\x1b[31m", "*"]
)
def test_an_argument_is_kept_as_it_is(argument: str) -> None:
    """W8."""
    spec = make(command=("echo", argument))
    assert parse_spec(spec.to_json()).command == ("echo", argument)


def test_an_argument_of_100_kb_is_accepted() -> None:
    """W8."""
    spec = make(command=("echo", "x" * 100_000))
    assert parse_spec(spec.to_json()) == spec


def test_an_argument_is_refused_from_what_the_kernel_refuses() -> None:
    make(command=("echo", "x" * MAX_ARG_BYTES))
    assert "pass a file" in refused(command=("echo", "x" * (MAX_ARG_BYTES + 1)))
    assert "pass a file" in refused(command=("echo", "é" * (MAX_ARG_BYTES // 2 + 1)))


def test_a_command_of_more_than_a_megabyte_is_refused() -> None:
    assert "1,100,001 bytes" in refused(command=("e", *["x" * 100_000] * 11))


# -- labels --------------------------------------------------------------------------------------------------------

BAD_WORDS = [
    "-x",
    ".x",
    "_x",
    "a b",
    "a\n",
    "a:b",
    "../x",
    "é",
    "a\x06\x163",
    "a" * 101,
    "\x00",
    "a*",
    "a'b",
    'a"b',
    " a",
]


@pytest.mark.parametrize("queue", [*BAD_WORDS, "", "a/b", 5, None])
def test_a_bad_queue_is_refused(queue: Any) -> None:
    assert "queue" in refused(queue=queue)


@pytest.mark.parametrize("queue", sorted(RESERVED_QUEUES))
def test_a_queue_of_the_system_is_refused(queue: str) -> None:
    assert "belongs to the system" in refused(queue=queue)


@pytest.mark.parametrize("queue", ["default", "gpu", "A100-80.x_1", "7", "a" * 100])
def test_a_good_queue_is_taken(queue: str) -> None:
    assert make(queue=queue).queue == queue


@pytest.mark.parametrize("project", [*BAD_WORDS, "a/b/c", "/a", "a/", "a//b", "a/../b", 5])
def test_a_bad_project_is_refused(project: Any) -> None:
    assert "project" in refused(project=project)


@pytest.mark.parametrize("project", ["", "iris", "me/iris", "a.b-c_d/e.f"])
def test_a_good_project_is_taken(project: str) -> None:
    assert make(project=project).project == project


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a\n", "<b>", "é", "a" * 101, "\x1b[31m", 5, None])
def test_a_bad_tag_is_refused(tag: Any) -> None:
    assert "tag" in refused(tags=("good", tag))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "a\x00", "\x7f", "x" * 201, 5])
def test_a_bad_name_is_refused(name: Any) -> None:
    """Section 8: a name cannot leave its row."""
    assert "name" in refused(name=name)


@pytest.mark.parametrize("name", ["x", "exp 1: lr=0.1", "<script>", "é😀", "x" * 200, "'; DROP", '"'])
def test_a_good_name_is_taken(name: str) -> None:
    assert make(name=name).name == name


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_four_priorities_are_taken(priority: str) -> None:
    assert make(priority=priority).priority == priority


@pytest.mark.parametrize("priority", ["", "Medium", "urgent", 5, None])
def test_another_priority_is_refused_with_the_known_ones(priority: Any) -> None:
    """W12."""
    assert "critical, high, medium, low" in refused(priority=priority)


# -- environment and folder ------------------------------------------------------------------------------------------


def test_an_environment_of_a_megabyte_is_refused() -> None:
    assert "at most 524,288" in refused(env={f"V{i}": "x" * 100_000 for i in range(10)})
    assert "pass a file" in refused(env={"V": "x" * 1_000_000})


def test_a_value_of_100_kb_is_accepted() -> None:
    make(env={"V": "x" * 100_000})


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A\n", "é", "A-B", "A\x00", "\ud800", 5, "x" * 5000 + "-"])
def test_a_bad_variable_name_is_refused(name: Any) -> None:
    refused(env={name: "x"})
    refused(env_from=(name,))


@pytest.mark.parametrize("value", [5, None, b"x", 1.5, ["x"]])
def test_a_value_that_is_no_string_is_refused_with_the_name(value: Any) -> None:
    assert "PORT" in refused(env={"PORT": value})


@pytest.mark.parametrize(
    "name", ["LAUNCH_RUN_ID", "LAUNCH_TOKEN", "LAUNCH_ATTEMPT", "LAUNCH_X", "CUDA_VISIBLE_DEVICES"]
)
def test_the_workers_own_variables_are_refused(name: str) -> None:
    assert name in refused(env={name: "x"})
    assert name in refused(env_from=(name,))


def test_a_launch_client_may_have_the_url() -> None:
    make(env={"LAUNCH_REDIS_URL": "redis://mine/0"})
    make(env_from=("LAUNCH_REDIS_URL",))


def test_a_refusal_never_shows_the_value_of_a_variable() -> None:
    """W6."""
    assert "hunter2" not in refused(env={"KEY": "hunter2\x00"})
    assert "hunter2" not in refused(env={"KEY": "hunter2\ud800"})
    assert "hunter2" not in refused(env={"KEY": "hunter2" * 100_000})


@pytest.mark.parametrize("cwd", ["", ".", "here", "~/x", "/a\x00b"])
def test_a_folder_that_is_not_absolute_is_refused(cwd: str) -> None:
    assert "working directory" in refused(cwd=cwd)


# -- limits and retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeout_s", "start_timeout_s", "stall_timeout_s", "grace_s", "retry_delay_s"])
@pytest.mark.parametrize("seconds", [-1, -0.001, MAX_DURATION_S + 1, float("nan"), float("inf"), float("-inf")])
def test_a_duration_out_of_range_is_refused_by_name(name: str, seconds: float) -> None:
    assert name.removesuffix("_s").replace("_", " ") in refused(**{name: seconds})


@pytest.mark.parametrize("name", ["timeout_s", "start_timeout_s", "stall_timeout_s"])
def test_a_limit_of_zero_is_refused(name: str) -> None:
    refused(**{name: 0})


@pytest.mark.parametrize("name", ["grace_s", "retry_delay_s"])
def test_no_grace_and_no_delay_are_taken(name: str) -> None:
    assert getattr(make(**{name: 0}), name) == 0


@pytest.mark.parametrize("retries", [-1, MAX_RETRIES + 1, True, False, 1.5, "3", float("nan")])
def test_retries_that_are_no_whole_number_in_range_are_refused(retries: Any) -> None:
    """W2."""
    assert "retries" in refused(retries=retries)


@pytest.mark.parametrize("words", [("killed",), ("failed", "x"), ("Failed",), ("",)])
def test_only_failed_and_crashed_can_be_retried(words: tuple[str, ...]) -> None:
    assert "failed,crashed" in refused(retry_on=words)


# -- code --------------------------------------------------------------------------------------------------------------


def test_code_comes_from_one_place() -> None:
    assert "not both" in refused(uri="https://h/r", upload="a" * 64)


@pytest.mark.parametrize("uri", ["file:///etc", "-x", "ext::x", "https://me:pw@h/r", "https://h/r@-x"])
def test_a_hostile_git_url_is_refused(uri: str) -> None:
    """W11."""
    refused(uri=uri)


def test_a_hostile_git_url_in_a_record_is_refused_too() -> None:
    with pytest.raises(InputError, match="one machine only"):
        parse_spec('{"command": ["a"], "uri": "file:///etc"}')


@pytest.mark.parametrize("upload", ["x", "A" * 64, "a" * 63, "a" * 65, "../" + "a" * 61, "a" * 64 + "\n"])
def test_an_upload_is_named_by_its_hash(upload: str) -> None:
    assert "sha256" in refused(upload=upload)


@pytest.mark.parametrize("cwd", ["sub", "sub/folder", ".", "/abs", "a b", "é"])
def test_with_code_the_working_directory_may_be_inside_it(cwd: str) -> None:
    assert make(uri="https://h/r", cwd=cwd).cwd == cwd
    assert make(upload="a" * 64, cwd=cwd).cwd == cwd


@pytest.mark.parametrize("cwd", ["", "..", "../x", "a/../..", "a/..", "a\x00", "\udc80"])
def test_the_working_directory_cannot_leave_the_code(cwd: str) -> None:
    assert "working directory" in refused(uri="https://h/r", cwd=cwd)


def test_without_code_the_working_directory_is_absolute() -> None:
    assert "absolute" in refused(cwd="sub")


# -- the record's text -------------------------------------------------------------------------------------------------

FULL = {
    "command": ("python", "train.py"),
    "queue": "gpu",
    "name": "n",
    "project": "a/b",
    "tags": ("x", "y=1"),
    "priority": "low",
    "env": {"A": "é\n'\""},
    "env_from": ("HF_TOKEN",),
    "cwd": "/srv",
    "cwd_required": True,
    "uri": "https://github.com/o/r@main",
    "timeout_s": 1.5,
    "start_timeout_s": 60.0,
    "stall_timeout_s": 2.0,
    "grace_s": 0.0,
    "stop_signal": "SIGINT",
    "stop_scope": "main",
    "signal": "SIGUSR1@0.5",
    "on_timeout": "requeue:7",
    "max_fails": 3,
    "retries": 3,
    "retry_delay_s": 4.0,
    "retry": ("oom=3:30s..10m", "SIGKILL=1"),
    "not_on_same_worker": True,
    "image": "registry.local:5000/team/train:1",
    "container": {"mounts": ["data:/data:ro"], "network": "none"},
    "memory": 64 << 20,
    "cpus": 1.5,
    "author": "me@here",
    "gpus": 2,
    "values": {"lr": 0.1, "layers": [1, 2]},
    "concurrency_key": "licence",
    "limit_key": 2,
    "after": ("1m83cyvtfq1tc69:any",),
    "array": "1m83cyvtfq1tc69",
    "array_index": 3,
    "array_limit": 8,
    "config": {"lr": 0.1, "net": {"layers": 2}},
    "sweep": "iris-1",
    "sweep_index": 7,
    "scheduler": True,
    "expires_s": 60.0,
    "preempt_exit_code": 99,
    "checkpoint_every_s": 600.0,
    "max_preemptions": 1,
    "notify": ("ops", "ml:failed+crashed"),
    "outputs": ("*.pt", "!tmp/"),
    "inputs": ("1m83cyvtfq1tc69:best/model.pt", "1m83cyvtfq1tc69:.:all"),
    "secrets": {"PASSWORD": f"{'0' * 16}.AAAA"},
}


def test_a_full_spec_survives_the_record() -> None:
    spec = RunSpec(**FULL)  # type: ignore[arg-type]
    # With an upload there is no uri, a container gets no environment, and beside `retry` there is no `retry_on`.
    files = {"a/r.txt": "numpy\n"}
    environment: dict[str, Any] = {"requirements": "a/r.txt", "requirements_files": files, "python": "3.12"}
    assert {*FULL, *environment, "upload", "retry_on"} == set(RunSpec.__dataclass_fields__), "every field is tried here"
    assert parse_spec(spec.to_json()) == spec
    uploaded = replace(spec, uri="", upload="a" * 64, retry=(), retry_on=("crashed",), memory="8G..64G")
    assert parse_spec(uploaded.to_json()) == uploaded
    process = replace(spec, uri="", image="", container={}, **environment)
    assert parse_spec(process.to_json()) == process


def test_defaults_are_not_written() -> None:
    assert json.loads(make().to_json()) == {"command": ["true"]}
    assert json.loads(make(name="a").to_json()) == {"command": ["true"], "name": "a"}


printable = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)


@given(
    command=st.lists(printable, min_size=1, max_size=5).filter(lambda words: bool(words[0])),
    env=st.dictionaries(st.from_regex(r"[A-K][A-Z0-9_]{0,8}", fullmatch=True), printable, max_size=4),
    timeout_s=st.none() | st.floats(0.001, MAX_DURATION_S),
    retries=st.integers(0, MAX_RETRIES),
)
def test_any_valid_spec_survives_the_record(
    command: list[str], env: dict[str, str], timeout_s: float | None, retries: int
) -> None:
    spec = RunSpec(command=tuple(command), env=env, timeout_s=timeout_s, retries=retries)
    assert parse_spec(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "3", '"x"', "{}", "[" * 10_000, "\x00", "\ufeff{}"),
        *('{"command": []}', '{"command": "true"}', '{"command": [3]}', '{"command": null}', '{"command": {"a": 1}}'),
        *('{"command": ["a\\u0000"]}', '{"command": ["\\ud800"]}', '{"command": ["a"], "evil": 1}'),
        *('{"command": ["a"], "retries": "3"}', '{"command": ["a"], "retries": true}'),
        *('{"command": ["a"], "retries": 1e99}', '{"command": ["a"], "retries": 1.5}'),
        *('{"command": ["a"], "timeout_s": "5"}', '{"command": ["a"], "timeout_s": -5}'),
        *('{"command": ["a"], "timeout_s": NaN}', '{"command": ["a"], "env": []}'),
        *('{"command": ["a"], "env": {"A": 5}}', '{"command": ["a"], "queue": "../x"}'),
        '{"command": ["a"], "name": null}',
    ],
)
def test_a_damaged_record_is_an_input_error(text: str) -> None:
    """P8, P41."""
    with pytest.raises(InputError):
        parse_spec(text)


def test_a_damaged_record_is_named_by_field_and_never_by_value() -> None:
    """W6, P8."""
    with pytest.raises(InputError) as error:
        parse_spec('{"command": ["a"], "env": {"KEY": ["hunter2"]}}')
    assert "env.KEY" in str(error.value)
    assert "hunter2" not in str(error.value)


# -- small readers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("python", "train.py", "--lr", "0.1"), "train.py"),
        (("/usr/bin/python3.11", "src/train.py"), "train.py"),
        (("python", "-m", "pkg.train", "x"), "pkg.train"),
        (("python", "-m"), "python"),
        (("python", "-c", "print('hunter2')"), "python"),
        (("bash", "-c", "curl -H hunter2"), "bash"),
        (("bash", "run me.sh"), "bash"),
        (("./train", "--token", "hunter2"), "train"),
        (("echo",), "echo"),
        (("/",), "job"),
        (("a\nb",), "a?b"),
        (("x" * 300,), "x" * 200),
    ],
)
def test_a_run_without_a_name_is_called_after_its_program_or_script(command: tuple[str, ...], name: str) -> None:
    assert default_name(command) == make(command=command).name == name


def test_env_words_are_read_and_a_later_one_wins() -> None:
    assert parse_env(["A=1", "B=x=y", "C=", "A=2"]) == {"A": "2", "B": "x=y", "C": ""}


@pytest.mark.parametrize("word", ["A", "", "LONE"])
def test_an_env_word_without_a_value_is_refused_with_what_to_write(word: str) -> None:
    with pytest.raises(InputError, match="--env-from"):
        parse_env([word])


_WORD = st.text(alphabet="ab/\x00é", max_size=3)
_ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _WORD, st.just("\ud800"), st.just(10**400))
_JSON = st.one_of(_ODD, st.lists(_ODD, max_size=3), st.dictionaries(_WORD, _ODD, max_size=3))


_BY_SCHEMA = TypeAdapter(RunSpec).validate_json


def read_by(reader: Callable[[str], RunSpec], text: str) -> RunSpec | InputError | ValidationError:
    try:
        return reader(text)
    except (InputError, ValidationError) as refusal:
        return refusal


@given(st.dictionaries(st.sampled_from([*RunSpec.__dataclass_fields__, "unknown"]), _JSON, max_size=3))
def test_a_record_is_read_and_refused_as_by_pydantic(odd: dict[str, Any]) -> None:
    """The published schema is pydantic's."""
    text = json.dumps({"command": ["a"], **odd})
    wanted, found = read_by(_BY_SCHEMA, text), read_by(parse_spec, text)
    assert isinstance(found, InputError) is isinstance(wanted, (InputError, ValidationError))
    # A number that no float can be is refused one step sooner.
    if isinstance(wanted, ValidationError) and "too large a number" not in str(found):
        assert str(found).startswith("the run's record is damaged: ")
        first, *others = wanted.errors(include_input=False)
        where = ".".join(map(str, first["loc"])) or "spec"
        assert others or f"{where!a} " in str(found)
    elif isinstance(wanted, RunSpec):
        # As text: no NaN is equal to another.
        assert repr(found) == repr(wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: value} for name in ("retries", "gpus", "max_preemptions") for value in (False, 0.0, True)),
        *({name: value} for name in ("limit_key", "preempt_exit_code") for value in (True, 1.0)),
        {"scheduler": 0},
    ],
)
def test_what_only_equals_a_default_is_checked_as_any_other_value(wrong: dict[str, Any]) -> None:
    for constructor in (lambda **options: make_spec(options), RunSpec):
        with pytest.raises(InputError):
            constructor(command=("true",), **wrong)


def test_a_spec_is_made_in_two_ways_that_are_one() -> None:
    for options in ({"command": ("true",)}, FULL, {"command": ["a"], "env": {"A": "1"}, "retries": 0}):
        assert make_spec(options) == RunSpec(**options)
    first, second = make_spec({"command": ("a",)}), make_spec({"command": ("a",)})
    assert first.env is not second.env
