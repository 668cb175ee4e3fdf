-- Deletes sweeps that ended longer ago than the retention. Their runs have a retention of their own.
-- ARGV: retention_us, limit.  Returns how many.
local now, retention, gone = now_us(), tonumber(ARGV[1]), 0
for _, sweep in ipairs(redis.call('ZRANGEBYSCORE', 'launch:sweeps', '-inf', int(now - retention), 'LIMIT', 0, 1000)) do
  local key = sweep_key(sweep)
  local ended, made = unpack(redis.call('HMGET', key, 'ended_at', 'made'))
  local is_gone = redis.call('EXISTS', key) == 0
  if gone < tonumber(ARGV[2]) and (is_gone or (ended and tonumber(ended) < now - retention)) then
    gone = gone + 1
    for index = 0, (tonumber(made or '') or 0) - 1 do redis.call('DEL', key .. ':curve:' .. index) end
    for _, part in ipairs({'', ':runs', ':live', ':trials', ':results', ':stopped', ':ended'}) do redis.call('DEL', key .. part) end
    redis.call('ZREM', 'launch:sweeps', sweep)
    redis.call('SREM', 'launch:sweeps:live', sweep)
  end
end
return gone
