"""Keeps the checkpoints of one attempt: takes states of its folder, and stores the newest.

A state is complete when the job says so. Of a job that never does it is complete when nothing in the folder has changed
for two seconds, and when the job has ended by itself. A folder that never settles is taken as it is at one instant, as
often as the run asks for, if no file of it is being written.

Two threads work for an attempt, from the first word of the job on or as often as its run asks for: one copies complete
states, which the job waits for, the other stores the newest copy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launch_worker.attempt.folder import CHECKPOINT, AttemptFolder
from launch_worker.attempt.talk import read_words
from launch_worker.clock import boot_time_s
from launch_worker.current import CHECKPOINTED, TAKEN
from launch_worker.errors import DamagedError, LaunchError
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.runners.kept_folder import Refreshed
from launch_worker.runners.talk_folder import tell_job
from launch_worker.untrusted.plain_files import read_plain

if TYPE_CHECKING:
    from launch_worker.outputs.manifest import Manifest
    from launch_worker.outputs.snapshot import Known, Look, Snapshot
    from launch_worker.outputs.stored import StoredOutputs
    from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.checkpoints")

#: Seconds until a store that failed is tried again, at first and at most.
_RETRY_S, _LONGEST_RETRY_S = 0.5, 15.0
#: Seconds between two looks whether the sending is still wanted.
_LOOK_S = 0.1
#: Seconds that a thread which stores gets to end; a store that hangs keeps nobody.
_JOIN_S = 2.0


#: Seconds without a change after which a file is not being written, where nobody can see who writes it.
_CALM_S = 0.2
#: Seconds for which a folder that does not settle is waited for, at least.
_LEAST_RESTLESS_S = 1.0


class GivenUpError(LaunchError):
    """Nobody waits for the checkpoint any more."""


class SupersededError(LaunchError):
    """The attempt was superseded: its checkpoints do not count any more."""


class End(NamedTuple):
    """What is known of the end of a job."""

    #: Exit code of its main process, or minus the signal's number; None for unknown.
    status: int | None
    #: Exit codes of a job that has ended as it wished.
    good: frozenset[int]
    #: Gives the time of its death, nanoseconds since 1970; None where that is not known.
    at_ns: Callable[[], int | None]

    @classmethod
    def of(cls, folder: AttemptFolder, status: int | None, preempt_exit_code: int) -> End:
        return cls(status, frozenset({0, preempt_exit_code}), lambda: _died_ns(folder))


class Sender:
    """Stores states of one attempt, one after the other. Imports what that needs at the first one."""

    def __init__(
        self,
        url: str,
        store: Store,
        *,
        run_id: str,
        attempt: int,
        token: int,
        owner: str,
        newest: Checkpoint | None,
        executed: Callable[[], str] = str,
    ) -> None:
        """`newest` is what the record has at first; `owner` '' speaks for whoever has the attempt's folder.

        `executed` gives `Manifest.executed`.
        """
        self._url = url
        self._store = store
        self._id = run_id
        self._attempt = attempt
        self._token = token
        self._owner = owner
        self._executed = executed
        self._before = newest
        #: Number of the newest checkpoint of this attempt that the record has at first; 0 for none.
        self.number = newest.number if newest is not None and newest.attempt == attempt else 0
        self._stored: StoredOutputs | None = None
        #: Newest checkpoint that is stored, as far as this worker knows.
        self.newest: Manifest | None = None
        #: Files that are stored and need not be copied again while they are as they were.
        self.known: Known = {}

    def send(self, snapshot: Snapshot, check: Callable[[], None]) -> Checkpoint:
        """Store a state, and have Redis name it. A repeated call goes on where the last one failed.

        `check` is called between pieces, and may raise. Raises SupersededError, LaunchError, OSError.
        """
        from launch_worker.outputs import checkpoints
        from launch_worker.outputs.stored import StoredOutputs

        stored = self._stored = self._stored or StoredOutputs(self._url)
        if self.newest is None and self._before is not None:
            # One that is gone, or damaged, spares nothing.
            with contextlib.suppress(DamagedError):
                place = checkpoints.Place(self._before.attempt, self._before.number)
                self.newest = checkpoints.manifest_of(stored, self._id, place)
            self._before = None
        earlier = {} if self.newest is None else self.newest.contents
        manifest = checkpoints.store(
            snapshot,
            stored,
            run_id=self._id,
            attempt=self._attempt,
            earlier=earlier,
            executed=self._executed(),
            check=check,
        )
        files, size = len(manifest.files), manifest.total_bytes
        check()
        if not self._store.keep_checkpoint(
            self._id,
            self._token,
            owner=self._owner,
            attempt=self._attempt,
            number=snapshot.number,
            files=files,
            size=size,
        ):
            raise SupersededError("the run has a later attempt or checkpoint, or another worker has this one")
        self.newest, self.known = manifest, snapshot.known(manifest)
        about = (self._id, self._attempt, snapshot.number, files, size)
        log.info("checkpoint.kept run=%s attempt=%d number=%d files=%d bytes=%d", *about)
        try:
            place = checkpoints.Place(self._attempt, snapshot.number)
            checkpoints.delete_superseded(stored, place, manifest, check=check)
        except LaunchError as error:
            log.warning("checkpoint.old_stay run=%s: %s", self._id, error)
        return Checkpoint(self._attempt, snapshot.number, files, size, 0)


class Keeper:
    """The checkpoints of one attempt. Thread-safe; nothing is started or imported before it is needed."""

    def __init__(
        self,
        folder: AttemptFolder,
        sender: Sender,
        *,
        every_s: float | None,
        number: int = 0,
        refresh: Callable[[], Refreshed | None] = lambda: None,
        tell: Callable[[str, str], None] | None = None,
    ) -> None:
        """`number` is that of the attempt's newest checkpoint, 0 for none.

        Where the job has its files somewhere else, `refresh` brings the attempt's folder up to date, and says what the
        times of the copies do not; it may raise LaunchError and OSError. `tell` writes a file, by name and content,
        into the folder of its talk.
        """
        self.folder = Path(f"{folder.root}/{CHECKPOINT}")
        self._attempt = folder
        self._sender = sender
        self._every_s = every_s
        self._number = number
        self._refresh = refresh
        self._is_elsewhere = tell is not None
        self._tell = partial(tell_job, folder.talk) if tell is None else tell
        self._changed = threading.Condition()
        #: Whether the job has called a state complete: nothing else makes one complete then, but a good end.
        self._speaks = False
        #: Label of the latest state that the job has called complete, and the time at which that was heard,
        #: nanoseconds; None once the state is taken.
        self._asked: tuple[int, int] | None = None
        #: Facts of the files of the latest state that was taken, or restored, by path.
        self._taken: dict[str, tuple[int, ...]] = {}
        #: Monotonic time since which the folder has a state that is to be taken and has not settled; None for none.
        self._restless_s: float | None = None
        self._waiting: Snapshot | None = None
        self._sending: Snapshot | None = None
        self._is_closed = False
        self._is_left = False
        self._is_superseded = False
        self._taker: threading.Thread | None = None
        self._storer: threading.Thread | None = None

    def begin(self) -> None:
        """Take states from now on, if the run asks for that."""
        if self._every_s is not None:
            self._start_taker()

    def take_up(self) -> None:
        """Go on with what an earlier worker of the attempt has taken and not stored. Never raises."""
        self._speaks = read_words(self._attempt.talk).checkpoint != 0
        try:
            for taken in _left(self._attempt):
                self._number = max(self._number, taken.number)
                self._hand_over(taken)
        except OSError as error:
            log.warning("checkpoint.lost folder=%s: %s", self._attempt.root, error)

    def note(self, label: int) -> None:
        """Note that the job calls the present state complete. Returns at once."""
        if self._is_answered(label):
            return
        with self._changed:
            self._speaks = True
            self._asked = (label, time.time_ns())
            self._changed.notify_all()
        self._start_taker()

    def note_restored(self, manifest: Manifest, number: int) -> None:
        """Note what the folder has at the job's start, and that it is stored under this number. Raises OSError."""
        self._number = max(self._number, number)
        look = self._look()
        self._taken = {} if look is None else look.state
        self._sender.newest = manifest

    def leave(self) -> None:
        """Do no more for the attempt: it is another worker's, or nobody's."""
        self._stop_taker()
        with self._changed:
            self._is_left = True
            self._changed.notify_all()
            storer = self._storer
        if storer is not None:
            storer.join(_JOIN_S)

    def conclude(self, end: End) -> bool:
        """Note the end of the job; returns whether there is a last complete state that is not stored yet."""
        self._stop_taker()
        try:
            look, ended_ns = self._refreshed()
            if ended_ns is not None:
                end = end._replace(at_ns=lambda: ended_ns)
            if look is not None and look.state != self._taken:
                heard_ns = None if self._asked is None else self._asked[1]
                if not look.problem and is_complete(look, end, speaks=self._speaks, heard_ns=heard_ns):
                    self._hand_over(_as_it_is(self.folder, look, self._next_number()))
        except (OSError, LaunchError) as error:
            log.warning("checkpoint.not_taken run=%s: %s", self._attempt.run_id, error)
        with self._changed:
            return not self._is_superseded and (self._waiting is not None or self._sending is not None)

    def wait(self, *, timeout_s: float, unwanted: Callable[[], bool]) -> bool:
        """Block until the last complete state is stored; returns False after the timeout, and once it is unwanted."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while (self._waiting or self._sending) and not self._is_superseded:
                if unwanted() or time.monotonic() >= until:
                    break
                self._changed.wait(_LOOK_S)
            is_stored = not (self._waiting or self._sending)
        self.leave()
        return is_stored

    # -- copying ---------------------------------------------------------------------------------------------------

    def _start_taker(self) -> None:
        with self._changed:
            if self._taker is None and not self._is_closed:
                self._taker = self._thread(self._take_states, "checkpoint-taker")

    def _stop_taker(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            taker = self._taker
        if taker is not None:
            taker.join()

    def _take_states(self) -> None:
        due = time.monotonic() + (self._every_s or 0.0)
        while True:
            with self._changed:
                while self._asked is None and not self._is_closed:
                    left_s = None if self._every_s is None else due - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        break
                    self._changed.wait(left_s)
                if self._is_closed or self._is_superseded:
                    return
                asked, self._asked = self._asked, None
            if asked is not None:
                self._take(asked[0])
            else:
                due = time.monotonic() + self._look_now()

    def _look_now(self) -> float:
        """Take the present state if it is new and settled; returns seconds until the next look.

        A folder that has not settled for a period is taken as it is: its job saves more often than others look.
        """
        from launch_worker.outputs.snapshot import SETTLED_S

        every_s = self._every_s or 0.0
        if self._speaks:
            return every_s
        try:
            look, _ = self._refreshed()
        except (OSError, LaunchError) as error:
            log.warning("checkpoint.not_taken run=%s: %s", self._attempt.run_id, error)
            return every_s
        if look is None or look.state == self._taken:
            self._restless_s = None
            return every_s
        settled_s = (time.time_ns() - look.changed_ns) / 1e9
        self._restless_s = self._restless_s or time.monotonic()
        is_restless = time.monotonic() - self._restless_s >= max(every_s, _LEAST_RESTLESS_S)
        if self._is_elsewhere and settled_s < _CALM_S:
            is_restless = False
        if settled_s < SETTLED_S and not is_restless:
            return min(every_s, max(0.01, SETTLED_S - settled_s))
        self._take(0, may_be_amid=settled_s < SETTLED_S)
        self._restless_s = None
        return every_s

    def _take(self, label: int, *, may_be_amid: bool = False) -> None:
        """Copy the present state, and hand it over to be stored; the job is answered."""
        from launch_worker.outputs.snapshot import take

        why = ""
        try:
            self._refresh()
            taken = take(
                self.folder,
                number=self._next_number(),
                label=label,
                known=self._sender.known,
                may_be_amid=may_be_amid,
            )
            self._taken = {} if taken.look is None else taken.look.state
            self._hand_over(taken)
        except (OSError, LaunchError) as error:
            why = str(error)
            log.warning("checkpoint.not_taken run=%s: %s", self._attempt.run_id, error)
        if label:
            self._tell(TAKEN, f"{label} {why}".strip() + "\n")

    def _is_answered(self, label: int) -> bool:
        """Whether an earlier worker of the attempt has taken the state of this label."""
        try:
            taken = read_plain(self._attempt.talk / TAKEN, most_bytes=1000)
        except OSError:
            return False
        return taken.split()[:1] == [b"%d" % label]

    def _refreshed(self) -> tuple[Look | None, int | None]:
        """A look at the folder that is up to date; and when the job has ended, nanoseconds, if that is known by it."""
        known = self._refresh()
        look = self._look()
        if look is not None and known is not None and known.changed_ns:
            # The times of the copy are those of its making.
            look.changed_ns = known.changed_ns
        return look, None if known is None else known.ended_ns

    def _look(self) -> Look | None:
        """A look at the folder; None where it is empty: a job without checkpoints needs no imports."""
        try:
            if not os.listdir(self.folder):
                return None
        except FileNotFoundError:
            return None
        from launch_worker.outputs.snapshot import look_at

        look = look_at(self.folder)
        return look if look.files else None

    def _next_number(self) -> int:
        from launch_worker.outputs.snapshot import next_number

        self._number = next_number(self._number)
        return self._number

    # -- storing ---------------------------------------------------------------------------------------------------

    def _hand_over(self, snapshot: Snapshot) -> None:
        """Have the state stored after the one that is being stored; one that waits gives way."""
        with self._changed:
            older, self._waiting = self._waiting, snapshot
            self._changed.notify_all()
            if self._storer is None:
                self._storer = self._thread(self._store_states, "checkpoint-storer")
        if older is not None:
            older.remove()

    def _store_states(self) -> None:
        pause_s = 0.0
        while (snapshot := self._next(pause_s)) is not None:
            again_s = self._store(snapshot, pause_s)
            with self._changed:
                self._sending = None
                is_last = self._waiting is None
                if again_s is not None and is_last:
                    self._waiting = snapshot
                self._changed.notify_all()
                if self._is_superseded:
                    return
            if again_s is None or not is_last:
                snapshot.remove()
            pause_s = again_s if again_s is not None and is_last else 0.0

    def _next(self, pause_s: float) -> Snapshot | None:
        """Wait for a state to store; None when none is wanted any more.

        A state that failed is tried again after a pause; a newer one need not wait for that.
        """
        with self._changed:
            failed = self._waiting if pause_s else None
            self._changed.wait_for(lambda: self._is_left or self._waiting is not failed, pause_s or None)
            if self._is_left:
                return None
            snapshot = self._sending = self._waiting
            self._waiting = None
            return snapshot

    def _store(self, snapshot: Snapshot, paused_s: float) -> float | None:
        """Store a state; returns None when that is done, or else the seconds until it is to be tried again."""
        run_id = self._attempt.run_id
        try:
            self._sender.send(snapshot, self._check)
        except SupersededError as error:
            log.warning("checkpoint.refused run=%s attempt=%d: %s", run_id, self._attempt.attempt, error)
            self._is_superseded = True
            return _RETRY_S
        except GivenUpError:
            return _RETRY_S
        except (LaunchError, OSError) as error:
            log.warning("checkpoint.not_kept run=%s: %s", run_id, error)
            return min(max(_RETRY_S, 2 * paused_s), _LONGEST_RETRY_S)
        except Exception:
            log.exception("checkpoint.not_kept run=%s", run_id)
            return _LONGEST_RETRY_S
        if snapshot.label:
            self._tell(CHECKPOINTED, f"{snapshot.label}\n")
        return None

    def _check(self) -> None:
        if self._is_left:
            raise GivenUpError("the checkpoint is not wanted any more")

    def _thread(self, target: Callable[[], None], what: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"{what}-{self._attempt.run_id}", daemon=True)
        thread.start()
        return thread


def is_complete(look: Look, end: End, *, speaks: bool, heard_ns: int | None) -> bool:
    """Whether the state in which a job has left its folder is complete.

    `speaks` says whether the job has ever called one complete, and `heard_ns` is when it last did of a state that was
    not taken.
    """
    from launch_worker.outputs.snapshot import SETTLED_S

    if speaks:
        return end.status in end.good or (heard_ns is not None and look.changed_ns <= heard_ns)
    if end.status is not None and end.status >= 0:
        return True
    died_ns = end.at_ns()
    return died_ns is not None and died_ns - look.changed_ns >= SETTLED_S * 1e9


def send_left(folder: AttemptFolder, sender: Sender, end: End, *, check: Callable[[], None]) -> bool:
    """Store the last complete state of an attempt whose worker and job are gone; returns False where there is none.

    Raises SupersededError, LaunchError, OSError.
    """
    path, last = Path(f"{folder.root}/{CHECKPOINT}"), None
    left = _left(folder)
    if left:
        last = left[-1]
    if path.is_dir() and os.listdir(path):
        from launch_worker.outputs.snapshot import look_at, next_number

        look, speaks = look_at(path), read_words(folder.talk).checkpoint != 0
        if look.files and not look.problem and is_complete(look, end, speaks=speaks, heard_ns=None):
            # The clock may have been set back since.
            last = _as_it_is(path, look, next_number(max(sender.number, 0 if last is None else last.number)))
    if last is None:
        return False
    sender.send(last, check)
    return True


def has_states(folder: AttemptFolder) -> bool:
    """Whether an attempt's folder has something that may be a checkpoint."""
    try:
        names = os.listdir(folder.root)
        return any(name.startswith("taken.") for name in names) or (
            CHECKPOINT in names and bool(os.listdir(f"{folder.root}/{CHECKPOINT}"))
        )
    except OSError:
        return False


def _left(folder: AttemptFolder) -> list[Snapshot]:
    if not any(name.startswith("taken.") for name in os.listdir(folder.root)):
        return []
    from launch_worker.outputs.snapshot import taken_before

    return taken_before(folder.path)


def _as_it_is(folder: Path, look: Look, number: int) -> Snapshot:
    from launch_worker.outputs.snapshot import as_it_is

    return as_it_is(folder, look, number=number)


def _died_ns(folder: AttemptFolder) -> int | None:
    """When the job's main process died, as its guard has kept it; None where it has not."""
    kept = folder.read_exit()
    if kept is None or not 0 < kept.at <= boot_time_s():
        return None
    return time.time_ns() - int((boot_time_s() - kept.at) * 1e9)
