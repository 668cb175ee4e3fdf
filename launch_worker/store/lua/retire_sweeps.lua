-- Deletes sweeps that ended longer ago than the retention. Their runs have a retention of their own.
-- ARGV: retention_us, limit.  Returns the number of sweeps.
local retention_us, limit = unpack(ARGV)
retention_us, limit = tonumber(retention_us), at_most(limit, MOST_AT_ONCE)
local CURVES = 5000
local now, gone = now_us(), 0
for _, sweep in ipairs(redis.call('ZRANGEBYSCORE', 'launch:sweeps', '-inf', int(now - retention_us), 'LIMIT', 0, 1000)) do
  local key = sweep_key(sweep)
  local ended = redis.call('HGET', key, 'ended_at')
  local is_gone = redis.call('EXISTS', key) == 0
  if gone < limit and (is_gone or (ended and tonumber(ended) < now - retention_us)) then
    gone = gone + 1
    -- Curves are deleted by the numbers of the runs: the field `made` may be damaged.
    local runs = redis.pcall('ZRANGE', key .. ':runs', 0, CURVES - 1, 'WITHSCORES')
    for at = 2, runs.err and 0 or #runs, 2 do redis.call('DEL', key .. ':curve:' .. runs[at]) end
    if #runs == 2 * CURVES then
      -- The next pass goes on.
      redis.call('ZREMRANGEBYRANK', key .. ':runs', 0, CURVES - 1)
      return gone
    end
    for _, part in ipairs({'', ':runs', ':live', ':trials', ':results', ':stopped', ':ended'}) do redis.call('DEL', key .. part) end
    redis.call('ZREM', 'launch:sweeps', sweep)
    redis.call('SREM', 'launch:sweeps:live', sweep)
  end
end
return gone
