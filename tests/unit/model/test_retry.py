"""How an exit becomes an outcome, and what comes after it: pure decisions."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.outcome import Outcome, outcome_of_exit, shell_exit_code, signal_name
from launch_worker.model.retry import MAX_MISSTARTS, NextStep, has_retries_left, next_step, next_step_of
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState

S = RunState


def spec(*, retries: int = 2, delay_s: float = 0.0, on: tuple[str, ...] = ("failed", "crashed")) -> RunSpec:
    return RunSpec(command=("true",), retries=retries, retry_delay_s=delay_s, retry_on=on)


def after(outcome: Outcome, policy: RunSpec, **known: Any) -> NextStep:
    """What follows an end of a run of which the record says so much."""
    record = replace(Record(id="r", attempt=1, worker="w@a", needs=policy.needs), **known)
    return next_step(record, outcome, policy)


def test_exit_zero_is_finished_without_a_reason() -> None:
    assert outcome_of_exit(0) == Outcome(S.FINISHED, exit_code=0)


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_another_exit_code_is_failed_in_the_run_with_that_code(code: int) -> None:
    """P35."""
    outcome = outcome_of_exit(code)
    assert (outcome.state, outcome.phase, outcome.exit_code, outcome.signal) == (S.FAILED, "run", code, "")
    assert outcome.reason == f"exit code {code}"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_death_by_signal_is_failed_with_the_signals_name(number: signal.Signals) -> None:
    """P29, P35."""
    outcome = outcome_of_exit(-number)
    assert (outcome.state, outcome.phase, outcome.exit_code, outcome.signal) == (S.FAILED, "run", None, number.name)
    assert number.name in outcome.message


def test_a_real_time_signal_has_a_name_too() -> None:
    assert signal_name(40) == "SIG40"


def test_a_finished_or_killed_run_is_never_retried() -> None:
    for state in (S.FINISHED, S.KILLED):
        assert after(Outcome(state), spec(retries=9), attempt=1).retry_delay_s is None


@pytest.mark.parametrize("state", [S.FAILED, S.CRASHED])
def test_retries_are_used_up_one_by_one(state: RunState) -> None:
    """P36."""
    steps = [after(Outcome(state), spec(retries=2), attempt=attempt) for attempt in (1, 2, 3)]
    assert [step.retry_delay_s for step in steps] == [0.0, 0.0, None]
    assert [step.retry_reason for step in steps] == ["retry 1 of 2", "retry 2 of 2", ""]


def test_no_retries_is_the_default() -> None:
    plain = RunSpec(command=("true",))
    assert after(Outcome(S.FAILED), plain, attempt=1) == NextStep(Outcome(S.FAILED))


def test_the_delay_is_kept_and_told() -> None:
    step = after(Outcome(S.FAILED), spec(retries=3, delay_s=30), attempt=2)
    assert (step.retry_delay_s, step.retry_reason) == (30, "retry 2 of 3 in 30 s")


@pytest.mark.parametrize(("on", "failed", "crashed"), [(("failed",), True, False), (("crashed",), False, True)])
def test_only_the_chosen_ends_are_retried(on: tuple[str, ...], failed: bool, crashed: bool) -> None:
    policy = spec(on=on)
    assert (after(Outcome(S.FAILED), policy, attempt=1).retry_delay_s is not None) is failed
    assert (after(Outcome(S.CRASHED), policy, attempt=1).retry_delay_s is not None) is crashed


def test_a_requeue_begins_a_new_count() -> None:
    policy = spec(retries=1)
    assert after(Outcome(S.FAILED), policy, attempt=3).retry_delay_s is None
    step = after(Outcome(S.FAILED), policy, attempt=3, first_attempt=3)
    assert (step.retry_delay_s, step.retry_reason) == (0.0, "retry 1 of 1")


def test_a_shutdown_hands_the_run_back_at_once_when_a_crash_would_be_retried() -> None:
    """X8."""
    ended = Outcome(S.KILLED, reason="the worker shut down", by_shutdown=True)
    step = after(ended, spec(retries=1, delay_s=60), attempt=1)
    assert (step.retry_delay_s, step.retry_reason) == (0.0, "handed back by its worker")
    for policy in (spec(retries=0), spec(retries=1, on=("failed",))):
        assert after(ended, policy, attempt=1).retry_delay_s is None


def test_a_run_that_had_not_begun_goes_back_whatever_its_policy_and_uses_nothing_up() -> None:
    ended = Outcome(S.KILLED, reason="its worker stopped", unbegun=True)
    for policy, attempt in ((spec(retries=0), 1), (spec(retries=1, delay_s=60), 2)):
        step = after(ended, policy, attempt=attempt, preemptions=5)
        assert (step.retry_delay_s, step.is_preemption, step.counts_as) == (0.0, False, 2)


def test_has_retries_left_agrees_with_the_next_step() -> None:
    policy = spec(retries=1, on=("crashed",))
    assert has_retries_left(Record(attempt=1), policy, after=S.CRASHED)
    assert not has_retries_left(Record(attempt=2), policy, after=S.CRASHED)
    assert not has_retries_left(Record(attempt=1), policy, after=S.FAILED)


@pytest.mark.parametrize(
    ("state", "exit_code", "signal_", "code"),
    [
        (S.FINISHED, 0, "", 0),
        (S.FAILED, 3, "", 3),
        (S.FAILED, None, "SIGSEGV", 139),
        (S.FAILED, None, "SIGKILL", 137),
        (S.FAILED, None, "", 1),
        (S.FAILED, 0, "", 1),
        (S.KILLED, None, "SIGTERM", 143),
        (S.KILLED, 0, "", 143),
        (S.CRASHED, None, "", 70),
        (S.CRASHED, None, "SIGKILL", 70),
    ],
)
def test_the_shells_exit_code_is_that_of_the_contract(
    state: RunState, exit_code: int | None, signal_: str, code: int
) -> None:
    assert shell_exit_code(state, exit_code, signal_) == code


@pytest.mark.parametrize("phase", ["agent", "build", "start"])
def test_a_start_that_failed_through_the_worker_uses_up_no_retry_some_times(phase: str) -> None:
    outcome = Outcome(RunState.FAILED, reason="the disk is full", phase=phase, worker_fault=True)
    spec = RunSpec(command=("true",))
    steps = [after(outcome, spec, attempt=count + 1, first_attempt=1, misstarts=count) for count in range(6)]
    assert [step.counts_as for step in steps] == [3] * MAX_MISSTARTS + [0]
    delays = [step.retry_delay_s for step in steps]
    assert delays == [2.0, 4.0, 8.0, 16.0, 32.0, None], "never at once, and not for ever"
    assert "the disk is full" in steps[0].retry_reason


def test_a_job_that_had_begun_is_not_given_back_for_its_workers_fault() -> None:
    outcome = Outcome(RunState.FAILED, phase="run", worker_fault=True)
    assert after(outcome, RunSpec(command=("true",)), attempt=1).retry_delay_s is None


# -- rules -------------------------------------------------------------------------------------------------------------

OOM = Outcome(S.FAILED, reason="out of memory", phase="run", signal="SIGKILL", cause="oom")
KILLED_BY_SIGNAL = outcome_of_exit(-signal.SIGKILL)
TIMEOUT = Outcome(S.FAILED, reason="time limit", phase="run", signal="SIGTERM", cause="timeout")
STALL = Outcome(S.FAILED, reason="no output", phase="run", signal="SIGTERM", cause="stall")
NO_START = Outcome(S.FAILED, reason="no such program", phase="start")
CRASHED = Outcome(S.CRASHED, reason="gone")


def rules(*texts: str, **more: Any) -> RunSpec:
    return RunSpec(command=("true",), retry=texts, **more)


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        ("oom=1", [OOM]),
        ("timeout=1", [TIMEOUT]),
        ("stall=1", [STALL]),
        ("start=1", [NO_START]),
        ("crashed=1", [CRASHED]),
        ("3=1", [outcome_of_exit(3)]),
        # As shells and containers have it.
        ("137=1", [OOM, KILLED_BY_SIGNAL, outcome_of_exit(137)]),
        ("SIGKILL=1", [OOM, KILLED_BY_SIGNAL, outcome_of_exit(137)]),
        ("kill=1", [OOM, KILLED_BY_SIGNAL, outcome_of_exit(137)]),
        # Not those that the worker has ended.
        ("SIGTERM=1", []),
        ("failed=1", [OOM, TIMEOUT, STALL, NO_START, KILLED_BY_SIGNAL, outcome_of_exit(3), outcome_of_exit(137)]),
    ],
)
def test_a_rule_is_for_the_ends_that_it_names(rule: str, ends: list[Outcome]) -> None:
    all_ends = (OOM, TIMEOUT, STALL, NO_START, CRASHED, KILLED_BY_SIGNAL, outcome_of_exit(3), outcome_of_exit(137))
    policy = rules(rule)
    assert [end for end in all_ends if after(end, policy).retry_delay_s is not None] == ends
    for state in (S.FINISHED, S.KILLED):
        assert after(Outcome(state, exit_code=3), policy).retry_delay_s is None


def test_each_rule_has_its_own_count_and_the_record_keeps_it() -> None:
    policy = rules("oom=2", "3=1")
    ends = [OOM, outcome_of_exit(3), OOM, OOM]
    retried, reasons = "", []
    for attempt, end in enumerate(ends, start=1):
        step = after(end, policy, attempt=attempt, retried=retried)
        reasons.append(step.retry_reason)
        retried = step.retried or retried
    assert reasons == ["retry 1 of 2 after oom", "retry 1 of 1 after 3", "retry 2 of 2 after oom", ""]
    assert retried == "oom:2 3:1"


def test_the_most_special_rule_decides_also_against_another_attempt() -> None:
    policy = rules("failed=9", "oom=0", "SIGKILL=1")
    assert after(OOM, policy).retry_delay_s is None
    assert after(KILLED_BY_SIGNAL, policy).retry_reason == "retry 1 of 1 after SIGKILL"
    assert after(outcome_of_exit(1), policy).retry_reason == "retry 1 of 9 after failed"


def test_retries_cap_the_sum_of_all_rules() -> None:
    policy = rules("oom=5", "3=5", retries=3)
    assert after(OOM, policy, attempt=1).retry_reason == "retry 1 of 3 after oom"
    step = after(outcome_of_exit(3), policy, attempt=3, retried="oom:2")
    assert step.retry_reason == "retry 1 of 1 after 3"
    assert after(OOM, policy, attempt=4, retried="oom:2 3:1").retry_delay_s is None
    # Preemptions are counted apart: they move the attempt from which retries count.
    assert after(OOM, policy, attempt=4, first_attempt=2, retried="oom:2").retry_delay_s is not None


def test_a_delay_stands_in_the_rule_else_in_the_policy() -> None:
    policy = rules("oom=3:40s", "3=1", retry_delay_s=5.0)
    step = after(OOM, policy, attempt=2, retried="oom:1")
    assert (step.retry_delay_s, step.retry_reason) == (40.0, "retry 2 of 3 after oom, in 40 s")
    assert after(outcome_of_exit(3), policy).retry_delay_s == 5.0


def test_a_back_off_doubles_within_its_bounds_and_a_repeated_report_gives_the_same_answer() -> None:
    policy = rules("start=20:30s..10m")
    steps = [after(NO_START, policy, attempt=1 + used, retried=f"start:{used}") for used in range(12)]
    delays = [step.retry_delay_s or 0.0 for step in steps]
    for used, delay_s in enumerate(delays):
        plain = min(600.0, 30.0 * 2**used)
        assert max(30.0, 0.8 * plain) <= delay_s <= min(600.0, 1.2 * plain)
    assert steps == [after(NO_START, policy, attempt=1 + used, retried=f"start:{used}") for used in range(12)]
    by_run = {after(NO_START, policy, id=f"r{number}", retried="start:3").retry_delay_s for number in range(20)}
    assert len(by_run) > 10, "runs that failed together do not come back together"


def test_a_worker_that_stops_hands_a_run_on_by_the_rule_for_crashes() -> None:
    ended = Outcome(S.KILLED, reason="the worker shut down", by_shutdown=True)
    step = after(ended, rules("crashed=1:5m"))
    assert (step.retry_delay_s, step.retried, step.avoid) == (0.0, "crashed:1", "")
    assert after(ended, rules("oom=1")).retry_delay_s is None


def test_a_lease_is_needed_where_a_rule_gives_a_crashed_run_to_another_worker() -> None:
    assert has_retries_left(Record(attempt=1), rules("crashed=1"), after=S.CRASHED)
    assert not has_retries_left(Record(attempt=2, retried="crashed:1"), rules("crashed=1"), after=S.CRASHED)
    assert not has_retries_left(Record(attempt=1), rules("oom=1"), after=S.CRASHED)


def test_damaged_counts_are_none() -> None:
    assert after(OOM, rules("oom=1"), retried="oom x: :3 oom:-1 oom:99999999999").retried.endswith("oom:1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oom", "write it as CONDITION=COUNT"),
        ("oom=", "write it as CONDITION=COUNT"),
        ("=3", "write it as CONDITION=COUNT"),
        ("oom=-1", "write it as CONDITION=COUNT"),
        ("oom=1001", "at most 1000"),
        ("0=1", "from 1 to 255"),
        ("256=1", "from 1 to 255"),
        ("SIGNOT=1", "'SIGNOT' is no condition"),
        ("often=1", "'often' is no condition"),
        ("oom=1:soon", "is not a duration"),
        ("oom=1:10m..30s", "a back-off goes from"),
        ("oom=1:0s..30s", "a back-off goes from"),
        ("oom=1:30s..", "is not a duration"),
    ],
)
def test_what_is_no_rule_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        rules(text)
    assert said in str(refusal.value)


def test_rules_that_contradict_are_refused() -> None:
    for texts in (("oom=1", "oom=2"), ("137=1", "SIGKILL=2")):
        with pytest.raises(InputError, match="twice"):
            rules(*texts)
    with pytest.raises(InputError, match="leave out retry-on"):
        rules("oom=1", retry_on=("failed",))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_doubles_after_each_oom_up_to_the_greatest_by_itself() -> None:
    policy = RunSpec(command=("true",), memory="8G..40G", gpus=1)
    needs, retried, seen = policy.needs, "", []
    for attempt in range(1, 6):
        step = after(OOM, policy, attempt=attempt, needs=needs, retried=retried)
        seen.append((step.needs, step.retry_reason))
        needs, retried = step.needs or needs, step.retried or retried
    assert seen == [
        (f"1:0:{16 << 30}", "retry 1 of 3 after oom with 16G of memory"),
        (f"1:0:{32 << 30}", "retry 2 of 3 after oom with 32G of memory"),
        (f"1:0:{40 << 30}", "retry 3 of 3 after oom with 40G of memory"),
        ("", ""),
        ("", ""),
    ]
    assert after(outcome_of_exit(1), policy).retry_delay_s is None, "only what had too little memory"


def test_a_rule_for_oom_says_how_often_the_memory_doubles_and_the_retries_cap_it() -> None:
    policy = rules("oom=1:40s", memory="8G..64G")
    step = after(OOM, policy)
    assert (step.needs, step.retry_reason) == (f"0:0:{16 << 30}", "retry 1 of 1 after oom with 16G of memory, in 40 s")
    assert after(OOM, policy, attempt=2, retried="oom:1").retry_delay_s is None
    capped = RunSpec(command=("true",), memory="8G..64G", retries=1)
    assert after(OOM, capped).retry_reason == "retry 1 of 1 after oom with 16G of memory"
    assert after(OOM, capped, attempt=2, retried="oom:1", needs=f"0:0:{16 << 30}").retry_delay_s is None
    assert after(outcome_of_exit(1), capped).retry_reason == "retry 1 of 1"


def test_no_retries_hold_the_memory_too_and_the_reason_says_so() -> None:
    policy = RunSpec(command=("true",), memory="8G..64G", retries=0)
    assert parse_spec(policy.to_json()).retries == 0, "said is not the same as not said"
    step = after(OOM, policy)
    assert step.retry_delay_s is None
    assert step.outcome.reason.endswith("; no attempt with 16G of memory follows, for --retries allows 0")
    once = replace(policy, retries=1)
    assert after(OOM, once).retry_delay_s == 0.0
    last = after(OOM, once, attempt=2, retried="oom:1", needs=f"0:0:{16 << 30}")
    assert last.outcome.reason.endswith("; no attempt with 32G of memory follows, for --retries allows 1")


def test_memory_doubles_too_where_the_record_alone_is_known() -> None:
    """As another worker decides, which reports what a dead one has left."""
    policy = RunSpec(command=("true",), memory="8G..64G")
    record = Record(id="r", attempt=1, worker="w@a", needs=policy.needs, spec=policy.to_json())
    assert next_step_of(record, OOM).needs == f"0:0:{16 << 30}"


def test_a_rule_for_oom_tries_again_also_with_the_same_memory() -> None:
    step = after(OOM, rules("oom=1", memory=8 << 30))
    assert (step.needs, step.retry_reason) == ("", "retry 1 of 1 after oom")


def test_a_person_who_retries_gets_a_new_count_from_the_memory_that_it_has_come_to() -> None:
    policy = RunSpec(command=("true",), memory="8G..64G")
    step = after(OOM, policy, attempt=4, first_attempt=4, needs=f"0:0:{32 << 30}")
    assert (step.needs, step.retry_reason) == (f"0:0:{64 << 30}", "retry 1 of 1 after oom with 64G of memory")


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("64G..8G", "from a smaller size to a larger one"),
        ("8G..8G", "from a smaller size to a larger one"),
        ("8G..", "is not a size"),
        ("..8G", "is not a size"),
        ("1G..2G..3G", "is not a size"),
        ("1M..2G", "at least 6M"),
    ],
)
def test_what_is_no_range_of_memory_is_refused(memory: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        RunSpec(command=("true",), memory=memory)
    assert said in str(refusal.value)


# -- another worker ----------------------------------------------------------------------------------------------------


def test_a_run_that_wants_another_worker_avoids_the_one_that_failed_it() -> None:
    policy = RunSpec(command=("true",), retries=1, not_on_same_worker=True)
    assert after(outcome_of_exit(1), policy).avoid == "w@a"
    assert after(CRASHED, policy).avoid == "w@a"
    assert after(outcome_of_exit(1), spec()).avoid == ""


def test_a_start_that_failed_through_its_worker_always_avoids_that_worker() -> None:
    outcome = Outcome(S.FAILED, reason="the disk is full", phase="start", worker_fault=True)
    assert after(outcome, RunSpec(command=("true",))).avoid == "w@a"


def test_a_time_limit_after_which_a_run_goes_on_is_no_retry() -> None:
    spec = RunSpec(command=("true",), on_timeout="requeue:2", retries=1)
    record = Record(id="r", attempt=1)
    for attempt in (1, 2):
        step = next_step(replace(record, attempt=attempt, first_attempt=attempt), TIMEOUT, spec)
        assert (step.retry_delay_s, step.counts_as, step.retried) == (0.0, 2, f"requeue:{attempt}")
        record = replace(record, retried=step.retried)
    last = next_step(replace(record, attempt=3, first_attempt=3), TIMEOUT, spec)
    assert (last.retry_delay_s, last.counts_as) == (0.0, 0), "it is tried again as any failure"
    assert "went on 2 times" in last.outcome.reason
    assert next_step(record, STALL, replace(spec, retries=0)).retry_delay_s is None
