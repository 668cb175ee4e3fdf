"""Checks of single values that people give: each raises InputError that says what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from launch_worker.errors import InputError
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.signals import parse_ahead, parse_signal
from launch_worker.model.units import MAX_DURATION_S
from launch_worker.untrusted.text import MAX_DEPTH, is_deeper

NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]{1,200}")
#: A queue's name, also a Redis key and a file name: no colon, no slash, no leading dash, dot or underscore.
QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,99})?")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=/-]{0,99}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: The system's own queue, which every worker consumes beside its `-Q`.
MAINTENANCE_QUEUE = "maintenance"
RESERVED_QUEUES = frozenset({MAINTENANCE_QUEUE, "unacked", "unacked_index", "unacked_mutex"})
#: Priority steps of kombu's Redis transport for W&B's four levels; a lower step is consumed first.
PRIORITIES = {"critical": 0, "high": 3, "medium": 6, "low": 9}
RETRYABLE = ("failed", "crashed")
MAX_RETRIES = 1000
#: Times that a run goes back to its queue at its time limit, where it says `requeue` without a number.
REQUEUES = 5
_ON_TIMEOUT = re.compile(r"fail|requeue(?::([0-9]{1,4}))?")
#: Processes of a job that are asked to end, before all of them are made to.
STOP_SCOPES = ("main", "all")
MAX_GPUS = 1024
MAX_LIMIT = 1_000_000
MAX_AFTER = 1000
MAX_VALUES_BYTES = 64 * 1024
MAX_CONFIG_BYTES = 256 * 1024
#: Levels of nesting in values and config. They are kept within other JSON, which has a limit itself.
_MAX_DEPTH = MAX_DEPTH - 10
#: A key or an array's id: also part of Redis keys.
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@=-]{0,99}")
#: Ends that a run may wait for: with exit code 0, any end, any end but one with exit code 0.
WISHES = ("ok", "any", "failed")
#: A Python as uv is asked for one: a version, a range of versions, or an implementation with one. No path.
PYTHON_NAME = re.compile(r"[A-Za-z0-9<>=~!][A-Za-z0-9.,<>=~!@+*-]{0,99}")
VALUE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}")


def check_queue_name(name: str) -> None:
    """Raises InputError for a name that no queue of runs may have."""
    check_text("queue", name, QUEUE, "letters, digits, and . _ - after the first, at most 100")
    # A worker takes whatever is in its own queue: no limit and no configuration of a queue would hold there.
    if name in RESERVED_QUEUES or name.endswith(".pidbox") or name.startswith(("launch.direct.", "launch.wake.")):
        raise InputError(f"queue {name!r} belongs to the system; choose another name")


def check_text(what: str, text: str, pattern: re.Pattern[str], rule: str) -> None:
    """Raises InputError, which names the rule, for a text that the pattern does not match as a whole."""
    if not isinstance(text, str) or not pattern.fullmatch(text) or not encodes(text):
        shown = repr(text) if len(str(text)) <= 60 else repr(str(text)[:60]) + "…"
        raise InputError(f"{what} {shown} is not allowed: {rule}")


def encodes(text: str) -> bool:
    """Whether a text is valid UTF-8: no half of a surrogate pair is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Label:
    """A check of a text that may be empty."""

    def __init__(self, what: str, pattern: re.Pattern[str], rule: str) -> None:
        self.what, self.pattern, self.rule = what, pattern, rule

    def __call__(self, text: str) -> None:
        if text:
            check_text(self.what, text, self.pattern, self.rule)


class Whole:
    """A check of a whole number and its bounds, both included."""

    def __init__(self, what: str, least: int, most: int) -> None:
        self.what, self.least, self.most = what, least, most

    def __call__(self, number: Any) -> None:
        if not isinstance(number, int) or isinstance(number, bool) or not self.least <= number <= self.most:
            raise InputError(f"{self.what} must be a whole number from {self.least} to {self.most}, not {number!r}")


class Seconds:
    """A check of a duration in seconds. Unless 0 `may_be_0`, the least is a millisecond."""

    def __init__(self, what: str, *, may_be_0: bool = False) -> None:
        self.what, self.may_be_0 = what, may_be_0

    def __call__(self, seconds: float) -> None:
        if not (0 if self.may_be_0 else 0.001) <= seconds <= MAX_DURATION_S:
            least = "at least 0" if self.may_be_0 else "more than 0"
            raise InputError(f"{self.what} must be {least} and at most 3650d, not {seconds:g} s")


def parse_after(text: str) -> tuple[str, str]:
    """The run or group that is waited for, and the wish for its end. `RUN` alone is `RUN:ok`. Raises InputError."""
    run_id, colon, wish = text.partition(":") if isinstance(text, str) else ("", "", "")
    wish = wish.lower() if colon else "ok"
    if not (RUN_ID.fullmatch(run_id) or GROUP_ID.fullmatch(run_id)) or wish not in WISHES:
        raise InputError(
            f"after {str(text)[:60]!r} is no run or group to wait for; write it as RUN, RUN:ok, RUN:any or RUN:failed"
        )
    return group_key(run_id), wish


def no_run_to_wait_for(other: str) -> InputError:
    """The error that the `create` script has as well."""
    return InputError(f"there is no run or group {other} to wait for; list the known runs with: launch-worker runs")


def shown_group(key: str) -> str:
    """The id of a group as people write it, for its id in names of Redis; '' for none."""
    return f"a{key}" if RUN_ID.fullmatch(key) else key


def group_key(group_id: str) -> str:
    """The id of a run or a group, as names in Redis have it: an array's is that of its first run."""
    return group_id[1:] if GROUP_ID.fullmatch(group_id) and group_id[0] == "a" else group_id


def check_after(after: tuple[str, ...]) -> None:
    if len(after) > MAX_AFTER:
        raise InputError(f"a run can wait for at most {MAX_AFTER} others, not {len(after)}")
    wishes: dict[str, str] = {}
    for text in after:
        run_id, wish = parse_after(text)
        if wishes.setdefault(run_id, wish) != wish:
            raise InputError(f"a run cannot wait for run {run_id} to end in two ways; leave one of them out")


def check_values(values: Mapping[str, Any]) -> None:
    """Raises InputError for values of template variables that no run can have."""
    if not isinstance(values, Mapping):
        raise InputError("the values of template variables must be a map of names to values")
    for name in values:
        if not isinstance(name, str) or not VALUE_NAME.fullmatch(name):
            raise InputError(f"{str(name)[:60]!r} is not a name for a value; use letters, digits, _ and .")
    size = _json_bytes("the values of template variables", values)
    if size > MAX_VALUES_BYTES:
        raise InputError(f"the values of template variables have {size:,} bytes; at most {MAX_VALUES_BYTES:,} are kept")


def check_config(config: Mapping[str, Any]) -> None:
    """Raises InputError for hyperparameters that no run can have."""
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise InputError("the config must be a map of names to values")
    size = _json_bytes("the config", config)
    if size > MAX_CONFIG_BYTES:
        raise InputError(f"the config has {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are kept")


def _json_bytes(what: str, value: Mapping[str, Any]) -> int:
    if not value:
        return 2
    try:
        text = json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{what} cannot be written as JSON: {error}") from None
    if text.count("[") + text.count("{") > _MAX_DEPTH and is_deeper(value, _MAX_DEPTH):
        raise InputError(f"{what} must not be nested more than {_MAX_DEPTH} levels deep")
    return len(text.encode())


def check_tags(tags: tuple[str, ...]) -> None:
    for tag in tags:
        check_text("tag", tag, TAG, "letters, digits and . _ : = / -, at most 100")


def check_priority(priority: str) -> None:
    if priority not in PRIORITIES:
        raise InputError(f"priority {priority!r} is unknown; use one of: {', '.join(PRIORITIES)}")


def check_requirements(requirements: str) -> None:
    """Raises InputError for what is neither a file of requirements nor one of the words in place of one."""
    if requirements:
        # Imported on demand: start-up time of `launch-submit`.
        from launch_worker.model.requirements import check_path, is_file

        if is_file(requirements):
            check_path(requirements)


def check_scheduler(scheduler: Any) -> None:
    if not isinstance(scheduler, bool):
        raise InputError(f"scheduler must be true or false, not {scheduler!r}")


def check_retry_on(words: tuple[str, ...]) -> None:
    for word in words:
        if word not in RETRYABLE:
            raise InputError(f"cannot retry on {word!r}; use one or both of: {','.join(RETRYABLE)}")


PYTHON_RULE = "a version as 3.12 or >=3.11, or an implementation with one as pypy@3.11"


def check_signal(name: str) -> None:
    if name and parse_signal(name) != name:
        raise InputError(f"signal {name[:40]!r} must be written as SIGUSR1")


def check_signal_ahead(text: str) -> None:
    if text and str(parse_ahead(text)) != text:
        raise InputError(f"signal {text[:40]!r} must be written as SIGUSR1@120, with its time in seconds")


def check_stop_scope(scope: str) -> None:
    if scope not in ("", *STOP_SCOPES):
        raise InputError(f"stop scope {scope!r} is unknown; use one of: {', '.join(STOP_SCOPES)}")


def parse_on_timeout(text: str) -> int:
    """How many times a run goes back to its queue at its time limit: N of `requeue:N`, 0 of `fail`.

    Raises InputError.
    """
    match = _ON_TIMEOUT.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[1] and not 1 <= int(match[1]) <= MAX_RETRIES):
        raise InputError(
            f"on timeout {str(text)[:40]!r} is not known; write it as fail, requeue or requeue:N, for at most N times, "
            f"N from 1 to {MAX_RETRIES}"
        )
    return 0 if text == "fail" else int(match[1] or REQUEUES)


def check_on_timeout(text: str) -> None:
    parse_on_timeout(text)


def check_retry(rules: tuple[str, ...]) -> None:
    # Imported on demand: start-up time of `launch-submit`.
    from launch_worker.model.retry_rules import parse_rules

    parse_rules(rules)


NAME_RULE = "1 to 200 characters without control characters"
PROJECT_RULE = "ENTITY/PROJECT, each of letters, digits and . _ -"
KEY_RULE = "letters, digits, and . _ @ = - after the first, at most 100"
