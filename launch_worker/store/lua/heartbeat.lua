-- Renews the leases of one worker's runs in one call; Crashed -> Running for an attempt that was not superseded.
-- Then gives the worker parked runs for which it has room.
-- ARGV: owner, worker, lease_us, gone_us, description ('' for a worker without runs that has nothing new to say: then its
--   queues are left out), capacity ('' while the worker takes nothing), number of queues, queue…, then id, token, attempt
--   for each run
-- Returns {the time, age of the last crash_stale_runs in us, next due time or 0, then an answer for each run:}
--   ok | cancel:GRACE_US:REASON | preempt:GRACE_US:REASON | superseded | adopted (by another worker) | ended |
--   unknown (Redis has lost the record)
local owner, worker, lease_us, gone_us, description, capacity, queues = unpack(ARGV, 1, 7)
local FIRST_QUEUE = 8
local FIRST_RUN = FIRST_QUEUE + tonumber(queues)
lease_us, gone_us, capacity = tonumber(lease_us), tonumber(gone_us), capacity_of(capacity)
local now = now_us()
local gone, gone_ms = int(now + gone_us), math.floor(gone_us / 1000)
local is_said = description ~= ''
if is_said then
  local before = is_followed() and redis.pcall('GET', 'launch:worker:' .. owner)
  redis.call('SET', 'launch:worker:' .. owner, description, 'PX', gone_ms)
  local has_appeared = redis.call('ZADD', 'launch:workers', gone, owner) == 1
  if is_followed() then tell_worker(owner, worker, has_appeared, before, description, now) end
end
for index = FIRST_QUEUE, FIRST_RUN - 1 do redis.call('ZADD', 'launch:consumers:' .. ARGV[index], gone, owner) end

-- Whether nothing is due and no run is parked that this worker might take. Each heartbeat of each worker asks this, and
-- mostly nothing is: one command in place of one for each question.
local function is_nothing_to_do()
  local keys = {'launch:settle', 'launch:due', 'launch:expiring', 'launch:schedules', 'launch:collecting:' .. owner}
  if capacity then
    -- Lua passes on some thousand values at once, no more.
    if #capacity.queues > 1000 then return false end
    for _, queue in ipairs(capacity.queues) do
      keys[#keys + 1] = 'launch:groups:' .. queue
      keys[#keys + 1] = 'launch:shapes:' .. queue
    end
    for version = 2, at_most(capacity.version, 100) do keys[#keys + 1] = 'launch:parked:version:' .. version end
  end
  return redis.call('EXISTS', unpack(keys)) == 0
end

local passed = tonumber(redis.call('HGET', 'launch:passes', 'crash_stale_runs') or '0')
local is_idle = is_nothing_to_do()
local answers = {now, now - passed, is_idle and '0' or next_due(now, capacity and capacity.prefetch_us or 0)}
local function renew(id, token, attempt)
  local run = get(id, 'state', 'token', 'attempt', 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'closed', 'owner', 'preempting', 'held')
  local state, answer = run[1], 'superseded'
  if not state then
    -- The record of a deleted run must not come back.
    answer = redis.call('EXISTS', run_key(id) .. ':deleted') == 1 and 'superseded' or 'unknown'
  elseif is_rolled_back(run[2], token) then
    regain(id, state, now, token, attempt, owner, worker)
    state, run[2], run[8] = 'Running', token, owner
  end
  if state and run[2] == token and run[8] and run[8] ~= owner then return 'adopted' end
  if state and run[2] == token then
    if state == 'Crashed' and run[7] ~= token then
      revive(id, now, run[3], worker)
      state = 'Running'
    end
    if state == 'Running' then
      -- The worker of a held run is alive after all.
      drop(id, 'held')
      redis.call('ZADD', 'launch:leases', int(now + lease_us), id)
      answer = run[4] and ((run[9] and 'preempt:' or 'cancel:') .. (run[5] or '') .. ':' .. (run[6] or '')) or 'ok'
    elseif FINAL[state] then
      answer = 'ended'
    end
  end
  return answer
end

for index = FIRST_RUN, #ARGV, 3 do
  -- One damaged record must not cost the others their leases.
  local fine, answer = pcall(renew, ARGV[index], ARGV[index + 1], ARGV[index + 2])
  answers[#answers + 1] = fine and answer or 'ok'
end

-- Whether all live workers read this format of items.
local function all_read(version)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'launch:workers', int(now), '+inf', 'LIMIT', 0, 500)) do
    local known = redis.pcall('HGET', 'launch:free:' .. other, 'version')
    if (tonumber(type(known) == 'string' and known or '') or 1) < version then return false end
  end
  return true
end

-- Gives a worker the runs that older workers could not read and left (claim), as far as it has room for them.
local function offer_newer(capacity)
  local free = {slots = capacity.slots, gpus = capacity.gpus, cpus = capacity.cpus, memory = capacity.memory}
  local newest, keys = at_most(capacity.version, 100), {}
  for version = 2, newest do keys[#keys + 1] = 'launch:parked:version:' .. version end
  if not keys[1] or redis.call('EXISTS', unpack(keys)) == 0 then return end
  for version = 2, newest do
    local group = 'version:' .. version
    if redis.call('EXISTS', 'launch:parked:' .. group) == 1 then
      if all_read(version) then wake(group, now, 200) end
      for _, queue in ipairs(capacity.queues) do
        local line = 'launch:parked:' .. group .. '/' .. queue
        for _, id in ipairs(free.slots > 0 and redis.call('ZRANGE', line, 0, 49) or {}) do
          local run = get(id, 'state', 'needs', 'parked')
          local needs = parse_needs(run[2] or '')
          if run[1] ~= 'Pending' or run[3] ~= group .. '/' .. queue then
            redis.call('ZREM', line, id)
          elseif free.slots > 0 and fits(needs, free) and not no_room(id) then
            unpark(id)
            free = give(id, now, owner, free, needs)
            promise(id)
          end
        end
      end
    end
  end
  for kind, left in pairs(free) do capacity[kind] = left end
end

if capacity then
  local more = {'schedulers', int(tonumber(capacity.schedulers) or 1), 'version', tonumber(capacity.version) or 1}
  if capacity.before_us > 0 then
    more[5], more[6] = 'by_hand', '1'
  end
  if is_said then keep_free(owner, capacity, gone_ms, more) end
  if capacity.slots <= 0 and redis.call('EXISTS', 'launch:dispatched:' .. direct_of(owner)) == 1 then
    -- The worker has been busy for a while: other workers may take the runs that were given to it.
    relieve(owner, now, 50)
  end
  local fine, problem = true, ''
  if not is_idle then
    redis.call('PEXPIRE', 'launch:collecting:' .. owner, gone_ms)
    fine, problem = pcall(function()
      offer_newer(capacity)
      offer(capacity, now)
    end)
  end
  if not fine then keep_aside('', 'runs could not be given to worker ' .. worker .. ': ' .. tostring(problem)) end
end
return answers
