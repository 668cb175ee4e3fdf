-- Pending runs whose item vanished from its list get a new one.  ARGV: grace_us, limit
-- Lists are first in, first out: with an empty list every run dispatched before the grace has lost its item; else
-- every one dispatched before the list's oldest item. The cost follows the lost ones, not the backlog.
-- Returns how many were published again.
local grace_us, limit, found = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local now = now_us()
for _, queue in ipairs(redis.call('SMEMBERS', 'launch:queues')) do
  for _, priority in ipairs({'0', '3', '6', '9'}) do
    local list = list_of(queue, priority)
    local waiting = 'launch:dispatched:' .. list
    local cutoff = now - grace_us
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
    if found < limit and first and tonumber(first) <= cutoff then
      heal(list)
      local oldest = redis.call('LINDEX', list, -1)
      if oldest then
        local dispatched = string.match(oldest, '"launch_dispatched_at": ?(%d+)')
        -- A foreign element says nothing about its age: wait until a worker has taken it away.
        cutoff = dispatched and math.min(cutoff, tonumber(dispatched) - 1) or -1
      end
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', int(cutoff), 'LIMIT', 0, limit - found)) do
        if get(id, 'state')[1] == 'Pending' then
          found = found + try_dispatch(id, now, waiting)
        else
          redis.call('ZREM', waiting, id)
        end
      end
    end
  end
end
if found > 0 then redis.call('HINCRBY', 'launch:counters', 'published_again', found) end
return found
