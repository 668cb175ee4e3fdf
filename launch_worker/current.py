"""Speaks for a job with its worker, and says whether the job shall stop. Outside a run it does nothing.

`docs/reference/jobs.md` has the protocol: lines of JSON in a file of the run's own folder, so that a job in any
language can use it, and no password of Redis reaches a job. Imports stay minimal, and from the standard
library: jobs' start-up time.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Names of files in the run's folder (LAUNCH_RUN_DIR): the job appends to one, the other appears once it shall stop.
TO_WORKER = "to_worker"
STOP = "stop"
#: Names of the files with the number of the latest checkpoint that the worker has copied, and that it has stored.
TAKEN = "checkpoint_taken"
CHECKPOINTED = "checkpointed"
#: Seconds between two looks for an answer, at first and at most.
_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.2
#: Seconds between two reported heartbeats: a job may call `heartbeat` in its innermost loop.
_HEARTBEAT_EVERY_S = 0.1
#: Characters of the file `stop` that are read.
_STOP_CHARS = 1 << 16

_current: CurrentRun | None = None


def current_run() -> CurrentRun:
    """The run that this process is the job of (or a part of it: children inherit that); always the same object.

    Outside a run it is false, and its methods do nothing. Thread-safe.
    """
    global _current
    if _current is None:
        _current = CurrentRun(os.environ)
    return _current


class CurrentRun:
    """A job's view of its run. Nothing here raises because of the worker, a full disk or a missing folder.

    A value that JSON does not know is reported as its `.item()` (numpy, torch), or else as text.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        #: Id of the run; '' outside a run, as all other names.
        self.id = env.get("LAUNCH_RUN_ID", "")
        self.name = env.get("LAUNCH_NAME", "")
        self.project = env.get("LAUNCH_PROJECT", "")
        self.queue = env.get("LAUNCH_QUEUE", "")
        #: Number of the attempt, from 1; 0 outside a run.
        self.attempt = _number(env.get("LAUNCH_ATTEMPT", ""))
        self.sweep_id = env.get("LAUNCH_SWEEP_ID", "")
        #: Folder whose content is kept with the run; '' where none is kept.
        self.output_dir = env.get("LAUNCH_OUTPUT_DIR", "")
        #: Folder whose content the next attempt finds again, on whatever worker; '' where none is kept.
        self.checkpoint_dir = env.get("LAUNCH_CHECKPOINT_DIR", "")
        #: Whether the folder had a checkpoint of an earlier attempt in it when this attempt began.
        self.is_resumed = env.get("LAUNCH_RESUMED", "") == "1"
        #: Last value of each name that this process reported, as `wandb.Run.summary`. Setting one reports it.
        self.summary = Summary(self)
        self._folder = env.get("LAUNCH_RUN_DIR", "")
        #: Unix time of the run's limit; None for none.
        self._deadline = float(_number(env.get("LAUNCH_DEADLINE", ""))) or None
        self._config_path = env.get("LAUNCH_CONFIG", "")
        self._config: dict[str, Any] | None = None
        self._step = -1
        self._beat_at: float | None = None
        self._heeds_stop = False
        self._is_torn = False

    def __bool__(self) -> bool:
        return bool(self.id)

    def __repr__(self) -> str:
        return f"<run {self.id}, attempt {self.attempt}>" if self else "<no run>"

    @property
    def config(self) -> dict[str, Any]:
        """The run's hyperparameters: what was submitted as its config, over the values of its queue's variables."""
        if self._config is None:
            self._config = _read_config(self._config_path)
        return self._config

    def heartbeat(self) -> None:
        """A sign of life, for `--stall-timeout`. Cheap enough for an inner loop: at most ten a second are reported."""
        now = time.monotonic()
        if self._beat_at is None or now - self._beat_at >= _HEARTBEAT_EVERY_S:
            self._beat_at = now
            self._tell({"heartbeat": True})

    def log(self, data: Mapping[str, Any] | str, step: int | None = None) -> None:
        """A row of metrics, or a sentence of what the job is doing, which people see as the run's reason while it runs.

        As `wandb.Run.log`: without a step a row is the one after the last; a row's values are in the summary too, until
        others replace them. The newest 1000 rows are kept.
        """
        if isinstance(data, str):
            self._tell({"message": data})
            return
        self._step = self._step + 1 if step is None else int(step)
        row = dict(data)
        dict.update(self.summary, row)
        self._tell({"log": row, "step": self._step})

    def finish(self, exit_code: int | None = 0) -> None:
        """The run is Finished now (Failed with another exit code than 0), whatever becomes of this process later.

        As `wandb.Run.finish`. Reports after it are ignored. The run's slot and devices stay its own until
        all of its processes are gone, and how they ended is noted beside. A run that will be tried again fails only
        then.
        """
        import sys

        for stream in (sys.stdout, sys.stderr):
            # The stream may be closed, or None. Importing `contextlib` would cost more than all of this module.
            try:  # noqa: SIM105
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        code = int(exit_code or 0)
        self._tell({"finish": code if 0 <= code <= 255 else 1})

    def mark_preempting(self) -> None:
        """This machine is about to be taken away: however the run ends now, it goes back to its queue under its id.

        As `wandb.Run.mark_preempting`, but for exit code 0 too: call `finish` if it is done. It also holds when the
        machine goes silent. At most `--max-preemptions` times.
        """
        self._tell({"preempting": True})

    def checkpoint(self, *, wait: bool = False, timeout_s: float = 600.0) -> bool:
        """What is in `checkpoint_dir` now is complete: the next attempt shall go on from it.

        Returns when the worker has copied it, so that the job may write on, and stores it meanwhile; with `wait` when
        it is stored, whatever becomes of this machine. False where no checkpoints are kept, for a folder that another
        process changes, and after the timeout.
        """
        if not (self._folder and self.checkpoint_dir):
            return False
        number, until, pause_s = time.time_ns(), time.monotonic() + timeout_s, _LOOK_S
        self._tell({"checkpoint": number})
        while True:
            copied, why = self._answer(TAKEN)
            if why and copied >= number:
                return False
            if (self._answer(CHECKPOINTED)[0] if wait else copied) >= number:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    def save(self, path: str | os.PathLike[str], base_path: str | os.PathLike[str] | None = None) -> list[str]:
        """Copy a file or folder, or all that match a pattern, into `output_dir`; returns the paths of the copies.

        As `wandb.Run.save`: the copy of a relative path has its folders too, below `base_path` (the current folder),
        and another one has its name alone. A file that is saved again replaces the first copy; one that is in
        `output_dir` already stays as it is. Nothing is copied where no outputs are kept. Raises FileNotFoundError.
        """
        # Few jobs save files.
        import glob
        import shutil

        if not self.output_dir:
            return []
        pattern, copies, top = os.fspath(path), [], os.path.realpath(self.output_dir)
        found = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"there is no {pattern!r} to save")
        for source in found:
            name = os.path.basename(os.path.normpath(source))
            if base_path is not None or not os.path.isabs(source):
                relative = os.path.relpath(source, os.curdir if base_path is None else base_path)
                name = name if relative.startswith(os.pardir) else relative
            target = os.path.normpath(os.path.join(top, name))
            copies.append(target)
            if os.path.realpath(source) == target or os.path.realpath(source).startswith(top + os.sep):
                copies[-1] = os.path.realpath(source)
                continue
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if os.path.isdir(source):
                    shutil.copytree(source, target, dirs_exist_ok=True)
                else:
                    partial = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.partial")
                    try:
                        shutil.copy2(source, partial)
                        os.replace(partial, target)
                    finally:
                        if os.path.lexists(partial):
                            os.unlink(partial)
            except OSError as error:
                copies.pop()
                self._warn(f"{source!r} was not saved: {error}")
        return copies

    def _warn(self, text: str) -> None:
        """Say something in the job's output, which may be closed."""
        import sys

        try:  # noqa: SIM105
            sys.stderr.write(f"launch_worker: {text}\n")
        except (OSError, ValueError, AttributeError):
            pass

    def _answer(self, name: str) -> tuple[int, str]:
        """The number in a file of the worker's, 0 for none, and the reason beside it."""
        try:
            with open(os.path.join(self._folder, name), encoding="utf-8", errors="replace") as file:
                number, _, why = file.read().strip().partition(" ")
        except OSError:
            return 0, ""
        return _number(number), why

    def should_stop(self) -> bool:
        """Whether the run's end was asked for (or a limit was reached). Costs a look at the file system.

        A job that has called this once gets half of its grace (`--grace`) to end by itself before SIGTERM. Its run is
        Killed all the same, unless it calls `finish`.
        """
        if not self._folder:
            return False
        if not self._heeds_stop:
            self._heeds_stop = True
            self._tell({"heeds_stop": True})
        return os.path.exists(os.path.join(self._folder, STOP))

    @property
    def stop_reason(self) -> str:
        """Why the run shall stop; '' while it need not."""
        return self._stop_lines()[0].strip()

    @property
    def stop_deadline(self) -> float | None:
        """The Unix time at which what is left of the job gets SIGKILL; None while it need not stop.

        It may come earlier later, as when somebody cancels with `--now`.
        """
        for line in self._stop_lines()[1:]:
            name, _, value = line.partition("=")
            if name == "deadline" and value.isascii() and value.isdigit():
                return float(value)
        return None

    @property
    def time_left(self) -> float | None:
        """Seconds until the job is asked to stop, or, once it is, until its SIGKILL; None where nobody knows.

        Before that it is the time until the run's limit (`--timeout`), and at least 0.
        """
        deadline = self.stop_deadline or self._deadline
        return None if deadline is None else max(0.0, deadline - time.time())

    def _stop_lines(self) -> list[str]:
        if not self._folder:
            return [""]
        try:
            with open(os.path.join(self._folder, STOP), encoding="utf-8", errors="replace") as file:
                return file.read(_STOP_CHARS).split("\n")
        except OSError:
            return [""]

    def _tell(self, words: Mapping[str, Any]) -> None:
        if not self._folder:
            return
        import json

        try:
            line = json.dumps(words, default=_plain, skipkeys=True).encode() + b"\n"
        except (TypeError, ValueError, RecursionError):
            return
        try:
            # One write to a file that is open for appending: lines of several threads and processes do not mix.
            fd = os.open(
                os.path.join(self._folder, TO_WORKER), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        except OSError:
            return
        try:
            # A line that a full disk cut off must not spoil the next one.
            whole = b"\n" + line if self._is_torn else line
            self._is_torn = os.write(fd, whole) < len(whole)
        except OSError:
            self._is_torn = True
        finally:
            os.close(fd)


class Summary(dict[str, "Any"]):
    """A dict that reports each value that is set. A reported name stays in the record: `del` is local."""

    def __init__(self, run: CurrentRun) -> None:
        super().__init__()
        self._run = run

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._run._tell({"summary": {name: value}})

    def update(self, *args: Any, **values: Any) -> None:
        """Set all, reported in one line."""
        reported = dict(*args, **values)
        super().update(reported)
        self._run._tell({"summary": reported})

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def __ior__(self, other: Any) -> Summary:  # type: ignore[override,misc]
        self.update(other)
        return self


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _plain(value: Any) -> Any:
    try:
        return value.item()
    except Exception:  # noqa: BLE001 (a job must not fail because of what it reports)
        return str(value)


def _read_config(path: str) -> dict[str, Any]:
    if not path:
        return {}
    import json

    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return config if isinstance(config, dict) else {}
