-- Parked runs: they are ready, and wait for a place or for a worker with room.

-- Takes a run out of the line in which it is parked.
local function unpark(id)
  local run = record_of(id, 'parked', 'queue')
  local parked, queue = run.parked, run.queue
  if not parked then return end
  drop(id, 'parked')
  local group, name = string.match(parked, '^([^/]+)/(.*)$')
  if not group then return end
  local line = 'launch:parked:' .. parked
  redis.call('ZREM', line, id)
  if redis.call('EXISTS', line) == 1 then return end
  redis.call('SREM', 'launch:parked:' .. group, name)
  local needs = string.match(group, '^needs:(.*)$')
  if needs then
    redis.call('SREM', 'launch:shapes:' .. queue, needs)
    return
  end
  -- A second line of the group may have runs of the same queue: a key with two limits has two lines.
  for _, other in ipairs(redis.call('SRANDMEMBER', 'launch:parked:' .. group, 1000)) do
    if queue_of(other) == queue then return end
  end
  redis.call('SREM', 'launch:groups:' .. queue, group)
end

-- Takes a Pending run out of the list, line or set in which it waits.
local function withdraw(id)
  local run = record_of(id, 'queue', 'priority', 'list', 'due_at', 'parked')
  if not run.queue then return end
  redis.call('ZREM', 'launch:dispatched:' .. (run.list or list_of(run.queue, run.priority)), id)
  if run.due_at then redis.call('ZREM', 'launch:due', id) end
  redis.call('ZREM', 'launch:line:' .. run.queue, id)
  if run.parked then unpark(id) end
  if run.due_at or run.list then drop(id, 'due_at', 'list') end
end

-- Parks a ready run in a line of a group, with the run's usual rank.
local function park(id, group, line, why)
  local run = get(id, 'queue', 'priority', 'lined_at')
  put(id, 'parked', group .. '/' .. line, 'reason', why)
  redis.call('ZADD', 'launch:parked:' .. group .. '/' .. line, int(rank_of(run[2], run[3])), id)
  redis.call('SADD', 'launch:parked:' .. group, line)
  local needs = string.match(group, '^needs:(.*)$')
  if needs then
    redis.call('SADD', 'launch:shapes:' .. run[1], needs)
  else
    redis.call('SADD', 'launch:groups:' .. run[1], group)
  end
end

local function park_for_needs(id, queue, needs)
  park(id, 'needs:' .. needs, queue, words_for(parse_needs(needs)))
end
