-- Asks the runs of an array or a bulk submission that have not ended to end, the last runs first: so none of them starts
-- in the place of another. Pending -> Killed; a Running run is marked, and its owner is told.  The group gets no more runs.
-- ARGV: group, grace_us ('' = each job's own), reason, from (number of runs that were looked at before), limit, actor
-- Returns {number of killed runs, number of asked runs, 1 if there may be more}.
local group, grace_us, reason, from, limit, actor = unpack(ARGV)
from, limit = tonumber(from), at_most(limit, MOST_AT_ONCE)
local now, killed, asked = now_us(), 0, 0
if from == 0 then WAITING.seal(group, 'cancelled', now) end
local ids = members_of(group, -from - limit, -from - 1)
for at = #ids, 1, -1 do
  local id = ids[at]
  local run = get(id, 'state', 'cancel_at', 'preempting')
  if run[1] == 'Pending' then
    -- A damaged run must not keep the others going.
    local fine, problem = pcall(WAITING.kill_pending, id, now, reason, {actor = actor})
    if fine then killed = killed + 1 else doubt(id, 'group ' .. group, problem) end
  elseif run[1] == 'Running' then
    ask_to_end(id, now, grace_us, reason, false, actor)
    asked = asked + 1
  end
end
WAITING.settle(now, 100)
return {killed, asked, #ids == limit and 1 or 0}
