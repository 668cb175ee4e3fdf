"""Keeps one attempt's files on disk: its output, its talk, and its report until Redis has that.

    work_dir/workers/OWNER/lock             locked while the worker or its guard lives
    work_dir/workers/OWNER/{host, worker}   the machine's name, and the worker's node name
    work_dir/workers/OWNER/guard.sock       where its guard answers the next worker
    work_dir/workers/OWNER/exits            how its jobs ended, by attempt (`launch_worker.runners.process.exits`)
    work_dir/workers/OWNER/runs/RUN.ATTEMPT.TOKEN/{output, config.json, talk/, …}
        and, where there is something to keep, {work/, code/, environment, words.json, usage.json, report.json}
    work_dir/workers/OWNER/runs/RUN.ATTEMPT.TOKEN/outputs/                   (`launch_worker.outputs.outgoing`)
    work_dir/workers/OWNER/runs/RUN.ATTEMPT.TOKEN/{checkpoint/, taken.…/}   a job's states (`outputs.snapshot`)
    work_dir/workers/OWNER/spare/           folders with empty files, kept for reuse
    work_dir/undeleted/                     what is left of attempts whose folder could not be deleted
    work_dir/containers                     there once a worker of this machine has made a container

Reports that a worker could not deliver are delivered by the next one of the machine (`launch_worker.agent.recovery`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import stat
import time
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from launch_worker.attempt.folder_reuse import CONFIG, OUTPUT, ReusableFolder, ReusableFolders
from launch_worker.clock import boot_time_s
from launch_worker.code.cache import HELD
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.usage import NO_USAGE, KeptUsage, Recorder
from launch_worker.outputs import outgoing
from launch_worker.runners.process.accounts import Account
from launch_worker.runners.process.exits import Exit, read_exits
from launch_worker.runners.talk_folder import TALK
from launch_worker.untrusted.plain_files import read_plain
from launch_worker.untrusted.removal import remove_tree
from launch_worker.untrusted.text import read_json

log = logging.getLogger("launch_worker.spool")

#: Name of the folder that a job finds its checkpoints in, and leaves them.
CHECKPOINT = "checkpoint"
_CONTAINER = "container"
#: Name of the working folder of a job that asked for none.
WORK = "work"
_HOLDING = "holding.json"
_SIGNALLED = "signalled"
#: Flags with which a file is written that is no link, and no pipe, in whose place a job of this user has put it.
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Bytes of a file of the worker's own at most: a record has its spec, of a mebibyte, and an outcome.
_MOST_BYTES = 16 << 20
_ATTEMPT = re.compile(r"[0-9A-Za-z]{1,100}\.[0-9]{1,19}\.[0-9]{1,19}")
#: Seconds of a job's life up to which its folder is reused. Longer jobs are too few to matter, and other processes may
#: have their folders open, as a container to which a job has mounted its `talk`.
_BRIEF_S = 2.0


class Report(NamedTuple):
    """How an attempt ended, as its worker kept it."""

    record: Record
    step: NextStep
    #: Holder of the lease.
    owner: str
    #: Seconds since the end; None where that is not known.
    ended_ago_s: float | None
    used: KeptUsage = NO_USAGE


class AttemptFolder:
    """The folder of one attempt's files. Its name is the attempt's, so that nothing in it must be read for that."""

    def __init__(self, path: str | Path, reusable: ReusableFolders | None = None) -> None:
        #: Path as text: most of what is done here is done for each job, and pathlib takes longer than the kernel.
        self.root = os.fspath(path)
        self._reusable = reusable
        self._reused: ReusableFolder | None = None
        #: The job's account; None for the worker's own user.
        self._account: Account | None = None
        self._made_s = -math.inf
        #: Bytes in the configuration's file, at most.
        self._config_bytes = 0
        self._is_container: bool | None = None
        self._has_work = False
        #: Whether there is a folder of outputs; None where another worker made this folder.
        self._has_outputs: bool | None = None
        #: Whether the folder of outputs is still there, and empty.
        self._has_empty_outputs = False
        self._has_checkpoint = False
        #: Names of written files that not every job has.
        self._more: set[str] = set()

    def __repr__(self) -> str:
        return f"AttemptFolder({self.root!r})"

    @cached_property
    def path(self) -> Path:
        return Path(self.root)

    @property
    def run_id(self) -> str:
        return self._named[0]

    @property
    def attempt(self) -> int:
        return int(self._named[1])

    @property
    def token(self) -> int:
        return int(self._named[2])

    @property
    def _named(self) -> list[str]:
        return self.root.rpartition("/")[2].split(".")

    @property
    def key(self) -> str:
        """RUN.ATTEMPT, by which the guard knows the job."""
        return f"{self.run_id}.{self.attempt}"

    @cached_property
    def output(self) -> Path:
        return Path(f"{self.root}/{OUTPUT}")

    @cached_property
    def talk(self) -> Path:
        """The folder of the job's talk (`launch_worker.attempt.talk`)."""
        return self.path / TALK

    @property
    def is_container(self) -> bool:
        """Whether the job is a container, which may have outlived its worker."""
        if self._is_container is None:
            self._is_container = os.path.exists(f"{self.root}/{_CONTAINER}")
        return self._is_container

    def make(self, *, for_process: bool = True, account: Account | None = None) -> None:
        """Make the folder, and that of its talk; `account` is the job's, where it has another one. Raises OSError."""
        self._is_container = False
        self._has_outputs = False
        self._made_s = time.monotonic()
        self._account = account
        if account is not None:
            # A folder that a job of one account has had is not another one's.
            self._reusable = None
        if for_process and self._reusable is not None:
            self._reused = self._reusable.take(self.root)
            if self._reused is not None:
                self._config_bytes = self._reused.config_bytes
                self._has_empty_outputs = bool(self._reused.outputs)
                return
        try:
            os.mkdir(self.root, 0o700)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(self.root), 0o700)
            os.mkdir(self.root, 0o700)
        os.mkdir(f"{self.root}/{TALK}", 0o700)
        if account is not None:
            self._open_to(account)
            self.give(f"{self.root}/{TALK}")

    def _open_to(self, account: Account) -> None:
        """Let an account come to its folders in this one, which stays the worker's: it can neither list nor change it.

        Raises OSError.
        """
        os.chown(self.root, -1, account.gid)
        os.chmod(self.root, 0o710)
        _let_through(*self.path.parents[:4])

    def show_environment(self, path: str) -> None:
        """Let the job's account come to its Python environment, which stays the worker's. Raises OSError."""
        if self._account is not None:
            work_dir = self.path.parents[3]
            _let_through(*(folder for folder in Path(path).parents if work_dir in folder.parents))

    def give(self, path: str) -> None:
        """Give a file or a folder, with all in it, to the job's account, where it has another one. Raises OSError.

        Another job of that account may be there already, and put links in the place of what is given: nothing outside
        of the folder is given then.
        """
        if self._account is not None:
            give_away(path, self._account)

    @property
    def is_disk_short(self) -> bool:
        """Whether the disk may be full before the job's output has room ahead. Raises OSError."""
        return self._reusable is None or self._reusable.is_disk_short

    def make_work(self) -> str:
        """Make the working folder of a job that asked for none; returns its path. Raises OSError."""
        path = f"{self.root}/{WORK}"
        # The job's group may be others' too, as `users` is.
        os.mkdir(path, 0o700)
        self.give(path)
        self._has_work = True
        return path

    def make_outputs(self, patterns: tuple[str, ...]) -> str:
        """Make the folder of the job's outputs, of which these patterns are kept; returns its path. Raises OSError."""
        self._has_outputs = True
        if self._reused is not None and self._reused.outputs:
            return outgoing.choose_outputs(self.root, patterns)
        path = outgoing.make_outputs(self.root, patterns)
        if self._account is not None:
            os.chmod(os.path.dirname(path), 0o711)  # below a folder that lets no other account in
            self.give(path)
        return path

    def outputs_of_container(self, patterns: tuple[str, ...]) -> Path:
        """The folder for a copy of the outputs of a container, which another worker may have made. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            self.make_outputs(patterns)
        return outgoing.files_of(self.root)

    @property
    def has_outputs(self) -> bool:
        """Whether the job has left outputs by now; a container may have, as far as is known before it has ended."""
        if self._has_outputs is False:
            return False
        return outgoing.has_outputs(self.root) or (self.is_container and outgoing.files_of(self.root).exists())

    def leave_outputs(self) -> bool:
        """Leave the outputs of an ended job to those who send them; returns whether there are some. Raises OSError.

        Can be repeated.
        """
        if self._has_outputs is False:
            return False
        keeps_empty = self._has_outputs is True and self._reusable is not None
        are_left = outgoing.leave_outputs(self.path.parents[3], self.root, keeps_empty=keeps_empty)
        self._has_outputs, self._has_empty_outputs = False, keeps_empty and not are_left
        return are_left

    def make_checkpoint(self) -> str:
        """Make the folder of the job's checkpoints, which is given once it is restored; its path. Raises OSError."""
        path = f"{self.root}/{CHECKPOINT}"
        os.mkdir(path, 0o700)
        self._has_checkpoint = True
        return path

    def write_config(self, data: bytes) -> str:
        """Write the job's configuration; returns its path. Raises OSError."""
        path = f"{self.root}/{CONFIG}"
        old_bytes, self._config_bytes = self._config_bytes, max(self._config_bytes, len(data))
        # Not O_TRUNC: to free the old content's block, and to take one again, costs more than all the rest.
        fd = os.open(path, _WRITE, 0o600)
        try:
            if old_bytes > len(data):
                os.ftruncate(fd, len(data))
            _write(fd, data)
        finally:
            os.close(fd)
        self._config_bytes = len(data)
        self.give(path)
        return path

    def write(self, name: str, data: bytes) -> str:
        """Write another file, which no process reads yet; returns its path. Raises OSError."""
        path = f"{self.root}/{name}"
        self._more.add(name)
        fd = os.open(path, _WRITE | os.O_TRUNC, 0o600)
        try:
            _write(fd, data)
        finally:
            os.close(fd)
        return path

    def mark_container(self, record: Record) -> None:
        """Note that there may be a container from now on; call it before one is made. Raises OSError."""
        self.keep_record(record)
        (self.path / _CONTAINER).touch()
        self._is_container = True

    def keep_record(self, record: Record) -> None:
        """Keep the record as it was claimed or adopted, for the next worker that adopts the job."""
        self._keep("record", record.to_hash() | {"owner": record.owner})

    def _keep(self, name: str, value: dict[str, Any]) -> None:
        """Write a file whole or not at all: the writer may die meanwhile. Raises OSError."""
        partial = self.write(f"{name}.partial", json.dumps(value).encode())
        os.rename(partial, f"{self.root}/{name}.json")
        self._more = {*self._more, f"{name}.json"} - {f"{name}.partial"}

    def read_record(self) -> Record | None:
        try:
            return Record.from_hash(read_json(read_plain(f"{self.root}/record.json", most_bytes=_MOST_BYTES)))
        except (OSError, ValueError, AttributeError):
            return None

    def keep_holding(self, record: Record) -> None:
        """Keep what the attempt holds of its machine, for as long as this folder is there. Raises OSError."""
        self.write(_HOLDING, json.dumps({"gpus": record.gpus, "needs": record.needs}).encode())

    def read_holding(self) -> tuple[tuple[str, ...], str]:
        """The devices that the attempt holds, and its needs; nothing where none were kept."""
        try:
            kept = read_json(read_plain(f"{self.root}/{_HOLDING}", most_bytes=_MOST_BYTES))
            return tuple(map(str, kept["gpus"])), str(kept["needs"])
        except (OSError, ValueError, KeyError, TypeError):
            return (), ""

    def note_signal(self) -> None:
        """Keep that the job gets the signal ahead of its end. A full disk is logged: the signal matters more."""
        try:
            self.write(_SIGNALLED, b"")
        except OSError as error:
            log.error("signal.not_noted run=%s: %s", self.run_id, error)

    @property
    def was_signalled(self) -> bool:
        """Whether the job got the signal ahead of its end."""
        return os.path.exists(f"{self.root}/{_SIGNALLED}")

    def keep_environment(self, key: str) -> None:
        """Keep which Python environment the attempt has: for as long as this folder is there nobody deletes it."""
        self.write(HELD, key.encode())

    def keep_usage(self, recorder: Recorder) -> None:
        """Keep what the job has used by now, for the next worker. Raises OSError."""
        self._keep("usage", recorder.state())

    def read_usage(self) -> Recorder | None:
        """What another worker has kept of the job's usage; None where nothing can be read."""
        try:
            return Recorder.resume(read_plain(f"{self.root}/usage.json", most_bytes=_MOST_BYTES))
        except OSError:
            return None

    def write_report(
        self, record: Record, step: NextStep, *, owner: str, ended_s: float, used: KeptUsage = NO_USAGE
    ) -> None:
        """Keep how the attempt ended, and when (boot time). A full disk is logged: the end is delivered from memory."""
        # Not `asdict`, which copies deeply.
        known = vars(step) | {"outcome": vars(step.outcome)}
        try:
            # The wall clock too: the machine may be restarted before the report is delivered.
            ended = {"boot": _boot_id(), "boot_s": ended_s, "wall_s": time.time() - (boot_time_s() - ended_s)}
            report = {"record": record.to_hash(), "step": known, "owner": owner, "ended": ended, "used": used}
            self._keep("report", report)
        except OSError as error:
            log.error("report.not_kept run=%s: %s", record.id, error)

    def read_report(self) -> Report | None:
        """The kept end; None when none can be read."""
        try:
            report = read_json(read_plain(f"{self.root}/report.json", most_bytes=_MOST_BYTES))
            step = report["step"]
            ended = step.pop("outcome")
            outcome = Outcome(**ended | {"state": RunState(ended["state"])})
            return Report(
                Record.from_hash(report["record"]),
                NextStep(outcome, **step),
                str(report["owner"]),
                _ago_s(report.get("ended")),
                _used(report.get("used")),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("report.damaged folder=%s: %r", self.root, error)
            return None

    def read_exit_status(self) -> int | None:
        """The exit status that the guard kept; None when the job was ended, or no status was kept."""
        kept = self.read_exit()
        if kept is not None:
            return None if kept.stopped_by else kept.status
        try:
            # Written by a guard of the release before this one, which may have outlived its worker.
            return int(read_plain(f"{self.root}/exit-status", most_bytes=100))
        except (OSError, ValueError):
            return None

    def exit_status_age_s(self) -> float | None:
        """Seconds since the exit status was kept; None when that is not known."""
        kept = self.read_exit()
        # The boot clock begins anew when the machine starts.
        return boot_time_s() - kept.at if kept is not None and 0 < kept.at <= boot_time_s() else None

    def read_exit(self) -> Exit | None:
        """How its main process ended, as the guard kept it; None when it did not."""
        folder, _, name = self.root.rpartition("/runs/")
        return read_exits(folder).get(name)

    def remove(self) -> None:
        """Delete the folder, or keep it for reuse; what cannot be deleted is set aside, and outputs are not deleted."""
        try:
            self.leave_outputs()
        except OSError as error:
            log.error("outputs.not_moved run=%s: %s; the next worker of this machine tries again", self.run_id, error)
            return
        # What most jobs leave is deleted by name; whatever else there is makes one of these calls fail.
        try:
            if self._has_work:
                os.rmdir(f"{self.root}/{WORK}")
            if self._has_checkpoint:
                os.rmdir(f"{self.root}/{CHECKPOINT}")
            for name in self._more:
                os.unlink(f"{self.root}/{name}")
            is_brief = time.monotonic() - self._made_s < _BRIEF_S
            if (
                is_brief
                and self._reusable is not None
                and self._reusable.keep(self.root, config_bytes=self._config_bytes, taken=self._reused)
            ):
                return
            if self._has_empty_outputs:
                os.rmdir(f"{self.root}/{outgoing.OUTPUTS}/{outgoing.FILES}")
                os.rmdir(f"{self.root}/{outgoing.OUTPUTS}")
            if os.access(f"{self.root}/{OUTPUT}", os.F_OK):
                os.unlink(f"{self.root}/{OUTPUT}")
            os.unlink(f"{self.root}/{CONFIG}")
            os.rmdir(f"{self.root}/{TALK}")
            os.rmdir(self.root)
        except OSError:
            problem = remove_tree(self.root)
            if problem is not None:
                self._set_aside(problem)

    def _set_aside(self, problem: OSError) -> None:
        """Set aside what cannot be deleted: `doctor` shows it, and workers try again when they start."""
        undeleted = undeleted_folder(self.path.parents[3])
        log.error("attempt.not_deleted run=%s: %s; what is left is in %s", self.run_id, problem, undeleted)
        with contextlib.suppress(OSError):
            undeleted.mkdir(mode=0o700, exist_ok=True)
            os.rename(self.root, undeleted / self.path.name)


def _let_through(*folders: Path) -> None:
    """Let every account pass through folders, which it cannot list. Raises OSError."""
    for folder in folders:
        mode = stat.S_IMODE(os.stat(folder).st_mode)
        if mode & 0o011 != 0o011:
            os.chmod(folder, mode | 0o011)


def give_away(path: str, account: Account) -> None:
    """Give a file or a folder, with all in it, to an account; what is in a folder first. Raises OSError."""
    for _, folders, files, descriptor in os.fwalk(path, topdown=False):
        for name in (*folders, *files):
            _give_one(name, descriptor, account)
    _give_one(path, None, account)


def _give_one(name: str, folder: int | None, account: Account) -> None:
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        facts = os.fstat(descriptor)
        # A second name of a file may be a link to one that only this process may write to.
        is_plain = stat.S_ISDIR(facts.st_mode) or (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1)
        if is_plain and facts.st_uid == os.geteuid():
            # By its descriptor: `fchown` takes none that was opened so.
            os.chown(f"/proc/self/fd/{descriptor}", account.uid, account.gid)
    finally:
        os.close(descriptor)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def containers_mark(work_dir: Path) -> Path:
    """The file that is there once a worker of this machine has made a container."""
    return work_dir / "containers"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _ago_s(ended: Any) -> float | None:
    """Seconds since a kept time; None for a damaged one."""
    try:
        if ended["boot"] == _boot_id() != "":
            return max(0.0, boot_time_s() - float(ended["boot_s"]))
        return max(0.0, time.time() - float(ended["wall_s"]))
    except (TypeError, KeyError, ValueError):
        return None


def _used(kept: Any) -> KeptUsage:
    """What a report says of the usage; nothing for a report of an older release, or a damaged one."""
    is_sound = isinstance(kept, list) and len(kept) == 2 and all(isinstance(text, str) for text in kept)
    return KeptUsage(*kept) if is_sound else NO_USAGE


def is_attempt(name: str) -> bool:
    """Whether the name is RUN.ATTEMPT.TOKEN: a plain name, which cannot lead out of its folder."""
    return _ATTEMPT.fullmatch(name) is not None


def undeleted_folder(work_dir: Path) -> Path:
    """The folder of what is left of attempts that could not be deleted."""
    return work_dir / "undeleted"
