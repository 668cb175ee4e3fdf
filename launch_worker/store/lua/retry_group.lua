-- A final state -> Pending for runs of an array or a bulk submission, the first runs first: new attempts that a person asked for.
-- ARGV: group, before (runs that ended later are left alone, so that a repeated call starts no run twice; '' for now),
--   only_failed (1: not the Finished ones), reason, from (number of runs that were looked at before), limit, actor,
--   elsewhere (1: not on the workers of the last attempts, while others may take them)
-- Returns {number of runs that are Pending again, `before`, 1 if there may be more}.
local group, before, only_failed, reason, from, limit, actor, elsewhere = unpack(ARGV)
from, limit = tonumber(from), at_most(limit, MOST_AT_ONCE)
local now = now_us()
before = tonumber(before) or now
local count = 0
local ids = members_of(group, from, from + limit - 1)
for _, id in ipairs(ids) do
  local state, ended_at = unpack(get(id, 'state', 'ended_at'))
  local is_meant = FINAL[state] and not (only_failed == '1' and state == 'Finished')
  if is_meant and (tonumber(ended_at or '') or 0) <= before then
    local fine, problem = pcall(retry_by_person, id, now, reason, actor, elsewhere == '1')
    if fine then count = count + 1 else doubt(id, 'group ' .. group, problem) end
  end
end
return {count, int(before), #ids == limit and 1 or 0}
