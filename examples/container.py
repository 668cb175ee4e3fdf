"""Run a command in a container, with little memory, no network and a root that it cannot write to.

    python3 examples/container.py --image debian:stable-slim

It needs a Docker Engine on the worker's machine. One sees the run's states, and what the container prints, as
they come.
"""

from __future__ import annotations

import argparse
import sys

from launch_worker import submit
from launch_worker.errors import LaunchError

SCRIPT = """
echo "run $LAUNCH_RUN_ID in a container, as user $(id -u)"
echo "it can write to /tmp" > /tmp/note && cat /tmp/note
touch /note 2>/dev/null || echo "it cannot write to /"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="debian:stable-slim", help="any with a shell (default %(default)s)")
    args = parser.parse_args()

    run = submit(
        ["sh", "-c", SCRIPT],
        image=args.image,
        memory="64M",
        cpus=1,
        timeout="5m",
        container={"network": "none", "read_only": True, "tmpfs": ["/tmp"]},
    )
    # Each change of the run's state, and each piece of its output, as they come.
    for state, output in run.follow():
        if state is not None:
            print(f"-- {state}", flush=True)
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
    if run.exit_code is None:
        # It never ran: there is no engine, or no such image.
        print(run.record.message or run.record.reason, file=sys.stderr)
    return run.shell_exit_code()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LaunchError as error:
        sys.exit(f"container.py: {error}")
