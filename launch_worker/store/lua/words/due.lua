-- When the next run, expiry or schedule is due.

-- The time at which the next run, expiry or schedule is due, '0' for none. For a worker that prepares runs ahead, a run
-- is due prefetch_us earlier.
local function next_due(now, prefetch_us)
  if redis.call('EXISTS', 'launch:settle', 'launch:due', 'launch:expiring', 'launch:schedules') == 0 then return '0' end
  if redis.call('EXISTS', 'launch:settle') == 1 then return int(now) end
  local first
  local function consider(key, from, ahead)
    local found = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    local at = found and tonumber(found) - ahead
    if at and (not first or at < first) then first = at end
  end
  consider('launch:due', '-inf', 0)
  if prefetch_us > 0 then consider('launch:due', '(' .. int(now + prefetch_us), prefetch_us) end
  consider('launch:expiring', '-inf', 0)
  -- A schedule that could not be fired stays in the past, and is passed over.
  consider('launch:schedules', '(' .. int(now), 0)
  return first and int(first) or '0'
end
