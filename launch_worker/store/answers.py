"""Names the words with which the functions in Redis answer; mypy checks each comparison with one."""

from __future__ import annotations

from typing import Literal

#: Answer to a heartbeat for one run: go on; stop, or make room, because a person asked for it; the run has a later
#: attempt, or this attempt another worker; the run has ended; Redis has lost its record.
LeaseWord = Literal["ok", "cancel", "preempt", "superseded", "adopted", "ended", "unknown"]

#: What a cancel did: a Pending run is Killed, a Running one's worker is asked, and an ended one is left alone.
CancelWord = Literal["killed", "requested", "final"]

#: What a preemption did: a Running run's worker is asked, and a Pending run or an ended one is left alone.
PreemptWord = Literal["requested", "pending", "final"]

#: Why an attempt cannot be adopted: a later attempt, an end, another worker that has it, no record; '' where it was.
AdoptRefusal = Literal["", "superseded", "ended", "taken", "unknown"]

#: What became of a hold: it is placed; another worker has the attempt; the attempt does not run.
HoldWord = Literal["held", "adopted", "over"]

#: Answer to the report of an attempt's end.
FinishWord = Literal["done", "superseded", "unknown"]

#: Answer to outputs that are stored; superseded: others of the attempt count; deleted: the run is; unknown: no record.
KeepOutputsWord = Literal["kept", "superseded", "deleted", "unknown"]

#: Answer to a checkpoint that is stored; unknown: no record of the attempt.
KeepWord = Literal["done", "superseded", "unknown"]

#: Answer to what a job said; stale: the summary has changed meanwhile, and must be merged again; unknown: no record.
TellWord = Literal["done", "stale", "superseded", "unknown"]

#: Answer to the deletion of a run; again: not all runs that wait for it were told, and the call must be repeated.
DeleteWord = Literal["deleted", "running", "unknown", "again"]

#: Answer to a file that is to be kept with a run.
SaveWord = Literal["kept", "full", "unknown"]

#: Answer to an order for a sweep.
SteerWord = Literal["done", "refused", "unknown"]
