"""The system under test: a real Redis and container engine, workers behind a network of their own each, beats, servers,
a producer, a git host, people who go through the servers, people who watch, a small disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import launch_worker
from launch_worker.api.client import Api
from launch_worker.clock import boot_time_s
from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.dev.redis_server import RedisServer
from launch_worker.notifications.channels import Channels
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId
from launch_worker.settings import Settings
from launch_worker.store import keys
from tests.chaos.engine import IMAGE, OwnEngine, mounts
from tests.chaos.evidence import Evidence, Life, Span
from tests.chaos.plan import CHANNEL, CONTAINER_QUEUE, DEVICES, HIDDEN, LEASE_S, PEOPLE, QUEUES, WHEELS
from tests.chaos.proxy import Network, Proxy
from tests.chaos.timeline import Timeline
from tests.support.githost import GitHost
from tests.support.ports import own_port
from tests.support.wheels import add_wheel, uv_settings
from tests.system.conftest import Cluster, Part

TIMES = {"LAUNCH_HEARTBEAT_S": "0.5", "LAUNCH_LEASE_S": str(LEASE_S), "LAUNCH_PASS_S": "0.5"}

_SPOOL_MIB = 24
#: A worker whose jobs last at most 12 s has to be gone so long after its first SIGTERM.
_DRAIN_S = 90.0
#: Scheduled runs are claimed so long before they start.
_PREFETCH_S = "2"
#: How often a worker or beat is started by something that blocks or ignores signals, as some supervisors do.
_ODD_START = 0.3
_ODD_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: Of archives, which pack outputs soon; what deletes runs, beat and the workers, has the usual retention.
_PACKS_SOON = {"LAUNCH_RETENTION": "10s"}
#: What the logs of worker, beat and server say when the start is over.
_READY = (" ready.", "beat: Starting", "the server is up")
#: As a program names them that only looks.
_WATCHERS = ("flower", "events", "runs")


@dataclass(frozen=True)
class RunningJob:
    """The main process of a job that runs now."""

    process: ProcessId
    run_id: str
    attempt: int


class Slot:
    """A place for one worker, beat or server process, which is started again when it ended, as a supervisor does."""

    def __init__(self, name: str, proxy: Proxy, engine: Proxy | None = None) -> None:
        self.name = name
        self.proxy = proxy
        #: Its way to the container engine.
        self.engine = engine
        self.part: Part | None = None
        self.life: Life | None = None
        self.is_ready_known = False
        #: When the next process is started.
        self.start_at: float | None = 0.0
        #: Planned for its next death.
        self.restart_s: float | None = None

    @property
    def is_up(self) -> bool:
        return self.part is not None and self.part.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether its start is over: before, its signals are whoever's who started it."""
        if not self.is_ready_known and self.is_up and self.part is not None:
            text = self.part.log
            self.is_ready_known = any(word in text for word in _READY)
        return self.is_ready_known

    @property
    def is_frozen(self) -> bool:
        return self.life is not None and any(span.until > boot_time_s() for span in self.life.stopped)

    def guard(self) -> ProcessId | None:
        """The worker's guard, if it lives."""
        if self.part is None:
            return None
        for process in tree.table():
            if process.ppid == self.part.pid and not process.zombie:
                with contextlib.suppress(OSError):
                    if b"process.guard" in Path(f"/proc/{process.id.pid}/cmdline").read_bytes():
                        return process.id
        return None


class System:
    """Starts everything, keeps it running, and takes it all down at `close`."""

    def __init__(
        self, folder: Path, *, seed: int, workers: int, beats: int = 2, slots: int = 3, with_engine: bool = True
    ) -> None:
        self.folder = folder
        self.evidence = Evidence()
        self.timeline = Timeline()
        self._rng = Random(f"restarts {seed}")
        self._slots = slots
        self.stamps = folder / "stamps"
        self.journal = folder / "journal"
        #: The same of jobs in containers, which see this folder only.
        self.boxed = folder / "boxed"
        #: Links to all of them: the evidence stays, whatever deletes it.
        self._kept = folder / "kept"
        for made in (self.stamps, self.boxed, self._kept):
            made.mkdir()
        self.spool = folder / "work"
        self.spool.mkdir()
        self.has_small_disk = self._mount()
        self.redis = RedisServer(aof="everysec")
        self.network = Network()
        self.redis.start()
        self.redis_is_away = False
        self.cluster = Cluster(self._url(self.network.open(lambda: self.redis.port)), folder)
        self.database_url = f"sqlite:///{folder / 'archive.db'}"
        self.cluster.env |= TIMES | {"LAUNCH_DATABASE_URL": self.database_url}
        self.cluster.env |= {"PYTHONPATH": str(Path(launch_worker.__file__).parent.parent)}
        self.log_url = self.cluster.env["LAUNCH_LOG_URL"] = f"file://{folder}/logs"
        self.output_url = self.cluster.env["LAUNCH_OUTPUT_URL"] = f"file://{folder}/outputs"
        wheels = folder / "wheels"
        for version in WHEELS:
            add_wheel(wheels, "chaos_wheel", str(version))
            (wheels / f"{version}.txt").write_text(f"chaos_wheel=={version}\n")
        self.cluster.env |= uv_settings(wheels)
        self.code = GitHost(folder / "git")
        repository = self.code.repository("slow/code")
        repository.commit({"README": "Code that a run asks for.\n"})
        self.code_url = repository.url
        self.cluster.env |= {
            "GIT_SSL_CAINFO": str(self.code.certificate), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder),
        }  # fmt: skip
        self.api = Api(settings=Settings.from_env(self.cluster.env))
        self.engine: OwnEngine | None = None
        if with_engine and OwnEngine.is_possible():
            self.engine = self._start_engine()
        self.workers = [Slot(f"w{n + 1}", self._to_redis(), self._to_engine(n)) for n in range(workers)]
        self.beats = [Slot(f"beat{n + 1}", self._to_redis()) for n in range(beats)]
        self.servers = [Slot(f"server{n + 1}", self._to_redis()) for n in range(2)]
        self._ports = [own_port() for _ in self.servers]
        #: One beside those in the servers; one of them all leads.
        self.archives = [Slot("archive1", self._to_redis())]
        ports = itertools.cycle(self._ports)
        #: The way of people to the servers: each new connection is to the next one, be it up or not.
        self.front = self.network.open(lambda: next(ports))
        self._tokens = _make_people(self.database_url)
        #: Who is told by webhook.
        self.receivers = [Slot("receiver", self._to_redis())]
        self._receiver_port = own_port()
        self.spoiled = folder / "spoiled"
        _make_channel(self.database_url, f"http://127.0.0.1:{self._receiver_port}/")
        self.watchers = [Slot(name, self._to_redis()) for name in _WATCHERS]
        #: What people were answered and told.
        self.said = folder / "said"
        self.said.mkdir()
        self.producers: list[Part] = []
        self.listeners: Part | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self.workers, *self.beats, *self.servers, *self.archives, *self.receivers, *self.watchers)

    def _to_redis(self) -> Proxy:
        return self.network.open(lambda: self.redis.port)

    def _to_engine(self, number: int) -> Proxy | None:
        if self.engine is None:
            return None
        socket = self.engine.socket
        return self.network.open(lambda: socket, path=self.folder / f"engine{number + 1}.sock")

    def _start_engine(self) -> OwnEngine:
        """Its queue lets a container run the harness's job with this machine's Python."""
        engine = OwnEngine(self.folder / "engine")
        seen = mounts(read=(Path(__file__).parent,), write=(self.boxed,))
        self.api.create_queue(
            CONTAINER_QUEUE,
            resource="container",
            container={"mounts": seen, "network": "none", "allow_images": [IMAGE], "pull": "never"},
        )
        return engine

    def _url(self, proxy: Proxy) -> str:
        return self.redis.url.replace(f":{self.redis.port}/", f":{proxy.port}/")

    def _mount(self) -> bool:
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return False
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SPOOL_MIB}m,mode=700", "launch-chaos", str(self.spool)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    # -- processes -----------------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Note who died, and start again whoever is due."""
        now = boot_time_s()
        for slot in self.slots:
            if slot.part is not None and not slot.is_up:
                self._note_end(slot, now)
            if slot.part is None and slot.start_at is not None and now >= slot.start_at:
                self._start(slot)
            termed_at = slot.life.termed_at if slot.life is not None else []
            if termed_at and now > termed_at[0] + _DRAIN_S and slot.is_up and not slot.is_frozen:
                text = f"{slot.name} (pid {slot.part and slot.part.pid}) did not end within {_DRAIN_S:g} s of SIGTERM"
                self.evidence.wrong.append(text)
                self.kill(slot, now)

    def _note_end(self, slot: Slot, now: float) -> None:
        assert slot.part is not None
        status = slot.part.process.returncode
        life = slot.life
        if life is not None:
            life.status = status
            life.until = now if life.killed_at is None else life.killed_at
            for span in life.stopped:
                span.until = min(span.until, life.until)
            disk_was_full = any(span.meets(life.until - 3, life.until) for span in self.evidence.disk_full)
            asked = bool(life.termed_at) or life.upgraded_at is not None or life.shutdown_at is not None
            if slot in self.watchers:
                # Who only watches may end when Redis does; what it printed is looked at all the same.
                self.evidence.watchers_ended[slot.name] += 1
            elif life.killed_at is None and not (asked and status == 0) and not disk_was_full:
                self.evidence.wrong.append(
                    f"{slot.name} (pid {life.pid}) ended by itself with status {status}: {_last_line(slot.part)}"
                )
        restart_s = slot.restart_s if slot.restart_s is not None else self._rng.uniform(0.1, 1.0)
        slot.part, slot.restart_s, slot.is_ready_known = None, None, False
        if slot.start_at is not None:
            slot.start_at = now + restart_s

    def _start(self, slot: Slot) -> None:
        env = {"LAUNCH_REDIS_URL": self._url(slot.proxy)}
        if slot.engine is not None:
            env["DOCKER_HOST"] = f"unix://{self.folder / f'engine{self.workers.index(slot) + 1}.sock'}"
        # What blocks a signal hands that on to whom it starts.
        is_ours = slot not in (*self.watchers, *self.receivers)
        is_odd = is_ours and self._rng.random() < _ODD_START
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ODD_SIGNALS if is_odd else ())
        try:
            slot.part = self._spawn(slot, env)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        slot.life = Life(slot.name, slot.part.pid, boot_time_s(), log_path=str(slot.part.log_path), is_odd=is_odd)
        self.evidence.lives.append(slot.life)

    def _spawn(self, slot: Slot, env: dict[str, str]) -> Part:
        if slot in self.beats:
            schedule = self.folder / f"{slot.name}.schedule"
            return self.cluster.celery("beat", "-s", str(schedule), name=slot.name, env=env)
        if slot in self.watchers:
            return self._watch(slot.name, env)
        if slot in self.receivers:
            return self._program("receiver", str(self._receiver_port), str(self.folder))
        if slot in self.archives:
            return self._launch_worker(slot.name, env | _PACKS_SOON, "archive", "run")
        if slot in self.servers:
            address = f"127.0.0.1:{self._ports[self.servers.index(slot)]}"
            return self._launch_worker(slot.name, env | _PACKS_SOON, "server", "--no-celery", "--address", address)
        return self.cluster.worker(
            ",".join((*QUEUES, CONTAINER_QUEUE)),
            slots=self._slots,
            name=slot.name,
            env=env,
            wait=False,
            arguments=("--gpus", str(DEVICES), "--prefetch-seconds", _PREFETCH_S),
        )

    def _watch(self, how: str, env: dict[str, str]) -> Part:
        if how == "flower":
            return self.cluster.celery("flower", "--address=127.0.0.1", f"--port={own_port()}", name=how, env=env)
        if how == "events":
            return self.cluster.celery("events", "--dump", name=how, env=env)
        return self._launch_worker(how, env, "runs", "--watch")

    def _launch_worker(self, name: str, env: dict[str, str], *words: str) -> Part:
        log_path = self.folder / f"{name}.{len(self.cluster.parts)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                ["launch-worker", *words],
                cwd=self.folder,
                env=self.cluster.env | env,
                stdin=subprocess.DEVNULL,
                # A watcher prints all that there is of runs, again and again.
                stdout=subprocess.DEVNULL if name in _WATCHERS else log,
                stderr=log,
                start_new_session=True,
            )
        part = Part(process, log_path)
        self.cluster.parts.append(part)
        return part

    def is_troubled(self, slot: Slot, since: float) -> bool:
        """Whether anything since then kept the worker from renewing its leases."""
        spans = [*self.evidence.redis_away, *self.evidence.cuts.get(slot.name, [])]
        if slot.life is not None:
            spans += slot.life.stopped
        return any(span.until > since for span in spans)

    def kill(self, slot: Slot, at: float) -> None:
        """SIGKILL its process."""
        assert slot.part is not None
        assert slot.life is not None
        slot.life.killed_at = at
        slot.life.until = at
        slot.part.signal(signal.SIGKILL)

    def start_producers(self, seed: int, duration_s: float, *, told: int = 0) -> None:
        """Start who submits through Redis, and the people who go through the servers.

        `told`: number of runs that the first one submits, all of which tell their ends; 0 for runs of all kinds.
        """
        self.journal.touch()
        image = [IMAGE] if self.engine is not None else []
        plan = (str(seed), str(duration_s))
        self.producers = [
            self._program("producer", *plan, str(told), str(self.stamps), str(self.journal), self.code_url, *image),
            self._program("people", *plan, self._front_url, str(self.stamps), str(self.said)),
        ]

    def start_listeners(self) -> None:
        self.listeners = self._program("listeners", self._front_url, str(self.said))

    @property
    def are_listening(self) -> bool:
        """Whether the events of each person are followed."""
        return all((self.said / f"{name}.events").exists() for name in PEOPLE)

    @property
    def _front_url(self) -> str:
        return f"http://127.0.0.1:{self.front.port}"

    def _program(self, name: str, *arguments: str) -> Part:
        """Start a program of this package."""
        log_path = self.folder / f"{name}.{len(self.cluster.parts)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"tests.chaos.{name}", *arguments],
                cwd=Path(__file__).parent.parent.parent,
                env=self.cluster.env | {"LAUNCH_TOKENS": json.dumps(self._tokens)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        part = Part(process, log_path)
        self.cluster.parts.append(part)
        return part

    def keep_stamps(self) -> Path:
        """Have links to all stamps that there are; returns their folder."""
        kept = {entry.name for entry in os.scandir(self._kept)}
        for folder in (self.stamps, self.boxed):
            for entry in os.scandir(folder):
                if entry.name not in kept:
                    with contextlib.suppress(FileExistsError):
                        os.link(entry.path, self._kept / entry.name)
        return self._kept

    def lost_stamps(self) -> list[str]:
        """Stamps that somebody has deleted. No part of the system has to do with them."""
        there = {entry.name for folder in (self.stamps, self.boxed) for entry in os.scandir(folder)}
        return sorted({entry.name for entry in os.scandir(self._kept)} - there)

    def tidy_processes(self) -> dict[int, str]:
        """Workers, beats, servers and guards that could do what they should just now, with names."""
        found = {}
        for slot in (*self.workers, *self.beats, *self.servers):
            if slot.part is None or not slot.is_up or slot.is_frozen:
                continue
            found[slot.part.pid] = f"{slot.name.rstrip('0123456789')} {slot.part.pid}"
            guard = slot.guard() if slot in self.workers else None
            if guard is not None:
                found[guard.pid] = f"guard {guard.pid}"
        return found

    def running_jobs(self) -> list[RunningJob]:
        """The main processes of all jobs, by run."""
        workers = {slot.part.pid for slot in self.workers if slot.part is not None}
        processes = tree.table()
        guards = {process.id.pid for process in processes if process.ppid in workers}
        jobs = []
        for process in processes:
            if process.zombie or process.session != process.id.pid or not process.ppid or process.ppid not in guards:
                continue
            env = _environ(process.id.pid)
            # A daemonised grandchild comes back to the guard too: only the main process has this command line.
            if "LAUNCH_RUN_ID" in env and _is_main(process.id.pid, self.stamps, env):
                jobs.append(RunningJob(process.id, env["LAUNCH_RUN_ID"], int(env["LAUNCH_ATTEMPT"])))
        return sorted(jobs, key=lambda job: (job.run_id, job.attempt))

    # -- Redis, and the disk ---------------------------------------------------------------------------------------

    def take_redis_away(self, how: str) -> None:
        self.redis_is_away = True
        self.evidence.redis_away.append(Span(boot_time_s()))
        if how == "kill":
            self.evidence.redis_kills.append(time.time())
        if how == "shutdown" and self.redis.process is not None:
            self.redis.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.redis.process.wait(5.0)
        self.redis.kill()

    def bring_redis_back(self) -> None:
        self.redis.start()
        self.redis_is_away = False
        self.evidence.redis_away[-1].until = boot_time_s()

    def item_lists(self) -> list[str]:
        return [queue_list for queue in (*QUEUES, CONTAINER_QUEUE) for queue_list in keys.queue_lists(queue)]

    def fill_disk(self, *, leave: int = 0) -> None:
        """Fill it, but for so many bytes."""
        with (self.spool / "filler").open("ab", buffering=0) as filler:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while self._room() >= leave + size and filler.write(b"\0" * size) == size:
                        pass

    def _room(self) -> int:
        found = os.statvfs(self.spool)
        return found.f_bavail * found.f_frsize

    def free_disk(self) -> None:
        (self.spool / "filler").unlink(missing_ok=True)

    # -- the end -----------------------------------------------------------------------------------------------------

    def logs(self) -> list[Path]:
        """What each process printed."""
        return [part.log_path for part in self.cluster.parts]

    def our_processes(self) -> list[tuple[int, str]]:
        """Every living process that belongs to this system: workers, guards, beats, and all of any job."""
        ours = f"LAUNCH_WORK_DIR={self.spool}"
        found = []
        for process in tree.table():
            if process.zombie:
                continue
            env = _environ(process.id.pid)
            if f"LAUNCH_WORK_DIR={env.get('LAUNCH_WORK_DIR')}" == ours:
                found.append((process.id.pid, "part"))
            elif env.get("LAUNCH_CONFIG", "").startswith(f"{self.spool}/"):
                found.append((process.id.pid, f"job of {env.get('LAUNCH_RUN_ID')}.{env.get('LAUNCH_ATTEMPT')}"))
        return found

    def close(self) -> None:
        """Take everything down, whatever state it is in."""
        for slot in self.slots:
            slot.start_at = None
        self.cluster.close()
        for _ in range(50):
            left = self.our_processes()
            for pid, _what in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            self.timeline.sleep(0.1)
        self.api.store.close()
        self.network.close()
        self.code.close()
        if self.engine is not None:
            self.engine.close()
        self.redis.stop()
        if self.has_small_disk:
            subprocess.run(["umount", "-l", str(self.spool)], capture_output=True, check=False)


def _make_people(url: str) -> dict[str, str]:
    """Make the tables and the people; returns a token of each person, of whom the first one sees the hidden project."""
    database = Database(url)
    migrate(database)
    registry = Registry(database, actor="chaos")
    registry.set_project(HIDDEN, is_private=True)
    tokens = {}
    for name in PEOPLE:
        registry.add_user(name, given={"": Role.MEMBER} | ({HIDDEN: Role.MEMBER} if name == PEOPLE[0] else {}))
        tokens[name], _ = registry.create_token(name, "chaos")
    database.close()
    return tokens


def _make_channel(url: str, address: str) -> None:
    """Make the channel that runs tell."""
    database = Database(url)
    Channels(database, actor="chaos").add(CHANNEL, "webhook", address)
    database.close()


def _environ(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in raw.decode("utf-8", "replace").split("\0"))


def _is_main(pid: int, stamps: Path, env: dict[str, str]) -> bool:
    """Whether the job's first line names this process; one that has written nothing yet is a main process too."""
    try:
        with (stamps / f"{env['LAUNCH_RUN_ID']}.{env['LAUNCH_ATTEMPT']}").open() as lines:
            return lines.readline().split()[2] == str(pid)
    except OSError as error:
        return error.errno == errno.ENOENT
    except IndexError:
        return True


def _last_line(part: Part) -> str:
    lines = part.log.strip().splitlines()
    return lines[-1][:300] if lines else "(no output)"
