-- Puts Pending runs whose time has come into their queues. Pending -> Killed for runs that did not start in time, and
-- Pending -> Failed for runs with damaged records. Seals groups whose submitters have died, and
-- kills waiting runs of groups of which too many runs failed.
-- ARGV: limit, capacity of a worker that prepares runs ahead of their time ('' for others)
-- Returns {number of runs whose time had come, the next due time or 0, 1 if a schedule is due}.
local limit, capacity = unpack(ARGV)
limit, capacity = at_most(limit, MOST_AT_ONCE), capacity_of(capacity)
local function span(seconds)
  for _, unit in ipairs({{86400, ' d'}, {3600, ' h'}, {60, ' m'}}) do
    if seconds >= unit[1] then return string.format('%.3g', seconds / unit[1]) .. unit[2] end
  end
  return string.format('%g s', seconds)
end
local now = now_us()
local due = redis.call('ZRANGEBYSCORE', 'launch:due', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, limit)
for at = 1, #due, 2 do
  local id = due[at]
  redis.call('ZREM', 'launch:due', id)
  if get(id, 'state')[1] == 'Pending' then
    local fine, problem = pcall(function()
      -- A run that a worker was to prepare and did not take is open to all workers now.
      withdraw(id)
      put(id, 'lined_at', due[at + 1])
      line_up(id, now)
    end)
    if not fine then doubt(id, 'launch:due', problem) end
  end
end
local expired = redis.call('ZRANGEBYSCORE', 'launch:expiring', '-inf', int(now), 'LIMIT', 0, limit)
for _, id in ipairs(expired) do
  redis.call('ZREM', 'launch:expiring', id)
  local run = get(id, 'state', 'attempt', 'expires_us')
  local damage = run[1] == 'Pending' and damage_of(id)
  local fine, problem = true, ''
  if damage then
    fine, problem = pcall(WAITING.fail_damaged, id, now, damage)
  elseif run[1] == 'Pending' and run[2] == '0' then
    fine, problem = pcall(WAITING.kill_pending, id, now,
      'it did not start within ' .. span((tonumber(run[3] or '') or 0) / 1000000) .. ' (--expires)')
  end
  if not fine then keep_aside('', 'run ' .. id .. ' could not be ended: ' .. tostring(problem)) end
end
for _, group in ipairs(redis.call('ZRANGEBYSCORE', OPEN_GROUPS, '-inf', int(now), 'LIMIT', 0, limit)) do
  local fine, problem = pcall(WAITING.seal, group, 'cut', now)
  if not fine then keep_aside('', 'group ' .. group .. ' could not be sealed: ' .. tostring(problem)) end
end
local halted = redis.call('SRANDMEMBER', 'launch:halted')
if halted then WAITING.kill_halted(halted, now, math.min(limit, 200)) end
WAITING.settle(now, 200)
local prefetch_us = capacity and capacity.prefetch_us or 0
if prefetch_us > 0 and capacity.slots > 0 then
  local free = {slots = capacity.slots, gpus = capacity.gpus, cpus = capacity.cpus, memory = capacity.memory}
  local consumed = {}
  local is_wanted = false
  for _, queue in ipairs(capacity.queues) do
    consumed[queue] = true
    is_wanted = is_wanted or redis.call('EXISTS', 'launch:shapes:' .. queue) == 1
  end
  local ahead = redis.call('ZRANGEBYSCORE', 'launch:due', '(' .. int(now), int(now + prefetch_us), 'LIMIT', 0, 1000)
  for _, id in ipairs(ahead) do
    local run = get(id, 'queue', 'list', 'needs', 'state', 'attempt', 'version')
    local needs = parse_needs(run[3] or '')
    -- A run is not prepared if that would keep capacity idle for which others wait: devices that are asked for, and
    -- places of a limit. A retry is not prepared, for it was never meant to start at a point in time.
    local is_kept = is_wanted and run[3] and run[3] ~= ''
    if free.slots > 0 and consumed[run[1]] and not run[2] and run[4] == 'Pending' and run[5] == '0' and not is_kept
      and fits(needs, free) and (tonumber(run[6] or '') or 1) <= (tonumber(capacity.version) or 1)
      and not is_limited(id) then
      dispatch(id, now, {owner = capacity.owner, early = true})
      promise(id)
      local left = without(free, needs)
      left.slots = free.slots - 1
      free = left
    end
  end
end
local scheduled = redis.call('ZCOUNT', 'launch:schedules', '-inf', int(now))
return {#due / 2, next_due(now, prefetch_us), scheduled > 0 and 1 or 0}
