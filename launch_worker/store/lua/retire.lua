-- Deletes runs that ended longer ago than the retention, with history, logs and index entries. While an archive is
-- registered, these are runs that it has confirmed; of the others it deletes only the oldest that are more than
-- most_unarchived, and counts them. Takes queues off the list that nobody has used for a day.
-- ARGV: retention_us, limit, most_unarchived.  Returns the number of runs.
local retention_us, limit, most_unarchived = unpack(ARGV)
local now, deleted = now_us(), 0
limit = at_most(limit, MOST_AT_ONCE)
local before = int(now - tonumber(retention_us))

local function retire(list, most)
  local old = redis.pcall('ZRANGEBYSCORE', list, '-inf', before, 'LIMIT', 0, int(most))
  if old.err then return 0 end
  for _, id in ipairs(old) do
    local run = get(id, 'queue', 'project', 'state', 'attempt', 'sweep', 'array', 'once')
    redis.call('ZREM', list, id)
    redis.call('ZREM', 'launch:runs', id)
    if run[1] then redis.call('ZREM', 'launch:runs:queue:' .. run[1], id) end
    if run[2] then redis.call('ZREM', 'launch:runs:project:' .. run[2], id) end
    if run[3] then redis.call('ZREM', 'launch:runs:state:' .. run[3], id) end
    if run[5] and run[5] ~= '' then redis.call('ZREM', 'launch:runs:sweep:' .. run[5], id) end
    forget(id)
  end
  return #old
end

deleted = retire('launch:archived', limit)
if redis.pcall('EXISTS', 'launch:archive') == 1 then
  local over = redis.call('ZCOUNT', 'launch:ended', '-inf', before) - tonumber(most_unarchived)
  local lost = retire('launch:ended', math.max(0, math.min(limit - deleted, over)))
  if lost > 0 then
    redis.call('HINCRBY', 'launch:counters', 'unarchived_deleted', lost)
    redis.call('HSET', 'launch:counters', 'unarchived_deleted_at', int(now))
  end
  deleted = deleted + lost
else
  deleted = deleted + retire('launch:ended', limit - deleted)
end
-- Whether nothing is, and for a day nothing was, in a queue that nobody has configured and no worker consumes.
local function is_idle(queue)
  if redis.call('EXISTS', 'launch:queue:' .. queue, 'launch:line:' .. queue, 'launch:consumers:' .. queue,
    'launch:places:queue:' .. queue, 'launch:groups:' .. queue, 'launch:shapes:' .. queue) > 0 then return false end
  local newest = redis.call('ZREVRANGE', 'launch:runs:queue:' .. queue, 0, 0, 'WITHSCORES')
  return (tonumber(newest[2] or '') or 0) < now - 86400000000
end

-- Some queues at each pass, which one is chance. Workers that vanished without a goodbye: publish_lost takes them off the list of workers.
for _, queue in ipairs(redis.call('SRANDMEMBER', 'launch:queues', 500)) do
  redis.call('ZREMRANGEBYSCORE', 'launch:consumers:' .. queue, '-inf', int(now))
  local fine, idle = pcall(is_idle, queue)
  -- It is there again with its next run.
  if fine and idle and redis.call('SREM', 'launch:queues', queue) == 1 then
    COUNTS.forget(queue)
    redis.call('PUBLISH', 'launch:queues', queue)
  end
end
return deleted
