"""Submit many runs from Python, wait for all of them, and compare what they found.

    python3 examples/many.py

One sees a line for each learning rate as its run ends, then the best one. The runs are those of examples/metrics.py.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from launch_worker import Api, submit_many
from launch_worker.errors import LaunchError

JOB = Path(__file__).with_name("metrics.py")
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 0.9, 1.1)


def main() -> int:
    command = ["python3", str(JOB), "--steps", "10", "--pause", "0"]
    api = Api()
    # All are checked before the first is sent, and sent in one round trip.
    runs = submit_many([{"command": command, "config": {"lr": lr}, "tags": ["many"]} for lr in LEARNING_RATES], api=api)

    losses: dict[float, float] = {}
    for lr, run in zip(LEARNING_RATES, runs, strict=True):
        state = run.wait(timeout=600)
        losses[lr] = run.summary.get("final_loss", math.inf)
        print(f"lr {lr:<5} {state} loss {losses[lr]:.6f}", flush=True)
    best = min(losses, key=losses.__getitem__)
    print(f"the best learning rate is {best}")
    return 0 if all(run.exit_code == 0 for run in runs) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LaunchError as error:
        # Each is one sentence that says what was wrong, and what to do.
        sys.exit(f"many.py: {error}")
