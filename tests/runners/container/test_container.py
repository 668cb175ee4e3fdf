"""Containers on a real engine: output, ends, limits, what they may have, pulls, and being taken over."""

from __future__ import annotations

import base64
import errno
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, StartError, StartGivenUpError
from launch_worker.ids import new_run_id
from launch_worker.model.container_options import ContainerPlan, Mount
from launch_worker.model.outcome import Outcome, outcome_of_exit
from launch_worker.runners.container import folders, follow, mirror
from launch_worker.runners.container.config import Labels, NewContainer
from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.folders import UnsettledError
from launch_worker.runners.container.handle import ContainerHandle
from launch_worker.runners.container.into import Files
from launch_worker.runners.container.runner import ContainerRunner
from launch_worker.runners.container.state import ContainerState
from launch_worker.runners.job import Exited, Gone, Lease
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.untrusted.removal import remove_tree
from tests.conftest import wait_until
from tests.support.registry import Registry

#: The SDK leaves sockets of streams that were cut, and of engines that are not there, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass
class Bench:
    """A container runner with its guard, and what it made."""

    engine: Any
    image: str
    folder: Path
    runner: ContainerRunner
    system: str = field(default_factory=new_run_id)
    run: str = field(default_factory=new_run_id)
    phases: list[str] = field(default_factory=list)
    token: int = 7
    owner: str = "o"
    defaults: dict[str, Any] = field(default_factory=dict)

    def labels(self) -> Labels:
        return Labels(self.system, self.run, attempt=1, token=self.token, owner=self.owner, worker="w", host="h")

    def start(
        self,
        *command: str,
        events: queue.SimpleQueue[Any] | None = None,
        lease: Callable[[], Lease] = lambda: None,
        code: Path | None = None,
        cwd: str | None = None,
        gpus: tuple[str, ...] = (),
        timeout_s: float = 60.0,
        folders: dict[str, Path] | None = None,
        keeps: tuple[KeptFolder, ...] = (),
        is_lapsed: Callable[[], bool] = lambda: False,
        **plan: Any,
    ) -> ContainerHandle:
        return self.runner.start(
            NewContainer(
                ContainerPlan(**{"image": self.image} | self.defaults | plan),
                command,
                self.labels(),
                {"LAUNCH_RUN_ID": self.run, "LAUNCH_TOKEN": str(self.token)},
                cwd=cwd,
                gpus=gpus,
                files=Files(
                    b'{"run_id": "it"}', code, folders=folders or {}, empty=tuple(kept.target.name for kept in keeps)
                ),
            ),
            key=f"{self.run}.1",
            output=self.folder / "output",
            lease=lease,
            events=events or queue.SimpleQueue(),
            timeout_s=timeout_s,
            enter=lambda phase, _: self.phases.append(phase),
            is_lapsed=is_lapsed,
            keeps=keeps,
        )

    def shell(self, script: str, **options: Any) -> ContainerHandle:
        return self.start("sh", "-c", script, **options)

    def outputs(self, **bounds: Any) -> KeptFolder:
        known = {"max_bytes": 1 << 20, "max_files": 100} | bounds
        return KeptFolder("/launch/outputs", self.folder / "outputs", **known)

    def adopt(self, *, keeps: tuple[KeptFolder, ...] = ()) -> ContainerHandle:
        """As another worker would."""
        return self.runner.adopt(
            self.labels(),
            key=f"{self.run}.1",
            lease=None,
            events=queue.SimpleQueue(),
            output=self.folder / "output",
            keeps=keeps,
        )

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    def output(self) -> str:
        return (self.folder / "output").read_text() if (self.folder / "output").exists() else ""

    def inspect(self, handle: ContainerHandle) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.api.inspect_container(handle.container)
        return found


@pytest.fixture
def bench(engine: Any, busybox_image: str, tmp_path: Path) -> Iterator[Bench]:
    guard = ProcessRunner(folder=tmp_path).open()
    made = Bench(engine, busybox_image, tmp_path, ContainerRunner(guard, registry_auth=tmp_path / "credentials"))
    yield made
    for container, _ in made.runner.find(made.system):
        made.runner.remove(container)
    guard.close()
    wait_until(lambda: not any(thread.name.startswith("container-") for thread in threading.enumerate()))
    made.runner.engine.close()


def end_of(handle: ContainerHandle, *, timeout_s: float = 20.0) -> Exited:
    exited = handle.events.get(timeout=timeout_s)
    assert isinstance(exited, Exited)
    assert isinstance(handle.events.get(timeout=5.0), Gone)
    return exited


def explained(handle: ContainerHandle) -> Outcome:
    status = end_of(handle).status
    assert status is not None
    return handle.explain(outcome_of_exit(status))


# -- usage -------------------------------------------------------------------------------------------------------------


def test_the_engine_tells_what_a_container_has_used(bench: Bench) -> None:
    """The same as its control group does, as far as that is seen from here."""
    fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=50 2>/dev/null; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    handle = bench.shell(f"{fill}; echo filled; sleep 60", shm_size=100 << 20)
    wait_until(lambda: "filled" in bench.output())
    look = handle.measure({})
    assert look is not None
    assert look.used.cpu_s is not None
    assert 0.05 < look.used.cpu_s < 20
    assert look.used.memory is not None
    assert 50 << 20 < look.used.memory < 90 << 20
    usage = Path(f"/sys/fs/cgroup/cpuacct/docker/{handle.container}/cpuacct.usage")
    if usage.exists():
        assert look.used.cpu_s == pytest.approx(int(usage.read_text()) / 1e9, abs=0.1)
    handle.stop(grace_s=0)
    end_of(handle)
    assert handle.measure({}) is None, "its control group is gone"
    assert handle.used.cpu_s is None


# -- output and ends ---------------------------------------------------------------------------------------------------


def test_output_of_both_streams_is_whole_and_in_order(bench: Bench) -> None:
    handle = bench.shell("for i in $(seq 200); do echo out $i; echo err $i >&2; done; exit 4")
    assert end_of(handle) == Exited(4, "")
    # Two streams come by two pipes: each is in order, and both are there.
    lines = bench.output().splitlines()
    assert [line for line in lines if line.startswith("out")] == [f"out {i}" for i in range(1, 201)]
    assert [line for line in lines if line.startswith("err")] == [f"err {i}" for i in range(1, 201)]


def test_binary_output_without_a_last_newline_and_very_long_lines_arrive_byte_for_byte(bench: Bench) -> None:
    handle = bench.shell(r"head -c 200000 /dev/zero | tr '\0' x; printf '\n\001\377\r\nend'")
    assert end_of(handle).status == 0
    assert (bench.folder / "output").read_bytes() == b"x" * 200_000 + b"\n\x01\xff\r\nend"


@pytest.mark.parametrize(
    ("script", "signal"), [("kill -KILL $$", "SIGKILL"), ("kill -SEGV $$", "SIGSEGV"), ("exit 143", "SIGTERM")]
)
def test_death_by_a_signal_is_named(bench: Bench, script: str, signal: str) -> None:
    """P29, P35: an engine tells signal n as 128 + n."""
    outcome = explained(bench.shell(script))
    assert (outcome.state.value, outcome.signal, outcome.reason) == ("Failed", signal, f"ended by {signal}")


EATS = "tail -c 90000000 /dev/zero"


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("script", "end"),
    [(f"exec {EATS}", "ended by SIGKILL"), (f"{EATS}; exit 3", "exit code 3"), (f"sh -c '{EATS}'", "ended by SIGKILL")],
)
def test_a_job_that_eats_more_than_its_memory_is_out_of_memory_by_the_engines_word(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str, end: str, is_late: bool
) -> None:
    """Also when the kernel killed a child of it, and when the engine heard of it after the end: its events tell it."""
    if is_late:
        of = ContainerState.of
        monkeypatch.setattr(ContainerState, "of", lambda found: replace(of(found), is_out_of_memory=False))
    outcome = explained(bench.shell(script, memory=32 << 20))
    assert (outcome.reason, outcome.cause) == (f"{end}: out of memory (the container engine says so)", "oom")


def test_who_adopts_a_container_learns_that_it_ran_out_of_memory(bench: Bench) -> None:
    handle = bench.shell(f"exec {EATS}", memory=32 << 20)
    handle.leave()
    bench.engine.api.wait(handle.container)
    assert explained(bench.adopt()).cause == "oom"


def test_a_job_that_fails_within_its_memory_is_not_out_of_it(bench: Bench) -> None:
    assert explained(bench.shell("exit 3", memory=32 << 20)).reason == "exit code 3"


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    ("program", "said"), [("no-such-thing", "was not found"), ("/etc/passwd", "is not executable")]
)
def test_a_command_that_cannot_be_run_fails_in_phase_start_and_is_named(
    bench: Bench, program: str, said: str, init: bool
) -> None:
    """P9: with and without an init process in between, which would start and then tell 127."""
    sentence = f"command {program!r} {said} in image {bench.image}"
    if init:
        outcome = explained(bench.start(program))
        assert (outcome.phase, outcome.reason) == ("start", sentence)
    else:
        with pytest.raises(StartError, match=re.escape(sentence)):
            bench.start(program, init=False)


@pytest.mark.parametrize(("code", "said"), [(125, "could not run"), (126, "not executable"), (127, "was not found")])
def test_the_exit_codes_of_shells_are_explained(bench: Bench, code: int, said: str) -> None:
    """P40."""
    outcome = explained(bench.shell(f"exit {code}"))
    assert outcome.exit_code == code
    assert outcome.phase == "run"
    assert said in outcome.reason


def test_a_container_that_somebody_removes_is_told_so(bench: Bench) -> None:
    """P40."""
    handle = bench.start("sleep", "600")
    bench.engine.api.remove_container(handle.container, force=True)
    exited = end_of(handle)
    assert (exited.status, exited.problem) == (None, "its container was removed by somebody else")


def test_one_whose_process_is_killed_from_outside_was_not_removed(bench: Bench) -> None:
    """P29."""
    handle = bench.start("sleep", "600")
    bench.engine.api.kill(handle.container, "SIGKILL")
    assert end_of(handle) == Exited(-9, "")


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_a_silent_container_ends_on_sigterm(bench: Bench) -> None:
    """X3, P20: the init process passes the signal on."""
    handle = bench.start("sleep", "600")
    handle.stop(grace_s=120.0)
    assert end_of(handle) == Exited(-15, "asked"), "long before its grace is over"


def test_one_that_ignores_sigterm_is_killed_after_its_grace(bench: Bench) -> None:
    """P21."""
    handle = bench.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: "ready" in bench.output(), what="the job has begun")
    begun = time.monotonic()
    handle.stop(grace_s=1.0)
    assert end_of(handle) == Exited(-9, "asked")
    assert 1.0 <= time.monotonic() - begun < 15.0


def test_a_second_stop_can_only_shorten_the_grace(bench: Bench) -> None:
    handle = bench.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: "ready" in bench.output(), what="the job has begun")
    handle.stop(grace_s=60.0)
    handle.stop(grace_s=0.2)
    handle.stop(grace_s=60.0)
    assert end_of(handle) == Exited(-9, "asked")


def test_one_that_ended_by_itself_before_the_signal_keeps_its_own_end(bench: Bench) -> None:
    """P25."""
    handle = bench.shell("exit 3")
    bench.engine.api.wait(handle.container)
    handle.stop(grace_s=5.0)
    assert end_of(handle) == Exited(3, "")


def test_a_paused_container_can_be_stopped(bench: Bench) -> None:
    handle = bench.start("sleep", "600")
    bench.engine.api.pause(handle.container)
    handle.stop(grace_s=5.0)
    assert end_of(handle).stopped_by == "asked"


def test_everything_that_it_started_is_gone_with_it(bench: Bench) -> None:
    handle = bench.shell("(trap '' TERM HUP; sleep 600) & (sleep 600 &) ; echo ready; wait")
    wait_until(lambda: "ready" in bench.output(), what="the job has begun")
    handle.stop(grace_s=0.5)
    end_of(handle)
    assert not bench.engine.api.inspect_container(handle.container)["State"]["Running"]


# -- what it may have --------------------------------------------------------------------------------------------------


def test_defaults_are_safe(bench: Bench) -> None:
    config = bench.inspect(bench.start("sleep", "1"))["HostConfig"]
    assert config["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in config["SecurityOpt"]
    assert (config["Privileged"], config["NetworkMode"], config["Init"]) == (False, "bridge", True)
    assert config["PidMode"] == ""
    assert not any("docker.sock" in str(mount) for mount in config["Mounts"])


def test_root_in_a_container_has_no_capabilities(bench: Bench) -> None:
    end_of(bench.shell("cat /proc/self/status"))
    lines = dict(line.split(":\t", 1) for line in bench.output().splitlines() if ":\t" in line)
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0
    assert lines["NoNewPrivs"] == "1"


def test_what_was_asked_for_is_what_it_gets(bench: Bench) -> None:
    """W23, W9."""
    handle = bench.shell(
        "id -u; pwd; touch /here 2>/dev/null || echo read-only; touch /scratch/x && echo scratch; ls /sys/class/net",
        user="65534:65534",
        read_only=True,
        tmpfs=("/scratch",),
        network="none",
        memory=64 << 20,
        cpus=0.5,
        pids_limit=50,
        shm_size=1 << 20,
        mounts=(Mount(str(bench.folder), "/host", read_only=True),),
        env={"A": "b"},
        cwd="/tmp",
    )
    config = bench.inspect(handle)["HostConfig"]
    end_of(handle)
    assert bench.output().split() == ["65534", "/tmp", "read-only", "scratch", "lo"]
    assert (config["Memory"], config["NanoCpus"], config["PidsLimit"], config["ShmSize"]) == (
        64 << 20,
        500_000_000,
        50,
        1 << 20,
    )
    assert config["MemorySwap"] in (64 << 20, -1)


def test_an_admins_settings_reach_the_engine(bench: Bench) -> None:
    """W23: refused from a submitter (tests/unit/test_containers.py), set by the queue."""
    handle = bench.start(
        "sleep", "1", cap_add=("CHOWN",), extra_hosts=("db:10.0.0.1",), ipc_mode="host", pid_mode="host"
    )
    config = bench.inspect(handle)["HostConfig"]
    assert [cap.removeprefix("CAP_") for cap in config["CapAdd"]] == ["CHOWN"]
    assert (config["ExtraHosts"], config["IpcMode"], config["PidMode"]) == (["db:10.0.0.1"], "host", "host")


def test_entry_point_and_arguments_arrive_one_by_one(bench: Bench) -> None:
    """W8: no shell reads them."""
    hostile = ["a b", "$HOME;`id`", "", "new\nline", "'\"", "ä" * 1000]
    end_of(bench.start(*hostile, entrypoint=("printf", "[%s]")))
    assert bench.output() == "".join(f"[{word}]" for word in hostile)


def test_its_configuration_and_code_are_there_for_whatever_user_it_has(bench: Bench) -> None:
    code = bench.folder / "code"
    (code / "sub").mkdir(parents=True)
    (code / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (code / "sub" / "run.sh").chmod(0o700)
    handle = bench.shell(
        "cat /launch/config.json; pwd; ./sub/run.sh; touch made && echo writable",
        code=code,
        cwd="/launch/code",
        user="1234",
        read_only=True,
    )
    end_of(handle)
    assert bench.output() == '{"run_id": "it"}/launch/code\nran\nwritable\n'


def test_gpus_are_asked_of_the_engine_one_by_one(bench: Bench) -> None:
    """Without NVIDIA's runtime here the engine refuses at the start, and says what to do."""
    with pytest.raises(StartError, match="NVIDIA container toolkit"):
        bench.start("true", gpus=("1", "3"))


# -- names, attempts, clean-up -----------------------------------------------------------------------------------------


def test_a_name_that_is_taken_gets_a_suffix(bench: Bench) -> None:
    """P40."""
    name = f"launch-{bench.run}-1"
    taken = bench.engine.api.create_container(bench.image, ["true"], name=name)
    try:
        handle = bench.start("true")
        assert bench.inspect(handle)["Name"] == f"/{name}-2"
    finally:
        bench.engine.api.remove_container(taken["Id"], force=True)


def test_a_former_attempts_container_is_ended_before_the_next_one_starts(bench: Bench) -> None:
    first = bench.start("sleep", "600")
    bench.token += 1
    bench.start("sleep", "600")
    exited = end_of(first)
    assert exited.problem or exited.status == -9
    assert [labels.token for _, labels in bench.runner.find(bench.system)] == [bench.token]


def test_a_later_attempts_container_is_left_alone_and_no_earlier_one_starts_beside_it(bench: Bench) -> None:
    """A worker that was cut off while it pulled."""
    bench.token = 9
    newer = bench.start("sleep", "600")
    bench.token = 7
    with pytest.raises(StartError, match="a later attempt"):
        bench.start("sleep", "600")
    assert bench.inspect(newer)["State"]["Running"]
    assert [labels.token for _, labels in bench.runner.find(bench.system)] == [9]


def test_one_that_was_made_and_never_started_is_none_to_take_over(bench: Bench) -> None:
    """Its exit code would be 0."""
    bench.engine.api.create_container(bench.image, ["true"], labels=bench.labels().as_map())
    assert end_of(bench.adopt()) == Exited(None, "worker", "worker w died, and there is no container of it")
    assert bench.runner.find(bench.system) == []


def test_a_lease_that_ran_out_while_it_was_made_starts_nothing(bench: Bench) -> None:
    with pytest.raises(StartError, match="could not renew the lease"):
        bench.start("touch", "/x", lease=lambda: (boot_time_s() - 1, boot_time_s() + 60))
    wait_until(lambda: not bench.runner.find(bench.system), what="it is removed")


def test_one_whose_run_may_be_anothers_by_then_is_not_started(bench: Bench) -> None:
    with pytest.raises(StartError, match="could not renew the lease"):
        bench.start("touch", "/x", is_lapsed=lambda: True)
    wait_until(lambda: not bench.runner.find(bench.system), what="it is removed")


def test_an_end_is_told_though_the_log_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = bench.shell("exit 3")
    handle.leave()
    bench.engine.api.wait(handle.container)

    def broken(path: str, options: Any) -> Any:
        raise StartError("the container engine refused: invalid character in the log")

    monkeypatch.setattr(bench.runner.engine, "stream", broken)
    heir = bench.adopt()
    assert end_of(heir, timeout_s=5.0) == Exited(3, "")


def test_nothing_of_it_is_left_after_it_was_disposed_of(bench: Bench) -> None:
    handle = bench.start("true")
    volumes = [mount["Name"] for mount in bench.inspect(handle)["Mounts"]]
    end_of(handle)
    handle.dispose()
    handle.dispose()
    assert bench.runner.find(bench.system) == []
    known = {volume["Name"] for volume in bench.engine.api.volumes()["Volumes"] or ()}
    assert not known & set(volumes)


def test_a_start_that_fails_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(StartError, match="no-such-user"):
        bench.start("true", user="no-such-user")
    assert bench.runner.find(bench.system) == []


# -- pulling -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(bench: Bench) -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()
    for container, _ in bench.runner.find(bench.system):
        bench.runner.remove(container)
    if bench.engine.images.list(name=made.image.rsplit(":", 1)[0]):
        bench.engine.api.remove_image(made.image, force=True)


def test_an_image_is_pulled_when_it_is_missing_and_only_then(bench: Bench, registry: Registry) -> None:
    for _ in range(2):
        handle = bench.start("true", image=registry.image)
        assert end_of(handle).status == 0
        handle.dispose()
    assert bench.phases == ["pull", "start", "start"]


def test_pull_always_asks_again_and_pull_never_does_not(bench: Bench, registry: Registry) -> None:
    with pytest.raises(StartError, match="shall not be pulled"):
        bench.start("true", image=registry.image, pull="never")
    assert registry.pulls == 0
    end_of(bench.start("true", image=registry.image))
    before = registry.pulls
    end_of(bench.start("true", image=registry.image, pull="always"))
    assert registry.pulls > before


def test_a_pull_that_fails_uses_the_image_that_is_here_and_warns(bench: Bench, registry: Registry) -> None:
    """W24."""
    end_of(bench.start("true", image=registry.image))
    registry.broken = True
    handle = bench.start("true", image=registry.image, pull="always")
    assert end_of(handle).status == 0
    assert "the image that was on the worker was used" in handle.explain(outcome_of_exit(0)).message


def test_a_pull_that_fails_without_such_an_image_fails_the_start(bench: Bench, registry: Registry) -> None:
    """W24."""
    registry.broken = True
    with pytest.raises(StartError, match=f"image {registry.image}") as caught:
        bench.start("true", image=registry.image)
    assert not isinstance(caught.value, EngineAwayError)


def log_in(folder: Path, registry: Registry, login: str) -> None:
    """As `docker login` writes it, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"auth": base64.b64encode(login.encode()).decode()}
    (folder / "new").write_text(json.dumps({"auths": {registry.name: entry}}))
    (folder / "new").rename(folder / "config.json")


def test_a_private_image_is_pulled_by_the_credential_that_holds_now(bench: Bench, registry: Registry) -> None:
    registry.login = "robot:hunter2"
    failed = f"image {registry.image} could not be pulled from registry {registry.name}"
    with pytest.raises(StartError, match=f"{failed} without a login: .*no basic auth credentials"):
        bench.start("true", image=registry.image)
    log_in(bench.credentials, registry, "robot:wrong1")
    with pytest.raises(StartError, match=f"{failed} as account 'robot': unauthorized") as caught:
        bench.start("true", image=registry.image)
    assert "wrong1" not in str(caught.value)
    log_in(bench.credentials, registry, "robot:hunter2")
    assert end_of(bench.start("true", image=registry.image)).status == 0
    registry.login = "robot:hunter3"
    log_in(bench.credentials, registry, "robot:hunter3")
    handle = bench.start("true", image=registry.image, pull="always")
    assert end_of(handle).status == 0
    assert handle.explain(outcome_of_exit(0)).message == ""
    assert "hunter" not in json.dumps(bench.inspect(handle))


def test_a_queues_credential_is_found_by_its_name_and_used_by_that_queue_only(bench: Bench, registry: Registry) -> None:
    registry.login = "team:hunter2"
    with pytest.raises(StartError, match="no registry credential 'team'"):
        bench.start("true", image=registry.image, registry_auth="team")
    log_in(bench.credentials / "team", registry, registry.login)
    with pytest.raises(StartError, match="without a login"):
        bench.start("true", image=registry.image)
    assert end_of(bench.start("true", image=registry.image, registry_auth="team")).status == 0


def test_what_a_registry_repeats_of_a_secret_is_not_told(bench: Bench, registry: Registry) -> None:
    registry.login, registry.says = "robot:hunter2", "refused: wrong1, Basic cm9ib3Q6d3Jvbmcx"
    log_in(bench.credentials, registry, "robot:wrong1")
    with pytest.raises(StartError) as caught:
        bench.start("true", image=registry.image)
    assert "wrong1" not in str(caught.value)
    assert "cm9ib3Q6" not in str(caught.value)


def test_what_happens_to_a_run_meanwhile_ends_its_pull(bench: Bench, registry: Registry) -> None:
    registry.delay_s = 2.0
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    events.put("cancel")
    with pytest.raises(StartGivenUpError):
        bench.start("true", image=registry.image, events=events)
    assert bench.runner.find(bench.system) == []


def test_a_registry_that_is_silent_holds_up_neither_a_cancel_nor_the_timeout(bench: Bench, registry: Registry) -> None:
    registry.delay_s = 6.0
    begun = time.monotonic()
    with pytest.raises(StartError, match="could not be pulled within"):
        bench.start("true", image=registry.image, timeout_s=1.0)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Timer(1.0, lambda: events.put("cancel")).start()
    with pytest.raises(StartGivenUpError):
        bench.start("true", image=registry.image, events=events)
    assert time.monotonic() - begun < 5.0


def test_a_pull_is_bound_to_the_start_timeout(bench: Bench, registry: Registry) -> None:
    registry.delay_s = 2.0
    with pytest.raises(StartError, match="could not be pulled within"):
        bench.start("true", image=registry.image, timeout_s=0.05)


# -- files in and out --------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("plan", "end", "status"),
    [
        ({}, "kill -KILL $$", -9),
        ({"read_only": True, "user": "nobody"}, "exit 3", 3),
        ({"user": "12345:23456", "init": False, "network": "none"}, "exit 0", 0),
    ],
)
def test_what_a_job_leaves_is_copied_whoever_it_is_and_however_it_ends(
    bench: Bench, plan: dict[str, Any], end: str, status: int
) -> None:
    leave = "cd /launch/outputs; mkdir -p a/b; echo one >a/b/x; ln a/b/x y; echo long >'ü z'; busybox chmod 0 a/b/x a/b"
    handle = bench.shell(f"{leave}; {end}", keeps=(bench.outputs(),), **plan)
    assert end_of(handle).status == status
    handle.dispose()
    assert bench.runner.find(bench.system) == []
    assert files_in(bench.folder / "outputs") == {"a/b/x": b"one\n", "y": b"one\n", "ü z": b"long\n"}
    assert not bench.outputs().left_out.exists()
    assert not list(bench.folder.glob("*.partial"))


def test_what_is_no_plain_file_or_too_much_is_left_out_and_named(bench: Bench) -> None:
    """A sparse file of a terabyte among them, which an engine would send in full."""
    script = """
        cd /launch/outputs
        ln -s /etc/passwd link; ln -s / root; busybox mkfifo pipe
        dd if=/dev/zero of=big bs=1k count=900 2>/dev/null; cat big >bigger; ln big same; echo small >small
        mkdir no; cat big >no/big
        dd if=/dev/zero of=x bs=1M count=1 seek=1000000 2>/dev/null; echo late >y
    """
    kept = bench.outputs(wanted=lambda path: not path.startswith("no/"))
    assert end_of(bench.shell(script, keeps=(kept,)), timeout_s=60).status == 0
    assert sorted(files_in(kept.target)) == ["big", "small"]
    said = json.loads(kept.left_out.read_text())
    assert dict(said["paths"]) == {
        "bigger": "the files have more than 1,048,576 bytes",
        "link": "it is an absolute link, or one that leads out of the folder",
        "pipe": "it is no plain file",
        "root": "it is an absolute link, or one that leads out of the folder",
        "same": "the files have more than 1,048,576 bytes",
        "x": "there is too much, and the rest was not looked at",
    }
    assert said["count"] == 6


def test_links_that_stay_in_the_folder_are_in_the_copy_and_in_that_of_a_running_container(bench: Bench) -> None:
    kept = bench.outputs(keeps_link=lambda path, target: not target.startswith("/"))
    job = """
        cd /launch/outputs; mkdir a; echo x >a/x; ln -s a last; ln -s last/x best; ln -s /etc out; echo ready
        while [ ! -e /tmp/2 ]; do sleep 0.05; done
        rm last best; mkdir last; echo y >last/y; rm -r a; ln -s last a; echo done; while :; do sleep 1; done
    """
    handle = bench.shell(job, keeps=(kept,))
    wait_until(lambda: "ready" in bench.output())

    def found() -> dict[str, str]:
        mirror.refresh(bench.runner.engine, handle.container, kept, at_rest=False)
        paths = [path for path in kept.target.rglob("*") if path.is_symlink() or path.is_file()]
        return {
            str(path.relative_to(kept.target)): os.readlink(path) if path.is_symlink() else path.read_text()
            for path in paths
        }

    first = {"a/x": "x\n", "last": "a", "best": "last/x"}
    assert found() == first
    assert found() == first
    made = bench.engine.api.exec_create(handle.container, ["touch", "/tmp/2"])
    bench.engine.api.exec_start(made["Id"])
    wait_until(lambda: "done" in bench.output())
    assert found() == {"last/y": "y\n", "a": "last"}
    handle.stop(grace_s=0)
    end_of(handle)
    assert json.loads(kept.left_out.read_text())["count"] == 1


def test_a_hard_link_to_a_file_that_is_not_wanted_is_copied_itself(bench: Bench) -> None:
    kept = bench.outputs(wanted=lambda path: path == "b")
    assert end_of(bench.shell("cd /launch/outputs; echo x >a; ln a b", keeps=(kept,))).status == 0
    assert files_in(kept.target) == {"b": b"x\n"}


@pytest.mark.parametrize(
    "script",
    [
        "rm -r /launch/outputs",
        "rm -r /launch/outputs; ln -s /etc /launch/outputs",
        "rm -r /launch/outputs; echo >/launch/outputs",
    ],
)
def test_a_folder_that_is_gone_or_is_none_any_more_leaves_nothing(bench: Bench, script: str) -> None:
    handle = bench.shell(script, keeps=(bench.outputs(),))
    assert end_of(handle).status == 0
    assert not (bench.folder / "outputs").exists()
    assert handle.explain(outcome_of_exit(0)).message == ""


def test_hostile_names_stay_in_the_copy(bench: Bench) -> None:
    script = r"""
        cd /launch/outputs
        touch ..x ./-rf '*' "$(printf 'bad\377')" "$(printf 'two\nlines')"
        n=$(printf '%0250d' 0); i=0
        while [ $i -lt 30 ]; do mkdir $n; cd $n; i=$((i+1)); done
        touch deep
    """
    assert end_of(bench.shell(script, keeps=(bench.outputs(),)), timeout_s=60).status == 0, bench.output()
    names = {os.fsencode(name) for name in os.listdir(bench.folder / "outputs")}
    assert names == {b"..x", b"-rf", b"*", b"bad\xff", b"two\nlines", b"0" * 250}
    assert "its name is too long" in bench.outputs().left_out.read_text()
    assert remove_tree(str(bench.folder / "outputs")) is None


def test_a_copy_that_fails_is_told_and_leaves_no_half(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "_write_all", fail)
    handle = bench.shell("echo x >/launch/outputs/a", keeps=(bench.outputs(),))
    assert end_of(handle).status == 0
    assert "No space left" in handle.explain(outcome_of_exit(0)).message
    assert "what the job left in /launch/outputs is lost" in handle.explain(outcome_of_exit(0)).message
    assert not list(bench.folder.glob("outputs*"))


def test_an_engine_that_is_away_is_asked_again_for_what_a_job_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, away = Engine.stat, [True, True]

    def stat(engine: Engine, container: str, path: str) -> Any:
        if path == "/launch/outputs" and away:
            away.pop()
            raise EngineAwayError("the container engine does not answer")
        return look(engine, container, path)

    monkeypatch.setattr(Engine, "stat", stat)
    monkeypatch.setattr(follow, "RETRY_S", 0.05)
    handle = bench.shell("echo x >/launch/outputs/a", keeps=(bench.outputs(),))
    assert end_of(handle).status == 0
    assert files_in(bench.folder / "outputs") == {"a": b"x\n"}
    assert handle.explain(outcome_of_exit(0)).message == ""


def test_a_worker_that_leaves_in_the_middle_of_a_copy_leaves_no_half(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    write = folders._write_all

    def slowly(file: Any, block: bytes) -> None:
        begun.set()
        assert goes_on.wait(20)
        write(file, block)

    monkeypatch.setattr(folders, "_write_all", slowly)
    handle = bench.shell("echo x >/launch/outputs/a; exit 4", keeps=(bench.outputs(),))
    assert begun.wait(20)
    handle.leave()
    goes_on.set()
    wait_until(lambda: not list(bench.folder.glob("outputs*")), what="the half copy is deleted")
    assert end_of(bench.adopt(keeps=(bench.outputs(),))).status == 4
    assert files_in(bench.folder / "outputs") == {"a": b"x\n"}


def test_a_folder_in_which_nothing_was_made_is_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    stream = Engine.stream

    def noted(engine: Engine, path: str, *args: Any, **options: Any) -> Any:
        asked.append(path)
        return stream(engine, path, *args, **options)

    monkeypatch.setattr(Engine, "stream", noted)
    assert end_of(bench.shell("ls /launch/outputs", keeps=(bench.outputs(),))).status == 0
    assert not [path for path in asked if path.endswith("/archive")]
    assert not (bench.folder / "outputs").exists()


def test_the_copy_of_a_running_containers_folder_is_of_one_instant(bench: Bench) -> None:
    """A file that has not changed keeps its inode and its times; what changes meanwhile makes no copy."""
    kept = bench.outputs()
    job = """
        cd /launch/outputs; mkdir a; echo old >a/x; echo gone >y; echo z >z; echo ready
        while [ ! -e /tmp/2 ]; do sleep 0.05; done
        rm y; mkdir y; echo new >y/x; rm -r a; echo file >a; echo done
        while :; do echo x >>/launch/outputs/z; done
    """
    handle = bench.shell(job, keeps=(kept,))
    wait_until(lambda: "ready" in bench.output())
    assert mirror.refresh(bench.runner.engine, handle.container, kept, at_rest=False) > 1_700_000_000
    assert files_in(kept.target) == {"a/x": b"old\n", "y": b"gone\n", "z": b"z\n"}
    before = os.stat(kept.target / "z")
    mirror.refresh(bench.runner.engine, handle.container, kept, at_rest=False)
    after = os.stat(kept.target / "z")
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)
    made = bench.engine.api.exec_create(handle.container, ["touch", "/tmp/2"])
    bench.engine.api.exec_start(made["Id"])
    wait_until(lambda: "done" in bench.output())
    with pytest.raises(UnsettledError, match="was changed while it was copied"):
        mirror.refresh(bench.runner.engine, handle.container, kept, at_rest=False)
    assert files_in(kept.target) == {"a/x": b"old\n", "y": b"gone\n", "z": b"z\n"}
    handle.stop(grace_s=0)
    end_of(handle)
    mirror.refresh(bench.runner.engine, handle.container, kept, at_rest=True)
    found = files_in(kept.target)
    assert found.pop("z").startswith(b"z\nx\n")
    assert found == {"a": b"file\n", "y/x": b"new\n"}
    assert not list(bench.folder.glob("*.new")) + list(bench.folder.glob("*.partial"))
    with pytest.raises(OSError, match=r"no state of /launch/outputs can be kept: .*more than 1 files"):
        mirror.refresh(bench.runner.engine, handle.container, bench.outputs(max_files=1), at_rest=True)
    assert files_in(kept.target).keys() == {"a", "y/x", "z"}


def test_folders_of_this_machine_are_in_the_container_for_every_user(bench: Bench, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True, mode=0o700)
    (inputs / "deep" / "x").write_bytes(b"y" * 3_000_001)
    (inputs / "deep" / "x").chmod(0o600)
    (inputs / "run").write_text("#!/bin/sh\necho ran\n")
    (inputs / "run").chmod(0o700)
    (inputs / "link").symlink_to("deep/x")
    script = "cd /launch/inputs; wc -c <link; ./run; echo more >>deep/x; wc -c <deep/x; stat -c %Y deep/x"
    os.utime(inputs / "deep" / "x", (5, 1_000_000_000))
    handle = bench.shell(
        script.replace("; stat", " && stat"), user="nobody", read_only=True, folders={"inputs": inputs}
    )
    assert end_of(handle).status == 0
    assert bench.output().split()[:3] == ["3000001", "ran", "3000006"]


def test_the_worker_that_takes_over_copies_what_is_left(bench: Bench) -> None:
    kept = (bench.outputs(),)
    handle = bench.shell("echo x >/launch/outputs/a; sleep 0.3; exit 7", keeps=kept)
    handle.leave()
    bench.engine.api.wait(handle.container)
    assert not (bench.folder / "outputs").exists()
    assert end_of(bench.adopt(keeps=kept)).status == 7
    assert files_in(bench.folder / "outputs") == {"a": b"x\n"}


# -- being taken over --------------------------------------------------------------------------------------------------


def test_another_worker_goes_on_with_the_log_at_the_very_byte(bench: Bench) -> None:
    handle = bench.shell("for i in $(seq 60); do echo line $i; sleep 0.05; done; exit 5")
    wait_until(lambda: "line 10" in bench.output(), what="some output")
    handle.leave()
    time.sleep(0.3)  # what the job prints now, nobody hears
    heir = bench.adopt()
    assert end_of(heir) == Exited(5, "")
    assert bench.output() == "".join(f"line {i}\n" for i in range(1, 61))


def test_one_that_ended_while_nobody_looked_is_told_as_it_was(bench: Bench) -> None:
    handle = bench.shell("echo done; exit 6")
    handle.leave()
    bench.engine.api.wait(handle.container)
    heir = bench.adopt()
    assert end_of(heir) == Exited(6, "")
    assert bench.output() == "done\n"


def test_the_guard_ends_one_whose_lease_ran_out(bench: Bench) -> None:
    ends: list[float] = []

    def lease() -> Lease:
        # As it is about to start, for a cold engine may take its time to make it.
        ends[:] = [boot_time_s() + 2.0, boot_time_s() + 3.0]
        return ends[0], ends[1]

    handle = bench.shell("trap '' TERM; while :; do sleep 0.1; done", lease=lease)
    assert end_of(handle) == Exited(-9, "lease")
    assert -0.5 <= boot_time_s() - ends[1] < 15.0


def test_labels_tell_whose_it_is_and_strangers_are_left_alone(bench: Bench) -> None:
    handle = bench.start("sleep", "600")
    assert bench.runner.find(bench.system) == [(handle.container, bench.labels())]
    assert bench.runner.find("another system") == []
    labels = bench.inspect(handle)["Config"]["Labels"]
    assert json.loads(json.dumps(labels))["launch.run"] == bench.run


def test_a_docker_configuration_that_cannot_be_read_is_one_sentence_without_the_secret(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for auths in ({"r": "hunter2"}, {"r": {"auth": "hunter2"}}):
        (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
        with pytest.raises(EngineAwayError, match=r"docker's configuration .* cannot be read") as caught:
            Engine().api()
        assert "hunter2" not in str(caught.value)


def test_an_engine_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineAwayError, match=r"does not answer at .*none.sock: .*; start it, or set DOCKER_HOST"):
        Engine().api()
