"""The systems that are compared here: how each is set up, started, renewed, and what it has no place for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.environments import PACKAGES, programs

PEERS = "bench.kill.peers"

NO_REDIS = dict.fromkeys(("redis-restart", "redis-away", "lost-message", "doubled-message"), "it has no Redis")


@dataclass(frozen=True)
class System:
    """One that takes commands and runs them, as its own docs set it up where jobs must not be lost."""

    name: str
    title: str
    #: Module in bench/kill/peers that feeds and asks it, run in its environment.
    module: str
    #: Command line of one of its workers, for the folder of its programs and the worker's own name.
    worker: Callable[[Path, str], Sequence[str]]
    #: Name of its environment in bench/.peers; '' for this one.
    environment: str = ""
    #: Processes of one worker here: a worker has two slots.
    processes: int = 1
    #: Number of workers at most; one where the system has one process for all.
    workers: int = 2
    env: Mapping[str, str] = field(default_factory=dict)
    #: Its docs have Redis keep an append-only file. Else Redis has its own default: snapshots, after a minute at best.
    aof: bool = False
    has_redis: bool = True
    #: Seconds of silence after which it has given up a worker, with some to spare: a freeze lasts longer.
    silence_s: float = 20.0
    #: Seconds after which what has not come true will not: it is waited for as long.
    patience_s: float = 30.0
    #: Signal that ends a worker for a new version, as its docs say, and whether somebody must start the next one.
    renew: signal.Signals = signal.SIGTERM
    renew_starts_itself: bool = False
    #: Pattern of the keys of the lists in which messages wait.
    lists: str = ""
    #: Faults that it has no place for, and why.
    without: Mapping[str, str] = field(default_factory=dict)
    #: Measures of which its record says nothing: they count nothing for it.
    silent_on: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Version that is pinned of its package."""
        return PACKAGES[self.environment][0].partition("==")[2] if self.environment else ""

    @property
    def bin(self) -> Path:
        return programs(self.environment)


def _celery(name: str, title: str, env: Mapping[str, str], **more: float) -> System:
    return System(
        name,
        title,
        "celery_peer",
        lambda bin, worker: [
            *(f"{bin}/celery", "-A", f"{PEERS}.celery_peer", "worker", "-c", "2"),
            *("-n", f"{worker}@%h", "-l", "INFO"),
        ],
        environment="celery",
        env=env,
        lists="celery",
        **more,  # type: ignore[arg-type]
    )


SYSTEMS = (
    System(
        "ours",
        "launch_worker",
        "launch_peer",
        lambda bin, worker: [
            *(f"{bin}/celery", "-A", "launch_worker", "worker", "-Q", "default", "-c", "2", "-n", f"{worker}@%h"),
        ],
        env={"LAUNCH_ALLOW_ROOT": "1", "LAUNCH_LEASE_S": "12", "LAUNCH_HEARTBEAT_S": "3"},
        aof=True,
        silence_s=20,
        patience_s=45,
        renew=signal.SIGUSR1,
        lists="default*",
    ),
    _celery("celery", "Celery, early ack", {}, silence_s=25, patience_s=45),
    _celery("celery-late", "Celery, late ack", {"KILL_LATE": "1"}, silence_s=25, patience_s=45),
    System(
        "rq",
        "RQ",
        "rq_peer",
        lambda bin, worker: [
            *(f"{bin}/rq", "worker", "--maintenance-interval", "10", "--job-monitoring-interval", "5"),
            *("--worker-ttl", "25", "default"),
        ],
        environment="rq",
        processes=2,
        silence_s=80,
        patience_s=95,
        lists="rq:queue:default",
    ),
    System(
        "huey",
        "huey",
        "huey_peer",
        lambda bin, worker: [f"{bin}/huey_consumer", f"{PEERS}.huey_peer.huey", "-k", "process", "-w", "2"],
        environment="huey",
        renew=signal.SIGINT,
        lists="huey.redis.kill",
        silent_on=("stuck",),
    ),
    System(
        "dramatiq",
        "dramatiq",
        "dramatiq_peer",
        lambda bin, worker: [f"{bin}/dramatiq", f"{PEERS}.dramatiq_peer", "-p", "1", "-t", "2"],
        environment="dramatiq",
        silence_s=20,
        patience_s=60,
        renew=signal.SIGHUP,
        renew_starts_itself=True,
        lists="dramatiq:default",
        without={f"cancel-{job}": "it has no way to cancel a job" for job in ("silent", "stubborn")},
        silent_on=("stuck",),
    ),
    System(
        "hyperqueue",
        "HyperQueue (wheel)",
        "hyperqueue_peer",
        lambda bin, worker: [f"{bin}/python", "-m", f"{PEERS}.hyperqueue_peer", "worker"],
        environment="hyperqueue",
        workers=1,
        has_redis=False,
        without=NO_REDIS
        | {f"cancel-{job}": "its Python API cannot cancel" for job in ("silent", "stubborn")}
        | {"deploy": "the wheel has server and worker in one process"},
        silent_on=("stuck",),
    ),
    System(
        "runqd",
        "runqd",
        "runqd_peer",
        lambda bin, worker: [f"{bin}/gflowd"],
        environment="runqd",
        workers=1,
        has_redis=False,
        without=NO_REDIS,
    ),
)
