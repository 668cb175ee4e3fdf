"""Sends what ended attempts left, in threads beside jobs and worker, and takes up what a dead worker left.

An attempt's outputs wait in LAUNCH_WORK_DIR/outgoing from its end until Redis has noted that the store has them. They
are locked by the worker that sends them, so that one of a machine's workers does. A worker that is killed in the middle
has stored some of the content, which is not sent again. While content is collected (`launch_worker.outputs.garbage`)
nothing is deleted here: what the collection takes away is sent once more.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch_worker.errors import LaunchError
from launch_worker.outputs.content import Bounds, Hashes, store_folder
from launch_worker.outputs.manifest import Manifest
from launch_worker.outputs.outgoing import Outgoing, delete_sent, outgoing_names
from launch_worker.outputs.stored import StoredOutputs, manifest_name
from launch_worker.outputs.wanted import wanted_by
from launch_worker.redis_url import mask_url
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.untrusted.removal import opened

log = logging.getLogger("launch_worker.outputs")

#: Number of attempts whose outputs are sent at once: large ones do not hold up all others.
_THREADS = 2
#: Seconds until a store that failed is tried again, at first and at most.
_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
#: Seconds until outputs are tried again that this machine cannot read.
_UNREADABLE_S = 60.0
#: Seconds until outputs are looked at again that were stored while content was collected.
_COLLECTING_S = 15.0
#: Seconds between two looks for what a dead worker has left.
_ADOPT_EVERY_S = 15.0
#: Seconds for the outputs that wait when the worker ends; the machine's next worker sends what is left.
_CLOSE_S = 10.0


class _StoppedError(LaunchError):
    """The worker ends; the machine's next one goes on."""


class _CollectingError(LaunchError):
    """Content is being collected, and some of these outputs may be among it."""


@dataclass
class _Progress:
    """What is done of one attempt's outputs: nothing of it is done again after a failure."""

    hashes: Hashes = field(default_factory=Hashes)
    #: Manifest, once it is stored.
    manifest: Manifest | None = None
    #: Whether they are stored and noted, and are looked at once more when a collection of content is over.
    waits: bool = False


class OutputSender:
    """The outputs of one worker's ended attempts. Thread-safe; nothing is imported or started before there are some."""

    def __init__(self, url: str, work_dir: Path, bounds: Bounds, store: Store) -> None:
        self._url = url
        self._work_dir = work_dir
        self._bounds = bounds
        self._store = store
        #: URL for people, without secrets.
        self.shown = mask_url(url)
        self._news = threading.Condition()
        #: Monotonic time from which on each is to be sent, by name; and those that are being sent.
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._begun: dict[str, _Progress] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._adopt_at = 0.0
        self._retry_at = 0.0
        self._retry_s = _RETRY_S
        self._problem = ""
        self._stored: StoredOutputs | None = None

    def send(self, name: str) -> None:
        """Send the outputs of an attempt, which are in their place by now. Never raises."""
        with self._news:
            if self._stopping.is_set():
                return
            if name not in self._busy:
                self._due[name] = 0.0
            while len(self._threads) < min(_THREADS, len(self._due) + len(self._busy)):
                thread = threading.Thread(target=self._run, name=f"outputs-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._news.notify()

    def adopt(self) -> None:
        """Look for what a dead worker of this machine has left; called now and then."""
        if time.monotonic() < self._adopt_at:
            return
        self._adopt_at = time.monotonic() + _ADOPT_EVERY_S
        for name in outgoing_names(self._work_dir):
            if name not in self._due and name not in self._busy:
                self.send(name)

    @property
    def is_behind(self) -> bool:
        """Whether there is something that can be sent now."""
        now = time.monotonic()
        return not self._problem and (bool(self._busy) or any(due <= now for due in list(self._due.values())))

    def close(self, *, at_once: bool = False) -> None:
        """Send what waits, for some seconds unless `at_once`; the rest is the next worker's."""
        deadline = time.monotonic() + (0.0 if at_once else _CLOSE_S)
        with self._news:
            while self.is_behind and time.monotonic() < deadline:
                self._news.wait(deadline - time.monotonic())
            self._stopping.set()
            self._news.notify_all()
        for thread in self._threads:
            thread.join(1.0)

    # -- the threads ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (name := self._next()) is not None:
            again_s: float | None = _UNREADABLE_S
            try:
                self._send(name)
                self._note_answer()
                again_s = None
            except _StoppedError:
                pass
            except _CollectingError:
                again_s = _COLLECTING_S
            except LaunchError as error:
                again_s = self._note_away(error)
            except OSError as error:
                log.error("outputs.unreadable attempt=%s: %s", name, error)
            except Exception:
                log.exception("outputs.not_sent attempt=%s", name)
            with self._news:
                self._busy.discard(name)
                if again_s is not None:
                    self._due[name] = time.monotonic() + again_s
                self._news.notify_all()

    def _next(self) -> str | None:
        """The next one to send, once it is due; None when the worker ends."""
        with self._news:
            while not self._stopping.is_set():
                name = min(self._due, key=self._due.__getitem__, default=None)
                if name is None:
                    self._news.wait()
                    continue
                left_s = max(self._due[name], self._retry_at) - time.monotonic()
                if left_s <= 0:
                    del self._due[name]
                    self._busy.add(name)
                    return name
                self._news.wait(left_s)
        return None

    def _send(self, name: str) -> None:
        """Send one attempt's outputs, unless another worker does. Raises LaunchError, OSError."""
        outgoing = Outgoing(self._work_dir, name)
        if not outgoing.take():
            return
        try:
            begun = time.monotonic()
            progress = self._begun.setdefault(name, _Progress())
            if progress.waits and self._stored is not None and self._stored.is_under_way(self._stored.collection()):
                raise _CollectingError
            manifest, is_lasting = progress.manifest, True
            if manifest is None:
                manifest, is_lasting = self._store_content(outgoing, progress.hashes)
                progress.manifest = manifest if is_lasting else None
            self._acknowledge(outgoing, manifest)
            if not is_lasting:
                progress.waits = True
                raise _CollectingError
            outgoing.delete()
            del self._begun[name]
            delete_sent(self._work_dir)
        finally:
            outgoing.release()
        about = (outgoing.run_id, outgoing.attempt, len(manifest.files), manifest.total_bytes)
        log.info("outputs.stored run=%s attempt=%d files=%d bytes=%d seconds=%.1f", *about, time.monotonic() - begun)
        if manifest.left_out_count:
            first = "; ".join(f"{one.path!r}: {one.why}" for one in manifest.left_out[:3])
            log.warning("outputs.left_out run=%s attempt=%d files=%d: %s", *about[:2], manifest.left_out_count, first)

    def _store_content(self, outgoing: Outgoing, hashes: Hashes) -> tuple[Manifest, bool]:
        """Store the content, then the manifest; returns whether no collection can have taken some of the content."""
        if self._stored is None:
            self._stored = StoredOutputs(self._url)
        collection = self._stored.collection()
        run_id, attempt = outgoing.run_id, outgoing.attempt
        try:
            with opened(str(outgoing.files)):
                manifest = store_folder(
                    outgoing.files,
                    self._stored,
                    run_id=run_id,
                    attempt=attempt,
                    wanted=wanted_by(outgoing.patterns()),
                    bounds=self._bounds,
                    hashes=hashes,
                    check=self._check,
                )
        except (FileNotFoundError, NotADirectoryError):
            manifest = Manifest(run_id, attempt)  # a process that got away has put something else there
        not_copied = outgoing.left_out()
        manifest = replace(
            manifest,
            left_out=(*manifest.left_out, *not_copied.left_out),
            left_out_count=manifest.left_out_count + not_copied.left_out_count,
        )
        if manifest.files or manifest.left_out_count:
            self._stored.put_manifest(manifest)
        return manifest, not manifest.files or self._stored.is_untouched_since(collection)

    def _acknowledge(self, outgoing: Outgoing, manifest: Manifest) -> None:
        """Have Redis note the outputs; whatever it answers, this machine needs them no more. Raises LaunchError."""
        word = self._store.keep_outputs(
            *(outgoing.run_id, outgoing.attempt, outgoing.token),
            files=len(manifest.files),
            size=manifest.total_bytes,
            left_out=manifest.left_out_count,
        )
        if word != "kept":
            log.warning("outputs.not_noted run=%s attempt=%d: %s", outgoing.run_id, outgoing.attempt, word)
        if word == "deleted" and self._stored is not None:
            self._stored.objects.delete([manifest_name(outgoing.run_id, outgoing.attempt)])

    def _check(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _note_answer(self) -> None:
        with self._news:
            if self._problem:
                log.warning("outputs.store_answers %s", self.shown)
            self._problem, self._retry_s, self._retry_at = "", _RETRY_S, 0.0

    def _note_away(self, error: LaunchError) -> float:
        """Say that the store is away; returns the seconds until it is tried again."""
        with self._news:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("outputs.store_away: %s; outputs wait on this machine's disk until it answers", error)
            again_s = self._retry_s
            self._retry_at = time.monotonic() + again_s
            self._retry_s = min(2 * again_s, _LONGEST_RETRY_S)
            return again_s


def sender_of(settings: Settings, store: Store) -> OutputSender | None:
    """What sends outputs; None where LAUNCH_OUTPUT_URL names no place for them."""
    if not settings.output_url:
        return None
    bounds = Bounds(max_bytes=settings.output_bytes, max_files=settings.output_files)
    return OutputSender(settings.output_url, settings.work_dir, bounds, store)
