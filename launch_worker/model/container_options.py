"""Checks and merges what a container may be given by its submitter and by its queue's configuration.

The submitter's options are an allow-list; the queue's are set by its admin and may reach the host. Each side is checked
by itself (at submit and again by the worker), then both are merged, the submitter's first.
"""

from __future__ import annotations

import fnmatch
import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.units import parse_size

IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@-]{0,254}")
#: Paths without any character that has a meaning for Podman, which joins a mount into a text and parses that again.
_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_WORD = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_.:/=@-]{0,254}")
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PULLS = ("missing", "always", "never")
#: Bytes of memory below which every engine refuses a container.
MIN_MEMORY = 6 << 20
#: Processes in a container, where its queue does not say otherwise.
MOST_PIDS = 4096
#: Folder of a job's own files in its container.
LAUNCH_DIR = "/launch"
#: Name of the file with a sweep's parameters as JSON, in LAUNCH_DIR or in the attempt's folder.
ARGS_FILE = "args.json"
_KERNEL_DIRS = ("/proc", "/sys", "/dev")
#: Options that a queue fixes by setting them: a submitter with another value is refused.
_FIXED_BY_QUEUE = ("network", "user", "read_only", "pids_limit")
_SOCKETS = ("docker.sock", "podman.sock", "containerd.sock", "crio.sock")


@dataclass(frozen=True)
class Mount:
    """`source` is a folder of the worker's machine (absolute) or the name of a volume."""

    source: str
    target: str
    read_only: bool = False

    @property
    def is_folder(self) -> bool:
        return self.source.startswith("/")


@dataclass(frozen=True)
class ContainerPlan:
    """What a container is made with. None and empty mean the engine's or the image's own default."""

    image: str
    pull: str = "missing"
    entrypoint: tuple[str, ...] | None = None
    network: str = "bridge"
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    user: str = ""
    read_only: bool = False
    init: bool = True
    #: None for MOST_PIDS.
    pids_limit: int | None = None
    shm_size: int | None = None
    memory: int | None = None
    cpus: float | None = None
    env: dict[str, str] = field(default_factory=dict)
    # Options that only a queue's configuration can set.
    #: Name of the worker's credential by which the image is pulled; '' for the worker's own.
    registry_auth: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    ipc_mode: str = ""
    pid_mode: str = ""
    userns_mode: str = ""
    runtime: str = ""
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    allow_mounts: tuple[str, ...] = ()
    allow_volumes: tuple[str, ...] = ()
    allow_images: tuple[str, ...] = ()


def check_submitted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The submitter's container options, normalised. Raises InputError for one that is not on the allow-list."""
    for name in options:
        if name not in _SUBMITTER and name in _QUEUE:
            raise InputError(
                f"container option {name!r} reaches the worker's machine: only the queue's configuration may set it; "
                "leave it out, or ask for a queue that has it"
            )
    return _checked(options, _SUBMITTER, "a container option")


def check_queue(options: Mapping[str, Any]) -> dict[str, Any]:
    """A queue's container configuration, normalised. Raises InputError."""
    return _checked(options, _QUEUE, "a container setting of a queue")


def plan(
    *,
    image: str,
    submitted: Mapping[str, Any],
    queue: Mapping[str, Any],
    memory: int | None = None,
    cpus: float | None = None,
) -> ContainerPlan:
    """Merge what both sides ask for. Raises InputError when the submitter may not have it in this queue."""
    own, theirs = check_submitted(submitted), check_queue(queue)
    own |= {name: value for name, value in (("image", image), ("memory", memory), ("cpus", cpus)) if value}
    if not (own.get("image") or theirs.get("image")):
        raise InputError("this queue runs containers and the run names no image; submit it with --image IMAGE")
    allowed = theirs.get("allow_images")
    if allowed and own.get("image") and not any(fnmatch.fnmatchcase(own["image"], pattern) for pattern in allowed):
        raise InputError(f"image {own['image']!r} is not allowed in this queue; it allows: {', '.join(allowed)}")
    for name in _FIXED_BY_QUEUE:
        if name in own and own[name] != theirs.get(name, own[name]):
            raise InputError(f"container option {name} is {theirs[name]!r} for every run of this queue; leave it out")
    if (own.get("pids_limit") or 0) > MOST_PIDS and "pids_limit" not in theirs:
        raise InputError(f"a container may have {MOST_PIDS:,} processes at most, unless its queue has pids_limit")
    mounts = tuple(_allowed(mount, theirs) for mount in own.get("mounts", ()))
    merged = theirs | own
    merged["mounts"] = _by_target(theirs.get("mounts", ()), mounts)
    merged["tmpfs"] = tuple(dict.fromkeys((*theirs.get("tmpfs", ()), *own.get("tmpfs", ()))))
    return ContainerPlan(**merged)


def parse_mount(text: str) -> Mount:
    """`SOURCE:TARGET[:ro|:rw]`, as docker's -v. Raises InputError."""
    parts = text.split(":") if isinstance(text, str) else []
    mode = parts.pop() if len(parts) == 3 else "rw"
    if len(parts) != 2 or mode not in ("ro", "rw"):
        raise InputError(f"mount {text!r} must be VOLUME:/FOLDER or /FOLDER:/FOLDER, with :ro if it is only read")
    source, target = parts
    if source.startswith("/"):
        if not _PATH.fullmatch(source):
            raise InputError(f"mount {text!r}: a folder may have letters, digits and _ . / @ + - only")
        source = os.path.normpath(source)
        if source.rsplit("/", 1)[-1] in _SOCKETS:
            raise InputError(f"mount {text!r} would hand over the container engine itself; leave it out")
    elif not _VOLUME.fullmatch(source):
        raise InputError(f"mount {text!r}: {source!r} is neither an absolute folder nor the name of a volume")
    return Mount(source, _target(target, text), mode == "ro")


def _target(target: str, text: str) -> str:
    target = os.path.normpath(target) if _PATH.fullmatch(target) else ""
    if target.lstrip("/") == "":
        raise InputError(
            f"mount {text!r}: the folder in the container must be absolute, not / itself, and of letters, digits and "
            "_ . / @ + - only"
        )
    target = "/" + target.lstrip("/")
    if any(target == folder or target.startswith(f"{folder}/") for folder in (*_KERNEL_DIRS, LAUNCH_DIR)):
        raise InputError(f"mount {text!r}: {target} in the container is not to be mounted over")
    return target


def _allowed(mount: Mount, queue: Mapping[str, Any]) -> Mount:
    """The submitter's mount, read-only where the queue says so. Raises InputError.

    A folder must be one that the queue names, not one below it: whoever may write there could put a link in its place
    between this look and the engine's.
    """
    if not mount.is_folder:
        patterns = queue.get("allow_volumes", ())
        if not any(fnmatch.fnmatchcase(mount.source, pattern) for pattern in patterns):
            what = (
                f"it allows: {', '.join(patterns)}"
                if patterns
                else "it allows none; an admin names some, as allow_volumes"
            )
            raise InputError(f"volume {mount.source!r} is not allowed in this queue: {what}")
        return mount
    allowed = {entry.removesuffix(":ro"): entry.endswith(":ro") for entry in queue.get("allow_mounts", ())}
    if mount.source not in allowed:
        what = f"this queue allows: {', '.join(allowed)}" if allowed else "this queue allows none"
        raise InputError(f"folder {mount.source} of the worker may not be mounted; {what}")
    return replace(mount, read_only=mount.read_only or allowed[mount.source])


def _by_target(*layers: tuple[Mount, ...]) -> tuple[Mount, ...]:
    return tuple({mount.target: mount for layer in layers for mount in layer}.values())


# -- one check an option -----------------------------------------------------------------------------------------------


def _checked(options: Mapping[str, Any], checks: Mapping[str, Callable[[str, Any], Any]], what: str) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise InputError(f"{what}s must be a map of names to values, not {type(options).__name__}")
    unknown = [name for name in options if name not in checks]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not {what}; there are: {', '.join(sorted(checks))}")
    return {name: checks[name](name, value) for name, value in options.items() if value is not None}


def _refuse(name: str, value: Any, rule: str) -> InputError:
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "…"
    return InputError(f"container option {name} cannot be {shown}: {rule}")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "it is true or false")
    return value


def _text(pattern: re.Pattern[str], rule: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _refuse(name, value, rule)
        return value

    return check


def _user(name: str, value: Any) -> str:
    # YAML and JSON read a user's id as a number.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return _text(_USER, "it is a user, or USER:GROUP")(name, text)


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in words:
            raise _refuse(name, value, f"it is one of: {', '.join(words)}")
        return str(value)

    return check


def _texts(name: str, value: Any, fits: Callable[[str], bool], rule: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) and fits(word) for word in value):
        raise _refuse(name, value, rule)
    return tuple(value)


def _words(name: str, value: Any) -> tuple[str, ...]:
    return _texts(name, value, lambda word: bool(_WORD.fullmatch(word)), "it is a list of words")


def _allow_mounts(name: str, value: Any) -> tuple[str, ...]:
    rule = "it is a list of absolute folders, with :ro for those that are only read, none inside another"
    entries = _texts(name, value, lambda word: bool(_PATH.fullmatch(word.removesuffix(":ro"))), rule)
    folders = [os.path.normpath(entry.removesuffix(":ro")) for entry in entries]
    for folder in folders:
        # Whoever may write to the outer folder could put a link in the inner one's place.
        if folder == "/" or any(folder.startswith(f"{other}/") for other in folders):
            raise _refuse(name, value, rule)
    return tuple(folder + ":ro" * entry.endswith(":ro") for folder, entry in zip(folders, entries, strict=True))


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    return _texts(name, value, bool, "it is a list of patterns such as registry/team/*")


def _arguments(name: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
        raise _refuse(name, value, "it is a program, or a list of a program and its arguments")
    if not words[0] or any("\x00" in word for word in words):
        raise _refuse(name, value, "it is a program, or a list of a program and its arguments")
    return tuple(words)


def _mounts(name: str, value: Any) -> tuple[Mount, ...]:
    if not isinstance(value, (list, tuple)):
        raise _refuse(name, value, "it is a list of SOURCE:TARGET[:ro]")
    return tuple(parse_mount(text) for text in value)


def _tmpfs(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(target, str) for target in value):
        raise _refuse(name, value, "it is a list of folders in the container")
    return tuple(_target(target, target) for target in value)


def _count(least: int, most: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _refuse(name, value, f"it is a whole number from {least} to {most}")
        return value

    return check


def check_memory(name: str, value: Any) -> int:
    """Bytes of `512M` or a number. Raises InputError below what engines accept."""
    size = parse_size(value, what=name) if isinstance(value, (str, int)) and not isinstance(value, bool) else 0
    if not MIN_MEMORY <= size <= 1 << 50:
        raise InputError(f"{name} {value!r} is out of range; it must be at least 6M, for instance 512M or 2G")
    return size


def check_cpus(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.01 <= value <= 10_000:
        raise InputError(f"{name} must be a number of cores from 0.01, not {value!r}")
    return float(value)


def _shm(name: str, value: Any) -> int:
    size = parse_size(value, what=name) if isinstance(value, (str, int)) and not isinstance(value, bool) else 0
    if not 4096 <= size <= 1 << 50:
        raise _refuse(name, value, "it is a size such as 64M or 2G")
    return size


def _env(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and re.fullmatch(r"[A-Za-z_]\w*", key) and isinstance(text, str) and "\x00" not in text
        for key, text in value.items()
    ):
        raise _refuse(name, sorted(value) if isinstance(value, Mapping) else value, "it is a map of names to texts")
    return dict(value)


#: Options that a submitter may set, and their checks.
_SUBMITTER: dict[str, Callable[[str, Any], Any]] = {
    "pull": _one_of(*PULLS),
    "entrypoint": _arguments,
    "network": _one_of("bridge", "none"),
    "mounts": _mounts,
    "tmpfs": _tmpfs,
    "user": _user,
    "read_only": _flag,
    "init": _flag,
    "pids_limit": _count(1, 4_194_304),
    "shm_size": _shm,
}
#: Options that a queue's configuration may set, and their checks.
_QUEUE: dict[str, Callable[[str, Any], Any]] = _SUBMITTER | {
    "image": _text(IMAGE, "it is the name of an image"),
    "memory": check_memory,
    "cpus": check_cpus,
    "network": _text(_WORD, "it is the name of a network, bridge, none or host"),
    "env": _env,
    "registry_auth": _text(
        _CREDENTIAL, "it is the name of a credential that the workers have: letters, digits and _ . -"
    ),
    "privileged": _flag,
    "cap_add": _words,
    "devices": _words,
    "security_opt": _words,
    "ipc_mode": _text(_WORD, "it is a word such as host"),
    "pid_mode": _text(_WORD, "it is a word such as host"),
    "userns_mode": _text(_WORD, "it is a word such as host"),
    "runtime": _text(_WORD, "it is the name of a runtime"),
    "extra_hosts": _words,
    "dns": _words,
    "group_add": _words,
    "allow_mounts": _allow_mounts,
    "allow_volumes": _patterns,
    "allow_images": _patterns,
}
assert set(_QUEUE) == {option.name for option in fields(ContainerPlan)}
