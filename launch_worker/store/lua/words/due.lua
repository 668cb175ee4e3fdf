-- When the next run, expiry or schedule is due.

-- When next something is due: a run, an expiry, a schedule; for a worker that prepares runs ahead, that much earlier.
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
  -- One that cannot be fired stays where it is.
  consider('launch:schedules', '(' .. int(now), 0)
  return first and int(first) or '0'
end
