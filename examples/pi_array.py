"""Do one part of a large piece of work: an array is many runs of one command, each with an index of its own.

    launch-submit --array 0-7%4 --name pi --wait -- python3 examples/pi_array.py

At most 4 of the 8 runs run at once. One sees their ids, and how each ended. What they found is in their summaries:

    launch-worker runs --filter '{"name": "pi"}' --json
"""

from __future__ import annotations

import os
import random

from launch_worker import current_run

POINTS = 200_000


def main() -> None:
    # The index chooses the part: here a seed; elsewhere a file of a list, or a line of a file.
    index = int(os.environ.get("LAUNCH_ARRAY_INDEX", "0"))
    chance = random.Random(index)
    inside = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(POINTS))
    estimate = 4 * inside / POINTS
    print(f"part {index}: pi is about {estimate:.4f}")
    current_run().summary["pi"] = estimate


if __name__ == "__main__":
    main()
