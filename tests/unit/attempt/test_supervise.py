"""Supervision as a pure policy over a queue of events: who asked first, what the job did, how it counts."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.attempt.supervise import (
    AttemptSuperseded,
    Cancel,
    HandBack,
    Limits,
    Shutdown,
    Superseded,
    never_started,
    supervise,
)
from launch_worker.model.job_words import Finish, HeedsStop, Preempting
from launch_worker.model.outcome import Outcome
from launch_worker.model.signals import Ahead
from launch_worker.model.states import RunState
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.stop_reason import StopReason

S = RunState
FREE = Limits(timeout_s=None, stall_timeout_s=None, grace_s=10.0)


class ScriptedHandle:
    """A job that ends as told: `on_stop` is called with each stop and may put events."""

    def __init__(self, *script: object, on_stop: Callable[[ScriptedHandle], None] | None = None) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stops: list[float] = []
        #: Signals that do not end it, with the time of each.
        self.signals: list[tuple[str, bool, float]] = []
        self._on_stop = on_stop
        self.put(*script)

    def put(self, *script: object) -> None:
        for event in script:
            self.events.put(event)

    def stop(self, *, grace_s: float) -> None:
        self.stops.append(grace_s)
        if self._on_stop:
            self._on_stop(self)

    def signal(self, name: str, *, to_all: bool) -> None:
        self.signals.append((name, to_all, time.monotonic()))


def run(handle: ScriptedHandle, *, limits: Limits = FREE, last_output_s: Callable[[], float] = lambda: 0.0) -> Outcome:
    return supervise(handle, limits=limits, last_output_s=last_output_s)


def dies(status: int, stopped_by: StopReason = "asked") -> Callable[[ScriptedHandle], None]:
    """On the first stop the job ends so."""

    def on_stop(handle: ScriptedHandle) -> None:
        if len(handle.stops) == 1:
            handle.put(Exited(status, stopped_by), Gone())

    return on_stop


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([Cancel("by ada")], Outcome(S.KILLED, reason="by ada")),
        ([Shutdown("gone")], Outcome(S.KILLED, reason="gone", unbegun=True)),
        ([HandBack("stops")], Outcome(S.KILLED, reason="stops", unbegun=True)),
        ([HandBack("stops"), Cancel("by ada")], Outcome(S.KILLED, reason="by ada")),
        ([Shutdown("gone"), Cancel("by ada")], Outcome(S.KILLED, reason="by ada")),
    ],
)
def test_what_was_asked_before_the_start_is_the_outcome(events: list[object], outcome: Outcome) -> None:
    assert never_started(ScriptedHandle(*events).events) == outcome


def test_an_attempt_that_lost_its_run_before_the_start_has_no_outcome() -> None:
    with pytest.raises(AttemptSuperseded):
        never_started(ScriptedHandle(Cancel("by ada"), Superseded()).events)


def test_milestones_are_met_in_order_by_a_job_that_is_still_there() -> None:
    met: list[tuple[str, float]] = []

    def end_of(handle: ScriptedHandle) -> float:
        begun = time.monotonic()
        marks = [(0.02, "follow"), (0.1, "reserve"), (60.0, "never")]
        milestones = [(begun + s, lambda name=name: met.append((name, time.monotonic() - begun))) for s, name in marks]
        supervise(handle, limits=FREE, last_output_s=lambda: 0.0, milestones=milestones)
        return time.monotonic() - begun

    end_of(ScriptedHandle(Exited(0, ""), Gone()))
    assert met == []
    handle = ScriptedHandle()
    threading.Timer(0.3, handle.put, [Exited(0, ""), Gone()]).start()
    took_s = end_of(handle)
    assert [name for name, _ in met] == ["follow", "reserve"]
    assert 0.02 <= met[0][1] < 0.1 <= met[1][1] < took_s


@pytest.mark.parametrize("event", [Cancel("by ada"), Finish(3), Exited(0, "")])
def test_that_it_lasts_changes_nothing_of_its_end(event: object) -> None:
    handle = ScriptedHandle(event)
    end = (Gone(),) if isinstance(event, Exited) else (Exited(0, "asked"), Gone())
    threading.Timer(0.1, handle.put, end).start()
    brief = ScriptedHandle(event, *end)
    milestones = [(time.monotonic() + 0.02, lambda: None), (time.monotonic() + 0.05, lambda: None)]
    limits = replace(FREE, timeout_s=60.0)
    outcome = supervise(handle, limits=limits, last_output_s=lambda: 0.0, milestones=milestones)
    assert outcome == run(brief)
    assert handle.stops == brief.stops


def test_exit_zero_is_finished_and_nobody_was_stopped() -> None:
    handle = ScriptedHandle(Exited(0, ""), Gone())
    assert run(handle) == Outcome(S.FINISHED, exit_code=0)
    assert handle.stops == []


def test_the_outcome_waits_until_the_tree_is_gone() -> None:
    """P26: not before nothing is left."""
    handle = ScriptedHandle(Exited(0, ""))
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.append(run(handle)))
    thread.start()
    thread.join(0.1)
    assert not done
    handle.put(Gone())
    thread.join(5.0)
    assert done[0].state is S.FINISHED


def test_a_signal_that_nobody_asked_for_is_failed() -> None:
    """P29."""
    outcome = run(ScriptedHandle(Exited(-9, ""), Gone()))
    assert (outcome.state, outcome.signal, outcome.phase) == (S.FAILED, "SIGKILL", "run")


def test_a_cancel_stops_with_the_jobs_own_grace_and_is_killed_with_its_reason() -> None:
    """P20."""
    handle = ScriptedHandle(Cancel("cancelled by me"), on_stop=dies(-15))
    outcome = run(handle)
    assert handle.stops == [10.0]
    assert (outcome.state, outcome.reason, outcome.signal) == (S.KILLED, "cancelled by me", "SIGTERM")
    assert not outcome.by_shutdown


def test_a_cancelled_job_that_exits_zero_on_sigterm_is_killed_all_the_same() -> None:
    outcome = run(ScriptedHandle(Cancel("stop"), on_stop=dies(0)))
    assert (outcome.state, outcome.exit_code) == (S.KILLED, 0)


def test_a_cancel_with_grace_zero_is_sigkill_at_once() -> None:
    """W16."""
    handle = ScriptedHandle(Cancel("now", grace_s=0.0), on_stop=dies(-9))
    assert run(handle).state is S.KILLED
    assert handle.stops == [0.0]


def test_a_second_cancel_can_shorten_the_grace() -> None:
    handle = ScriptedHandle(Cancel("first"), Cancel("second", grace_s=0.5), Exited(-9, "asked"), Gone())
    outcome = run(handle)
    assert handle.stops == [10.0, 0.5]
    assert (outcome.state, outcome.reason) == (S.KILLED, "first")


def test_a_run_that_ended_before_the_cancel_keeps_its_own_state() -> None:
    """P25."""
    handle = ScriptedHandle(Exited(3, ""), Cancel("too late"), Gone())
    outcome = run(handle)
    assert (outcome.state, outcome.exit_code) == (S.FAILED, 3)
    assert handle.stops == []


def test_a_run_that_ended_between_the_request_and_the_signal_keeps_its_own_state() -> None:
    """P25."""
    outcome = run(ScriptedHandle(Cancel("too late"), on_stop=dies(0, stopped_by="")))
    assert outcome == Outcome(S.FINISHED, exit_code=0)


def test_the_wall_limit_fails_the_run_and_says_so() -> None:
    handle = ScriptedHandle(on_stop=dies(-15))
    outcome = run(handle, limits=Limits(timeout_s=0.05, stall_timeout_s=None, grace_s=3.0))
    assert handle.stops == [3.0]
    assert (outcome.state, outcome.phase, outcome.signal) == (S.FAILED, "run", "SIGTERM")
    assert outcome.reason == outcome.message == "time limit of 0.05 s reached"


def test_the_wall_limit_counts_also_for_a_job_that_prints_all_the_time() -> None:
    handle = ScriptedHandle(on_stop=dies(-15))
    limits = Limits(timeout_s=0.05, stall_timeout_s=60.0, grace_s=1.0)
    assert "time limit" in run(handle, limits=limits, last_output_s=time.monotonic).reason


def test_the_stall_limit_ends_a_silent_job() -> None:
    """X3."""
    handle = ScriptedHandle(on_stop=dies(-15))
    outcome = run(handle, limits=Limits(timeout_s=None, stall_timeout_s=0.05, grace_s=1.0))
    assert (outcome.state, outcome.reason) == (S.FAILED, "no output for 0.05 s")


def test_output_puts_the_stall_limit_off() -> None:
    begun = time.monotonic()
    talks_until = begun + 0.15
    handle = ScriptedHandle(on_stop=dies(-15))
    run(
        handle,
        limits=Limits(timeout_s=None, stall_timeout_s=0.05, grace_s=1.0),
        last_output_s=lambda: min(time.monotonic(), talks_until),
    )
    assert time.monotonic() - begun >= 0.2


def test_a_job_that_ends_in_time_is_not_stopped_by_its_limits() -> None:
    handle = ScriptedHandle(Exited(0, ""), Gone())
    assert run(handle, limits=Limits(60.0, 60.0, 1.0)).state is S.FINISHED
    assert handle.stops == []


def test_a_limit_that_was_reached_first_stays_the_reason() -> None:
    def on_stop(handle: ScriptedHandle) -> None:
        if len(handle.stops) == 1:
            handle.put(Cancel("later", grace_s=0.0), Exited(-9, "asked"), Gone())

    handle = ScriptedHandle(on_stop=on_stop)
    outcome = run(handle, limits=Limits(timeout_s=0.02, stall_timeout_s=None, grace_s=9.0))
    assert handle.stops == [9.0, 0.0]
    assert (outcome.state, outcome.reason) == (S.FAILED, "time limit of 0.02 s reached")


def test_a_superseded_attempt_is_ended_at_once_and_reports_nothing() -> None:
    handle = ScriptedHandle(Superseded(), on_stop=dies(-9))
    with pytest.raises(AttemptSuperseded):
        run(handle)
    assert handle.stops == [0.0]


def test_superseded_wins_over_an_earlier_cancel() -> None:
    handle = ScriptedHandle(Cancel("stop"), Superseded(), Exited(-9, "asked"), Gone())
    with pytest.raises(AttemptSuperseded):
        run(handle)
    assert handle.stops == [10.0, 0.0]


@pytest.mark.parametrize("later", [Cancel("late"), Shutdown("late")])
def test_a_superseded_attempt_stays_superseded(later: object) -> None:
    with pytest.raises(AttemptSuperseded):
        run(ScriptedHandle(Superseded(), later, Exited(-9, "asked"), Gone()))


def test_a_job_that_the_guard_ended_for_its_lease_is_crashed() -> None:
    """Section 7: Redis away longer than the lease, with retries left."""
    outcome = run(ScriptedHandle(Exited(-15, "lease"), Gone()))
    assert (outcome.state, outcome.signal) == (S.CRASHED, "SIGTERM")
    assert "lease" in outcome.reason


def test_a_shutdown_is_killed_and_marked_for_handing_back() -> None:
    """X8."""
    outcome = run(ScriptedHandle(Shutdown("the worker shut down"), on_stop=dies(-15)))
    assert (outcome.state, outcome.reason, outcome.by_shutdown) == (S.KILLED, "the worker shut down", True)


def test_a_cancel_after_a_shutdown_counts_as_the_cancel() -> None:
    """Else a run that someone cancelled would be handed back and run again."""
    handle = ScriptedHandle(Shutdown("going"), Cancel("cancelled by me"), Exited(-15, "asked"), Gone())
    outcome = run(handle)
    assert (outcome.state, outcome.reason, outcome.by_shutdown) == (S.KILLED, "cancelled by me", False)


def test_a_shutdown_after_a_cancel_is_still_the_cancel() -> None:
    handle = ScriptedHandle(Cancel("cancelled by me"), Shutdown("going"), Exited(-15, "asked"), Gone())
    outcome = run(handle)
    assert (outcome.reason, outcome.by_shutdown) == ("cancelled by me", False)


@pytest.mark.parametrize("script", [(Gone(),), (Exited(None, ""), Gone())])
def test_a_lost_exit_status_is_failed_and_says_so(script: tuple[object, ...]) -> None:
    outcome = run(ScriptedHandle(*script))
    assert (outcome.state, outcome.exit_code) == (S.FAILED, None)
    assert "lost" in outcome.reason


# -- what the job says itself ------------------------------------------------------------------------------------------


class Talkative:
    """Supervision of a job that talks: what it was shown, and what its words made of the run."""

    def __init__(self, *script: object, limits: Limits = FREE, **options: Any) -> None:
        self.handle = ScriptedHandle(*script, **options)
        self.shown: list[str] = []
        #: Unix times of SIGKILL that it was shown.
        self.deadlines: list[float] = []
        self.words: list[tuple[object, Outcome | None]] = []
        self.late: list[object] = []
        self.limits = limits

    def run(self) -> Outcome:
        return supervise(
            self.handle,
            limits=self.limits,
            last_output_s=lambda: 0.0,
            announce=self._show,
            read_talk=lambda: self.handle.put(*self.late),
            on_word=lambda word, outcome: self.words.append((word, outcome)),
        )

    def _show(self, reason: str, kill_at: float) -> None:
        self.shown.append(reason)
        self.deadlines.append(kill_at)


def test_a_finish_counts_at_once_and_the_tree_is_waited_for() -> None:
    job = Talkative(Finish(0), Finish(3))
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.append(job.run()))
    thread.start()
    thread.join(0.1)
    assert job.words == [(Finish(0), Outcome(S.FINISHED, exit_code=0))]
    assert not done
    job.handle.put(Exited(1, ""), Gone())
    thread.join(5.0)
    assert done == [Outcome(S.FINISHED, exit_code=0, late_exit="1")]
    assert job.handle.stops == []


def test_a_finish_with_another_code_is_failed_whatever_the_process_exits_with() -> None:
    outcome = Talkative(Finish(3), Exited(0, ""), Gone()).run()
    assert (outcome.state, outcome.exit_code, outcome.late_exit) == (S.FAILED, 3, "0")


def test_what_was_told_just_before_the_end_is_heard() -> None:
    job = Talkative(Exited(1, ""), Gone())
    job.late = [Finish(0)]
    assert job.run() == Outcome(S.FINISHED, exit_code=0, late_exit="1")


def test_the_time_limit_ends_what_is_left_of_a_finished_job_and_the_run_stays_finished() -> None:
    job = Talkative(Finish(0), limits=Limits(0.05, None, 3.0), on_stop=dies(-15))
    outcome = job.run()
    assert job.handle.stops == [3.0]
    assert (outcome.state, outcome.late_exit) == (S.FINISHED, "SIGTERM")


def test_a_superseded_attempt_reports_nothing_though_it_called_itself_finished() -> None:
    with pytest.raises(AttemptSuperseded):
        Talkative(Finish(0), Superseded(), Exited(-9, "asked"), Gone()).run()


@pytest.mark.parametrize("code", [0, 1, 85])
def test_a_job_that_marked_itself_preempted_runs_again_whatever_its_exit_code(code: int) -> None:
    outcome = Talkative(Preempting(), Exited(code, ""), Gone()).run()
    assert (outcome.state, outcome.exit_code, outcome.preempted) == (S.FAILED, code, True)


def test_a_cancelled_job_does_not_come_back_by_marking_itself_preempted() -> None:
    outcome = Talkative(Preempting(), Cancel("by ada"), on_stop=dies(-15)).run()
    assert (outcome.state, outcome.preempted) == (S.KILLED, False)


def test_a_stop_is_shown_before_the_signal_and_again_when_its_end_comes_earlier() -> None:
    job = Talkative(Cancel("by ada"), Cancel("again"), Cancel("at last", grace_s=1.0), Exited(-15, "asked"), Gone())
    begun = time.time()
    assert job.run().state is S.KILLED
    assert job.shown == ["by ada", "by ada"]
    first, second = job.deadlines
    assert 0.0 <= first - begun - 10.0 < 5.0
    assert 0.0 <= second - begun - 1.0 < 5.0
    assert job.handle.stops == [10.0, 10.0, 1.0]


def test_a_stop_without_grace_is_not_shown() -> None:
    """W16."""
    job = Talkative(HeedsStop(), Cancel("now", grace_s=0.0), on_stop=dies(-9))
    job.run()
    assert (job.shown, job.handle.stops) == ([], [0.0])


def test_a_job_that_heeds_a_stop_has_half_of_its_grace_before_sigterm() -> None:
    job = Talkative(HeedsStop(), Cancel("by ada", grace_s=0.4), on_stop=dies(-15))
    begun = time.monotonic()
    outcome = job.run()
    assert 0.2 <= time.monotonic() - begun < 2.0
    assert 0.0 <= job.handle.stops[0] <= 0.2
    assert (outcome.state, outcome.signal) == (S.KILLED, "SIGTERM")


@pytest.mark.parametrize(
    ("asked", "state"),
    [(Cancel("by ada"), S.KILLED), (Shutdown("gone"), S.KILLED), (Cancel("x", preempt=True), S.KILLED)],
)
def test_a_job_that_ends_when_it_is_shown_a_stop_was_stopped(asked: Any, state: RunState) -> None:
    job = Talkative(HeedsStop(), asked, Exited(0, ""), Gone())
    outcome = job.run()
    assert (outcome.state, outcome.exit_code, outcome.reason) == (state, 0, asked.reason)
    assert outcome.preempted is bool(getattr(asked, "preempt", False))
    assert job.handle.stops == []


def test_a_job_that_finishes_when_it_is_shown_a_stop_is_finished() -> None:
    job = Talkative(HeedsStop(), Cancel("by ada"), Finish(0), Exited(0, ""), Gone())
    assert job.run().state is S.FINISHED


def test_a_limit_is_shown_to_a_job_that_heeds_it() -> None:
    job = Talkative(HeedsStop(), limits=Limits(0.05, None, 0.2), on_stop=dies(-15))
    outcome = job.run()
    assert job.shown == ["time limit of 0.05 s reached"]
    assert (outcome.state, outcome.reason) == (S.FAILED, "time limit of 0.05 s reached")


def test_a_second_cancel_without_grace_ends_a_job_that_has_time_left() -> None:
    job = Talkative(HeedsStop(), Cancel("by ada"), Cancel("now", grace_s=0.0), on_stop=dies(-9))
    begun = time.monotonic()
    job.run()
    assert time.monotonic() - begun < 2.0
    assert job.handle.stops == [0.0]


# -- a signal ahead of the end -----------------------------------------------------------------------------------------

LED = replace(FREE, signal=Ahead("SIGUSR1", 0.3))


def signalled(
    *script: object, limits: Limits, later: object = None, **options: Any
) -> tuple[ScriptedHandle, Outcome, float]:
    """Supervise a job that ends when it is stopped; it, the outcome, and the monotonic time of its beginning."""
    handle = ScriptedHandle(*script, on_stop=dies(-15))
    begun = time.monotonic()
    if later is not None:
        threading.Timer(0.1, handle.put, [later]).start()
    return handle, supervise(handle, limits=limits, last_output_s=time.monotonic, **options), begun


def test_a_signal_comes_that_long_before_the_time_limit_and_once() -> None:
    noted: list[float] = []
    limits = replace(LED, timeout_s=0.6)
    handle, outcome, begun = signalled(limits=limits, note_signal=lambda: noted.append(time.monotonic()))
    ((name, to_all, at),) = handle.signals
    assert (name, to_all) == ("SIGUSR1", False)
    assert begun + 0.3 <= noted[0] <= at
    assert (outcome.cause, outcome.state, handle.stops) == ("timeout", S.FAILED, [10.0])


def test_a_signal_that_another_worker_has_sent_is_not_sent_again() -> None:
    handle, _, _ = signalled(limits=replace(LED, timeout_s=0.4), was_signalled=True)
    assert handle.signals == []


def test_an_adopted_job_is_signalled_by_the_time_that_it_has_run() -> None:
    handle, _, begun = signalled(limits=replace(LED, timeout_s=100.3, signals_all=True), ran_s=99.9)
    ((_, to_all, at),) = handle.signals
    assert to_all
    assert at - begun >= 0.1


def test_the_end_of_a_drain_is_signalled_before_its_sigkill() -> None:
    handle = ScriptedHandle(HandBack("stops", ends_at=time.monotonic() + 0.5), on_stop=dies(-15))
    begun = time.monotonic()
    threading.Timer(0.5, handle.put, [Shutdown("leaves")]).start()
    supervise(handle, limits=replace(LED, grace_s=0.1), last_output_s=lambda: 0.0)
    ((_, _, at),) = handle.signals
    assert at - begun >= 0.25
    assert handle.stops == [0.1], "SIGTERM comes at once: the job was told before"


def test_a_drain_that_is_shorter_than_the_time_of_the_signal_sends_it_at_once() -> None:
    handle = ScriptedHandle(HandBack("stops", ends_at=time.monotonic() + 0.1), Shutdown("leaves"), on_stop=dies(-15))
    run(handle, limits=replace(LED, grace_s=0.1))
    assert len(handle.signals) == 1


@pytest.mark.parametrize("event", [Cancel("by ada", preempt=True), Shutdown("leaves")])
def test_sigterm_of_a_preemption_follows_the_signal(event: object) -> None:
    handle, _, begun = signalled(event, limits=replace(LED, grace_s=0.6))
    ((_, _, at),) = handle.signals
    assert at - begun >= 0.3
    assert 0.0 <= handle.stops[0] <= 0.15, "half-way between the signal and SIGKILL"


def test_a_grace_that_is_shorter_than_the_time_of_the_signal_sends_it_at_once() -> None:
    handle, outcome, _ = signalled(Cancel("room", preempt=True), limits=replace(LED, grace_s=0.2))
    assert len(handle.signals) == 1
    assert 0.0 <= handle.stops[0] <= 0.1
    assert outcome.preempted


def test_a_job_that_ends_at_the_signal_of_a_preemption_is_preempted() -> None:
    handle = ScriptedHandle(Cancel("room", preempt=True))
    threading.Timer(0.1, handle.put, [Exited(0, ""), Gone()]).start()
    outcome = run(handle, limits=replace(LED, signal=Ahead("SIGUSR1", 60.0)))
    assert (outcome.state, outcome.preempted, len(handle.signals), handle.stops) == (S.KILLED, True, 1, [])


@pytest.mark.parametrize(
    "event", [Cancel("by ada"), Cancel("now", grace_s=0.0), Cancel("now", grace_s=0.0, preempt=True)]
)
def test_a_cancel_is_not_signalled_ahead(event: object) -> None:
    handle, _, _ = signalled(event, limits=replace(LED, timeout_s=60.0))
    assert handle.signals == []
    assert len(handle.stops) == 1


def test_a_cancel_ends_the_wait_for_a_signal() -> None:
    handle, outcome, _ = signalled(Cancel("room", preempt=True), limits=LED, later=Cancel("by ada", grace_s=5.0))
    assert (handle.signals, handle.stops) == ([], [5.0])
    assert (outcome.reason, outcome.preempted) == ("by ada", False)
