"""What a job tries against its worker and its neighbours, under each layer that may stand between them."""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import pytest

from launch_worker.api.client import Run
from launch_worker.model.states import RunState
from launch_worker.queues.queue import QueueConfig
from launch_worker.runners.process import tree
from launch_worker.runners.process.control_groups import hierarchies
from launch_worker.runners.process.layers import Layers
from tests.conftest import wait_until
from tests.security.site import WORKER_UID, Site, as_account, opening
from tests.system.conftest import Part, states, wait_for_pid
from tests.system.test_failures import guard_of

#: Value in the neighbour's environment, and a line of its output.
SECRET = "the-secret-of-the-neighbour"
#: What a job prints when it has got what it wanted.
GOT = b"GOT"


@dataclass(frozen=True)
class Attack:
    """Lines of sh, which print `GOT` when they have succeeded."""

    row: str
    script: str
    #: Layers under which it succeeds.
    under: frozenset[str] = frozenset()
    #: File outside of the job that is there when it has succeeded; with the names of `places`.
    plants: str = ""
    #: Variables of the job that tries; with the names of `places`.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Word on the command line of a process that is left when it has succeeded.
    leaves: str = ""


@dataclass(frozen=True)
class Layer:
    """A worker's queue with a setting under which jobs run."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: Variables of its worker.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Settings of the neighbour's queue, where that is another one.
    of_neighbour: Mapping[str, Any] = field(default_factory=dict)
    #: Whether its worker is root, and not the usual account.
    is_root: bool = False
    #: Whether its worker may divide control groups.
    has_groups: bool = False


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("none"),
        Layer("private", {"sandbox": "private"}),
        Layer("strict", {"sandbox": "strict"}),
        # Beside an engine's socket in /tmp, which is hidden, Landlock lets a job make no file.
        Layer("landlock", {"sandbox": "private"}, {"LAUNCH_BWRAP": "/nowhere/bwrap", "DOCKER_HOST": ""}),
        Layer("limits", {"limits": {"pids": 1000}}, has_groups=True),
        Layer("run_as", {"run_as": "nobody"}, of_neighbour={"run_as": "bin"}, is_root=True),
    )
}


def under(*layers: str) -> frozenset[str]:
    assert set(layers) <= {*LAYERS, "landlock", "private", "strict", "run_as", "limits"}
    return frozenset(layers)


#: Layers that leave all processes of one user's to each other.
ONE_USER = ("none", "limits")
#: Layers under which everything that the worker's user may read is read, and loopback is reached.
READING = (*ONE_USER, "private", "landlock")


def planting(row: str, path: str, *layers: str) -> Attack:
    """An attack that makes a file outside of its job."""
    return Attack(row, f"touch {path}", under(*layers), plants=path)


#: Seconds that a process sleeps which hides: a number of this process alone, for others of the suite try the same.
NAP_S = f"4701.{os.getpid()}"

#: Variables of a job that tries: WORKER, GUARD, VICTIM (pids), RUN (the neighbour's folder), WORK (the worker's), PORT
#: (of Redis), PYTHON.
ATTACKS = {
    "the worker's environment is read": Attack(
        "F1", "cat /proc/$GUARD/environ /proc/$WORKER/environ | grep -q LAUNCH_REDIS_URL && echo GOT"
    ),
    "the worker's login is found anywhere in /proc": Attack(
        "F1", "cat /proc/[0-9]*/environ 2>/dev/null | grep -aq worker-pw && echo GOT"
    ),
    "the worker's memory is read": Attack(
        "F2", "head -c 1 /proc/$WORKER/maps /proc/$GUARD/maps && echo GOT; head -c 1 /proc/$WORKER/mem && echo GOT"
    ),
    "the worker's open files are listed": Attack("F2", "ls /proc/$WORKER/fd/ /proc/$GUARD/fd/ && echo GOT"),
    "a neighbour's environment is read": Attack(
        "F3", f"cat /proc/$VICTIM/environ | grep -aq {SECRET} && echo GOT", under(*ONE_USER)
    ),
    "a neighbour's memory is read": Attack("F3", "head -c 1 /proc/$VICTIM/maps && echo GOT", under(*ONE_USER)),
    "a neighbour's output is read": Attack("F3", f"grep -q {SECRET} $RUN/output && echo GOT", under(*ONE_USER)),
    "a neighbour's talk is written": planting("F3", "$RUN/talk/planted", *ONE_USER),
    "a neighbour's end is forged": planting("F6", "$RUN/report.json.forged", *ONE_USER),
    "the worker's folder is written": planting("F6", "$WORK/workers/planted", *ONE_USER),
    # Landlock does not keep anybody from changing modes, times and attributes.
    "the worker's folder is closed to its worker": Attack(
        "F6", "chmod 700 $WORK/workers && echo GOT", under(*ONE_USER, "landlock")
    ),
    # By a loader that reads these before its program begins. LD_PRELOAD would have it load a file of the job's code.
    "the loader of its program acts outside of its job": Attack(
        "F20",
        ":",
        under(*ONE_USER),
        plants="$WORK/planted.*",
        env={"LD_DEBUG": "statistics", "LD_DEBUG_OUTPUT": "$WORK/planted"},
    ),
    "the cache of repositories is written": planting("D10", "$WORK/planted", *ONE_USER),
    "the guard is signalled": Attack("F7", "kill -0 $GUARD && echo GOT", under(*ONE_USER)),
    "a process hides from the end of its run": Attack(
        "F8",
        f"prlimit --locks=17:17 env -i setsid sh -c 'exec sleep {NAP_S}' >/dev/null 2>&1 </dev/null & sleep 0.2",
        under("none", "landlock"),
        leaves=NAP_S,
    ),
    "the worker is signalled": Attack("F11", "kill -0 $WORKER && echo GOT", under(*ONE_USER)),
    "a neighbour is signalled": Attack("F11", "kill -0 $VICTIM && echo GOT", under(*ONE_USER)),
    "the guard's door opens": Attack(
        "F12",
        """$PYTHON -I -S -c '
import glob, os, socket
os.chdir(glob.glob(os.environ["WORK"] + "/workers/*")[0])
s = socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect("guard.sock")
s.sendall(b"{\\"do\\": \\"take\\", \\"protocol\\": 1}\\n")
print("GOT" if b"taken" in s.recv(1000) else "closed")' || true""",
    ),
    "a file in /tmp is seen by others": planting(
        "F18", f"/tmp/launch-security-{os.getpid()}", *ONE_USER, "landlock", "run_as"
    ),
    "the account's home is written": planting("F18", "$HOME/planted", *ONE_USER),
    "the account's home is read": Attack("F18", "cat ~/private >/dev/null && echo GOT", under(*READING, "strict")),
    "Redis' port is reached": Attack(
        "F18",
        """$PYTHON -I -S -c '
import os, socket
socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))
print("GOT")'""",
        under(*READING, "run_as"),
    ),
}


@contextlib.contextmanager
def work_of(site: Site, layer: Layer) -> Iterator[Path]:
    """The work folder of a layer's worker: one of root's own, where that is root."""
    if not layer.is_root:
        yield site.home / "work"
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@contextlib.contextmanager
def worker_under(site: Site, layer: Layer, work: Path) -> Iterator[Part]:
    """A worker whose queue, of the layer's name, has the layer's settings; `work` is its folder."""
    if not layer.settings:
        yield site.worker
        return
    admin = site.api("admin")
    queues = {layer.name: layer.settings} | (
        {neighbours_queue(layer): layer.of_neighbour} if layer.of_neighbour else {}
    )
    for queue, settings in queues.items():
        admin.create_queue(queue, **settings)
    env = {"LAUNCH_HEALTH_ADDRESS": "", "LAUNCH_WORK_DIR": str(work), "LAUNCH_ALLOW_ROOT": "1", **layer.env}
    with own_groups(is_wanted=layer.has_groups) as words:
        by = as_root if layer.is_root else as_account(WORKER_UID)
        worker = site.cluster.worker(
            ",".join(queues), slots=4, name=layer.name, by=lambda *argv: [*words, *by(*argv)], cwd=site.home, env=env
        )
        try:
            yield worker
        finally:
            worker.kill()
            for queue in queues:
                admin.delete_queue(queue)


def neighbours_queue(layer: Layer) -> str:
    return f"{layer.name}-neighbour" if layer.of_neighbour else "default" if layer.name == "none" else layer.name


def as_root(*argv: str) -> list[str]:
    """What makes a command root's, with a Python that other accounts can execute too."""
    return ["unshare", "--mount", "sh", "-c", f"{opening()}\nexec {shlex.join(argv)}"]


@contextlib.contextmanager
def own_groups(*, is_wanted: bool) -> Iterator[list[str]]:
    """The words with which a command begins in control groups that the worker's account may divide; none for none."""
    if not is_wanted:
        yield []
        return
    where = hierarchies()
    folders = [f"{base}/security.{os.getpid()}" for base in {where.v2, where.v1.get("pids", "")} if base]
    for folder in folders:
        os.mkdir(folder)
        for path in (folder, *(f"{folder}/{name}" for name in os.listdir(folder))):
            os.chown(path, WORKER_UID, WORKER_UID)
    try:
        entering = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
        yield ["sh", "-c", f'{entering}; exec "$@"', "sh"]
    finally:
        for folder in folders:
            wait_until(lambda: removed(folder), what="the group is empty")  # noqa: B023


def removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def outcomes_under(site: Site, layer: Layer) -> set[str]:
    """The attacks that succeed under a layer; the neighbour there must end Finished."""
    queue = layer.name if layer.name != "none" else "default"
    (site.home / "private").write_text("x")
    with work_of(site, layer) as work, worker_under(site, layer, work) as worker:
        until_told = f"echo {SECRET}; until [ -e $LAUNCH_RUN_DIR/end ]; do sleep 0.05; done"
        victim = site.submit("sh", "-c", until_told, queue=neighbours_queue(layer), env={"SECRET": SECRET})
        pid = wait_for_pid(victim)
        wait_until(lambda: SECRET.encode() in victim.logs(), what="it has printed")
        [folder] = work.glob(f"workers/*/runs/{victim.id}.*")
        given = {"WORKER": worker.pid, "GUARD": guard_of(worker.pid), "VICTIM": pid, "RUN": folder, "WORK": work}
        places = {"RUN": str(folder), "WORK": str(work), "HOME": str(site.home)}
        given |= {"PORT": site.redis.port, "PYTHON": sys.executable}
        env = {name: str(value) for name, value in given.items()}
        runs: dict[str, Run] = {
            name: site.submit(
                *("sh", "-c", f"exec 2>&1\n{attack.script}"),
                queue=queue,
                env=env | {name: Template(value).substitute(places) for name, value in attack.env.items()},
            )
            for name, attack in ATTACKS.items()
        }
        for name, run in runs.items():
            assert run.wait(30) in (RunState.FINISHED, RunState.FAILED), (name, run.record.reason)
        succeeded = {name for name, run in runs.items() if GOT in run.logs()}
        succeeded |= {name for name, attack in ATTACKS.items() if attack.leaves and ended(attack.leaves)}
        succeeded |= {name for name, attack in ATTACKS.items() if attack.plants and taken(attack.plants, places)}
        (folder / "talk" / "end").touch()
        assert victim.wait(20) is RunState.FINISHED, victim.record.reason
        assert states(victim) == ["Pending", "Running", "Finished"]
        assert not victim.record.summary, "nothing was told in its name"
    return succeeded


def taken(path: str, places: Mapping[str, str]) -> bool:
    """Delete the files that were planted, of a path that may be a pattern; whether there was one."""
    found = glob.glob(Template(path).substitute(places))
    for each in found:
        os.unlink(each)
    return bool(found)


def ended(word: str) -> bool:
    """End the processes that have this word on their command line; whether there was one."""
    found = [p.id for p in tree.table() if not p.zombie and word in command_of(p.id.pid)]
    for each in found:
        tree.send(each, 9)
    return bool(found)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_job_can_do_is_what_its_layer_leaves_it(site: Site, accounts: None, name: str) -> None:
    if not os.environ.get("CI") and (why := why_not(LAYERS[name])):
        pytest.skip(why)
    expected = {what for what, attack in ATTACKS.items() if name in attack.under}
    assert outcomes_under(site, LAYERS[name]) == expected


def why_not(layer: Layer) -> str:
    """Why this machine does not have the layer; '' where it has."""
    layers = Layers(Path("/"), bwrap=layer.env.get("LAUNCH_BWRAP", ""))
    return layers.why_not(QueueConfig(**layer.settings).demands) if layer.settings else ""


def table() -> str:
    """The table of the docs: a column for each layer, and a row for each attack."""
    names = list(LAYERS)
    head = ["", *("without any" if name == "none" else f"`{name}`" for name in names)]
    lines = [head, ["---"] * len(head)]
    lines += [[what, *("**yes**" if name in one.under else "no" for name in names)] for what, one in ATTACKS.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("|  |", "| |")


def test_the_table_in_the_docs_is_what_is_tried() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    assert table() in page, f"put this into docs/security.md:\n{table()}"
