"""The container runner: jobs as containers of an engine, which outlive their worker on purpose."""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import docker.types
import docker.utils

from launch_worker.containers import LAUNCH_DIR, ContainerPlan, Mount
from launch_worker.errors import LaunchError
from launch_worker.retry import Outcome
from launch_worker.runners.container_log import ContainerLog, messages_of
from launch_worker.runners.engine import Engine, clear_errors
from launch_worker.runners.errors import EngineAwayError, NoContainerError, StartError, StartGivenUpError
from launch_worker.runners.guard import boot_time_s
from launch_worker.runners.process import Exited, Gone, Lease, ProcessRunner
from launch_worker.states import RunState

log = logging.getLogger("launch_worker.container")

#: How long a start waits for an engine that does not answer.
_PATIENCE_S = 5.0
#: How long one whose start failed is tried to be removed.
_GIVE_UP_S = 20.0
#: Before an engine that did not answer is asked again.
_RETRY_S = 1.0
#: After a SIGKILL that nobody asked for: is the container being removed, or was only its process killed?
_REMOVAL_S = 0.4
#: The engine's own copy of the output: two files of this size.
_ENGINE_LOG = {"max-size": "16m", "max-file": "2"}
_REMOVED = "its container was removed by somebody else"
#: A flood is looked at after each so many bytes, and copied at about this rate.
_FLOOD_BYTES = 2 << 20
_BYTES_PER_S = 32 << 20
#: What is read of the rest when a job has ended.
_NEWEST_LINES = 100_000
_DISK_WAS_FULL = "the worker's disk was full while its output was copied: some may be missing"
#: How the init processes of Docker (tini) and Podman (catatonit) begin to say that they cannot run their command.
_INIT_FAILED = (b"[FATAL tini (", b"ERROR (catatonit:")
_EXIT_CODES = {
    125: "the program in the container says that it could not run its command",
    126: "a command in the container is not executable",
    127: "a command was not found in the container",
}


@dataclass(frozen=True)
class Labels:
    """Whose a container is."""

    system: str
    run: str
    attempt: int
    token: int
    owner: str
    worker: str
    host: str

    def as_map(self) -> dict[str, str]:
        return {f"launch.{name}": str(value) for name, value in self.__dict__.items()}

    @classmethod
    def from_map(cls, labels: Mapping[str, str]) -> Labels | None:
        """None for labels that are not ours."""
        try:
            words = {name: labels[f"launch.{name}"] for name in cls.__dataclass_fields__}
            return cls(**words | {"attempt": int(words["attempt"]), "token": int(words["token"])})  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Files:
    """What a container gets of its attempt: its configuration, and the folder with its code, if any."""

    config: bytes
    code: Path | None = None


class ContainerHandle:
    """A started container. Its events arrive in `events`: Exited, once its log is whole, then Gone."""

    def __init__(
        self,
        runner: ContainerRunner,
        key: str,
        container: str,
        *,
        pid: int,
        events: queue.SimpleQueue[Any],
        output: Path,
        warning: str = "",
    ) -> None:
        self.key = key
        self.container = container
        self.pid = pid
        self.events = events
        self._runner = runner
        self._output = output
        self._warning = warning
        self._changed = threading.Condition()
        self._kill_at: float | None = None
        self._gone = False
        self._left = False
        self._stopped_by = ""
        self._state: dict[str, Any] = {}
        self._disk_was_full = False
        self._init = True
        self._program, self._image = "", ""

    def follow(self) -> ContainerHandle:
        """Begin to copy its log and to wait for its end."""
        threading.Thread(target=self._follow, name=f"container-{self.key}", daemon=True).start()
        return self

    def stop(self, *, grace_s: float) -> None:
        """The image's stop signal, SIGKILL after the grace, until Gone. A second call can only shorten it."""
        with self._changed:
            kill_at = time.monotonic() + grace_s
            is_first = self._kill_at is None
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
            self._changed.notify_all()
        if is_first:
            threading.Thread(target=self._end, name=f"stop-{self.key}", daemon=True).start()

    def expired(self) -> None:
        """The guard ends it, for its lease ran out."""
        self._stopped_by = self._stopped_by or "lease"

    def explain(self, outcome: Outcome) -> Outcome:
        """What the engine knows about an end that the exit code alone does not tell."""
        if outcome.state is RunState.FAILED:
            outcome = self._explained(outcome)
        notes = [self._warning, _DISK_WAS_FULL if self._disk_was_full else ""]
        return replace(outcome, message="\n".join(filter(None, [outcome.message, *notes])))

    def leave(self) -> None:
        """Supervise it no more: the next worker copies its log from here on."""
        with self._changed:
            self._left = True

    def dispose(self) -> None:
        """Remove the container and what it wrote. One that cannot be removed now is later."""
        self._runner.forget(self)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _explained(self, outcome: Outcome) -> Outcome:
        error = self._state.get("Error") or ""
        text = outcome.reason
        if self._state.get("OOMKilled"):
            text = f"{outcome.reason}: out of memory (the container engine says so)"
        elif outcome.exit_code in (1, 126, 127) and self._init and (said := self._init_failed()):
            what = "is not executable" if b"ermission denied" in said else "was not found"
            text = f"command {self._program!r} {what} in image {self._image}"
            return replace(outcome, reason=text, message=text, phase="start")
        elif outcome.exit_code in _EXIT_CODES:
            text = f"{outcome.reason}: {_EXIT_CODES[outcome.exit_code]}"
        if error:
            text += f" ({error})"
        return replace(outcome, reason=text, message=text)

    def _init_failed(self) -> bytes:
        """What the init process said when it could not run its command; b'' when it could."""
        try:
            with self._output.open("rb") as output:
                said = output.read(500)
        except OSError:
            return b""
        return said if said.startswith(_INIT_FAILED) else b""

    def _follow(self) -> None:
        copy: ContainerLog | None = None
        problem = ""
        while not self._left:
            try:
                copy = copy or ContainerLog(self._output, mends_lines=self._runner.log_driver == "local")
                self._copy(copy)
                state = self._inspect()
                if not state["Running"]:
                    self._copy(copy, newest=_NEWEST_LINES)
                    self._state = state
                    problem = self._was_removed(state)
                    break
            except NoContainerError:
                problem = _REMOVED
                break
            except EngineAwayError as error:
                log.warning("container.engine_away run=%s: it is looked after when that is back. %s", self.key, error)
                time.sleep(_RETRY_S)
            except Exception:
                log.exception("container.log_failed run=%s", self.key)
                # Whatever is wrong with its log: how it ended must still be told.
                if self._has_ended():
                    problem = self._was_removed(self._state)
                    break
                time.sleep(_RETRY_S)
        if copy is not None:
            self._disk_was_full = copy.disk_was_full
            copy.close()
        if self._left:
            return
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self.events.put(Exited(None if problem else _status(self._state), self._stopped_by, problem))
        self.events.put(Gone())

    def _has_ended(self) -> bool:
        with contextlib.suppress(LaunchError):
            state = self._inspect()
            if not state["Running"]:
                self._state = state
                return True
        return False

    def _copy(self, copy: ContainerLog, *, newest: int | None = None) -> None:
        """Copy what there is and what comes, until the container ends or the engine hangs up.

        With `newest`, of what there is now so many lines at most: an engine that drops older output may hang up on
        those who are behind.
        """
        since = copy.resume()
        options = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(newest is None), "tail": newest or "all"}
        if since:
            options["since"] = f"{since:.9f}"
        began, before = time.monotonic(), copy.copied
        with self._runner.engine.stream(f"/containers/{self.container}/logs", options) as chunks:
            for message in messages_of(chunks):
                with self._changed:
                    if self._left:
                        return
                    copy.add(message)
                if newest is None and copy.copied - before > _FLOOD_BYTES:
                    # A flood must neither take all of the processor, nor be read to its end when its job has ended.
                    took_s = time.monotonic() - began
                    time.sleep(max(0.0, _FLOOD_BYTES / _BYTES_PER_S - took_s))
                    if not self._inspect()["Running"]:
                        return
                    began, before = time.monotonic(), copy.copied
        copy.end()

    def _inspect(self) -> dict[str, Any]:
        with clear_errors():
            found = self._runner.engine.api().inspect_container(self.container)
        self._program = " ".join([found["Path"]])
        self._image = found["Config"]["Image"]
        self._init = bool(found["HostConfig"].get("Init"))
        state: dict[str, Any] = found["State"]
        if state["Running"]:
            # The log may end a moment before the state says so.
            time.sleep(0.02)
        return state

    def _was_removed(self, state: Mapping[str, Any]) -> str:
        if self._stopped_by or state["ExitCode"] != 137 or state.get("OOMKilled"):
            return ""
        deadline = time.monotonic() + _REMOVAL_S
        while time.monotonic() < deadline:
            with contextlib.suppress(LaunchError):
                try:
                    if self._inspect().get("Status") in ("removing", "dead"):
                        return _REMOVED
                except NoContainerError:
                    return _REMOVED
            time.sleep(0.05)
        return ""

    def _end(self) -> None:
        termed = False
        while True:
            with self._changed:
                if self._gone:
                    return
                kill_at = self._kill_at or 0.0
            left_s = kill_at - time.monotonic()
            pause_s = left_s
            try:
                if left_s <= 0:
                    self._signal("SIGKILL")
                    pause_s = 0.1
                elif not termed:
                    self._signal(None)
                    termed = True
            except NoContainerError:
                return
            except LaunchError as error:
                log.warning("container.not_signalled run=%s: %s", self.key, error)
                pause_s = _RETRY_S
            with self._changed:
                self._changed.wait_for(lambda at=kill_at: self._gone or self._kill_at != at, max(0.01, pause_s))  # type: ignore[misc]

    def _signal(self, name: str | None) -> None:
        """Send a signal (None: the image's stop signal), if the container still runs."""
        api = self._runner.engine.api()
        with clear_errors():
            found = api.inspect_container(self.container)
            if not found["State"]["Running"]:
                return
            if found["State"].get("Paused"):
                api.unpause(self.container)
            before, self._stopped_by = self._stopped_by, self._stopped_by or "asked"
            try:
                api.kill(self.container, name or found["Config"].get("StopSignal") or "SIGTERM")
            except docker.errors.APIError as error:
                self._stopped_by = before
                if "is not running" not in str(error.explanation):
                    raise


class ContainerRunner:
    """Makes the containers of one worker. Thread-safe. Its engine is connected to when first needed."""

    def __init__(self, guard: ProcessRunner) -> None:
        self.engine = Engine()
        self._guard = guard

    def start(
        self,
        plan: ContainerPlan,
        command: Sequence[str],
        *,
        key: str,
        labels: Labels,
        env: Mapping[str, str],
        cwd: str | None,
        gpus: Sequence[str],
        files: Files,
        output: Path,
        lease: Callable[[], Lease],
        events: queue.SimpleQueue[Any],
        timeout_s: float,
        enter: Callable[[str, str], None],
    ) -> ContainerHandle:
        """Pull, make and start a container. Raises StartError, and StartGivenUpError when an event arrives meanwhile.

        `enter` is told each phase and a sentence for people. `timeout_s` is for all of it. `lease` tells
        the attempt's as it is when the container is about to start.
        """
        deadline = time.monotonic() + timeout_s
        self._reach(events)
        warning = self._pull(plan, events, deadline, timeout_s, enter)
        enter("start", "")
        self.remove_others(labels)
        program = (plan.entrypoint or tuple(command) or ("",))[0]
        with clear_errors(image=plan.image, program=program):
            container = self._create(plan, command, labels, env, cwd, gpus)
            handle = ContainerHandle(self, key, container, pid=0, events=events, output=output, warning=warning)
            try:
                if gpus:
                    self._check_gpus(container)
                self._put(container, files)
                until = lease()
                self._guard.watch(key, container, lease=until, on_expired=handle.expired)
                if time.monotonic() > deadline:
                    raise StartError(f"the container did not start within {timeout_s:g} s")
                if until is not None and boot_time_s() >= until[0]:
                    raise StartError("the worker could not renew the lease while the container was made")
                self.engine.api().start(container)
                handle.pid = self.engine.api().inspect_container(container)["State"]["Pid"]
            except BaseException:
                self._give_up(handle)
                raise
        return handle.follow()

    def adopt(
        self, container: str, *, key: str, lease: Lease, events: queue.SimpleQueue[Any], output: Path
    ) -> ContainerHandle:
        """Supervise a container that another worker started. Raises EngineAwayError, NoContainerError."""
        with clear_errors():
            found = self.engine.api().inspect_container(container)
        if found["State"]["Status"] == "created":
            # Its worker died before it had started it: nothing of the job has run.
            self.remove(container)
            raise NoContainerError(f"container {container[:12]} was never started")
        handle = ContainerHandle(self, key, container, pid=found["State"]["Pid"], events=events, output=output)
        self._guard.watch(key, container, lease=lease, on_expired=handle.expired)
        return handle.follow()

    def find(self, system: str, run_id: str | None = None) -> list[tuple[str, Labels]]:
        """The containers (id, labels) of one launch system, or of one of its runs. Raises EngineAwayError."""
        wanted = [f"launch.system={system}"] + ([f"launch.run={run_id}"] if run_id else [])
        with clear_errors():
            listed = self.engine.api().containers(all=True, filters={"label": wanted})
        found = [(entry["Id"], Labels.from_map(entry["Labels"] or {})) for entry in listed]
        return [(container, labels) for container, labels in found if labels is not None]

    def remove_others(self, labels: Labels) -> None:
        """End and remove what former attempts of the run left on this engine: only one may run.

        Raises StartError when a later attempt is here.
        """
        found = self.find(labels.system, labels.run)
        if any(theirs.token > labels.token for _, theirs in found):
            raise StartError("a later attempt of the run has its container here already")
        for container, theirs in found:
            if theirs.token < labels.token:
                log.warning("container.superseded run=%s attempt=%d: removed", theirs.run, theirs.attempt)
                self.remove(container)

    def remove(self, container: str) -> None:
        """Kill and remove it, with its anonymous volumes. Raises EngineAwayError."""
        try:
            with clear_errors():
                self.engine.api().remove_container(container, v=True, force=True)
        except NoContainerError:
            return
        except EngineAwayError:
            raise
        except StartError as error:
            if "already in progress" not in str(error):
                raise

    def forget(self, handle: ContainerHandle) -> bool:
        """Remove an ended container; the guard watches it until it is gone. False when it could not be removed."""
        try:
            self.remove(handle.container)
        except LaunchError as error:
            log.warning("container.not_removed run=%s: %s", handle.key, error)
            return False
        self._guard.unwatch(handle.key)
        return True

    def _give_up(self, handle: ContainerHandle) -> None:
        """Remove one whose start failed: the engine may have started it all the same, and a retry may follow."""
        give_up = time.monotonic() + _GIVE_UP_S
        while not self.forget(handle) and time.monotonic() < give_up:
            time.sleep(_RETRY_S)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _reach(self, events: queue.SimpleQueue[Any]) -> None:
        """Wait for an engine that does not answer: it may just be restarted."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with clear_errors():
                    self.engine.api().ping()
                return
            except EngineAwayError:
                if not events.empty():
                    raise StartGivenUpError from None
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def _pull(
        self,
        plan: ContainerPlan,
        events: queue.SimpleQueue[Any],
        deadline: float,
        timeout_s: float,
        enter: Callable[[str, str], None],
    ) -> str:
        """Have the image here, by the plan's policy. Returns a warning, or ''."""
        with clear_errors(image=plan.image):
            is_here = self._has(plan.image)
            if is_here and plan.pull != "always":
                return ""
            if plan.pull == "never":
                raise StartError(f"image {plan.image} is not on this worker, and shall not be pulled (pull: never)")
        enter("pull", f"pulling image {plan.image}")
        try:
            self._await_pull(plan.image, events, deadline, timeout_s)
        except StartGivenUpError:
            raise
        except StartError as error:
            why = str(error).removeprefix("the container engine refused: ")
            why = why if plan.image in why else f"image {plan.image} could not be pulled: {why}"
            if isinstance(error, EngineAwayError) or not is_here:
                raise type(error)(why) from None
            log.warning("container.stale_image: %s; the one that is here is used", why)
            return f"warning: {why}; the image that was on the worker was used"
        return ""

    def _await_pull(self, image: str, events: queue.SimpleQueue[Any], deadline: float, timeout_s: float) -> None:
        """Pull in a thread of its own: a registry may be silent for long, and cannot be hurried."""
        answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def pull() -> None:
            repository, tag = docker.utils.parse_repository_tag(image)
            try:
                with clear_errors(image=image):
                    for step in self.engine.api().pull(repository, tag=tag or "latest", stream=True, decode=True):
                        if "error" in step:
                            raise StartError(f"image {image} could not be pulled: {step['error']}")
                answers.put(None)
            except Exception as error:  # noqa: BLE001 (raised again below)
                answers.put(error)

        threading.Thread(target=pull, name=f"pull-{image}", daemon=True).start()
        while True:
            if not events.empty():
                raise StartGivenUpError
            if time.monotonic() > deadline:
                raise StartError(f"image {image} could not be pulled within {timeout_s:g} s")
            with contextlib.suppress(queue.Empty):
                problem = answers.get(timeout=0.1)
                if problem is not None:
                    raise problem
                return

    @cached_property
    def log_driver(self) -> str:
        """One whose log the engine gives back; json-file replaces bytes that are not UTF-8, but every engine has it."""
        with clear_errors():
            known = self.engine.api().info().get("Plugins", {}).get("Log") or ()
        return "local" if "local" in known else "json-file"

    def _has(self, image: str) -> bool:
        try:
            self.engine.api().inspect_image(image)
        except docker.errors.ImageNotFound:
            return False
        return True

    def _create(
        self,
        plan: ContainerPlan,
        command: Sequence[str],
        labels: Labels,
        env: Mapping[str, str],
        cwd: str | None,
        gpus: Sequence[str],
    ) -> str:
        api = self.engine.api()
        base = f"launch-{labels.run}-{labels.attempt}"
        for number in range(1, 100):
            name = base if number == 1 else f"{base}-{number}"
            try:
                made = api.create_container(
                    plan.image,
                    list(command) or None,
                    name=name,
                    labels=labels.as_map(),
                    environment=plan.env | dict(env),
                    entrypoint=list(plan.entrypoint) if plan.entrypoint else None,
                    working_dir=cwd,
                    user=plan.user or None,
                    host_config=api.create_host_config(**_host_config(plan, gpus, log_driver=self.log_driver)),
                )
                return str(made["Id"])
            except docker.errors.APIError as error:
                # Somebody else's container has the name. Docker's status is 409, Podman's 500.
                if "is already in use" not in str(error.explanation):
                    raise
        raise StartError(f"every container name from {base} to {base}-99 is in use on this engine")

    def _check_gpus(self, container: str) -> None:
        """An engine that ignores what it does not know would start a job without its GPUs."""
        if not self.engine.api().inspect_container(container)["HostConfig"].get("DeviceRequests"):
            raise StartError("this container engine ignores requests for GPUs, as Podman's older ones do; use Docker")

    def _put(self, container: str, files: Files) -> None:
        with tarball(files) as archive:
            self.engine.api().put_archive(container, LAUNCH_DIR, archive)


def _host_config(plan: ContainerPlan, gpus: Sequence[str], *, log_driver: str) -> dict[str, Any]:
    # An anonymous volume: a container with a read-only root takes files only there, and it goes with the container.
    launch_dir = docker.types.Mount(target=LAUNCH_DIR, source=None, type="volume")
    config: dict[str, Any] = {
        "mounts": [launch_dir, *map(_mount, plan.mounts)],
        "tmpfs": dict.fromkeys(plan.tmpfs, ""),
        "network_mode": plan.network,
        "read_only": plan.read_only,
        "init": plan.init,
        "log_config": docker.types.LogConfig(type=log_driver, config=_ENGINE_LOG),
        "security_opt": [*plan.security_opt, "no-new-privileges"],
        "cap_drop": ["ALL"],
    }
    if plan.privileged:
        config |= {"privileged": True, "cap_drop": None, "security_opt": list(plan.security_opt) or None}
    if plan.memory:
        # Without swap, or the limit would be none.
        config |= {"mem_limit": plan.memory, "memswap_limit": plan.memory}
    if plan.cpus:
        config["nano_cpus"] = int(plan.cpus * 1e9)
    if gpus:
        config["device_requests"] = [docker.types.DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])]
    for name in ("pids_limit", "shm_size", "ipc_mode", "pid_mode", "userns_mode", "runtime"):
        config[name] = getattr(plan, name) or None
    for name in ("cap_add", "devices", "dns", "group_add"):
        config[name] = list(getattr(plan, name)) or None
    config["extra_hosts"] = dict(entry.split(":", 1) for entry in plan.extra_hosts if ":" in entry) or None
    return {name: value for name, value in config.items() if value is not None}


def _mount(mount: Mount) -> docker.types.Mount:
    kind = "bind" if mount.is_folder else "volume"
    return docker.types.Mount(target=mount.target, source=mount.source, type=kind, read_only=mount.read_only)


def _status(state: Mapping[str, Any]) -> int:
    """The exit status as of a process: an engine tells signal n as 128 + n."""
    code = int(state["ExitCode"])
    return 128 - code if 128 < code <= 128 + 64 else code


@contextlib.contextmanager
def tarball(files: Files) -> Iterator[io.BufferedIOBase]:
    """The files as an archive for LAUNCH_DIR. Whatever user the container has may read and write them."""
    import tempfile

    def open_to_all(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode |= 0o777 if entry.isdir() or entry.mode & 0o100 else 0o666
        return entry

    with tempfile.SpooledTemporaryFile(max_size=8 << 20) as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            config = tarfile.TarInfo("config.json")
            config.size, config.mode = len(files.config), 0o644
            archive.addfile(config, io.BytesIO(files.config))
            if files.code is not None:
                archive.add(files.code, "code", filter=open_to_all)
        buffer.seek(0)
        yield buffer  # type: ignore[misc]
