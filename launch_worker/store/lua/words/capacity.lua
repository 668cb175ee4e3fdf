-- What a run needs of its worker, and what each worker has left.

-- The needs of a run, from text as "2:1500:1073741824": gpus, cpus (thousandths), memory (bytes).
local function parse_needs(needs)
  local gpus, cpus, memory = string.match(needs, '^(%d+):(%d+):(%d+)$')
  return {gpus = tonumber(gpus) or 0, cpus = tonumber(cpus) or 0, memory = tonumber(memory) or 0}
end

local function fits(needs, free)
  for _, kind in ipairs({'gpus', 'cpus', 'memory'}) do
    if needs[kind] > 0 and needs[kind] > (tonumber(free[kind]) or 0) then return false end
  end
  return true
end

local function without(free, needs)
  local left = {}
  for _, kind in ipairs({'gpus', 'cpus', 'memory'}) do left[kind] = (tonumber(free[kind]) or 0) - needs[kind] end
  return left
end

local function words_for(needs)
  local words = {}
  if needs.gpus > 0 then words[1] = int(needs.gpus) .. (needs.gpus == 1 and ' GPU' or ' GPUs') end
  if needs.cpus > 0 then
    words[#words + 1] = string.format('%g', needs.cpus / 1000) .. (needs.cpus == 1000 and ' CPU' or ' CPUs')
  end
  if needs.memory > 0 then words[#words + 1] = string.format('%.4g', needs.memory / 1073741824) .. ' GiB of memory' end
  return 'waiting for ' .. table.concat(words, ' and ')
end

-- Writes the free capacity of a worker, which counts until the worker's next call; `more`: further fields and values.
local function keep_free(owner, free, gone_ms, more)
  redis.call('HSET', 'launch:free:' .. owner, 'slots', int(free.slots), 'gpus', int(free.gpus), 'cpus', int(free.cpus),
    'memory', int(free.memory), unpack(more or {}))
  if gone_ms then redis.call('PEXPIRE', 'launch:free:' .. owner, gone_ms) end
end

-- The free capacity of a worker; nil for a worker that takes only the runs that were ready when it began: it is
-- given no others.
local function free_of(owner)
  local found = redis.pcall('HMGET', 'launch:free:' .. owner, 'slots', 'gpus', 'cpus', 'memory', 'by_hand')
  if found.err or not found[1] or found[5] then return nil end
  return {slots = tonumber(found[1]) or 0, gpus = tonumber(found[2]) or 0, cpus = tonumber(found[3]) or 0,
    memory = tonumber(found[4]) or 0}
end

-- The run for which a worker keeps capacity that comes free, and the run's needs; nil for none.
local function collected_by(owner)
  local id = redis.call('GET', 'launch:collecting:' .. owner)
  if not id then return nil end
  local run = get(id, 'state', 'parked', 'needs')
  if run[1] == 'Pending' and run[2] and string.sub(run[2], 1, 6) == 'needs:' and not no_room(id) then
    return id, parse_needs(run[3])
  end
  redis.call('DEL', 'launch:collecting:' .. owner)
end

-- A live worker of the queue that has room for a run, by the free capacity at each worker's last call. Bounded.
local function worker_for(queue, needs, now, except)
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 200)) do
    local free = owner ~= except and free_of(owner)
    if free and free.slots > 0 and fits(needs, free) then
      local _, collected = collected_by(owner)
      if not collected or fits(needs, without(free, collected)) then return owner, free end
    end
  end
end

local function give(id, now, owner, free, needs)
  put(id, 'reason', '')
  dispatch(id, now, {owner = owner})
  local left = without(free, needs)
  left.slots = free.slots - 1
  keep_free(owner, left)
  return left
end

-- The free capacity that a worker tells: {owner, queues, slots, gpus, cpus, memory (free), total = {gpus, cpus, memory},
-- backfill_us, prefetch_us, before_us (the worker takes only runs that were ready by then; 0 for any)};
-- nil for none.
local function capacity_of(text)
  if text == '' then return nil end
  local fine, capacity = pcall(cjson.decode, text)
  return fine and type(capacity) == 'table' and capacity or nil
end
