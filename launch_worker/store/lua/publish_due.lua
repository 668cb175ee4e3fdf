-- Pending runs whose time has come get an item in their queue.  ARGV: limit
-- Returns {how many, the next due time or 0}.
local now = now_us()
local due = redis.call('ZRANGEBYSCORE', 'launch:due', '-inf', int(now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  if get(id, 'state')[1] == 'Pending' then
    redis.call('HSET', run_key(id), 'reason', '')
    try_dispatch(id, now, 'launch:due')
  else
    redis.call('ZREM', 'launch:due', id)
  end
end
local next_due = redis.call('ZRANGE', 'launch:due', 0, 0, 'WITHSCORES')[2]
return {#due, next_due and int(tonumber(next_due)) or '0'}
