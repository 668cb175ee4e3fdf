-- A final state -> Pending: a new attempt that a person asked for. The retry policy counts from this attempt on.
-- ARGV: id, reason, actor, from_scratch (1: the new attempt goes on from no checkpoint), elsewhere (1: not on the worker of
--   the last attempt, while another one may take it).  Returns {1, ''} or {0, the state that refused} or {0, ''} for an unknown run.
local id, reason, actor, from_scratch, elsewhere = unpack(ARGV)
local run = get(id, 'state', 'attempt')
if not run[1] then return {0, ''} end
if not FINAL[run[1]] then return {0, run[1]} end
if from_scratch == '1' then
  put(id, 'fresh_from', tonumber(run[2]) + 1)
  drop(id, 'checkpoint')
end
retry_by_person(id, now_us(), reason, actor, elsewhere == '1')
return {1, ''}
