"""Defines the words between a worker and its guard. Standard library only: the guard imports this module.

Both sides write JSON lines into a socket; some lines bring a descriptor along. The end of the stream means that the
other side is gone. Worker and guard may be of different releases after an upgrade: words are added, never changed.

    worker: {"do": an `Order`, …}
    guard:  {"on": an `Event`, …}

- `hello` comes first and names in `knows` what this guard can do beyond the oldest guard of its `PROTOCOL`.
- Each `start` and `adopt` is answered by `exited` (the job's main process ended) and then `gone` (its tree is empty);
  a `start` by `started` or `refused` before. A `start` may name the seconds (`brief_s`) for which its job counts as
  brief: a job that is over by then is reported once, by `ended`, instead of by `started`, `exited` and `gone`.
- A `start` may name a boot time (`start_by`) from which on it is refused: the worker may be frozen after it has looked
  at its lease, and its run be another's by then.
- `lane` brings a socket along, a direct channel: one thread of the worker writes `start` orders into it and reads
  `started`, `refused` or `ended` there, with no other thread in between.
- `piped` in an order says that the read end of the job's pipe comes along. The worker keeps a copy, so that a job whose
  guard dies can go on printing, and the next guard gets the pipe. All that a job has printed is in its file `log`
  before `gone` or `ended`; `disk_full` says that output was given up.
- `stop_signal` and `stops_main` in a `start` or `adopt` say by which signal the job is asked to end, and that only its
  main process is. A guard that does not name `endings` sends SIGTERM to all of its processes.
- `oom_kills` in a `start` or `adopt` is the number of out-of-memory kills that the worker has counted in its memory
  cgroup before the job's start, for a guard that names `oom`; `oom` in `exited` and `ended` says whether such a kill
  ended the job.
- `sandboxed` in a `start` or `adopt` says that the job's command is that of a sandbox's monitor (`sandboxed`): signals
  go to what is inside, and its exit code may stand for a signal.
- `inside` in a `start` has the variables of a sandbox's program, which the monitor itself does not get.
- `landlock` in a `start` says what the kernel is to let the job's processes reach.
- `confined` in a `start` has the limits of a control group that is made for the job (`launch_worker.runners.process
  .control_groups`), and the uid, the gid and the groups of another `user` with the `account`'s name. A guard that does
  not name it is given no such job.
- `used` in `exited`, `gone` and `ended` is what the job's ended processes have used: seconds of CPU, and bytes of
  memory of the largest one. It is missing where that is not known, as with a guard of an older release.
- `watch` names a container. A container is no child of the guard: it is ended (`expired`) when its lease runs out.
- A worker that has sent `pulse` is asked (`ping`) after some silence, and answers `alive`. One that is silent for the
  whole of `within_s` is hung: the guard kills it, and ends its jobs as after any death of the worker.
- After `detach` the jobs stay when the worker goes, each until its lease runs out. Meanwhile the guard answers at
  `SOCKET` in the worker's folder. The next worker sends {"do": "take"}, gets {"on": "taken", "jobs": […]} with the
  folder's lock and the jobs' pipes, and is the guard's worker from then on.
"""

from __future__ import annotations

import json
from typing import Any, Literal

#: Version of the conversation; a guard hands its jobs only to a worker of the same version.
PROTOCOL = 1
#: What a `start` may ask of this guard; said with `hello`.
KNOWS = (
    *("brief", "confined", "endings", "inside", "landlock", "lanes", "oom", "pipes", "pulse", "sandboxed", "start_by"),
)
#: Name, in a worker's folder, of the socket at which its guard answers the next worker.
SOCKET = "guard.sock"

Order = Literal["start", "adopt", "stop", "lease", "watch", "unwatch", "lane", "detach", "pulse", "alive"]
Event = Literal["hello", "started", "refused", "exited", "gone", "ended", "expired", "unendable", "ping", "taken"]


def encode(message: dict[str, Any]) -> bytes:
    """Return the message as one line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Any:
    """Return the message of a line. Raises ValueError."""
    return json.loads(line)
