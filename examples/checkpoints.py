"""Train with checkpoints: a run that must make room for another saves its work, and goes on there later.

    launch-submit --name checkpoints --follow -- python3 examples/checkpoints.py

One sees "epoch 1", "epoch 2" … To see it make room, type in another shell, with the id that the first one shows:

    launch-worker preempt RUN

Then comes "saved after epoch 7", and the same run starts again as attempt 2: "goes on after epoch 7".
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

#: The exit code of a job that wants to run again: its run goes back to the queue under the same id.
PREEMPTED = 85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="default %(default)s")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of an epoch (default %(default)s)")
    args = parser.parse_args()

    # A retry has the run's id too, so it finds the same file. With workers on many machines this is a shared folder.
    path = Path("checkpoints") / f"{os.environ.get('LAUNCH_RUN_ID', 'no-run')}.json"
    epochs_done = load(path)
    if epochs_done:
        print(f"goes on after epoch {epochs_done}", flush=True)

    # SIGTERM only asks for the end: the loop ends where the state is whole.
    stop_asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop_asked.set())

    while epochs_done < args.epochs:
        stop_asked.wait(args.pause)  # the training would be here
        if stop_asked.is_set():
            print(f"saved after epoch {epochs_done}", flush=True)
            sys.exit(PREEMPTED)
        epochs_done += 1
        save(path, epochs_done)
        print(f"epoch {epochs_done}", flush=True)
    path.unlink()
    print("trained", flush=True)


def load(path: Path) -> int:
    """The number of epochs that earlier attempts have done."""
    return int(json.loads(path.read_text())["epochs_done"]) if path.exists() else 0


def save(path: Path, epochs_done: int) -> None:
    """Write the checkpoint beside the old one and put it in its place: a kill leaves one of the two, and whole."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"epochs_done": epochs_done}))
    new.replace(path)


if __name__ == "__main__":
    main()
