"""Goes through README.md line by line as its reader would, and checks that each line does what it says.

Run by the user that it is to be, in a copy of the repository, with any python3: the standard library only.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Line:
    """What a line of the README is to do."""

    #: Matches its beginning.
    words: str
    #: Each is found in what it prints.
    prints: tuple[str, ...] = ()
    code: int = 0
    #: It runs for ever, in a shell of its own, and prints this once it is up.
    up: str = ""
    #: Why it is not carried out.
    left_out: str = ""
    #: What is carried out in its place, before it, and after it.
    instead: str = ""
    before: str = ""
    after: str = ""


NO_REGISTRY = "needs an image from a registry"
NO_HOST = "needs a repository on the internet"
RUNNING = 'until launch-worker show $RUN --json | grep -q \'"state": *"Running"\'; do sleep 0.2; done'
NEWEST = 'launch-worker runs --json | head -n 1 | sed \'s/.*"id": *"\\([^"]*\\)".*/\\1/\''
LINES = (
    Line("make demo", ("epoch 20/20", r"run \w+ Finished", r"Finished +1  ")),
    # The whole suite has its own place; this sees that it can be run.
    Line("make test", ("passed",), instead="make test TESTS=tests/unit/test_units.py JOBS=1"),
    Line("python3 -m venv "),
    Line(r"\. \S+/bin/activate"),
    Line(r"pip install '\.\[server\]'$"),
    Line("redis-server ", up="Ready to accept connections"),
    Line(r"celery -A launch_worker worker ", up="Agent started"),
    Line(r"celery -A launch_worker beat", up="is starting"),
    Line(r"launch-worker server$", up="the server is up"),
    Line("launch-submit -- echo hello", (r"run \w+ submitted to queue default",)),
    Line("launch-submit -q gpu --name iris ", ("epoch 5/5", "Finished")),
    Line("launch-submit --timeout 2h ", ("Finished",), after=f"launch-worker logs $({NEWEST}) | grep \"0.1 in $HOME\""),
    Line(r"RUN=\$\(launch-submit ", after=RUNNING),
    Line("launch-worker status", ("celery@", "gpu")),
    Line("launch-worker workers", ("celery@",)),
    Line("launch-worker doctor", ("never evicts keys",)),
    Line("launch-worker health"),
    Line("launch-worker runs --state running", ("Running",)),
    Line(r"launch-worker show \$RUN", ("begun; sleep 300", "Running")),
    Line(r"launch-worker explain \$RUN", ("Running for",)),
    Line(r"launch-worker logs \$RUN", ("begun",)),
    Line(r"launch-worker cancel \$RUN"),
    Line(r"launch-worker wait \$RUN", ("Killed",), code=143),
    Line(r"launch-worker retry \$RUN", after=RUNNING),
    Line(r"launch-worker cancel --now \$RUN", after="launch-worker wait $RUN; [ $? = 143 ]"),
    Line("launch-worker pools create lab "),
    Line("launch-worker queues create train "),
    Line("launch-worker queues pause train"),
    Line("launch-worker start -p lab ", up="Agent started"),
    Line("launch-submit -q train --gpus 2 ", ("submitted to queue train",)),
    Line("launch-submit --priority high ", ("submitted",)),
    Line("launch-submit --at 22:00 ", ("submitted",)),
    Line("launch-submit --array 0-99%8 ", ("submitted",), before="launch-worker wait --help >/dev/null"),
    Line(r"launch-submit --after \$RUN:ok ", ("submitted",), before="RUN=$(launch-submit --quiet -- sleep 300)"),
    Line("launch-submit --from-file jobs.jsonl ", (r"\w{15}",)),
    Line(r"launch-worker preempt \$RUN", before=RUNNING, after="launch-worker cancel $RUN"),
    # A machine that was lost is not at hand: this is what it says of a run that has ended.
    Line(r"launch-worker confirm \$RUN ended", ("nothing to confirm",), code=1,
         before="launch-worker wait $RUN || true"),
    Line("launch-submit --image ", left_out=NO_REGISTRY),
    Line("launch-submit --uri ", left_out=NO_HOST),
    Line("launch-submit --upload ", ("submitted",)),
    Line(r"pip install '\.\[sweeps\]'"),
    Line(r"(SWEEP=\$\()?launch-worker sweep create "),
    Line("launch-worker sweep status ", ("of 60",), after="for _ in $(seq 200); do "
         "launch-worker sweep status $SWEEP | grep -q RUNNING || break; sleep 0.2; done; "
         "launch-worker sweep status $SWEEP | head -n 30; launch-worker status; "
         "launch-worker sweep status $SWEEP | grep -q '60 Finished'"),
)  # fmt: skip
#: What the reader is said to have.
FILES = {
    "train.py": "print('trained')\n",
    "report.sh": "#!/bin/sh\necho report\n",
    "nightly.sh": "#!/bin/sh\necho nightly\n",
    "part.sh": "#!/bin/sh\necho part $LAUNCH_ARRAY_INDEX\n",
    "next.sh": "#!/bin/sh\necho next\n",
    "jobs.jsonl": '{"command": ["echo", "one"]}\n{"command": ["echo", "two"]}\n',
}


class Shell:
    """An interactive user's bash: what one line sets, the next one has."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue()
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def do(self, line: str) -> tuple[int, str]:
        """Carry out a line; its exit code, and what it printed."""
        self.send(f'{{ {line}\n}} </dev/null; echo "@done $?"')
        said = self.until("@done [0-9]+$")
        found = re.search(r"@done (\d+)\s*$", said)
        assert found is not None
        return int(found[1]), said[: found.start()]

    def until(self, pattern: str) -> str:
        said, deadline = "", time.monotonic() + TIMEOUT_S
        while not re.search(pattern, said, re.MULTILINE):
            try:
                said += self._lines.get(timeout=0.2)
            except Empty:
                if self._process.poll() is not None:
                    raise WalkError(f"the shell ended:\n{said}") from None
            if time.monotonic() > deadline:
                raise WalkError(f"nothing like {pattern!r} after {TIMEOUT_S:g} s:\n{said}")
        return said

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)


class WalkError(Exception):
    """A line did not do what it says."""


class Walk:
    def __init__(self) -> None:
        self._shell = Shell()
        self._others: list[Shell] = []
        self._entered = ""
        self.count = 0

    def close(self) -> None:
        for shell in [*reversed(self._others), self._shell]:
            shell.close()

    def go(self, readme: str) -> None:
        for kind, text in blocks(readme):
            if kind == "sh":
                for line in text.splitlines():
                    if line.strip():
                        self._take(line.strip())
            elif kind == "python":
                self._run_python(text)

    def _take(self, line: str) -> None:
        known = next((one for one in LINES if re.match(one.words, line)), None)
        if known is None:
            raise WalkError(f"tests/walk/walker.py does not know what this line of the README does: {line}")
        print(f"$ {line}", flush=True)
        if known.left_out:
            print(f"  (left out: {known.left_out})")
            return
        begun = time.monotonic()
        if known.before:
            self._do(known.before)
        if known.up:
            self._in_another_shell(line, known.up)
        else:
            code, said = self._shell.do(known.instead or line)
            missing = [pattern for pattern in known.prints if not re.search(pattern, said)]
            if code != known.code or missing:
                raise WalkError(f"{line}\nended with {code} (not {known.code}), without {missing} in:\n{said}")
        if "activate" in line:
            self._entered = line
        if known.after:
            self._do(known.after)
        self.count += 1
        print(f"  ok, {time.monotonic() - begun:.1f} s", flush=True)

    def _do(self, line: str) -> None:
        code, said = self._shell.do(line)
        if code:
            raise WalkError(f"{line}\nended with {code}:\n{said}")

    def _in_another_shell(self, line: str, up: str) -> None:
        shell = Shell()
        self._others.append(shell)
        shell.send(self._entered or ":")
        shell.send(f"exec {line.partition('  #')[0]}")
        shell.until(up)

    def _run_python(self, text: str) -> None:
        print(f"$ python3: {text.splitlines()[0]} …", flush=True)
        Path("snippet.py").write_text(text)
        is_job = "current_run" in text
        line = "launch-submit --follow -- python3 snippet.py" if is_job else "python3 snippet.py"
        code, said = self._shell.do(line)
        if code or (is_job and "Finished" not in said):
            raise WalkError(f"{text}\nended with {code}:\n{said}")
        self.count += 1


def blocks(readme: str) -> Iterator[tuple[str, str]]:
    """The kind of each block of code, and its text."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def main() -> int:
    for name, text in FILES.items():
        Path(name).write_text(text)
        if name.endswith(".sh"):
            Path(name).chmod(0o755)
    walk = Walk()
    begun = time.monotonic()
    try:
        walk.go(Path("README.md").read_text())
    except WalkError as error:
        print(f"FAILED: {error}", flush=True)
        return 1
    finally:
        walk.close()
    print(f"{walk.count} lines do what they say ({time.monotonic() - begun:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
