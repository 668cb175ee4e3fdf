-- A worker that has room: it is given parked runs. One that takes nothing gives back what it was given.

-- The number of items in these queues with a higher priority than a rank: they get the next slots.
local function waiting_before(queues, rank)
  local count = 0
  for _, queue in ipairs(queues) do
    for _, priority in ipairs({'0', '3', '6'}) do
      if (LEVELS[priority] + 1) * LEVEL <= rank then
        local length = redis.pcall('LLEN', list_of(queue, priority))
        count = count + (type(length) == 'number' and length or 0)
      end
    end
  end
  return count
end

-- Whether a run of any of these queues is parked. Each heartbeat of each worker asks this, and mostly none is.
local function is_any_parked(queues)
  -- Lua passes on some thousand values at once, no more.
  for first = 1, #queues, 1000 do
    local keys = {}
    for at = first, math.min(first + 999, #queues) do
      keys[#keys + 1] = 'launch:groups:' .. queues[at]
      keys[#keys + 1] = 'launch:shapes:' .. queues[at]
    end
    if redis.call('EXISTS', unpack(keys)) > 0 then return true end
  end
  return false
end

-- Gives a worker parked runs for which it has room. Picks a run that has waited too long: the worker keeps capacity
-- that comes free for it.
local function offer(capacity, now)
  local owner = capacity.owner
  local free = {slots = capacity.slots, gpus = capacity.gpus, cpus = capacity.cpus, memory = capacity.memory}
  if free.slots <= 0 then return end
  if not is_any_parked(capacity.queues) then return end
  local let = 0
  for _, queue in ipairs(capacity.queues) do
    for _, group in ipairs(redis.call('SRANDMEMBER', 'launch:groups:' .. queue, math.min(100, 3 + free.slots))) do
      if let < free.slots then let = let + wake_once(group, now, 5) end
    end
  end
  -- The lines of runs that are parked for GPUs, cores or memory. Bounded, so that Redis is not kept from its other
  -- clients.
  local lines = {}
  for _, queue in ipairs(capacity.queues) do
    for _, needs in ipairs(redis.call('SRANDMEMBER', 'launch:shapes:' .. queue, 100)) do
      lines[#lines + 1] = {key = 'launch:parked:needs:' .. needs .. '/' .. queue, needs = parse_needs(needs)}
    end
  end
  local function read_head(line)
    local head = redis.call('ZRANGE', line.key, 0, 0, 'WITHSCORES')
    line.id, line.rank = head[1], tonumber(head[2])
    if line.id and capacity.before_us > 0 and line.rank % LEVEL > capacity.before_us then line.id = nil end
  end
  for _, line in ipairs(lines) do read_head(line) end
  local collected, collected_needs = collected_by(owner)
  for _ = 1, 50 do
    if free.slots <= 0 then return end
    local best, best_line
    local left = collected and without(free, collected_needs) or free
    for _, line in ipairs(lines) do
      local is_collected = collected and line.id == collected and fits(collected_needs, free)
      if line.id and (is_collected or fits(line.needs, left)) and
        (not best_line or is_collected or (best ~= collected and line.rank < best_line.rank)) then
        best, best_line = line.id, line
      end
    end
    if not best then break end
    if waiting_before(capacity.queues, best_line.rank) >= free.slots then return end
    local run = get(best, 'state', 'needs', 'parked')
    unpark(best)
    if run[1] ~= 'Pending' or not run[2] then
      -- A line whose first run does not exist is cleared, or it would be read for ever.
      redis.call('ZREM', best_line.key, best)
    else
      local group, line, why = no_room(best)
      if group then
        park(best, group, line, why)
      else
        free = give(best, now, owner, free, parse_needs(run[2]))
        promise(best)
      end
    end
    if best == collected then
      redis.call('DEL', 'launch:collecting:' .. owner)
      collected = nil
    end
    read_head(best_line)
  end
  if collected or not capacity.total then return end
  local first, first_at
  for _, line in ipairs(lines) do
    if line.id and fits(line.needs, capacity.total) then
      local run = get(line.id, 'lined_at', 'collector')
      local since = tonumber(run[1] or '')
      local taken = run[2] and run[2] ~= owner and redis.call('GET', 'launch:collecting:' .. run[2]) == line.id
      if since and not taken and since + capacity.backfill_us <= now and (not first or since < first_at)
        and not no_room(line.id) then
        first, first_at = line.id, since
      end
    end
  end
  if first then
    redis.call('SET', 'launch:collecting:' .. owner, first, 'PX', 60000)
    put(first, 'collector', owner)
  end
end

-- Puts runs that were given to a worker which takes none (any more) back into line.
local function relieve(owner, now, limit)
  local list = direct_of(owner)
  for _, id in ipairs(redis.call('ZRANGE', 'launch:dispatched:' .. list, 0, limit - 1)) do
    if get(id, 'state')[1] == 'Pending' then
      local due = get(id, 'due_at')[1]
      withdraw(id)
      if due and tonumber(due) > now then schedule(id, tonumber(due)) else try_line_up(id, now, 'launch:dispatched:' .. list, true) end
    else
      redis.call('ZREM', 'launch:dispatched:' .. list, id)
    end
  end
  if redis.call('ZCARD', 'launch:dispatched:' .. list) == 0 then redis.call('DEL', list) end
  redis.call('DEL', 'launch:collecting:' .. owner)
end
