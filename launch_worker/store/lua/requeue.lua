-- A final state -> Pending: a new attempt that a person asked for. The retry policy counts from this attempt on.
-- ARGV: id, reason, actor.  Returns {1, ''} or {0, the state that refused} or {0, ''} for an unknown run.
local id, reason, actor = unpack(ARGV)
local run = get(id, 'state', 'attempt')
if not run[1] then return {0, ''} end
if not FINAL[run[1]] then return {0, run[1]} end
retry_by_person(id, now_us(), reason, actor)
return {1, ''}
