"""Gives each job a control group of its own, which bounds its processes and finds and ends all of them.

No process leaves its group by a new session, a new parent or an empty environment. A group is one folder below the
worker's own group: in cgroup v2, where that was delegated to the worker, and in each hierarchy of cgroup v1 in which
the worker may make one. On a machine with both, v1 has the controllers and v2 ends the group at once.

Standard library only, and cheap to import: the guard is a small process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId

#: Controllers by the limits that they enforce.
CONTROLLERS = {"memory": "memory", "pids": "pids", "millicores": "cpu"}
#: Name of the subgroup in which a worker itself is, so that its group may have controllers (`DelegateSubgroup=`).
OWN_SUBGROUP = "launch_worker"
_PREFIX = "launch."
_PERIOD_US = 100_000
#: Seconds for which the kernel may call an empty group busy, and between two tries to delete it.
_BUSY_S = 0.5
_AGAIN_S = 0.005
_OOM_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class Hierarchies(NamedTuple):
    """Where this process can make groups: the folder of its own group, by hierarchy."""

    #: Folder in cgroup v2; '' for none.
    v2: str = ""
    #: Controllers that groups in v2 may have.
    controllers: frozenset[str] = frozenset()
    #: Folders in cgroup v1, by controller.
    v1: Mapping[str, str] = {}

    def why_not(self, limits: Mapping[str, int]) -> str:
        """Why these limits cannot be enforced here, as a clause; '' where they can."""
        wanted = sorted({CONTROLLERS[name] for name, limit in limits.items() if limit})
        missing = [name for name in wanted if name not in self.controllers and name not in self.v1]
        if not missing:
            return ""
        return (
            f"no control group with {' and '.join(missing)} is this worker's to divide (in its unit: Delegate=yes and "
            f"DelegateSubgroup={OWN_SUBGROUP})"
        )


class Group:
    """The group of one job."""

    def __init__(self, folders: Mapping[str, str], v2: str) -> None:
        #: Folders of the group in v1 by controller.
        self._v1 = folders
        #: Folder of the group in v2; '' for none.
        self.v2 = v2

    def __bool__(self) -> bool:
        return bool(self._v1 or self.v2)

    @property
    def _folders(self) -> list[str]:
        return [*([self.v2] if self.v2 else []), *self._v1.values()]

    def enter(self, *, but_v2: bool) -> None:
        """Move this process into the group; `but_v2` where it was started there. Raises OSError."""
        for folder in self._folders:
            if not (but_v2 and folder == self.v2):
                _write(f"{folder}/cgroup.procs", "0")

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Set the limits, of which 0 is none. Raises OSError."""
        for name, limit in limits.items():
            if not limit:
                continue
            v1 = self._v1.get(CONTROLLERS[name], "")
            for path, text, must in _files(name, limit, v1, self.v2):
                if must or os.path.exists(path):
                    _write(path, text)

    def living(self) -> list[ProcessId]:
        """The living processes of the group."""
        found = [tree.look_up(pid) for pid in self._pids()]
        return [process.id for process in found if process is not None and not process.zombie]

    def _pids(self) -> set[int]:
        pids: set[int] = set()
        for folder in self._folders:
            with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", "rb") as listed:
                pids.update(int(pid) for pid in listed.read().split())
        return pids - {0, os.getpid()}

    def kill(self) -> bool:
        """End all of its processes at once; False where the kernel cannot, and then at least none can be added."""
        if self.v2:
            with contextlib.suppress(OSError):
                _write(f"{self.v2}/cgroup.kill", "1")
                return True
        if "pids" in self._v1:
            with contextlib.suppress(OSError):
                _write(f"{self._v1['pids']}/pids.max", "0")
        return False

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed as they needed more memory than their limit."""
        memory = self._v1.get("memory")
        path = f"{self.v2}/memory.events" if memory is None else f"{memory}/memory.oom_control"
        try:
            with open(path, "rb") as events:
                found = _OOM_KILLS.search(events.read())
        except OSError:
            return 0
        return 0 if found is None else int(found[1])

    def remove(self) -> bool:
        """Delete the group; False while it is not empty, or the kernel is not done with it."""
        is_gone = True
        for folder in self._folders:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                is_gone = False
        return is_gone


def make_group(name: str, limits: Mapping[str, int]) -> Group | None:
    """Make the group of the job whose attempt has this name; None where there is none to be made. Raises OSError."""
    where = hierarchies()
    wanted = {CONTROLLERS[limit] for limit, value in limits.items() if value}
    missing = where.why_not(limits)
    if missing:
        raise OSError(missing)
    # Without v2 a job without limits needs a group too, so that none of its processes hides.
    in_v1 = wanted or (set() if where.v2 else {"pids"})
    v1 = {name: folder for name, folder in where.v1.items() if name in in_v1}
    folders = {controller: f"{folder}/{_PREFIX}{name}" for controller, folder in v1.items()}
    group = Group(folders, f"{where.v2}/{_PREFIX}{name}" if where.v2 else "")
    if not group:
        return None
    try:
        if group.v2 and wanted - set(v1):
            _enable(where.v2, wanted - set(v1))
        for folder in group._folders:
            # A guard that died may have come so far.
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        group.set_limits(limits)
    except OSError:
        group.remove()
        raise
    return group


def find_group(name: str) -> Group | None:
    """The group that a guard made for the job whose attempt has this name; None where there is none."""
    where = hierarchies()
    folders = {controller: f"{folder}/{_PREFIX}{name}" for controller, folder in where.v1.items()}
    v2 = f"{where.v2}/{_PREFIX}{name}" if where.v2 else ""
    group = Group({key: path for key, path in folders.items() if os.path.isdir(path)}, v2 if os.path.isdir(v2) else "")
    return group or None


def end_group(name: str) -> bool:
    """End what is left in the group of a job whose guard is gone, and delete it; False while something is left."""
    group = find_group(name)
    if group is None:
        return True
    group.kill()
    is_empty = tree.end(group.living, wait=time.sleep)
    return is_empty and remove_soon([group]) == []


def remove_soon(groups: list[Group]) -> list[Group]:
    """Delete empty groups, with which the kernel may not be done yet; those that stay."""
    until = time.monotonic() + _BUSY_S
    while (groups := [group for group in groups if not group.remove()]) and time.monotonic() < until:
        time.sleep(_AGAIN_S)
    return groups


@functools.cache
def hierarchies() -> Hierarchies:
    """Where this process can make groups."""
    try:
        with open("/proc/self/cgroup") as file:
            own = [line.rstrip("\n").split(":", 2) for line in file]
        with open("/proc/self/mountinfo") as file:
            mounts = list(_mounts(file))
    except (OSError, ValueError):
        return Hierarchies()
    return find_hierarchies([(controllers, path) for _, controllers, path in own], mounts)


def find_hierarchies(own: list[tuple[str, str]], mounts: list[tuple[str, str, str, str]]) -> Hierarchies:
    """Where a process can make groups, by its groups (controllers, path) and the mounts that show them.

    A mount is its root, its folder, its kind (cgroup, cgroup2) and its options.
    """
    v2, controllers, v1 = "", frozenset[str](), {}
    for names, path in own:
        for root, folder, kind, options in mounts:
            if names == "" and kind == "cgroup2":
                v2 = v2 or _divisible(_below(folder, root, path), is_top=_is_top(path))
            elif names and kind == "cgroup" and set(names.split(",")) <= set(options.split(",")):
                base = _below(folder, root, path)
                for name in set(names.split(",")) & set(CONTROLLERS.values()):
                    if os.access(base, os.W_OK) and name not in v1:
                        v1[name] = base
    if v2:
        with contextlib.suppress(OSError):
            controllers = frozenset(_read(f"{v2}/cgroup.controllers").split()) & set(CONTROLLERS.values())
    return Hierarchies(v2, controllers, v1)


def _mounts(lines: Iterator[str]) -> Iterator[tuple[str, str, str, str]]:
    for line in lines:
        first, _, last = line.partition(" - ")
        kind, _, options = last.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield first.split()[3], first.split()[4], kind, options.strip()


def _below(folder: str, root: str, path: str) -> str:
    """The folder of a group; the mount may show a part of the hierarchy only, as in a container."""
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    below = os.path.normpath(f"{folder}/{inside}")
    return below if os.path.isdir(below) else folder


def _divisible(folder: str, *, is_top: bool) -> str:
    """The folder in v2 in which this process may make groups; '' where it may not.

    Root may everywhere, but a group that was not delegated is its service manager's to divide.
    """
    if os.path.basename(folder) == OWN_SUBGROUP:
        folder = os.path.dirname(folder)
    is_delegated = is_top or os.geteuid() != 0 or _has_mark(folder)
    may_write = os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
    return folder if is_delegated and may_write else ""


def _is_top(path: str) -> bool:
    """Whether a process is in its container's topmost group, or was moved by `_leave` to the subgroup of that."""
    return path in ("/", f"/{OWN_SUBGROUP}")


def _has_mark(folder: str) -> bool:
    """Whether systemd has marked a group as delegated."""
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False


def _enable(folder: str, names: set[str]) -> None:
    """Let groups in this folder of v2 have these controllers. Raises OSError."""
    missing = names - set(_read(f"{folder}/cgroup.subtree_control").split())
    if missing:
        if _is_top(_read("/proc/self/cgroup").splitlines()[-1].removeprefix("0::")):
            _leave(folder)
        _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _leave(folder: str) -> None:
    """Move all processes of a container's topmost group to a subgroup: a group with controllers may have none."""
    with contextlib.suppress(OSError):
        if not os.path.exists(f"{folder}/cgroup.type"):
            return  # the topmost group of the machine may have both
        os.makedirs(f"{folder}/{OWN_SUBGROUP}", exist_ok=True)
        for pid in _read(f"{folder}/cgroup.procs").split():
            with contextlib.suppress(OSError):
                _write(f"{folder}/{OWN_SUBGROUP}/cgroup.procs", pid)


def _files(name: str, limit: int, v1: str, v2: str) -> Iterator[tuple[str, str, bool]]:
    """The files that set a limit, with their texts; and whether each must be there."""
    if name == "memory" and v1:
        yield f"{v1}/memory.limit_in_bytes", str(limit), True
        yield f"{v1}/memory.memsw.limit_in_bytes", str(limit), False
    elif name == "memory":
        yield f"{v2}/memory.max", str(limit), True
        yield f"{v2}/memory.swap.max", "0", False
    elif name == "pids":
        yield f"{v1 or v2}/pids.max", str(limit), True
    elif v1:
        yield f"{v1}/cpu.cfs_period_us", str(_PERIOD_US), True
        yield f"{v1}/cpu.cfs_quota_us", str(limit * _PERIOD_US // 1000), True
    else:
        yield f"{v2}/cpu.max", f"{limit * _PERIOD_US // 1000} {_PERIOD_US}", True


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
