-- Runs that wait for the end of others, and runs that end before they ran.

local WISHED = {
  ok = {Finished = true}, any = {Finished = true, Failed = true, Killed = true, Crashed = true, Never = true},
  failed = {Failed = true, Killed = true, Crashed = true},
}
local function is_as_wished(wish, ended) return WISHED[wish] ~= nil and WISHED[wish][ended] == true end

-- The reason for which a run that waited for `other` will not run.
local function words_for_end(other, ended, is_array, wish)
  local how = ended == 'Never' and ' never ran' or ' is ' .. ended
  if is_array then how = ended == 'Never' and ' has runs that never ran' or ' has runs that failed' end
  if is_array and ended == 'Finished' then how = ' is Finished' end
  return (is_array and 'array ' or 'run ') .. other .. how .. ', and this one waited for it to end ' .. wish
end

local function words_for_wait(waits)
  local other, wish = next(waits)
  return 'after run ' .. tostring(other) .. ' (' .. tostring(wish) .. ')'
end

-- Notes the end of a run for `settle`, which tells the runs that wait for it or for its array. Returns whether any
-- does.
local function note_end(id)
  local is_waited_for = false
  local function look(at)
    if redis.call('EXISTS', 'launch:waiters:' .. at) == 0 then return end
    redis.call('SADD', 'launch:settle', at)
    is_waited_for = true
  end
  look(id)
  local array = get(id, 'array')[1]
  if array and array ~= '' and array ~= id then look(array) end
  return is_waited_for
end

local function waits_of(id)
  local fine, waits = pcall(cjson.decode, get(id, 'waits_for')[1] or '{}')
  return fine and type(waits) == 'table' and waits or {}
end

-- Makes a run that no longer waits for others ready, now or at its due time.
local function set_free(id, now)
  local due = tonumber(get(id, 'not_before')[1] or '')
  drop(id, 'waits_for')
  if due and due > now then
    put(id, 'reason', '')
    return schedule(id, due)
  end
  line_up(id, now)
end

-- Pending -> Killed (or `to`), for the reason given. Runs that wait for it are told later (settle). `more`: as for
-- `enter`.
local function kill_pending(id, now, reason, more, to)
  local attempt = get(id, 'attempt')[1]
  withdraw(id)
  if get(id, 'expires_us')[1] then redis.call('ZREM', 'launch:expiring', id) end
  for other in pairs(waits_of(id)) do redis.call('ZREM', 'launch:waiters:' .. tostring(other), id) end
  drop(id, 'waits_for')
  arrow(id, 'Pending', to or 'Killed', now, attempt, '', reason, more)
  note_end(id)
  try_tell_sweep(id, now)
  release(id, now)
end

-- Pending -> Failed, for a record with which no worker can execute the run. The record is kept aside for reading, and
-- the run is never dispatched again.
local function fail_damaged(id, now, damage)
  local reason = 'the record of this run is damaged: ' .. damage
  redis.call('ZREM', 'launch:expiring', id)
  -- The line in which the run waited, if the damage is in the record's queue.
  local spec = decoded(get(id, 'spec')[1])
  local queue = type(spec) == 'table' and spec.queue or 'default'
  if type(queue) == 'string' and queue ~= get(id, 'queue')[1] then
    redis.call('ZREM', 'launch:line:' .. queue, id)
    redis.call('ZREM', 'launch:runs:queue:' .. queue, id)
  end
  put(id, 'phase', 'agent', 'message', reason)
  kill_pending(id, now, reason, {phase = 'agent', message = reason}, 'Failed')
  drop(id, 'parked', 'list', 'due_at')
  keep_aside(get(id, 'queue')[1] or '', 'run ' .. id .. ' is Failed: ' .. reason, id)
end

-- Tells a run how `ended`, a run or an array for which it waits, has ended.
local function meet(id, ended, state, is_array, now)
  if get(id, 'state')[1] ~= 'Pending' then return end
  local waits = waits_of(id)
  local wish = waits[ended]
  if not wish then return end
  if not is_as_wished(wish, state) then
    return kill_pending(id, now, words_for_end(ended, state, is_array, tostring(wish)))
  end
  waits[ended] = nil
  if next(waits) == nil then return set_free(id, now) end
  put(id, 'waits_for', cjson.encode(waits), 'reason', words_for_wait(waits))
end

-- Tells runs of the ends for which they wait: at most `budget` runs, the pass does the rest. Returns the number of runs
-- that were told.
local function settle(now, budget)
  local settled = 0
  while settled < budget do
    local ended = redis.call('SRANDMEMBER', 'launch:settle')
    if not ended then return settled end
    local state, is_array = end_of(ended)
    local waiters = (state == 'Pending' or state == 'Running') and {} or redis.call('ZRANGE', 'launch:waiters:' .. ended, 0, budget - settled - 1)
    if #waiters == 0 then redis.call('SREM', 'launch:settle', ended) end
    for _, id in ipairs(waiters) do
      redis.call('ZREM', 'launch:waiters:' .. ended, id)
      settled = settled + 1
      local fine, problem = pcall(meet, id, ended, state or 'Never', is_array, now)
      if not fine then doubt(id, 'launch:waiters:' .. ended, problem) end
    end
  end
  return settled
end
