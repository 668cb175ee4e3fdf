-- The runs of an array that have not ended are asked to end, the last ones first: Pending -> Killed; a Running one is
-- marked and its owner told.  ARGV: array, grace_us ('' = each job's own), reason, from (how many were looked at), limit
-- Returns {killed, asked, how many more there may be from here on}.
local array, grace_us, reason, from, limit = unpack(ARGV)
from, limit = tonumber(from), tonumber(limit)
local now, killed, asked = now_us(), 0, 0
local ids = redis.call('ZREVRANGE', 'launch:runs:array:' .. array, from, from + limit - 1)
for _, id in ipairs(ids) do
  local run = get(id, 'state', 'cancel_at', 'preempting')
  if run[1] == 'Pending' then
    -- One that is damaged must not keep the others going.
    local fine, problem = pcall(kill_pending, id, now, reason)
    if fine then killed = killed + 1 else doubt(id, 'array ' .. array, problem) end
  elseif run[1] == 'Running' then
    ask_to_end(id, now, grace_us, reason, false)
    asked = asked + 1
  end
end
settle(now, 100)
return {killed, asked, #ids == limit and 1 or 0}
