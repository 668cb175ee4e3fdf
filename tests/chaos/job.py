"""The job of every chaos run: it writes down when it began, that it lives, and how it ended. Standard library only.

    python3 -I -S job.py FOLDER SECONDS CODE [FLAG…]

It appends lines `WORD BOOTTIME_NS PID [MORE…]` to FOLDER/RUN.ATTEMPT: `start` (with the pids of its parent, the guard,
and of its parent's parent, the worker, and its devices), `child` and `beat` every 80 ms, also of a grandchild, and
`end CODE` just before it exits. Flags:

    stubborn      ignore SIGTERM
    polite        on SIGTERM, end with code 9 after 0.2 s
    child=S       a grandchild in a session of its own that lives S seconds, longer than its parent if that ends sooner
    daemon=S      the same, forked twice, so that it comes back to the guard
    hardchild     the grandchild ignores SIGTERM
    print=N       print N numbered lines
    flood=N       print N MiB of numbered lines
    hops=S        leave a chain of processes behind, each of which forks the next within 2 ms and exits, for S seconds
    preempt=N     exit with 85 while the attempt is below N
    until=N       fail with the code while the attempt is below N, else exit with 0
    epochs=S      count epochs of S seconds in two files of LAUNCH_CHECKPOINT_DIR, which are written one after the
                  other, and call the folder complete after each
    outputs=N     leave N files in LAUNCH_OUTPUT_DIR, each written beside its place and renamed: half of them at first
    takes         read the files of that kind that it was given as input
    ahead         stamp SIGUSR1
    wheel=N       stamp `wheel VERSION`, that of the package in its environment, or `none`

With `epochs` it stamps `found FIRST SECOND` with what the two files had at first (0: there was none), and `kept N` for
each epoch of which its worker has said that it is stored. With `outputs` it stamps `left N` once all files are there,
with `takes` `took RUN.ATTEMPT N` for all files that were as they should be, and `spoiled NAME` for another one.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would double the start-up time
    from typing import NoReturn

BEAT_S = 0.08


def stamp(word: str, *more: object) -> None:
    line = " ".join((word, str(time.clock_gettime_ns(time.CLOCK_BOOTTIME)), str(os.getpid()), *map(str, more)))
    os.write(stamps, line.encode() + b"\n")


def live(seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(BEAT_S, left))
        stamp("beat")


def end(code: int) -> NoReturn:
    stamp("end", code)
    os._exit(code)


def read_number(path: str) -> int:
    """The first number in a file; 0 where there is none."""
    try:
        with open(path) as file:
            return int(file.read().split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def content(name: str, number: int) -> bytes:
    """The content of an output of an attempt, which tells one attempt's from another's. outputs.py has the same."""
    line = b"%s part %d\n" % (name.encode(), number)
    return (line * 1000)[: len(line) + 7919 * number % 12000]


def leave(numbers: range) -> None:
    """Write outputs: what is there is whole."""
    for number in numbers:
        path = os.path.join(os.environ["LAUNCH_OUTPUT_DIR"], f"part-{number}")
        try:
            with open(path + ".tmp", "wb") as file:
                file.write(content(name, number))
            os.rename(path + ".tmp", path)
        except OSError:
            # The disk is full.
            stamp("unsaved")
            end(3)


def take() -> None:
    """Compare what was given with what it should be."""
    folder, of, count = os.path.join(os.environ["LAUNCH_INPUT_DIR"], "taken"), "-", 0
    for part in sorted(os.listdir(folder)):
        if not part.startswith("part-") or part.endswith(".tmp"):
            continue
        with open(os.path.join(folder, part), "rb") as file:
            found = file.read()
        of = found.split(b" ", 1)[0].decode("ascii", "replace") or "-"
        if found != content(of, int(part[5:])):
            stamp("spoiled", part)
        count += 1
    stamp("took", of, count)


def train(seconds: float, epoch_s: float) -> None:
    """Count epochs for so long; the two files differ for half of each."""
    state, talk = os.environ["LAUNCH_CHECKPOINT_DIR"], os.environ["LAUNCH_RUN_DIR"]
    first, second = os.path.join(state, "first"), os.path.join(state, "second")
    epoch, kept = read_number(first), 0
    stamp("found", epoch, read_number(second))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        epoch += 1
        try:
            write(first, str(epoch))
            live(epoch_s / 2)
            write(second, str(epoch))
            with open(os.path.join(talk, "to_worker"), "a") as to_worker:
                to_worker.write(f'{{"checkpoint": {epoch}}}\n')
        except OSError:
            # The disk is full: what is in the folder is called nothing.
            stamp("unsaved")
            end(3)
        # Until its worker has copied the folder, which may be frozen or dead.
        while read_number(os.path.join(talk, "checkpoint_taken")) < epoch and time.monotonic() < until + 5:
            live(0.01)
        if read_number(os.path.join(talk, "checkpointed")) > kept:
            kept = read_number(os.path.join(talk, "checkpointed"))
            stamp("kept", kept)
        live(epoch_s / 2)


def grandchild(seconds: float, *, daemon: bool, hard: bool) -> None:
    if os.fork():
        return
    os.setsid()
    if daemon and os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if hard else signal.SIG_DFL)
    stamp("child")
    live(seconds)
    os._exit(0)


def hop(seconds: float) -> None:
    """Processes that are gone before anybody who looked for them can signal them."""
    until = time.monotonic() + seconds
    if os.fork():
        return
    os.setsid()
    stamp("child")
    stamped_at = time.monotonic()
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        time.sleep(0.002)
        if time.monotonic() > stamped_at + BEAT_S:
            stamp("beat")
            stamped_at = time.monotonic()
    os._exit(0)


def parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def polite(*_: object) -> None:
    stamp("term")
    time.sleep(0.2)
    end(9)


folder, seconds, code, *given = sys.argv[1:]
flags = dict(flag.partition("=")[::2] for flag in given)
name = os.environ["LAUNCH_RUN_ID"] + "." + os.environ["LAUNCH_ATTEMPT"]
stamps = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
if "stubborn" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "ahead" in flags:
    signal.signal(signal.SIGUSR1, lambda *_: stamp("ahead"))
stamp("start", os.getppid(), parent_of(os.getppid()), os.environ["CUDA_VISIBLE_DEVICES"] or "-")
if "polite" in flags:
    signal.signal(signal.SIGTERM, polite)
for how in ("child", "daemon"):
    if how in flags:
        grandchild(float(flags[how]), daemon=how == "daemon", hard="hardchild" in flags)
if "hops" in flags:
    hop(float(flags["hops"]))
try:
    for number in range(int(flags.get("print", 0))):
        os.write(1, b"%s line %d\n" % (name.encode(), number))
    for number in range(int(flags.get("flood", 0)) << 10):
        # A line of 64 bytes, 16 of them at once.
        os.write(1, b"".join(b"%-63d\n" % (16 * number + more) for more in range(16)))
except OSError:
    stamp("unprinted")
if "takes" in flags:
    take()
if "wheel" in flags:
    try:
        from chaos_wheel import VERSION  # type: ignore[import-not-found]
    except ImportError:
        VERSION = "none"
    stamp("wheel", VERSION)
outputs = int(flags.get("outputs", 0))
leave(range(outputs // 2))
if "epochs" in flags and "LAUNCH_CHECKPOINT_DIR" in os.environ:
    train(float(seconds), float(flags["epochs"]))
else:
    live(float(seconds))
leave(range(outputs // 2, outputs))
if outputs:
    stamp("left", outputs)
if int(os.environ["LAUNCH_ATTEMPT"]) < int(flags.get("preempt", 0)):
    end(85)
end(0 if "until" in flags and int(os.environ["LAUNCH_ATTEMPT"]) >= int(flags["until"]) else int(code))
