-- Places: the limits of queues, pools, keys, arrays and allowances, and the runs that count for them.

-- The names of allowances in a record's text, as the server wrote it: user:ada, group:ml, project:me:iris.
local function no_names() end
local function names_in(allowances)
  if not allowances or allowances == '' then return no_names end
  return string.gmatch(string.sub(allowances, 1, 8000), '%S+')
end

-- The number of GPUs for which a run counts, and its allowances; 0 without an allowance.
local function gpus_of(id)
  local allowances = field_of(id, 'allowances')
  if not allowances or allowances == '' then return 0 end
  return tonumber(string.match(field_of(id, 'needs') or '', '^%d+') or '0'), allowances
end

-- The groups whose limits a Running run counts for. A pool is not among them: its count is the sum over its queues.
local function places_of(id)
  local run = record_of(id, 'queue', 'concurrency_key', 'array_limit', 'array', 'allowances')
  local groups = run.queue and {'queue:' .. run.queue} or {}
  if run.concurrency_key and run.concurrency_key ~= '' then groups[#groups + 1] = 'key:' .. run.concurrency_key end
  if run.array_limit and run.array_limit ~= '' then groups[#groups + 1] = 'array:' .. (run.array or '') end
  for name in names_in(run.allowances) do groups[#groups + 1] = 'allowance:' .. name end
  return groups
end

-- An allowance's name for people.
local function words_for_allowance(name)
  return (string.gsub(string.gsub(name, ':', ' ', 1), ':', '/'))
end

-- Counts a run for its limits (SADD), or no more (SREM). A GPU is a place of its own.
local function count_places(id, command)
  for _, group in ipairs(places_of(id)) do redis.call(command, 'launch:places:' .. group, id) end
  local devices, allowances = gpus_of(id)
  if devices == 0 then return end
  local members = {}
  for at = 1, math.min(devices, 1024) do members[at] = id .. '/' .. int(at) end
  for name in names_in(allowances) do redis.call(command, 'launch:places:gpus:' .. name, unpack(members)) end
end

-- The same of a Pending run, for the allowances' numbers of waiting runs.
local function count_waiting(id, command)
  for name in names_in(field_of(id, 'allowances')) do redis.call(command, 'launch:places:waiting:' .. name, id) end
end

-- Why a new run that would wait breaks an allowance, or would wait for ever, as words; nil for none.
local function no_room_to_wait(allowances, needs)
  for name in names_in(allowances) do
    local most, gpus = allowance_of(name), tonumber(string.match(needs or '', '^%d+') or '0')
    if most.waiting and redis.call('SCARD', 'launch:places:waiting:' .. name) >= most.waiting then
      return words_for_allowance(name) .. ' may have ' .. int(most.waiting)
        .. ' waiting runs, and has as many; wait until some have started'
    end
    if most.gpus and gpus > most.gpus then
      return words_for_allowance(name) .. ' may hold ' .. int(most.gpus) .. ' GPUs at once, and this run needs ' .. int(gpus)
    end
  end
end

-- Runs that this call has dispatched, by group: they count as if they were claimed already.
local promised = {}
local function promise(id)
  local groups = places_of(id)
  local pool = groups[1] and settings_of('queue', string.sub(groups[1], 7)).pool
  if pool then groups[#groups + 1] = 'pool:' .. pool end
  for _, group in ipairs(groups) do promised[group] = (promised[group] or 0) + 1 end
  local devices, allowances = gpus_of(id)
  if devices == 0 then return end
  for name in names_in(allowances) do promised['gpus:' .. name] = (promised['gpus:' .. name] or 0) + devices end
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

local function is_full(group, limit) return limit and count_of(group) >= limit end

local NO_SETTINGS = {}
-- The limit that a run would break if it ran now: its group, the line of that group in which the run would wait, and
-- the reason. nil for none.
local function no_room(id)
  local run = record_of(id, 'queue', 'concurrency_key', 'limit_key', 'array', 'array_limit', 'allowances')
  local queue, key, array = run.queue, run.concurrency_key, run.array
  local of_queue = settings_of('queue', queue)
  local pool = of_queue.pool
  local of_pool = pool and settings_of('pool', pool) or NO_SETTINGS
  if of_queue.paused then return 'queue:' .. queue, queue, 'queue paused' end
  if of_pool.paused then return 'pool:' .. pool, queue, 'pool ' .. pool .. ' paused' end
  local limit = run.array_limit and tonumber(run.array_limit)
  if array and array ~= '' and is_full('array:' .. array, limit) then
    return 'array:' .. array, queue, 'limit ' .. int(limit) .. ' of array ' .. array .. ' reached'
  end
  limit = run.limit_key and tonumber(run.limit_key) or 1
  if key and key ~= '' and is_full('key:' .. key, limit) then
    return 'key:' .. key, queue .. '/' .. int(limit), 'limit ' .. int(limit) .. ' of key ' .. key .. ' reached'
  end
  if of_queue.limit and is_full('queue:' .. queue, of_queue.limit) then
    return 'queue:' .. queue, queue, 'limit ' .. int(of_queue.limit) .. ' of queue ' .. queue .. ' reached'
  end
  if of_pool.limit and is_full('pool:' .. pool, of_pool.limit) then
    return 'pool:' .. pool, queue, 'limit ' .. int(of_pool.limit) .. ' of pool ' .. pool .. ' reached'
  end
  for name in names_in(run.allowances) do
    local most, gpus = allowance_of(name), gpus_of(id)
    if is_full('allowance:' .. name, most.running) then
      return 'allowance:' .. name, queue, words_for_allowance(name) .. ' may have ' .. int(most.running) .. ' running runs'
    end
    if most.gpus and gpus > 0 and count_of('gpus:' .. name) + gpus > most.gpus then
      -- A run that asks for more than that at once waits in a line of its own, so that it holds up no other.
      return 'allowance:' .. name, gpus > most.gpus and queue .. '/' .. int(gpus) or queue,
        words_for_allowance(name) .. ' may hold ' .. int(most.gpus) .. ' GPUs'
    end
  end
end

-- Whether any limit or pause applies to a run.
local function is_limited(id)
  local run = get(id, 'queue', 'concurrency_key', 'array_limit', 'allowances')
  local of_queue = settings_of('queue', run[1])
  local of_pool = of_queue.pool and settings_of('pool', of_queue.pool) or {}
  return of_queue.paused or of_pool.paused or of_queue.limit or of_pool.limit or (run[2] and run[2] ~= '')
    or (run[3] and run[3] ~= '') or (run[4] and run[4] ~= '')
end
