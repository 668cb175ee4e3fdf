"""The faults: each does to a scene what it is named for, and says what of it could not be done."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bench.kill.scene import RESTART_S, Scene, SceneError
from bench.kill.systems import System
from bench.kill.verdict import CANCEL_S, Facts, Verdict, judge
from launch_worker.clock import boot_time_s

#: Seconds that a worker is given to end by itself.
STOP_S = 30.0
REDIS_AWAY_S = 20.0
DISK_FULL_S = 10.0


@dataclass(frozen=True)
class Fault:
    """What is done, in words for the page, and how."""

    name: str
    title: str
    act: Callable[[Scene], None]
    #: Workers of the scene, and whether all Redises keep an append-only file.
    workers: int = 2
    aof: bool | None = None
    has_small_disk: bool = False
    #: Seconds to wait for the truth at most; 0 for those of the system.
    patience_s: float = 0.0
    #: Seconds more than that, for what begins anew only after a while.
    more_s: float = 0.0


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _kill(scene: Scene, *, helpers: bool = False) -> None:
    scene.begin(6, 6)
    worker = scene.workers[0]
    jobs = scene.jobs_of(worker)
    scene.mark()
    if helpers:
        own, _ = worker.processes()
        # Stopped first: of processes that watch each other none shall see the other's death.
        _signal(own, signal.SIGSTOP)
        _signal(own, signal.SIGKILL)
    else:
        worker.signal(signal.SIGKILL)
    time.sleep(RESTART_S)
    scene.mark_orphans(jobs)


def _freeze(scene: Scene) -> None:
    scene.begin(6, 16)
    own, _ = scene.workers[0].processes()
    # The guard of launch_worker is no part of its worker: it is there for this.
    frozen = own[:1] if scene.system.name == "ours" else own
    _stop_for(scene, frozen)


def _freeze_machine(scene: Scene) -> None:
    scene.begin(6, 16)
    own, jobs = scene.workers[0].processes()
    _stop_for(scene, [*own, *jobs])


def _stop_for(scene: Scene, processes: list[psutil.Process]) -> None:
    scene.mark()
    _signal(processes, signal.SIGSTOP)
    time.sleep(scene.system.silence_s)
    _signal(processes, signal.SIGCONT)


def _redis_restart(scene: Scene) -> None:
    scene.begin(6, 4)
    _without_redis(scene, 1.0)


def _redis_away(scene: Scene) -> None:
    scene.begin(6, 4)
    # Writes of the last second may be lost by an append-only file: that is not what this fault is about.
    time.sleep(1.5)
    _without_redis(scene, REDIS_AWAY_S)


def _without_redis(scene: Scene, seconds: float) -> None:
    assert scene.redis is not None
    scene.is_blind = True
    time.sleep(0.5)
    scene.mark()
    scene.redis.kill()
    time.sleep(seconds)
    scene.redis.start()
    scene.is_blind = False


@contextlib.contextmanager
def _held_up(scene: Scene) -> Iterator[bytes]:
    """The workers stand still, and messages wait: the key of their list."""
    processes = [process for worker in scene.workers for process in worker.processes()[0]]
    _signal(processes, signal.SIGSTOP)
    try:
        scene.submit(10, 1)
        if not scene.wait_for(lambda: any(scene.lists()), 5):
            raise SceneError(f"no message waits in {scene.system.lists}")
        yield next(scene.lists())
    finally:
        _signal(processes, signal.SIGCONT)


def _lost_message(scene: Scene) -> None:
    with _held_up(scene) as key:
        scene.mark()
        scene.client.lpop(key)
    began = time.monotonic()
    # All but the job whose message was taken have begun soon.
    scene.wait_for(lambda: len([n for n in scene.jobs if scene.executions(n)]) >= len(scene.jobs) - 1, 20)
    rest = [name for name in scene.jobs if not scene.executions(name)]
    if len(rest) == 1 and time.monotonic() - began < 20:
        scene.dropped = rest[0]


def _doubled_message(scene: Scene) -> None:
    with _held_up(scene) as key:
        scene.mark()
        scene.client.lpush(key, scene.client.lindex(key, 0))


def _fork(scene: Scene) -> None:
    scene.mark()
    scene.begin(4, 2, "child=25")


def _term(scene: Scene) -> None:
    scene.begin(6, 10)
    worker = scene.workers[0]
    scene.mark()
    worker.signal(signal.SIGTERM)
    if not worker.wait(STOP_S):
        scene.notes.append(f"it had not ended {STOP_S:g} s after SIGTERM, and got SIGKILL")
        worker.signal(signal.SIGKILL)


def _deploy(scene: Scene) -> None:
    scene.begin(6, 10)
    scene.mark()
    for worker in scene.workers:
        worker.signal(scene.system.renew)
        if scene.system.renew_starts_itself:
            time.sleep(3)
            continue
        if not worker.wait(STOP_S):
            scene.notes.append(f"it had not ended {STOP_S:g} s after {scene.system.renew.name}, and got SIGKILL")
            worker.signal(signal.SIGKILL)
        time.sleep(2 * RESTART_S)


def _disk_full(scene: Scene) -> None:
    scene.begin(4, 4)
    scene.mark()
    filler = scene.workers[0].folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    time.sleep(DISK_FULL_S)
    filler.unlink()


def _oom(scene: Scene) -> None:
    scene.begin(4, 4)
    scene.mark()
    victim = next(e for name in scene.running() for e in scene.executions(name) if e.ended_at is None)
    os.kill(victim.pid, signal.SIGKILL)


def _cancel(*flags: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        name = scene.submit(1, 40, *flags)[0]
        scene.begin(2, 8)
        scene.wait_for(lambda: bool(scene.running([name])), 10)
        scene.mark()
        scene.cancelled[name] = boot_time_s()
        try:
            scene.cancel(name, hard=False)
            if not scene.wait_for(lambda: not scene.running([name]), 6):
                scene.cancel(name, hard=True)
        except SceneError as error:
            scene.notes.append(f"the cancel was refused: {error}")
        scene.wait_for(lambda: not scene.running([name]), CANCEL_S)

    return act


FAULTS = (
    Fault("kill", "worker killed (SIGKILL), started again after 2 s", _kill),
    Fault(
        "kill-all", "worker killed with all its helpers in one instant, but not the jobs", partial(_kill, helpers=True)
    ),
    Fault("freeze", "worker frozen for longer than it is missed; its jobs go on", _freeze),
    Fault("freeze-machine", "worker and its jobs frozen for longer than it is missed", _freeze_machine),
    Fault("redis-restart", "Redis killed and started again, with what it keeps by each system's docs", _redis_restart),
    Fault(
        "redis-away",
        "Redis killed and away for 20 s, with an append-only file for all",
        _redis_away,
        aof=True,
        more_s=45,
    ),
    Fault("lost-message", "a waiting message taken out of the queue", _lost_message),
    Fault("doubled-message", "a waiting message put into the queue once more", _doubled_message),
    Fault("fork", "a job leaves a process in a session of its own behind", _fork),
    Fault("term", "SIGTERM to a worker with running jobs, started again when it has ended", _term),
    Fault("disk-full", "the disk of the worker's folder full for 10 s", _disk_full, workers=1, has_small_disk=True),
    Fault("oom", "a job killed by SIGKILL from outside, as by the kernel's OOM killer", _oom),
    Fault("cancel-silent", "a running job cancelled", _cancel(), patience_s=12),
    Fault("cancel-stubborn", "a running job cancelled that ignores SIGTERM", _cancel("stubborn"), patience_s=12),
    Fault("deploy", "all workers renewed, one after the other, as each system's docs say", _deploy),
)


def play(system: System, fault: Fault) -> tuple[Verdict, list[str]]:
    """One scene from beginning to end: what became of its jobs, and notes. Raises SceneError."""
    verdict, notes, _ = play_with_facts(system, fault)
    return verdict, notes


def play_with_facts(system: System, fault: Fault) -> tuple[Verdict, list[str], Facts]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_small_disk()) if fault.has_small_disk else None
        scene = stack.enter_context(Scene(system, aof=fault.aof, workers=fault.workers, folder=folder))
        fault.act(scene)
        facts = scene.settle((fault.patience_s or system.patience_s) + fault.more_s)
        return judge(facts), scene.notes, facts


@contextlib.contextmanager
def _small_disk() -> Iterator[Path]:
    """A folder on a disk of 16 MiB. Raises SceneError where nothing may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="launch-kill-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if mounted.returncode:
            raise SceneError(f"a small disk needs root: {mounted.stderr.strip()}")
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
