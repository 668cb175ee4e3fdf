"""Train with checkpoints: a run that must make room for another goes on later where it was, on whatever machine.

    launch-submit --name checkpoints --follow -- python3 examples/checkpoints.py

One sees "epoch 1", "epoch 2" … To see it make room, type in another shell, with the id that the first one shows:

    launch-worker preempt RUN

Then the same run starts again as attempt 2: "goes on after epoch 7". It would also after `kill -9` of the worker, with
`--retries 1`. What is kept, and how old it is, says: launch-worker show RUN
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from launch_worker import current_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="default %(default)s")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of an epoch (default %(default)s)")
    args = parser.parse_args()

    # What is in this folder comes back on the next attempt. Outside a run, or of a worker that keeps none, it is ''.
    run = current_run()
    path = Path(run.checkpoint_dir or "checkpoints") / "state.json"
    path.parent.mkdir(exist_ok=True)

    epochs_done = load(path)
    if run.is_resumed:
        print(f"goes on after epoch {epochs_done}", flush=True)
    while epochs_done < args.epochs:
        time.sleep(args.pause)  # the training would be here
        epochs_done += 1
        save(path, epochs_done)
        run.checkpoint()  # the folder is complete: it is copied now, and stored while the training goes on
        print(f"epoch {epochs_done}", flush=True)
    print("trained", flush=True)


def load(path: Path) -> int:
    """The number of epochs that earlier attempts have done."""
    return int(json.loads(path.read_text())["epochs_done"]) if path.exists() else 0


def save(path: Path, epochs_done: int) -> None:
    """Write the state beside the old one and put it in its place: a kill leaves one of the two, and whole."""
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps({"epochs_done": epochs_done}))
    new.replace(path)


if __name__ == "__main__":
    main()
