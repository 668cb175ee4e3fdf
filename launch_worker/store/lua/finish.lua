-- Running | Crashed -> Finished | Failed | Killed, and on to Pending when the retry policy says so.
-- ARGV: id, token, attempt, owner, worker, state, exit_code, pid (of the main process; '' when `started` has noted it),
--   ended_ago_us (time since the end by the worker's clock; '' for now), usage (JSON of what the attempt used; '' where that
--   is not known), capacity (free capacity of the worker now; '' for none); and these, of which the last ones may be missing
--   where they are '': reason, phase, message, signal, retry_us (-1: no retry), retry_reason, counts_as (0: a retry, 1: a
--   preemption, 2: nothing, 3: a start that failed through the worker), samples (as usage, with samples over time), left ('1':
--   outputs of the attempt wait to be sent, '0': none do; '' where that is not said), retried, avoid, needs (new values of
--   these fields of the record where it is tried again; '' to leave them)
-- Refuses a superseded attempt (counted), and an owner whose job another worker took over ('' speaks for any owner). A
-- repeated report of the same attempt changes nothing. An end is never noted as before its start.
-- Returns 'done' | 'superseded' | 'unknown' (Redis has lost the record).
local said = ARGV
local report, now = ENDS.report_of(said, 1), now_us()
local room = ENDS.room_of(report)
local word, is_alone = ENDS.finish(report, now, room and room.queues or {})
if is_alone then ENDS.note_room(report) end
return word
