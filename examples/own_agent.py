"""Take runs with an agent of one's own, in place of a worker: here one that leaves when its queue is empty.

    launch-submit --array 1-3 -q lab -- sh -c 'echo experiment $LAUNCH_ARRAY_INDEX'
    python3 examples/own_agent.py

The worker of `launch-worker dev` does not take the queue "lab", so the runs wait for this program. One sees each run
that it takes, and how it ended.
"""

from __future__ import annotations

import sys
import time

from launch_worker import Api, LaunchAgent
from launch_worker.errors import LaunchError


def main() -> None:
    api = Api()
    taken: list[str] = []
    # It renews its runs' leases, hears of cancels, and ends its jobs when it ends itself, as any worker.
    with LaunchAgent(api, {"queues": ["lab"], "max_jobs": 2}) as agent:
        while True:
            found = agent.get_job_and_queue()  # None too while both slots are taken
            if found is not None:
                # What decides whether, and when, the run begins would be here: the run waits for it, claimed.
                run_id = found.job["runQueueItemId"]
                print(f"takes {run_id} of queue {found.queue}", flush=True)
                taken.append(run_id)
                agent.run_job(found.job, found.queue)
            elif agent.num_running_jobs:
                time.sleep(0.1)
            else:
                break
    for run_id in taken:
        run = api.run(run_id)
        print(f"{run_id} {run.state}: {run.output().text.strip()}")


if __name__ == "__main__":
    try:
        main()
    except LaunchError as error:
        sys.exit(f"own_agent.py: {error}")
