-- Deletes runs that ended longer ago than the retention, with history, logs and index entries.
-- ARGV: retention_us, limit.  Returns the number of runs.
local retention_us, limit = unpack(ARGV)
local now = now_us()
local old = redis.call('ZRANGEBYSCORE', 'launch:ended', '-inf', int(now - tonumber(retention_us)), 'LIMIT', 0, limit)
for _, id in ipairs(old) do
  local run = get(id, 'queue', 'project', 'state', 'attempt', 'sweep', 'array')
  redis.call('ZREM', 'launch:ended', id)
  redis.call('ZREM', 'launch:runs', id)
  if run[1] then redis.call('ZREM', 'launch:runs:queue:' .. run[1], id) end
  if run[2] then redis.call('ZREM', 'launch:runs:project:' .. run[2], id) end
  if run[3] then redis.call('ZREM', 'launch:runs:state:' .. run[3], id) end
  if run[5] and run[5] ~= '' then redis.call('ZREM', 'launch:runs:sweep:' .. run[5], id) end
  forget(id)
end
-- Workers that vanished without a goodbye (publish_lost takes them off the list of workers).
for _, queue in ipairs(redis.call('SMEMBERS', 'launch:queues')) do
  redis.call('ZREMRANGEBYSCORE', 'launch:consumers:' .. queue, '-inf', int(now))
end
return #old
