"""What an admin configures of queues and pools: what is refused, what is kept, what can be taken away."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.container_options import ContainerPlan, Mount
from launch_worker.model.macros import SYSTEM_MACROS
from launch_worker.model.options import DEFAULT, OPTIONS
from launch_worker.model.spec import RunSpec
from launch_worker.queues.defaults import parse_defaults
from launch_worker.queues.pool import PoolConfig, check_pool_name
from launch_worker.queues.queue import QueueConfig

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "lr": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.1},
        "size": {"enum": ["small", "large"]},
        "steps": {"type": "integer", "exclusiveMinimum": 0},
        "tag": {"type": "string", "pattern": "^[a-z]+$"},
    },
    "required": ["size"],
}

# -- defaults ----------------------------------------------------------------------------------------------------------


def test_defaults_are_options_as_a_person_writes_them() -> None:
    given = {
        "timeout": "2h",
        "start_timeout": 60,
        "stall_timeout": "5m",
        "grace": "0",
        "retry_delay": "1.5m",
        "expires": "3d",
        "memory": "4G",
        "cpus": 1.5,
        "gpus": 1,
        "retries": 2,
        "retry_on": "Crashed",
        "tags": "a,b",
        "env": {"A": "1"},
        "env_from": ["TOKEN"],
        "cwd": "/data",
        "priority": "high",
        "project": "me/p",
        "max_preemptions": 3,
        "preempt_exit_code": 75,
        "checkpoint_every": "10m",
        "concurrency_key": "db",
        "limit_key": 2,
        "values": {"x": 1},
        "cwd_required": True,
        "requirements": "auto",
        "python": "3.12",
        "notify": "ops,ml:failed+crashed",
        "outputs": ["*.pt", "!tmp/"],
        "stop_signal": "INT",
        "stop_scope": "main",
        "signal": "10@2m",
        "on_timeout": "requeue:3",
        "max_fails": 5,
    }
    config = QueueConfig(defaults=given)
    assert config.defaults == {
        "timeout_s": 7200,
        "start_timeout_s": 60,
        "stall_timeout_s": 300,
        "grace_s": 0,
        "retry_delay_s": 90,
        "expires_s": 259200,
        "memory": 4 << 30,
        "cpus": 1.5,
        "gpus": 1,
        "retries": 2,
        "retry_on": ("crashed",),
        "tags": ("a", "b"),
        "env": {"A": "1"},
        "env_from": ("TOKEN",),
        "cwd": "/data",
        "priority": "high",
        "project": "me/p",
        "max_preemptions": 3,
        "preempt_exit_code": 75,
        "checkpoint_every_s": 600,
        "concurrency_key": "db",
        "limit_key": 2,
        "values": {"x": 1},
        "cwd_required": True,
        "requirements": "auto",
        "python": "3.12",
        "notify": ("ops", "ml:failed+crashed"),
        "stop_signal": "SIGINT",
        "stop_scope": "main",
        "signal": "SIGUSR1@120",
        "on_timeout": "requeue:3",
        "max_fails": 5,
        "outputs": ("*.pt", "!tmp/"),
    }
    own = QueueConfig(defaults={"retry": "oom=3, sigkill=1:30s..10m", "not_on_same_worker": True, "memory": "8G..64G"})
    assert own.defaults == {"retry": ("oom=3", "sigkill=1:30s..10m"), "not_on_same_worker": True, "memory": "8G..64G"}
    assert {*given, *own.defaults, "image", "container"} == {
        option.name for option in OPTIONS if DEFAULT in option.places
    }


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"command": ["x"]}, "'command' can have no default; there are: "),
        ({"name": "x"}, "can have no default"),
        ({"after": ["x"]}, "can have no default"),
        ({"timeout": "soon"}, "default timeout: timeout 'soon' is not a duration"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": float("nan")}, "out of range"),
        ({"memory": "1"}, "at least 6M"),
        ({"memory": 1.5}, "memory must be a size: .*, not 1.5"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": float("inf")}, "cpus"),
        ({"gpus": -1}, "gpus must be a whole number"),
        ({"gpus": 1.5}, "gpus must be a whole number"),
        ({"retries": True}, "default retries: retries must be a whole number, not a truth value"),
        ({"retries": "2"}, "default retries: retries must be a whole number, not a text"),
        ({"retry_on": "sunday"}, "cannot retry on 'sunday'"),
        ({"env": {"A": 1}}, "must be a text, not a number"),
        ({"env": {"LAUNCH_X": "1"}}, "is set by the worker"),
        ({"env": ["A=1"]}, "default env: env must be a map"),
        ({"cwd": "here"}, "must be an absolute path"),
        ({"image": "-v"}, "is not the name of an image"),
        ({"priority": "urgent"}, "use one of: critical"),
        ({"tags": [1]}, "tags must be a list of texts; one of them is a number"),
        ({"values": {"x": float("nan")}}, "written as JSON"),
        ({"container": {"privileged": True}}, "only the queue's configuration may set it"),
        (["timeout"], "must be a map"),
        ({"timeout": None}, "timeout must be a duration: .*, not null"),
    ],
)
def test_bad_defaults_are_refused_when_they_are_configured(defaults: Any, said: str) -> None:
    for kind in (QueueConfig, PoolConfig):
        with pytest.raises(InputError, match=said):
            kind(defaults=defaults)


@pytest.mark.parametrize(
    "config",
    [
        {"resource": "process", "defaults": {"image": "a:1"}},
        {"priorities": False, "defaults": {"priority": "high"}},
        {"resource": "container", "container": {"network": "none"}, "defaults": {"container": {"network": "bridge"}}},
        {"container": {"allow_images": ["team/*"]}, "defaults": {"image": "other:1"}},
        {"container": {"allow_volumes": ["team-*"]}, "defaults": {"container": {"mounts": ["vol:/x"]}}},
        {"variables": SCHEMA, "defaults": {"values": {"lr": 2}}},
        {"variables": SCHEMA | {"additionalProperties": False}, "defaults": {"values": {"typo": 2}}},
        {"defaults": {"values": {"queue": 2}}},
        {"macro_env": ["SITE"], "defaults": {"values": {"SITE": 2}}},
    ],
)
def test_a_queue_whose_own_rules_refuse_its_defaults_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the queue's own rules refuse its defaults"):
        QueueConfig(**config)


@pytest.mark.parametrize(
    "config",
    [
        {"resource": "container", "defaults": {"retries": 1}},
        {"resource": "container", "container": {"allow_images": ["team/*"]}, "defaults": {"memory": "1G"}},
        {"defaults": {"container": {"network": "none"}}},
        {"container": {"image": "x/${entity_name}"}, "resource": "container", "defaults": {"gpus": 1}},
        {"variables": SCHEMA, "defaults": {"values": {"lr": 1}}},
        {"resource": "process", "defaults": {"memory": "1G", "cpus": 2}},
    ],
)
def test_defaults_that_leave_something_to_the_run_are_taken(config: dict[str, Any]) -> None:
    assert QueueConfig(**config).defaults


def test_a_pools_defaults_are_checked_together_with_the_queues_rules() -> None:
    QueueConfig("process").check_defaults({"retries": 1})
    with pytest.raises(InputError, match="the queue's own rules refuse its defaults"):
        QueueConfig("process").check_defaults({"image": "a:1"})
    QueueConfig(priorities=False, defaults={"priority": "medium"}).check_defaults({"priority": "high"})


def test_what_is_typed_is_json_only_where_the_option_is_no_text() -> None:
    typed = {
        "retries": "2",
        "project": "123",
        "timeout": "90",
        "env": '{"A": "1"}',
        "tags": '["a"]',
        "retry_on": "failed",
    }
    assert parse_defaults(typed | {"cwd": ""}) == {
        "retries": 2,
        "project": "123",
        "timeout": "90",
        "env": {"A": "1"},
        "tags": ["a"],
        "retry_on": "failed",
        "cwd": None,
    }
    for name, text in (("retries", "many"), ("env", "A=1")):
        with pytest.raises(InputError, match=f"default {name}: '{text}' is not"):
            parse_defaults({name: text})


# -- template variables ------------------------------------------------------------------------------------------------


def values(schema: dict[str, Any], **given: Any) -> dict[str, Any]:
    return QueueConfig(variables=schema).values_of(RunSpec(command=("true",), values=given))


def test_missing_values_get_their_default() -> None:
    assert values(SCHEMA, size="small") == {"size": "small", "lr": 0.1}
    nested = {"type": "object", "properties": {"opt": {"type": "object", "properties": {"b": {"default": [1]}}}}}
    assert values(nested, opt={"a": 1}) == {"opt": {"a": 1, "b": [1]}}
    assert values(nested) == {}
    assert values({}, anything=1) == {"anything": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "template variable 'size' is missing; give it a value with --set size=VALUE"),
        ({"size": "huge"}, r"template variable 'size': 'huge' is not one of \['small', 'large'\]"),
        ({"size": "small", "lr": -0.1}, "template variable 'lr': -0.1 is less than the minimum of 0"),
        ({"size": "small", "lr": 1.01}, "greater than the maximum of 1"),
        ({"size": "small", "lr": "1"}, "'1' is not of type 'number'"),
        ({"size": "small", "lr": True}, "True is not of type 'number'"),
        ({"size": "small", "steps": 0}, "template variable 'steps'"),
        ({"size": "small", "steps": 1.5}, "is not of type 'integer'"),
        ({"size": "small", "tag": 5}, r"is not of type 'string'; write it as a text: --set 'tag=\"5\"'"),
        ({"size": "small", "tag": "A"}, "does not match"),
    ],
)
def test_values_that_the_schema_forbids_are_refused_with_the_reason(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        values(SCHEMA, **given)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), [float("nan")], {"x": float("inf")}])
def test_what_is_no_number_passes_no_bound(number: Any) -> None:
    from launch_worker.queues.variables import complete_values

    schema = {"type": "object", "properties": {"x": {"minimum": 0, "maximum": 1}}}
    with pytest.raises(InputError, match="finite"):
        complete_values(schema, {"x": number})
    with pytest.raises(InputError):
        values(schema, x=number)
    with pytest.raises(InputError):
        QueueConfig(variables={"type": "object", "properties": {"x": {"minimum": number}}})
    with pytest.raises(InputError):
        QueueConfig(variables={"type": "object", "properties": {"x": {"default": number}}})


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_record_or_a_line_that_means_infinity_passes_no_bound(text: str) -> None:
    with pytest.raises(InputError):
        values(SCHEMA, size="small", lr=json.loads(text))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ([], "must be a JSON Schema"),
        ({"properties": {}}, 'must have "type": "object"'),
        ({"type": "array"}, 'must have "type": "object"'),
        ({"type": ["object", "null"]}, 'must have "type": "object"'),
        (
            {"type": "object", "properties": {"x": {"type": "numbr"}}},
            "no valid JSON Schema at properties.x.type: 'numbr'",
        ),
        ({"type": "object", "properties": []}, "no valid JSON Schema at properties"),
        ({"type": "object", "properties": {"x": {"pattern": "("}}}, "no valid JSON Schema"),
        ({"type": "object", "properties": {"x": {"$ref": "#/x"}}}, r"\$ref is not allowed"),
        ({"type": "object", "allOf": [{"$dynamicRef": "#x"}]}, r"\$dynamicRef is not allowed"),
        ({"type": "object", "$recursiveRef": "#"}, r"\$recursiveRef is not allowed"),
        ({"type": "object", "properties": {"a b": {}}}, "'a b' is not a name for a template variable"),
        ({"type": "object", "properties": {"queue": {}}}, "would stand for the system's own macro"),
        ({"type": "object", "properties": {"SITE": {}}}, "would stand for a variable of the worker's"),
        ({"type": "object", "properties": {"x": {"type": "number", "default": "a"}}}, "does not allow its own default"),
        ({"type": "object", "properties": {"x": {"enum": ["a" * 70_000]}}}, "more than 65,536 bytes"),
        ({"type": "object", "properties": {"x": {1: 2}}}, "must be a text"),
    ],
)
def test_schemas_that_are_none_are_refused_in_one_sentence(schema: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        QueueConfig(variables=schema, macro_env=("SITE",))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_patterns_of_a_schema_decide() -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"pattern": "^[a-z]{2,}$"}, "pattern": {"default": {"pattern": "(?!x)"}}},
        "patternProperties": {"^n_": {"type": "number"}},
        "additionalProperties": False,
    }
    assert values(schema, x="ab", n_1=1)["n_1"] == 1
    for given, said in (
        ({"x": "a"}, "'a' does not match '^[a-z]{2,}$'"),
        ({"n_1": "a"}, "not of type 'number'"),
        ({"y": 1}, "'y' was unexpected"),
        ({"x": "a" * 2000}, "more than 1,024 characters"),
    ):
        with pytest.raises(InputError) as error:
            values(schema, **given)
        assert said in str(error.value)
    assert values({"type": "object", "additionalProperties": {"type": "number"}}, y=1) == {"y": 1}


@pytest.mark.parametrize("rule", [{"pattern": "^([a-z]+)*$"}, {"patternProperties": {"^([a-z]+)*$": {}}}])
@pytest.mark.parametrize("more", [{}, {"additionalProperties": False}])
def test_no_pattern_takes_long(rule: dict[str, Any], more: dict[str, Any]) -> None:
    text = "a" * 40 + "!"
    schema = {"type": "object", "properties": {"x": rule | more}}
    since = time.monotonic()
    with contextlib.suppress(InputError):
        values(schema, x=text)
    with contextlib.suppress(InputError):
        values(schema, x={text: 1})
    assert time.monotonic() - since < 1


def test_patterns_that_take_long_together_are_given_up() -> None:
    """Each is bounded; many values must not add up to minutes."""
    schema = {"type": "object", "properties": {"x": {"items": {"pattern": "(?:[ab]{0,30}){900}[cd]x?"}}}}
    since = time.thread_time()
    with pytest.raises(InputError, match="take more than 1 s"):
        values(schema, x=["ab" * 511 + "c"] * 60)
    assert time.thread_time() - since < 10, "seconds of this thread, whatever else the machine does"


def test_patterns_that_only_a_backtracking_engine_knows_are_refused() -> None:
    rules: list[dict[str, Any]] = [{"pattern": "(?!x)"}, {"patternProperties": {"(a)\\1": {}}}, {"pattern": "a" * 501}]
    for rule in rules:
        with pytest.raises(InputError, match="pattern that cannot be used") as error:
            QueueConfig(variables={"type": "object", "properties": {"x": {"allOf": [rule]}}})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="not allowed together"):
        QueueConfig(variables={"type": "object", "unevaluatedProperties": False, "allOf": [{"patternProperties": {}}]})


def test_a_schema_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"not": deep}
    with pytest.raises(InputError, match="nested more than 30 deep"):
        QueueConfig(variables={"type": "object"} | deep)


# -- macros in the queue's settings ------------------------------------------------------------------------------------

RUN = RunSpec(command=("true",), queue="sim")


def test_container_settings_are_filled_at_the_claim_and_no_sooner() -> None:
    """W10."""
    config = QueueConfig(
        "container",
        {
            "image": "team/${project_name}:${v}",
            "env": {"RUN": "${run_id}", "N": "${n}"},
            "pids_limit": "${n}",
            "mounts": ["/scratch/${author}:/scratch"],
            "memory": "${mem}",
            "entrypoint": ["/bin/${v}", "${n}"],
        },
    )
    assert config.container_plan(RUN) == ContainerPlan("image")
    made = config.container_plan(
        RUN, {"project_name": "p", "v": "3", "run_id": "r1", "n": 8, "author": "ada@lab", "mem": "1G"}
    )
    assert made == ContainerPlan(
        "team/p:3",
        env={"RUN": "r1", "N": "8"},
        pids_limit=8,
        mounts=(Mount("/scratch/ada@lab", "/scratch"),),
        memory=1 << 30,
        entrypoint=("/bin/3", "8"),
    )
    with pytest.raises(InputError, match="whole number"):
        config.container_plan(
            RUN, {"project_name": "p", "v": "3", "run_id": "r1", "n": "x", "author": "a", "mem": "1G"}
        )


@pytest.mark.parametrize(
    "value", ["..", "../../etc", "/etc", "a/b", "x:/etc", "x,y", "", "-x\n", "a..b", ".", {"a": 1}]
)
def test_a_value_cannot_lead_the_queues_mounts_elsewhere(value: Any) -> None:
    config = QueueConfig("container", {"image": "a:1", "mounts": ["/scratch/${who}:/scratch"]})
    with pytest.raises(InputError, match="cannot be filled into the queue's mounts"):
        config.container_plan(RUN, {"who": value})


def test_a_variable_of_the_workers_may_be_a_folder_in_the_queues_mounts() -> None:
    settings = {"image": "a:1", "mounts": ["${SCRATCH}/${who}:/scratch"]}
    made = QueueConfig("container", settings, macro_env=("SCRATCH",)).container_plan(
        RUN, {"SCRATCH": "/srv/scratch", "who": "ada"}
    )
    assert made is not None
    assert made.mounts == (Mount("/srv/scratch/ada", "/scratch"),)


def test_an_image_that_a_value_has_a_part_in_is_one_of_those_allowed() -> None:
    config = QueueConfig("container", {"image": "team/${v}", "allow_images": ["team/sim:*"]})
    made = config.container_plan(RUN, {"v": "sim:3"})
    assert made is not None
    assert made.image == "team/sim:3"
    with pytest.raises(InputError, match="image 'team/other:1' is not allowed in this queue"):
        config.container_plan(RUN, {"v": "other:1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_mounts", ["/home/${author}"]),
        ("allow_images", ["${x}"]),
        ("allow_volumes", ["${x}"]),
        ("privileged", "${x}"),
        ("network", "${x}"),
        ("devices", ["${x}"]),
        ("runtime", "${x}"),
    ],
)
def test_what_bounds_a_submitter_has_no_macros(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"container setting {name} cannot have macros"):
        QueueConfig(container={name: value})


@pytest.mark.parametrize("names", ["SITE", [1], ["a b"], [""], ["A=B"], *([name] for name in SYSTEM_MACROS)])
def test_bad_names_of_worker_variables_are_refused(names: Any) -> None:
    with pytest.raises(InputError, match="macro_env"):
        QueueConfig(macro_env=names)


# -- change and text ---------------------------------------------------------------------------------------------------

FULL = QueueConfig(
    "container",
    {"image": "a:1", "allow_mounts": ["/data"]},
    "for sims",
    defaults={"timeout": "2h", "env": {"A": "1"}, "tags": ["x"]},
    variables=SCHEMA,
    macro_env=("SITE",),
    priorities=False,
)


def test_every_setting_survives_its_text() -> None:
    assert QueueConfig.from_json(FULL.to_json()).to_json() == FULL.to_json()
    assert QueueConfig.from_json(FULL.to_json()) == FULL
    assert QueueConfig().to_json() == "{}"
    pool = PoolConfig({"timeout": "2h", "tags": ["x"]}, "d")
    assert PoolConfig.from_json(pool.to_json()) == pool
    assert PoolConfig.from_json("") == PoolConfig()


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "5", '"x"', "null", '{"colour": "red"}', '{"defaults": []}', '{"defaults": {"timeout": null}}'),
        *('{"description": 5}', "[" * 100_000, '{"defaults": {"cpus": NaN}}'),
    ],
)
def test_a_damaged_configuration_is_said_and_no_traceback(text: str) -> None:
    for kind in (QueueConfig, PoolConfig):
        with pytest.raises(InputError):
            kind.from_json(text)


@pytest.mark.parametrize(
    "text",
    ['{"priorities": 1}', '{"macro_env": 5}', '{"macro_env": "A"}', '{"variables": 5}', '{"variables": {"type": 5}}'],
)
def test_a_damaged_setting_of_a_queue_is_said(text: str) -> None:
    with pytest.raises(InputError):
        QueueConfig.from_json(text)


def test_each_setting_can_be_taken_away() -> None:
    assert FULL.changed() == FULL
    assert FULL.changed(resource="").resource == ""
    assert FULL.changed(description="").description == ""
    assert FULL.changed(variables={}).variables == {}
    assert FULL.changed(macro_env=()).macro_env == ()
    assert FULL.changed(priorities=True).priorities
    assert FULL.changed(container={"allow_mounts": None}).container == {"image": "a:1"}
    assert FULL.changed(defaults={"timeout": None}).defaults == {"env": {"A": "1"}, "tags": ("x",)}
    assert FULL.changed(defaults={"timeout_s": None, "env": None, "tags": None}).defaults == {}
    assert PoolConfig({"timeout": 5}, "d").changed(defaults={"timeout": None}, description="") == PoolConfig()


def test_settings_change_one_by_one() -> None:
    after = FULL.changed(defaults={"retries": 3, "timeout": "1h"}, container={"cpus": 2})
    assert after.defaults == FULL.defaults | {"retries": 3, "timeout_s": 3600}
    assert after.container == FULL.container | {"cpus": 2}
    with pytest.raises(InputError, match="can have no default"):
        FULL.changed(defaults={"colour": "red"})


@pytest.mark.parametrize("name", ["", "-x", "a b", "a:b", "a/b", "x" * 101, "ä"])
def test_bad_names_of_pools_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="pool"):
        check_pool_name(name)


def test_a_queue_says_which_variables_of_the_worker_its_runs_may_ask_for() -> None:
    queue = QueueConfig(allow_env=("DATA_*", "HF_TOKEN"))
    assert queue.checked(RunSpec(command=("true",), env_from=("DATA_KEY", "HF_TOKEN"))).env_from
    with pytest.raises(InputError, match=r"--env-from SECRET is not allowed in this queue; it allows: DATA_.*HF_TOKEN"):
        queue.checked(RunSpec(command=("true",), env_from=("HF_TOKEN", "SECRET")))
    with pytest.raises(InputError, match="the queue's own rules refuse its defaults"):
        QueueConfig(allow_env=("DATA_*",), defaults={"env_from": ["SECRET"]})


@pytest.mark.parametrize(
    "uri", ["https://169.254.169.254/x", "https://git.lab.evil/a/b", "https://git.lab/c/d", "git@git.lab:a/b"]
)
def test_a_queue_says_from_where_code_may_come(uri: str) -> None:
    queue = QueueConfig(allow_uris=("https://git.lab/a/*",))
    assert queue.checked(RunSpec(command=("true",), uri="https://git.lab/a/b@main")).uri
    with pytest.raises(InputError, match=f"code from {re.escape(uri)} is not allowed"):
        queue.checked(RunSpec(command=("true",), uri=uri))
    # Macros are filled at the claim, and looked at then.
    assert queue.checked(RunSpec(command=("true",), uri="https://${host}/a/b", values={"host": "evil"})).uri


@pytest.mark.parametrize("setting", ["allow_env", "allow_uris"])
@pytest.mark.parametrize("value", ["A_*", [""], [5], ["a b"], ["x" * 301]])
def test_patterns_that_are_none_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=setting):
        QueueConfig(**{setting: value})
