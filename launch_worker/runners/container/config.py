"""Says how an engine makes a container: its labels and its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docker.types

from launch_worker.model.container_options import LAUNCH_DIR, MOST_PIDS, ContainerPlan, Mount
from launch_worker.runners.container.into import Files

#: Share of its machine's memory that a container without a limit of its own may take: the kernel then ends the
#: container that takes too much, and not the worker.
_SHARE_OF_MEMORY = 0.9
#: Size and number of the files in which the engine keeps its own copy of the output.
_ENGINE_LOG = {"max-size": "16m", "max-file": "2"}


@dataclass(frozen=True)
class EngineFacts:
    """The facts about an engine on which a container's limits rest."""

    log_driver: str
    #: Bytes that a container without a limit of its own may take at most; None where the engine limits no memory.
    memory: int | None = None
    #: Whether the engine limits the number of processes.
    limits_pids: bool = True

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> EngineFacts:
        """From the engine's answer to `info`."""
        # Every engine has json-file, which replaces bytes outside UTF-8.
        driver = "local" if "local" in (info.get("Plugins", {}).get("Log") or ()) else "json-file"
        total = info.get("MemTotal") if info.get("MemoryLimit", True) else None
        memory = int(total * _SHARE_OF_MEMORY) if isinstance(total, int) and total > 0 else None
        return cls(driver, memory, limits_pids=bool(info.get("PidsLimit", True)))


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

    @property
    def attempt_name(self) -> str:
        """The name of the attempt's folder, by which a guard keeps how the attempt ended."""
        return f"{self.run}.{self.attempt}.{self.token}"

    def as_map(self) -> dict[str, str]:
        return {f"launch.{name}": str(value) for name, value in self.__dict__.items()}

    @classmethod
    def from_map(cls, labels: Mapping[str, str]) -> Labels | None:
        """Read them; None for a container that no worker has made."""
        try:
            words = {name: labels[f"launch.{name}"] for name in cls.__dataclass_fields__}
            return cls(**words | {"attempt": int(words["attempt"]), "token": int(words["token"])})  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class NewContainer:
    """All that a container is made of."""

    plan: ContainerPlan
    command: Sequence[str]
    labels: Labels
    env: Mapping[str, str]
    #: Working directory; None for the image's own.
    cwd: str | None
    #: Ids of the devices that it may use.
    gpus: Sequence[str]
    files: Files
    #: Name of the signal that asks it to end; '' for the image's own.
    stop_signal: str = ""
    #: Whether its init process hands signals on to the whole process group of the program.
    stops_all: bool = False
    #: Variables that are made when the container is.
    late_env: Callable[[], Mapping[str, str]] = dict

    def environment(self) -> dict[str, str]:
        """All of its environment, beside the image's."""
        # Read by tini, which is Docker's init process.
        group = {"TINI_KILL_PROCESS_GROUP": "1"} if self.stops_all else {}
        return self.plan.env | group | dict(self.env) | dict(self.late_env())

    @property
    def program(self) -> str:
        """The program's name, for people."""
        return (self.plan.entrypoint or tuple(self.command) or ("",))[0]


def host_config(plan: ContainerPlan, gpus: Sequence[str], engine: EngineFacts) -> dict[str, Any]:
    """What an engine is told of a container's surroundings."""
    # An anonymous volume: a container with a read-only root takes files only there, and it goes with the container.
    launch_dir = docker.types.Mount(target=LAUNCH_DIR, source=None, type="volume")
    config: dict[str, Any] = {
        "mounts": [launch_dir, *map(_mount, plan.mounts)],
        "tmpfs": dict.fromkeys(plan.tmpfs, ""),
        "network_mode": plan.network,
        "read_only": plan.read_only,
        "init": plan.init,
        "log_config": docker.types.LogConfig(type=engine.log_driver, config=_ENGINE_LOG),
        "security_opt": [*plan.security_opt, "no-new-privileges"],
        "cap_drop": ["ALL"],
    }
    if plan.privileged:
        config |= {"privileged": True, "cap_drop": None, "security_opt": list(plan.security_opt) or None}
    memory = plan.memory or engine.memory
    if memory:
        # Without swap, or the limit would be none.
        config |= {"mem_limit": memory, "memswap_limit": memory}
    config["pids_limit"] = plan.pids_limit or (MOST_PIDS if engine.limits_pids else None)
    if plan.cpus:
        config["nano_cpus"] = int(plan.cpus * 1e9)
    if gpus:
        config["device_requests"] = [docker.types.DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])]
    for name in ("shm_size", "ipc_mode", "pid_mode", "userns_mode", "runtime"):
        config[name] = getattr(plan, name) or None
    for name in ("cap_add", "devices", "dns", "group_add"):
        config[name] = list(getattr(plan, name)) or None
    config["extra_hosts"] = dict(entry.split(":", 1) for entry in plan.extra_hosts if ":" in entry) or None
    return {name: value for name, value in config.items() if value is not None}


def _mount(mount: Mount) -> docker.types.Mount:
    kind = "bind" if mount.is_folder else "volume"
    return docker.types.Mount(target=mount.target, source=mount.source, type=kind, read_only=mount.read_only)
