-- Repeats to the owners of Running runs which runs they were asked to stop.  ARGV: limit.  Returns the number of runs.
local limit = ARGV[1]
limit = at_most(limit, MOST_AT_ONCE)
local asked = 0
for _, id in ipairs(redis.call('ZRANGE', 'launch:cancels', 0, limit - 1)) do
  local run = get(id, 'state', 'owner', 'cancel_at')
  if run[1] ~= 'Running' or not run[3] then
    redis.call('ZREM', 'launch:cancels', id)
  else
    redis.call('PUBLISH', 'launch:orders:' .. run[2], order_of(id))
    asked = asked + 1
  end
end
return asked
