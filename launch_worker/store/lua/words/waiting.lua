-- Runs that wait for the end of others, and runs that end before they ran.

local WAITING = {
  WISHED = {
    ok = {Finished = true}, any = {Finished = true, Failed = true, Killed = true, Crashed = true, Never = true},
    failed = {Failed = true, Killed = true, Crashed = true},
  },
}

function WAITING.is_as_wished(wish, ended) return WAITING.WISHED[wish] ~= nil and WAITING.WISHED[wish][ended] == true end

-- The reason for which a run that waited for `other` will not run.
function WAITING.words_for_end(other, ended, kind, wish)
  local how = ended == 'Never' and ' never ran' or ' is ' .. ended
  if kind ~= 'run' then how = ended == 'Never' and ' has runs that never ran' or ' has runs that failed' end
  if kind ~= 'run' and ended == 'Finished' then how = ' is Finished' end
  return kind .. ' ' .. other .. how .. ', and this one waited for it to end ' .. wish
end

function WAITING.words_for(waits)
  local other, wish = next(waits)
  other = tostring(other)
  return 'after ' .. (#other == 15 and 'run ' or 'group ') .. other .. ' (' .. tostring(wish) .. ')'
end

-- How a group with these counts (size, Pending, Running, Finished, Never) has ended: Running while a run of it has not
-- ended, Finished when all its runs are Finished, Failed when a run of it ran and is not Finished, else Never.
function WAITING.end_by(counts)
  local function count(at) return tonumber(counts[at] or '') or 0 end
  if count(2) + count(3) > 0 then return 'Running' end
  if count(1) > 0 and count(4) >= count(1) then return 'Finished' end
  return count(4) + count(5) >= count(1) and 'Never' or 'Failed'
end

-- The end of a run or a group for which other runs wait, and its kind (run, array, group, sweep). A run: its state, or
-- Never. nil where there is neither a run nor a group.
function WAITING.end_of(id)
  local counts = redis.pcall('HMGET', group_key(id), 'size', 'Pending', 'Running', 'Finished', 'Never')
  if not counts.err and (tonumber(counts[1] or '') or 0) > 0 then
    return WAITING.end_by(counts), #id == 16 and 'group' or 'array'
  end
  local run = get(id, 'state', 'attempt')
  if run[1] then return kind_of(run[1], run[2]), 'run' end
  counts = redis.pcall('HMGET', sweep_key(id), 'made', 'Pending', 'Running', 'Finished', 'Never', 'state')
  if counts.err or not counts[6] then return nil, 'run' end
  return SWEEPS.ENDED[counts[6]] and WAITING.end_by(counts) or 'Running', 'sweep'
end

-- Notes the end of an array or a bulk submission, if all its runs have ended, and tells clients that wait for it.
function WAITING.end_group(group, now)
  local key = group_key(group)
  local counts = redis.pcall('HMGET', key, 'size', 'Pending', 'Running', 'Finished', 'Never', 'name', 'queue', 'project',
    'Failed', 'Killed', 'Crashed', 'notify', 'author', 'created_at', 'halted')
  if counts.err or WAITING.end_by(counts) == 'Running' then return end
  local function count(at) return tonumber(counts[at] or '') or 0 end
  redis.call('HSET', key, 'ended_at', int(now))
  redis.call('PUBLISH', 'launch:news:' .. shown_group(group), 'ended')
  add_act('group', shown_group(group), 'ended', '', now,
    {size = count(1), name = counts[6] or '', queue = counts[7] or '', project = counts[8] or '', ['end'] = WAITING.end_by(counts),
      Finished = count(4), Failed = count(9), Killed = count(10), Crashed = count(11), Never = count(5),
      halted = counts[15] and count(15) or nil})
  if counts[12] then
    NOTICES.tell_group(counts[12], 'group.ended', int(redis.call('HINCRBY', key, 'ends', 1)), {
      group = shown_group(group), kind = #group == 16 and 'bulk' or 'array', name = counts[6] or '',
      queue = counts[7] or '', project = counts[8] or '', author = counts[13] or '', created_at = counts[14] or '',
      size = int(count(1)), ['end'] = WAITING.end_by(counts), Finished = int(count(4)), Failed = int(count(9)),
      Killed = int(count(10)), Crashed = int(count(11)), Never = int(count(5)), ended_at = int(now),
      halted = int(count(15))}, now)
  end
end

-- Tells what a run has made of its group: `run` is the fact beside those of the group's record, nil for none.
function NOTICES.tell_of_group(id, notify, type_, number, run, now)
  local group, key, is_sweep = group_of(id)
  local facts = {group = is_sweep and group or shown_group(group), run = run,
    kind = is_sweep and 'sweep' or #group == 16 and 'bulk' or 'array'}
  local names = {'name', 'queue', 'project', 'author', 'created_at', 'size', 'made', 'Pending', 'Running',
    'Finished', 'Failed', 'Killed', 'Crashed', 'Never', 'halted'}
  local values = redis.call('HMGET', key, unpack(names))
  for at, name in ipairs(names) do facts[name] = values[at] or '' end
  if facts.size == '' then facts.size = facts.made end
  NOTICES.tell_group(notify, type_, number, facts, now)
end

-- Tells of the first run of a group that has failed for good, where that was asked for.
function NOTICES.tell_failure(id, now)
  local notify, state = unpack(get(id, 'notify', 'state'))
  if not notify or state ~= 'Failed' and state ~= 'Crashed' then return end
  local _, key = group_of(id)
  local is_told
  notify, is_told = unpack(redis.call('HMGET', key, 'notify', 'is_failing'))
  if not notify or is_told or #NOTICES.channels_for(notify, 'first-failure') == 0 then return end
  redis.call('HSET', key, 'is_failing', id)
  NOTICES.tell_of_group(id, notify, 'group.failing', '1', id, now)
end

-- Notes the end of a run for `settle`, which tells the runs that wait for it or for its group. Returns whether any
-- does.
function WAITING.note_end(id, now)
  local group, _, is_sweep = group_of(id)
  if group then pcall(NOTICES.tell_failure, id, now) end
  if group and emptied[group] and not is_sweep then
    -- Once: the same call may end further runs of it (`halt`).
    emptied[group] = nil
    WAITING.end_group(group, now)
  end
  local ended = {'launch:waiters:' .. id}
  if group and group ~= id then ended[2] = 'launch:waiters:' .. group end
  if redis.call('EXISTS', unpack(ended)) == 0 then return false end
  -- `settle` finds out whether anybody waits for it.
  redis.call('SADD', 'launch:settle', id)
  if ended[2] then redis.call('SADD', 'launch:settle', group) end
  return true
end

-- Seals a group to which its submitter adds no more runs: the missing ones count as runs that never ran. `as`: 'whole'
-- where runs of other submissions stand for them, 'cut' where the submitter has died or given up, 'cancelled', 'halted'.
-- The caller calls `settle`.
function WAITING.seal(group, as, now)
  local key = group_key(group)
  redis.call('ZREM', OPEN_GROUPS, group)
  local size, made, sealed = unpack(redis.call('HMGET', key, 'size', 'made', 'sealed'))
  if (as == 'cancelled' or as == 'halted') and sealed then redis.call('HSET', key, 'sealed', as) end
  if not made or sealed then return end
  local missing = tonumber(size) - tonumber(made)
  redis.call('HSET', key, 'sealed', as)
  redis.call('HINCRBY', key, 'Pending', int(-missing))
  if as == 'whole' then
    redis.call('HINCRBY', key, 'size', int(-missing))
  else
    redis.call('HSET', key, 'missing', int(missing))
    redis.call('HINCRBY', key, 'Never', int(missing))
  end
  WAITING.end_group(group, now)
  if redis.call('EXISTS', 'launch:waiters:' .. group) == 1 then redis.call('SADD', 'launch:settle', group) end
  drop_group(group)
end

function WAITING.waits_of(id)
  local text = get(id, 'waits_for')[1] or '{}'
  local waits = #text <= 262144 and decoded(text)
  return type(waits) == 'table' and waits or {}
end

-- Makes a run that no longer waits for others ready, now or at its due time.
function WAITING.set_free(id, now)
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
function WAITING.kill_pending(id, now, reason, more, to)
  local attempt = get(id, 'attempt')[1]
  withdraw(id)
  if get(id, 'expires_us')[1] then redis.call('ZREM', 'launch:expiring', id) end
  for other in pairs(WAITING.waits_of(id)) do redis.call('ZREM', 'launch:waiters:' .. tostring(other), id) end
  drop(id, 'waits_for')
  arrow(id, 'Pending', to or 'Killed', now, attempt, '', reason, more)
  WAITING.note_end(id, now)
  SWEEPS.try_tell(id, now)
  release(id, now)
end

-- The reason for which a run of a halted group is not started; nil for another run.
function WAITING.why_halted(id)
  local most, group, key, is_sweep = get(id, 'max_fails')[1], group_of(id)
  if not most or not group or is_sweep then return nil end
  local sealed, failures = unpack(redis.call('HMGET', key, 'sealed', 'halted'))
  if sealed ~= 'halted' then return nil end
  local count = failures or most
  return 'not started, for ' .. count .. (count == '1' and ' run' or ' runs') .. ' of its group failed (--max-fails ' .. most .. ')'
end

-- Kills waiting runs of a halted group: looks at `limit` of its runs, and leaves the rest to the pass.
function WAITING.kill_halted(group, now, limit)
  local key = group_key(group)
  local from = tonumber(redis.call('HGET', key, 'halted_from') or '') or 0
  local ids = members_of(group, from, from + limit - 1)
  if redis.call('HGET', key, 'sealed') ~= 'halted' then ids = {} end
  for _, id in ipairs(ids) do
    local why = get(id, 'state')[1] == 'Pending' and WAITING.why_halted(id)
    local fine, problem = true, ''
    if why then fine, problem = pcall(WAITING.kill_pending, id, now, why) end
    if not fine then doubt(id, 'group ' .. group, problem) end
  end
  if #ids < limit then
    redis.call('HDEL', key, 'halted_from')
    redis.call('SREM', 'launch:halted', group)
    return
  end
  redis.call('HSET', key, 'halted_from', int(from + limit))
  -- The first worker that gets this publication goes on.
  redis.call('PUBLISH', 'launch:due', int(now))
end

-- Halts the group of a run that has ended for good, where as many of its runs failed as it says: the rest is not started.
function WAITING.halt(id, now)
  local most, state = tonumber(get(id, 'max_fails')[1] or ''), get(id, 'state')[1]
  if not most or (state ~= 'Failed' and state ~= 'Crashed') then return end
  local group, key, is_sweep = group_of(id)
  if not group or is_sweep then return end
  local failed, crashed, sealed, notify, name, queue, project =
    unpack(redis.call('HMGET', key, 'Failed', 'Crashed', 'sealed', 'notify', 'name', 'queue', 'project'))
  local failures = (tonumber(failed or '') or 0) + (tonumber(crashed or '') or 0)
  if failures < most or sealed == 'cancelled' or sealed == 'halted' then return end
  redis.call('HSET', key, 'halted', int(failures))
  redis.call('SADD', 'launch:halted', group)
  local number = int(redis.call('HINCRBY', key, 'halts', 1))
  add_act('group', shown_group(group), 'halted', '', now,
    {name = name or '', queue = queue or '', project = project or '', failed = int(failures), run = id})
  if notify then pcall(NOTICES.tell_of_group, id, notify, 'group.halted', number, nil, now) end
  WAITING.seal(group, 'halted', now)
  WAITING.kill_halted(group, now, 50)
end

-- Lets the runs of a halted group start again, because a person tries one of them again.
function WAITING.go_on(id, now, actor)
  local group, key, is_sweep = group_of(id)
  if not get(id, 'max_fails')[1] or not group or is_sweep then return end
  if redis.call('HGET', key, 'sealed') ~= 'halted' then return end
  redis.call('HSET', key, 'sealed', '1')
  redis.call('HDEL', key, 'halted', 'halted_from')
  redis.call('SREM', 'launch:halted', group)
  local name, queue, project = unpack(redis.call('HMGET', key, 'name', 'queue', 'project'))
  add_act('group', shown_group(group), 'resumed', actor or '', now,
    {name = name or '', queue = queue or '', project = project or ''})
end

-- Pending -> Failed, for a record with which no worker can execute the run. The record is kept aside for reading, and
-- the run is never dispatched again.
function WAITING.fail_damaged(id, now, damage)
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
  WAITING.kill_pending(id, now, reason, {phase = 'agent', message = reason}, 'Failed')
  drop(id, 'parked', 'list', 'due_at')
  keep_aside(get(id, 'queue')[1] or '', 'run ' .. id .. ' is Failed: ' .. reason, id)
end

-- Tells a run how `ended`, a run or a group for which it waits, has ended.
function WAITING.meet(id, ended, state, kind, now)
  if get(id, 'state')[1] ~= 'Pending' then return end
  local waits = WAITING.waits_of(id)
  local wish = waits[ended]
  if not wish then return end
  if not WAITING.is_as_wished(wish, state) then
    return WAITING.kill_pending(id, now, WAITING.words_for_end(ended, state, kind, tostring(wish)))
  end
  waits[ended] = nil
  if next(waits) == nil then return WAITING.set_free(id, now) end
  put(id, 'waits_for', cjson.encode(waits), 'reason', WAITING.words_for(waits))
end

-- Tells runs of the ends for which they wait: at most `budget` runs, the pass does the rest. Returns the number of runs
-- that were told.
function WAITING.settle(now, budget)
  local settled = 0
  -- Many may have ended for which no run waits.
  for _ = 1, budget do
    local ended = settled < budget and redis.call('SRANDMEMBER', 'launch:settle')
    if not ended then return settled end
    local state, kind = WAITING.end_of(ended)
    local waiters = (state == 'Pending' or state == 'Running') and {} or redis.call('ZRANGE', 'launch:waiters:' .. ended, 0, budget - settled - 1)
    if #waiters == 0 then
      redis.call('SREM', 'launch:settle', ended)
      if kind == 'array' or kind == 'group' then drop_group(ended) end
    end
    for _, id in ipairs(waiters) do
      redis.call('ZREM', 'launch:waiters:' .. ended, id)
      settled = settled + 1
      local fine, problem = pcall(WAITING.meet, id, ended, state or 'Never', kind, now)
      if not fine then doubt(id, 'launch:waiters:' .. ended, problem) end
    end
  end
  return settled
end
