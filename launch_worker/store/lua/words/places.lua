-- Places: the limits of queues, pools, keys and arrays, and the runs that count for them.

-- The groups whose limits a Running run counts for. A pool is not among them: its count is the sum over its queues.
local function places_of(id)
  local run = get(id, 'queue', 'concurrency_key', 'array')
  local groups = {}
  if run[1] then groups[1] = 'queue:' .. run[1] end
  if run[2] and run[2] ~= '' then groups[#groups + 1] = 'key:' .. run[2] end
  if run[3] and run[3] ~= '' then groups[#groups + 1] = 'array:' .. run[3] end
  return groups
end

-- Runs that this call has dispatched, by group: they count as if they were claimed already.
local promised = {}
local function promise(id)
  local groups = places_of(id)
  local pool = groups[1] and settings_of('queue', string.sub(groups[1], 7)).pool
  if pool then groups[#groups + 1] = 'pool:' .. pool end
  for _, group in ipairs(groups) do promised[group] = (promised[group] or 0) + 1 end
end

local function count_of(group)
  local count = promised[group] or 0
  local pool = string.match(group, '^pool:(.*)$')
  if not pool then return count + redis.call('SCARD', 'launch:places:' .. group) end
  for _, queue in ipairs(redis.call('ZRANGE', 'launch:pool_queues:' .. pool, 0, -1)) do
    count = count + redis.call('SCARD', 'launch:places:queue:' .. queue)
  end
  return count
end

-- The limit that a run would break if it ran now: its group, the line of that group in which the run would wait, and
-- the reason. nil for none.
local function no_room(id)
  local run = get(id, 'queue', 'concurrency_key', 'limit_key', 'array', 'array_limit')
  local queue = run[1]
  local of_queue = settings_of('queue', queue)
  local pool = of_queue.pool
  local of_pool = pool and settings_of('pool', pool) or {}
  if of_queue.paused then return 'queue:' .. queue, queue, 'queue paused' end
  if of_pool.paused then return 'pool:' .. pool, queue, 'pool ' .. pool .. ' paused' end
  local function is_full(group, limit) return limit and count_of(group) >= limit end
  local group, limit = 'array:' .. (run[4] or ''), tonumber(run[5] or '')
  if group ~= 'array:' and is_full(group, limit) then
    return group, queue, 'limit ' .. int(limit) .. ' of array ' .. run[4] .. ' reached'
  end
  group, limit = 'key:' .. (run[2] or ''), tonumber(run[3] or '') or 1
  if group ~= 'key:' and is_full(group, limit) then
    return group, queue .. '/' .. int(limit), 'limit ' .. int(limit) .. ' of key ' .. run[2] .. ' reached'
  end
  if is_full('queue:' .. queue, of_queue.limit) then
    return 'queue:' .. queue, queue, 'limit ' .. int(of_queue.limit) .. ' of queue ' .. queue .. ' reached'
  end
  if pool and is_full('pool:' .. pool, of_pool.limit) then
    return 'pool:' .. pool, queue, 'limit ' .. int(of_pool.limit) .. ' of pool ' .. pool .. ' reached'
  end
end

-- Whether any limit or pause applies to a run.
local function is_limited(id)
  local run = get(id, 'queue', 'concurrency_key', 'array_limit')
  local of_queue = settings_of('queue', run[1])
  local of_pool = of_queue.pool and settings_of('pool', of_queue.pool) or {}
  return of_queue.paused or of_pool.paused or of_queue.limit or of_pool.limit or (run[2] and run[2] ~= '')
    or (run[3] and run[3] ~= '')
end
