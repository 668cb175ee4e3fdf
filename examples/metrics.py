"""Tell the worker how a training goes, and stop by oneself when somebody asks for it.

    launch-submit --name metrics --follow --config lr=0.2 -- python3 examples/metrics.py

One sees the loss of each step. While it runs, `launch-worker show RUN` shows the last loss, and after
`launch-worker cancel RUN` the job says why it stops, and ends by itself.
"""

from __future__ import annotations

import argparse
import time

from launch_worker import current_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="default %(default)s")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of a step (default %(default)s)")
    args = parser.parse_args()

    # Outside a run all of this is there too, and does nothing.
    run = current_run()
    lr = float(run.config.get("lr", 0.1))
    x, loss = 0.0, 9.0
    for step in range(1, args.steps + 1):
        x -= lr * 2 * (x - 3)  # the least (x - 3)², by its gradient
        loss = (x - 3) ** 2
        print(f"step {step} loss {loss:.6f}", flush=True)
        run.log({"loss": loss, "x": x}, step=step)
        if run.should_stop():
            print(f"stops after step {step}: {run.stop_reason}", flush=True)
            return
        time.sleep(args.pause)
    run.summary["final_loss"] = loss


if __name__ == "__main__":
    main()
