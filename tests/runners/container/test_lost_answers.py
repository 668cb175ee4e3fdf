"""Engines that hang, die, and lose their answers: no container is lost, none is started twice, each end is told."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.attempt.supervise import Cancel, Limits, supervise
from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, StartError, StartGivenUpError
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.runners.container import engine, follow, log_stream, start
from launch_worker.runners.container import runner as container
from launch_worker.runners.container import watch as container_watch
from launch_worker.runners.container.handle import ContainerHandle
from launch_worker.runners.container.runner import ContainerRunner
from launch_worker.runners.job import Exited, Lease
from launch_worker.runners.process import tree
from launch_worker.runners.process.exits import read_exits
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.runners.container.test_container import Bench, end_of
from tests.support.arrows import running
from tests.support.engine import busybox_root
from tests.support.engines import EngineProxy, OwnEngine

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IMAGE = "launch-worker-tests/busybox:1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same waits, shorter."""
    monkeypatch.setattr(engine, "_LOOK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(engine, "_WORK_TIMEOUT_S", 3.0)
    monkeypatch.setattr(container, "PATIENCE_S", 1.0)
    monkeypatch.setattr(container, "_REMOVE_S", 1.0)
    monkeypatch.setattr(start, "PATIENCE_S", 1.0)
    monkeypatch.setattr(log_stream, "_SILENT_S", 0.5)
    monkeypatch.setattr(follow, "_REST_S", 3.0)
    monkeypatch.setattr(container_watch, "_EVERY_S", 0.2)
    monkeypatch.setattr(container_watch, "_ANSWER_S", 0.5)
    yield
    # What the SDK leaves of streams that were cut, while that is still ignored.
    gc.collect()


@contextlib.contextmanager
def bench_at(url: str, client: Any, image: str, folder: Path, *, redis_url: str = "") -> Iterator[Bench]:
    """A runner whose engine is reached at `url`, and a client that reaches it straight."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCKER_HOST", url)
    guard = ProcessRunner(folder=folder).open()
    made = Bench(client, image, folder, ContainerRunner(guard, redis_url=redis_url))
    made.runner.engine = engine.Engine(look_timeout_s=2.0)
    made.runner.watch._engine = made.runner.talks._engine = made.runner.engine
    made.defaults["network"] = "none"
    try:
        yield made
    finally:
        for entry in left(made):
            client.api.remove_container(entry["Id"], force=True, v=True)
        guard.close()
        wait_until(lambda: not any(thread.name.startswith("container-") for thread in threading.enumerate()))
        made.runner.engine.close()
        if isinstance(client, Owned):
            client.api.close()
        patch.undo()


@pytest.fixture
def proxy(engine: Any) -> Iterator[EngineProxy]:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip("the engine is not behind a unix socket here")
    made = EngineProxy(address.removeprefix("unix://"))
    yield made
    made.close()


@pytest.fixture
def bench(engine: Any, busybox_image: str, proxy: EngineProxy, tmp_path: Path) -> Iterator[Bench]:
    with bench_at(proxy.url, engine, busybox_image, tmp_path) as made:
        yield made
        proxy.heal()


class Owned:
    """What `Bench` needs of a client, for an engine that is stopped and started."""

    def __init__(self, url: str) -> None:
        import docker

        self.api = docker.APIClient(base_url=url, version="auto", timeout=20)


def own(*, live_restore: bool = False) -> OwnEngine:
    if why := OwnEngine.why_not():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    made = OwnEngine(live_restore=live_restore)
    made.load(busybox_root(), IMAGE)
    return made


@pytest.fixture(scope="module")
def shared_own_engine() -> Iterator[OwnEngine]:
    made = own()
    yield made
    made.close()


@pytest.fixture
def own_engine(shared_own_engine: OwnEngine) -> Iterator[OwnEngine]:
    yield shared_own_engine
    shared_own_engine.thaw()


@pytest.fixture
def own_bench(own_engine: OwnEngine, tmp_path: Path) -> Iterator[Bench]:
    with bench_at(own_engine.url, Owned(own_engine.url), IMAGE, tmp_path) as made:
        yield made
        own_engine.thaw()


def left(bench: Bench) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bench.engine.api.containers(
        all=True, filters={"label": f"launch.system={bench.system}"}
    )
    return found


def outcome_of(handle: ContainerHandle) -> Outcome:
    handle.report_to(lambda *_: None, lambda _: None)
    return handle.explain(supervise(handle, limits=Limits(None, None, 5.0), last_output_s=time.monotonic))


# -- a lost answer to the order to start -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["swallow", "cut"])
def test_a_container_whose_start_was_not_answered_is_watched_as_any(bench: Bench, proxy: EngineProxy, how: str) -> None:
    rule = proxy.rule(how, "POST", "/start$", times=1)
    handle = bench.shell("echo once; exit 4")
    assert end_of(handle) == Exited(4, "")
    assert bench.output() == "once\n"
    assert len(rule.met) == 1
    assert [path for method, path in proxy.seen if method == "POST" and path.endswith("/start")] == [rule.met[0][1]]


def test_an_order_to_start_that_comes_late_starts_nothing_once_its_run_was_stopped(
    bench: Bench, proxy: EngineProxy
) -> None:
    """An engine that hung does what it was asked when it goes on."""
    rule = proxy.rule("hang", "POST", "/start$", times=1)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def cancel() -> None:
        wait_until(lambda: rule.met, what="it is told to start")
        events.put(Cancel("enough"))

    threading.Thread(target=cancel).start()
    handle = bench.shell("sleep 60", events=events)
    outcome = outcome_of(handle)
    assert (outcome.state, outcome.reason) == (RunState.KILLED, "enough")
    proxy.heal()
    wait_until(lambda: not left(bench), what="nothing is left of it")
    time.sleep(0.3)
    assert left(bench) == []


def test_a_start_that_an_engine_forgot_fails_in_phase_start_and_never_comes_later(
    own_engine: OwnEngine, tmp_path: Path
) -> None:
    """It was killed with the order in its hands."""
    with (
        contextlib.closing(EngineProxy(own_engine.socket)) as proxy,
        bench_at(proxy.url, Owned(own_engine.url), IMAGE, tmp_path) as bench,
    ):
        proxy.rule("hang", "POST", "/start$", times=1)
        made: list[ContainerHandle] = []
        thread = threading.Thread(target=lambda: made.append(bench.shell("sleep 60")))
        thread.start()
        wait_until(lambda: any(path.endswith("/start") for _, path in proxy.seen), what="it is told to start")
        own_engine.kill()
        proxy.down()
        thread.join(20.0)
        assert made, "it may run: it is to be supervised"
        own_engine.start()
        proxy.up()
        outcome = outcome_of(made[0])
        assert (outcome.state, outcome.phase, outcome.engine_fault) == (RunState.FAILED, "start", True)
        assert outcome.worker_fault, "it uses no retry up"
        assert "did not start the container, and it is removed" in outcome.reason
        assert left(bench) == []


@pytest.fixture
def forgotten(own_engine: OwnEngine, tmp_path: Path) -> Iterator[Forgotten]:
    with (
        contextlib.closing(EngineProxy(own_engine.socket)) as proxy,
        bench_at(proxy.url, Owned(own_engine.url), IMAGE, tmp_path) as bench,
    ):
        yield Forgotten(bench, proxy, own_engine)
        proxy.heal()


class Forgotten:
    """A job that runs, in a container that its engine calls created: it was killed before it had noted the start."""

    def __init__(self, bench: Bench, proxy: EngineProxy, engine: OwnEngine) -> None:
        self.bench = bench
        proxy.rule("cut", "POST", "/start$", times=1)
        # The worker must not see it run.
        proxy.rule("hang", "GET", "/containers/[0-9a-f]{64}/json$")
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        made: list[ContainerHandle] = []
        thread = threading.Thread(target=lambda: made.append(bench.shell("exec sleep 60", events=self.events)))
        thread.start()
        wait_until(lambda: left(bench) and left(bench)[0]["State"] == "running", what="it is started")
        self.container = left(bench)[0]["Id"]
        wait_until(self.runs, what="its job has begun")
        engine.kill()
        proxy.down()
        config = engine.folder / "data" / "containers" / self.container / "config.v2.json"
        known = json.loads(config.read_text())
        never = "0001-01-01T00:00:00Z"
        known["State"] |= {"Running": False, "Pid": 0, "StartedAt": never, "FinishedAt": never}
        config.write_text(json.dumps(known))
        proxy.heal()
        engine.start()
        assert left(bench)[0]["State"] == "created"
        assert self.runs()
        proxy.up()
        thread.join(20.0)
        self.handle = made[0]

    def runs(self) -> bool:
        return "sleep" in [tree.name(process.pid) for process in tree.of_container(self.container)]


def test_a_job_whose_container_is_forgotten_is_ended_and_has_failed(forgotten: Forgotten) -> None:
    outcome = outcome_of(forgotten.handle)
    assert (outcome.state, outcome.phase, outcome.unbegun) == (RunState.FAILED, "run", False)
    assert "has forgotten it: its job may have run" in outcome.reason
    assert not forgotten.runs()
    assert left(forgotten.bench) == []


def test_a_job_whose_container_is_forgotten_is_ended_by_a_cancel(forgotten: Forgotten) -> None:
    forgotten.events.put(Cancel("enough"))
    outcome = outcome_of(forgotten.handle)
    assert (outcome.state, outcome.unbegun) in ((RunState.KILLED, False), (RunState.FAILED, False))
    assert not forgotten.runs()
    assert left(forgotten.bench) == []


def test_a_frozen_engine_starts_it_when_it_goes_on_and_its_end_is_told(own_bench: Bench, own_engine: OwnEngine) -> None:
    notes: list[tuple[str, str]] = []
    pids: list[int] = []
    own_bench.runner.engine.ping(timeout_s=2)
    container.ContainerRunner.facts.__get__(own_bench.runner)  # asked before it freezes
    watched = own_bench.runner._guard.watch

    def freeze_then_watch(*arguments: Any, **more: Any) -> None:
        watched(*arguments, **more)
        own_engine.freeze()

    own_bench.runner._guard.watch = freeze_then_watch  # type: ignore[method-assign]
    handle = own_bench.shell("echo ran; sleep 1; exit 3")
    assert handle.pid == 0, "nobody knows whether it runs"
    handle.report_to(lambda *note: notes.append(note), pids.append)
    wait_until(lambda: notes, what="people are told")
    assert "does not answer; it may start the container" in notes[0][1]
    assert "has not answered for" in handle.trouble
    own_engine.thaw()
    assert end_of(handle) == Exited(3, "")
    assert own_bench.output() == "ran\n"
    assert len(pids) in (1, 2), "it was said once it ran"
    assert handle.trouble == ""


def test_what_the_engine_refuses_to_start_is_refused_at_once_and_nothing_is_left(bench: Bench) -> None:
    with pytest.raises(StartError, match="was not found in image"):
        bench.start("no-such-thing", init=False)
    assert left(bench) == []


# -- a lost answer to the order to make one ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["swallow", "cut", "refuse"])
def test_a_container_that_was_made_unheard_is_found_by_its_name(bench: Bench, proxy: EngineProxy, how: str) -> None:
    proxy.rule(how, "POST", "/containers/create", times=1)
    handle = bench.shell("exit 5")
    assert end_of(handle) == Exited(5, "")
    assert [entry["Names"] for entry in left(bench)] == [[f"/launch-{bench.run}-1"]], "one only"


def test_one_that_is_made_late_is_never_started(bench: Bench, proxy: EngineProxy) -> None:
    proxy.rule("hang", "POST", "/containers/create")
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Timer(0.5, lambda: events.put("cancel")).start()
    with pytest.raises(StartGivenUpError):
        bench.shell("sleep 60", events=events)
    proxy.heal()
    wait_until(lambda: not left(bench) or left(bench)[0]["State"] == "created")
    assert all(entry["State"] == "created" for entry in left(bench))


def test_an_engine_that_hangs_before_anything_was_started_fails_the_start(bench: Bench, proxy: EngineProxy) -> None:
    proxy.rule("hang")
    begun = time.monotonic()
    with pytest.raises(EngineAwayError, match="does not answer at"):
        bench.shell("true")
    assert time.monotonic() - begun < 15.0


def test_an_event_ends_a_start_at_an_engine_that_hangs(bench: Bench, proxy: EngineProxy) -> None:
    proxy.rule("hang", "POST", "/containers/create")
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    begun = time.monotonic()
    threading.Timer(0.3, lambda: events.put("cancel")).start()
    with pytest.raises(StartGivenUpError):
        bench.shell("true", events=events)
    assert time.monotonic() - begun < 15.0, "before the time for a start is over"


# -- while it runs, and at its end -------------------------------------------------------------------------------------


def test_a_stop_waits_for_an_engine_that_hangs_and_then_ends_it(own_bench: Bench, own_engine: OwnEngine) -> None:
    handle = own_bench.shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done")
    wait_until(lambda: "up" in own_bench.output(), what="the job has begun")
    own_engine.freeze()
    handle.stop(grace_s=30.0)
    wait_until(lambda: handle.trouble, what="the engine's silence is noticed")
    assert handle.events.empty()
    own_engine.thaw()
    assert end_of(handle) == Exited(7, "asked")


def test_a_log_that_never_ends_does_not_hide_the_end_of_its_container(bench: Bench, proxy: EngineProxy) -> None:
    rule = proxy.rule("swallow", "GET", "/logs", times=1)
    handle = bench.shell("echo hidden; sleep 0.5; exit 6")
    assert end_of(handle, timeout_s=15.0) == Exited(6, "")
    assert rule.met
    assert bench.output() == "hidden\n"


def test_an_end_that_is_known_is_told_though_its_log_is_not_to_be_had(bench: Bench, proxy: EngineProxy) -> None:
    proxy.rule("swallow", "GET", "/logs")
    handle = bench.shell("echo lost; exit 6")
    assert end_of(handle, timeout_s=25.0) == Exited(6, "")
    outcome = handle.explain(Outcome(RunState.FAILED, reason="exit code 6", phase="run", exit_code=6))
    assert "did not give the end of its log" in outcome.message


def test_a_removal_that_hangs_does_not_hold_up_the_end_of_a_run(bench: Bench, proxy: EngineProxy) -> None:
    handle = bench.shell("exit 2")
    assert end_of(handle) == Exited(2, "")
    proxy.rule("hang", "DELETE")
    begun = time.monotonic()
    handle.dispose()
    assert time.monotonic() - begun < 3.0
    proxy.heal()
    wait_until(lambda: not left(bench), what="it is removed when the engine goes on")


def test_a_container_that_somebody_renamed_is_found_by_its_labels(bench: Bench) -> None:
    handle = bench.shell("sleep 1; exit 8")
    handle.leave()
    bench.engine.api.rename(handle.container, f"{bench.run}-renamed")
    assert end_of(bench.adopt()) == Exited(8, "")


def test_one_that_is_taken_over_while_the_engine_hangs_is_seen_to_its_end(bench: Bench, proxy: EngineProxy) -> None:
    handle = bench.shell("sleep 2; exit 9")
    handle.leave()
    proxy.rule("hang")
    begun = time.monotonic()
    heir = bench.adopt()
    assert time.monotonic() - begun < 8.0, "its lease is to be renewed, whatever the engine does"
    wait_until(lambda: heir.trouble)
    assert heir.events.empty()
    proxy.heal()
    assert end_of(heir) == Exited(9, "")


def test_an_engine_that_is_killed_and_started_again_ends_its_containers_and_that_is_told(
    own_bench: Bench, own_engine: OwnEngine
) -> None:
    handle = own_bench.shell("echo up; while :; do sleep 0.1; done")
    wait_until(lambda: "up" in own_bench.output(), what="the job has begun")
    own_engine.kill()
    wait_until(lambda: handle.trouble)
    assert handle.events.empty(), "it lives while its engine is dead"
    own_engine.start()
    assert end_of(handle).status in (-9, -15)


def test_containers_of_an_engine_with_live_restore_go_on(tmp_path: Path) -> None:
    restoring = own(live_restore=True)
    try:
        with bench_at(restoring.url, Owned(restoring.url), IMAGE, tmp_path) as bench:
            handle = bench.shell("for i in $(seq 30); do echo line $i; sleep 0.1; done; exit 4")
            wait_until(lambda: "line 3\n" in bench.output(), what="the job has begun")
            restoring.kill()
            restoring.start()
            assert end_of(handle) == Exited(4, "")
            assert bench.output() == "".join(f"line {i}\n" for i in range(1, 31))
    finally:
        restoring.close()


def test_an_exit_code_that_an_engine_lost_as_it_was_killed_is_said_to_be_lost(
    own_bench: Bench, own_engine: OwnEngine
) -> None:
    """It says 255 then, which is an exit code of jobs too."""
    assert end_of(own_bench.shell("exit 255")) == Exited(255, "")
    own_bench.token += 1
    handle = own_bench.shell("sleep 1; exit 255")
    own_engine.kill()
    time.sleep(1.2)
    own_engine.start()
    outcome = outcome_of(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.reason == "the container engine was killed as the job ended, and has lost its exit code"


# -- its lease runs out ------------------------------------------------------------------------------------------------


def ends_in(term_s: float, kill_s: float) -> Callable[[], Lease]:
    """A lease of so many seconds from the container's start on."""
    return lambda: (boot_time_s() + term_s, boot_time_s() + kill_s)


@contextlib.contextmanager
def bench_of_a_run(
    proxy: EngineProxy, engine: Any, image: str, folder: Path, store: Store
) -> Iterator[tuple[Bench, Record]]:
    """A bench whose jobs are those of a Running run of the store, which is retried once; and its record."""
    record = running(store, retries=1)
    with bench_at(proxy.url, engine, image, folder, redis_url=store.url) as bench:
        bench.run, bench.token, bench.owner = record.id, record.token, record.owner
        yield bench, record


def test_a_guard_that_cannot_end_a_container_has_its_run_held_until_it_has(
    engine: Any, busybox_image: str, proxy: EngineProxy, tmp_path: Path, store: Store
) -> None:
    with bench_of_a_run(proxy, engine, busybox_image, tmp_path, store) as (bench, record):
        handle = bench.shell("trap '' TERM; echo up; while :; do sleep 0.1; done", lease=ends_in(9.0, 11.0))
        wait_until(lambda: "up" in bench.output(), what="the job has begun")
        proxy.rule("hang")
        wait_until(lambda: store.get(record.id).is_held, what="nobody else is given the run")
        assert bench.engine.api.inspect_container(handle.container)["State"]["Running"]
        proxy.heal()
        assert end_of(handle) == Exited(-9, "lease")
        wait_until(lambda: not store.get(record.id).is_held, what="it is known to have ended")
        assert [stale.id for stale in store.stale(limit=10)] == [record.id]


def test_a_guard_ends_no_container_that_another_worker_took_over_while_the_engine_hung(
    engine: Any, busybox_image: str, proxy: EngineProxy, tmp_path: Path, store: Store
) -> None:
    with bench_of_a_run(proxy, engine, busybox_image, tmp_path, store) as (bench, record):
        script = "trap 'exit 1' TERM; trap 'exit 0' USR1; while :; do sleep 0.1; done"
        handle = bench.shell(script, lease=ends_in(5.0, 6.0))
        handle.leave()
        proxy.rule("hang")
        wait_until(lambda: store.get(record.id).is_held, what="nobody else is given the run")
        adopted, why = store.adopt(
            record.id, record.token, attempt=record.attempt, previous_owner=record.owner, owner="next", worker="w2",
            host="h", lease_s=60.0,
        )  # fmt: skip
        assert adopted is not None, why
        proxy.heal()
        heir = bench.adopt()
        time.sleep(2)
        bench.engine.api.kill(handle.container, "SIGUSR1")
        assert end_of(heir) == Exited(0, "")


# -- how it ended, whatever happens at that moment --------------------------------------------------------------------

#: The request for the rest of an ended container's log: its end was seen.
REST = "/logs.*tail=100000"


def lapse(bench: Bench, *, in_s: float = 0.0) -> None:
    """Let the lease of the bench's container run out, as its guard sees it."""
    now = boot_time_s()
    bench.runner._guard.renew({f"{bench.run}.1": (now + in_s, now + 30.0)})


def test_an_exit_code_that_is_known_stays_known_when_the_container_is_removed(bench: Bench, proxy: EngineProxy) -> None:
    """As by `docker system prune`, before its log was read to the end."""
    rule = proxy.rule("hang", "GET", REST)
    handle = bench.shell("exit 6")
    wait_until(lambda: rule.met, what="its end is seen")
    bench.engine.api.remove_container(handle.container, v=True)
    proxy.heal()
    assert end_of(handle) == Exited(6, "")


def test_the_end_is_told_of_a_container_that_is_removed_while_its_log_cannot_be_copied(bench: Bench) -> None:
    (bench.folder / "output").mkdir()  # a file that cannot be written
    handle = bench.shell("sleep 60")
    bench.engine.api.remove_container(handle.container, v=True, force=True)
    assert end_of(handle) == Exited(None, "", "its container was removed by somebody else")


def test_a_lease_that_runs_out_after_the_end_was_seen_has_not_ended_it(bench: Bench, proxy: EngineProxy) -> None:
    rule = proxy.rule("hang", "GET", REST)
    handle = bench.shell("exit 0", lease=ends_in(60.0, 61.0))
    wait_until(lambda: rule.met, what="its end is seen")
    lapse(bench)
    wait_until(lambda: not bench.runner._guard._watched, what="its guard ends it, for its lease is over")
    proxy.heal()
    assert end_of(handle) == Exited(0, "")


def test_a_job_that_ends_by_itself_before_a_signal_reaches_it_was_not_stopped(bench: Bench, proxy: EngineProxy) -> None:
    bench.runner.engine = engine.Engine(look_timeout_s=30.0)  # it waits for the answer to the signal
    handle = bench.shell("while [ ! -e /tmp/go ]; do sleep 0.05; done")
    rule = proxy.rule("hang", "POST", "/kill")
    handle.stop(grace_s=60.0)
    wait_until(lambda: rule.met, what="the signal is on its way")
    seen = proxy.rule("watch", "GET", REST)
    touch = bench.engine.api.exec_create(handle.container, ["touch", "/tmp/go"])
    bench.engine.api.exec_start(touch)
    wait_until(lambda: seen.met, what="its end is seen")
    time.sleep(0.2)
    assert handle.events.empty(), "it is not known yet whether it got the signal"
    proxy.heal()
    assert end_of(handle) == Exited(0, "")


@contextlib.contextmanager
def the_next_worker(bench: Bench, folder: Path) -> Iterator[Callable[[], ContainerHandle]]:
    """Another worker, with a guard of its own, that adopts the bench's container from the guard that there is."""
    former, name = str(bench.folder), bench.labels().attempt_name
    folder.mkdir()
    guard = ProcessRunner(folder=folder).open()
    runner = ContainerRunner(guard)
    runner.engine = bench.runner.engine
    try:
        yield lambda: runner.adopt(
            bench.labels(),
            key=f"{bench.run}.1",
            lease=None,
            events=queue.SimpleQueue(),
            output=bench.folder / "output",
            former_exit=lambda: read_exits(former).get(name),
        )
    finally:
        guard.close()


def test_a_container_that_its_former_guard_ends_while_it_is_adopted_was_ended_by_its_lease(
    bench: Bench, tmp_path: Path
) -> None:
    """As while Redis is away, and the next worker waits for it."""
    handle = bench.shell("exec sleep 60", init=True, lease=ends_in(60.0, 90.0))
    handle.leave()
    with the_next_worker(bench, tmp_path / "next") as adopt:
        heir = adopt()
        wait_until(lambda: heir.has_run, what="it is adopted")
        lapse(bench)
        assert end_of(heir) == Exited(-15, "lease")


def test_a_job_that_ends_by_itself_while_no_worker_is_there_has_not_ended_by_its_lease(
    bench: Bench, proxy: EngineProxy, tmp_path: Path
) -> None:
    handle = bench.shell("exit 7", lease=ends_in(60.0, 90.0))
    handle.leave()
    bench.engine.api.wait(handle.container)
    lapse(bench, in_s=2.0)
    bench.runner._guard.detach()
    name = bench.labels().attempt_name
    wait_until(lambda: name in read_exits(str(bench.folder)), what="its lease is over")
    with the_next_worker(bench, tmp_path / "next") as adopt:
        wait_until(lambda: read_exits(str(bench.folder))[name][:2] == (7, ""), what="its guard finds how it had ended")
        assert end_of(adopt()) == Exited(7, "")
