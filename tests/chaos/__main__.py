"""python -m tests.chaos --seed 1 --duration 600 --workers 3"""

from __future__ import annotations

import argparse
import sys

from tests.chaos.harness import run_chaos, stop_on_sigterm
from tests.chaos.plan import plan_faults
from tests.chaos.report import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break the system at random, and check.")
    parser.add_argument("--seed", type=int, default=1, help="the same seed plans the same faults and runs")
    parser.add_argument("--duration", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument(
        "--notices",
        type=int,
        default=0,
        metavar="RUNS",
        help="so many runs that tell their ends, and only their way is disturbed: receiver, senders, servers, Redis",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs also without violations")
    parser.add_argument("--plan", action="store_true", help="only show the planned faults")
    options = parser.parse_args()
    if options.plan:
        for fault in plan_faults(options.seed, options.duration):
            print(f"{fault.at_s:7.2f} s  {fault.kind:<22} {fault.variant:<8} {fault.lasts_s:5.2f} s")
        return 0
    stop_on_sigterm()
    result = run_chaos(
        seed=options.seed,
        duration_s=options.duration,
        workers=options.workers,
        keep=options.keep,
        told=options.notices,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(table(result.findings, seed=options.seed, duration_s=options.duration))
    if result.folder is not None:
        print(f"the logs are in {result.folder}")
    return 1 if result.findings.violations else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
