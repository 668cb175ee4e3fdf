"""Confines one job: says in which sandbox it runs, as which user, within which limits, and what it may reach."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launch_worker.errors import StartError
from launch_worker.queues.confinement import NO_LIMITS, Limits
from launch_worker.runners.process.accounts import Account
from launch_worker.runners.process.devices import nodes_of
from launch_worker.runners.process.landlock import Rules
from launch_worker.runners.process.spawn import check_program, explain_refusal
from launch_worker.runners.process.tree import MARKS

#: Folders of which a job in a sandbox of bubblewrap gets its own, which are empty at first and gone with it.
OWN_FOLDERS = ("/tmp", "/var/tmp", "/run")
#: Folders in those that programs need of the machine: they say where its name servers are.
_OF_MACHINE = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf")
#: Numbers of the errors with which the system refuses any job.
_OF_THE_MACHINE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))
#: Variables that name folders of the machine which a job in a sandbox has not, or may not write to.
_OF_FOLDERS = ("TMPDIR", "XDG_RUNTIME_DIR")
#: Number of variables that a job can have: bubblewrap takes 9,000 words, and each variable is three.
_MOST_VARIABLES = 2900


@dataclass(frozen=True)
class Confinement:
    """How the processes of one job are confined on this machine."""

    #: private, strict, or '' for no sandbox.
    sandbox: str = ""
    #: Path of bubblewrap, which makes the sandbox; '' where Landlock does.
    bubblewrap: str = ""
    #: Account of the processes; None for the worker's own.
    account: Account | None = None
    limits: Limits = NO_LIMITS
    #: Folders and sockets of which a job in a sandbox sees nothing but what is named below. No path has links in it.
    hidden: tuple[str, ...] = ()
    #: Folders that it can read though they are hidden.
    readable: tuple[str, ...] = ()
    #: Folders of its own, in which it can write though they are hidden, as far as they are there.
    own: tuple[str, ...] = ()
    #: Folders of the machine in which it can write.
    writable: tuple[str, ...] = ()
    #: GPUs that it may use.
    gpus: tuple[str, ...] = ()

    def confine(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str
    ) -> tuple[list[str], dict[str, str], dict[str, Any]]:
        """The command and the environment of the confined job, and further fields of the guard's order.

        Raises StartError.
        """
        more = {"confined": self._in_guard} if self.account or self.limits else {}
        if not self.sandbox:
            return list(argv), dict(env), more
        if why := self.why_not_in(cwd):
            raise StartError(why)
        inside = {name: value for name, value in env.items() if name not in _OF_FOLDERS}
        if not self.bubblewrap:
            rules = Rules(
                hidden=list(self.hidden),
                readable=list(self.readable),
                writable=[*self.own, *self.writable],
                devices=nodes_of(self.gpus),
            )
            return list(argv), inside, more | {"landlock": rules}
        if self.gpus and all(gpu.isdigit() for gpu in self.gpus):
            # The driver numbers anew those that it can open.
            inside["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(len(self.gpus))))
        # bubblewrap would say so in the job's output, and exit as a job that has failed.
        try:
            check_program(list(argv), env=env, cwd=cwd)
        except (OSError, ValueError) as error:
            fault = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
            raise StartError(explain_refusal(error, "".join(argv[:1]), cwd), worker_fault=fault) from None
        if len(inside) > _MOST_VARIABLES:
            most = f"a job in a sandbox may have {_MOST_VARIABLES:,}"
            raise StartError(f"the run has {len(inside):,} environment variables; {most}")
        # bubblewrap waits outside of the sandbox. With LD_PRELOAD, for one, it would load the job's code there.
        marks = {name: env[name] for name in MARKS}
        return [*self._wrap(cwd), "--", *argv], marks, more | {"sandboxed": True, "inside": inside}

    def why_not_in(self, cwd: str) -> str:
        """Why a job may not work in this folder, as a sentence; '' where it may."""
        if not self.sandbox:
            return ""
        if cwd in self.own:
            return ""
        # The other paths have no links in them, but for those that an admin has named.
        real = os.path.realpath(cwd)
        if _is_in(real, (*self.own, *self.readable)):
            return ""
        if _is_in(real, self.hidden):
            return f"working directory {cwd!r} is hidden from jobs in a sandbox"
        # To show one of these would show what is hidden with them: sockets of services, what others keep there.
        own = _own_folders()
        is_replaced = self.bubblewrap and _is_in(real, own) and real not in own
        if is_replaced and not _is_in(real, [os.path.realpath(folder) for folder in self.writable]):
            return (
                f"working directory {cwd!r} is not there for jobs in a sandbox, which have their own "
                f"{', '.join(OWN_FOLDERS)}; use another folder, or ask an admin: launch-worker queues set QUEUE "
                "--writable FOLDER"
            )
        return ""

    def _wrap(self, cwd: str) -> list[str]:
        """The command of bubblewrap. Later mounts hide earlier ones."""
        words = [self.bubblewrap, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL"]
        if self.sandbox == "strict":
            words.append("--unshare-net")
        words += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for node in nodes_of(self.gpus):
            words += ["--dev-bind", node, node]
        for folder in OWN_FOLDERS:
            if os.path.isdir(folder) and not os.path.islink(folder):
                words += ["--tmpfs", folder]
        for folder in _OF_MACHINE:
            words += ["--ro-bind-try", folder, folder]
        for folder in self.readable:
            if not _is_below(folder, self.hidden):
                words += ["--ro-bind", folder, folder]
        for folder in self.writable:
            words += ["--bind-try", folder, folder]
        for path in self.hidden:
            if os.path.isdir(path):
                words += ["--tmpfs", path]
            elif os.path.exists(path):
                words += ["--ro-bind", "/dev/null", path]
        for folder in self.readable:
            if _is_below(folder, self.hidden):
                words += ["--ro-bind", folder, folder]
        for folder in self.own:
            words += ["--bind-try", folder, folder]
        for path in self.hidden:
            if os.path.isdir(path):
                words += ["--remount-ro", path]
        return [*words, "--chdir", cwd]

    @property
    def _in_guard(self) -> dict[str, Any]:
        """What the guard does of it (`protocol`)."""
        account = self.account
        return {
            "limits": asdict(self.limits),
            "user": None if account is None else [account.uid, account.gid, account.groups],
            "account": "" if account is None else account.name,
        }


def _is_in(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of the folders, or lies in one."""
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


@functools.cache
def _own_folders() -> tuple[str, ...]:
    return tuple(map(os.path.realpath, OWN_FOLDERS))


def _is_below(path: str, folders: Sequence[str]) -> bool:
    """Whether a path lies in one of the folders, and is none of them."""
    return any(path.startswith(f"{folder}/") for folder in folders)
