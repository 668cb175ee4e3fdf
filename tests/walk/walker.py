"""Carries out the blocks of a page in order, as they stand, in shells of the machines that it is given."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.walk.pages import Block, blocks

#: Seconds that a block may take. To install all that a server needs takes a minute or two.
TIMEOUT_S = 600.0
#: Seconds that what runs in the background has for its end after Ctrl-C.
STOP_S = 30.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class WalkError(Exception):
    """A block did not do what its page says."""


@dataclass(frozen=True)
class Machine:
    """A user's shells: where they start, with which environment, and what starts them as that user."""

    folder: Path
    env: Mapping[str, str]
    #: Programs of the environment that README.md makes. A page that makes none is read with it active.
    programs: Path
    #: Before bash on the command line.
    prefix: tuple[str, ...] = ()


@dataclass
class Walked:
    """What became of a page."""

    page: str
    #: Each block that was run, and its seconds.
    done: list[tuple[Block, float]] = field(default_factory=list)
    #: Each block that was not run, and the reason.
    left: list[tuple[Block, str]] = field(default_factory=list)

    @property
    def took_s(self) -> float:
        return sum(took for _, took in self.done)


class Shell:
    """A user's bash, which ends at the first command that fails; lines that one block sets the next one has."""

    def __init__(self, machine: Machine, env: Mapping[str, str]) -> None:
        self._said = ""
        self._changed = threading.Condition()
        self._ended = False
        self._blocks = 0
        self._process = subprocess.Popen(
            [*machine.prefix, "bash", "--norc"],
            cwd=machine.folder,
            env=env,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.run("set -e\n")

    def start(self, text: str) -> str:
        """Send a block; the line that tells of its end."""
        assert self._process.stdin is not None
        self._blocks += 1
        end = f"@ended {self._blocks}\n"
        self._process.stdin.write(f"{{\n{text}}} </dev/null\necho; echo {end}")
        self._process.stdin.flush()
        return end

    def run(self, text: str) -> str:
        """Carry out a block; what it said."""
        end = self.start(text)
        return self.until(end).partition(f"\n{end}")[0]

    def until(self, words: str) -> str:
        """Wait until this is printed; all that was printed since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: words in self._said or self._ended, TIMEOUT_S)
            said, self._said = self._said, ""
            if words in said:
                return said
            raise WalkError(said + ("" if self._ended else f"\n(and nothing like {words!r} in {TIMEOUT_S:.0f} s)"))

    def stop(self) -> None:
        """Ctrl-C, and its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._said += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Walk:
    """The walk through one page: a shell on each machine, and one for each block that stays."""

    def __init__(self, machines: Mapping[str, Machine], words: Mapping[str, str], *, has_environment: bool) -> None:
        """`words`: what a reader puts in place of a page's own. `has_environment`: blocks that make one are not run."""
        self._machines = machines
        self._words = words
        self._has_environment = has_environment
        self._each: dict[str, list[str]] = {name: [] for name in machines}
        self._shells: dict[str, Shell] = {}
        self._stay: list[Shell] = []
        self._makes_environment = False

    def go(self, page: Path, tell: Callable[[str], None] = print) -> Walked:
        walked = Walked(page.name)
        found = blocks(page)
        self._makes_environment = any("install" in block.marks for block in found)
        try:
            for block in found:
                self._take(block, walked, tell)
        finally:
            for shell in [*reversed(self._stay), *self._shells.values()]:
                shell.stop()
            end_all()
        return walked

    def _take(self, block: Block, walked: Walked, tell: Callable[[str], None]) -> None:
        reason = block.marks.get("no-run", "")
        if self._has_environment and "install" in block.marks:
            reason = "this walk has an environment"
        if reason:
            tell(f"-- {block.place} is not run: {reason}")
            walked.left.append((block, reason))
            return
        text = block.text
        for word, instead in self._words.items():
            text = re.sub(rf"\b{word}\b", instead, text)
        for name in block.machines:
            tell(f"-- {block.place}" + (f" on the {name} machine" if "machine" in block.marks else ""))
            tell(text.rstrip())
            begun = time.monotonic()
            try:
                tell(self._run(block, name, text).strip())
            except WalkError as error:
                raise WalkError(f"{block.place} failed:\n{text}\nIt said:\n{error}") from None
            took = time.monotonic() - begun
            tell(f"-- {took:.1f} s")
            walked.done.append((block, took))

    def _run(self, block: Block, name: str, text: str) -> str:
        if "each-shell" in block.marks:
            self._each[name].append(text)
        if "background" in block.marks:
            shell = self._open(name)
            self._stay.append(shell)
            shell.start(text)
            return shell.until(block.marks["background"])
        if name in self._shells:
            return self._shells[name].run(text)
        self._shells[name] = shell = self._open(name)
        return "" if "each-shell" in block.marks else shell.run(text)

    def _open(self, name: str) -> Shell:
        machine = self._machines[name]
        env = dict(machine.env)
        if not self._makes_environment:
            env["PATH"] = f"{machine.programs}:{env['PATH']}"
        shell = Shell(machine, env)
        for text in self._each[name]:
            shell.run(text)
        return shell


def adopt_all() -> None:
    """Have this process be the parent of all that its children leave behind, daemons too, so that it can end them."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def end_all() -> None:
    """Kill all that was started from here and is still there."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
        for pid in children:
            os.waitpid(int(pid), 0)
