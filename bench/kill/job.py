"""The job of every scene: it writes down itself when it began, that it lives, and how it ended. Standard library only.

    python3 -I -S job.py FILE SECONDS [stubborn] [child=SECONDS]

It appends `WORD BOOTTIME_NS PID [MORE]` to FILE: `start ATTEMPT`, `alive` five times a second, `end CODE`. A child is
in a session of its own, stamps `child` and then `alive` under its own pid, and goes on when the job has ended.
"""

import os
import signal
import sys
import time

TICK_S = 0.2


def stamp(word: str, *more: object) -> None:
    line = " ".join((word, str(time.clock_gettime_ns(time.CLOCK_BOOTTIME)), str(os.getpid()), *map(str, more)))
    os.write(file, line.encode() + b"\n")


def live(seconds: float) -> None:
    # Steps, not a time: as work does, a frozen job goes on where it stood.
    for _ in range(round(seconds / TICK_S)):
        time.sleep(TICK_S)
        stamp("alive")


path, seconds, *given = sys.argv[1:]
flags = dict(flag.partition("=")[::2] for flag in given)
file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
if "stubborn" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
stamp("start", 1 + os.pread(file, 1 << 20, 0).count(b"start "))
if "child" in flags and os.fork() == 0:
    os.setsid()
    stamp("child")
    live(float(flags["child"]))
    os._exit(0)
live(float(seconds))
stamp("end", 0)
os._exit(0)
