-- Sweeps: the end of a run frees a place in its sweep.

local SWEEPS = {
  ENDED = {FINISHED = true, CANCELED = true},
  -- The number of first runs of a sweep that pause it when all of them fail: W&B's agent gives up after as many.
  FIRST_FAILURES = 5,
}

-- The sweep that made a run, and the run's number in that sweep; nil for a run of no sweep.
function SWEEPS.of(id)
  local sweep = field_of(id, 'sweep')
  if not sweep or sweep == '' then return nil end
  local index = redis.call('ZSCORE', sweep_key(sweep) .. ':runs', id)
  if index then return sweep, index end
end

-- Counts all runs of a sweep anew: workers of a release that did not count them ended some. Deleted runs count by their
-- results.
function SWEEPS.recount(sweep)
  local key, counts = sweep_key(sweep), {}
  local runs = redis.call('ZRANGE', key .. ':runs', 0, 9999, 'WITHSCORES')
  for at = 1, #runs, 2 do
    local state, attempt = unpack(get(runs[at], 'state', 'attempt'))
    if not state then
      local known = decoded(redis.call('HGET', key .. ':results', runs[at + 1]) or '')
      state, attempt = type(known) == 'table' and known.state or 'Killed', '1'
    end
    local kind = kind_of(state, attempt)
    counts[kind] = (counts[kind] or 0) + 1
  end
  redis.call('HDEL', key, 'Pending', 'Running', 'Finished', 'Failed', 'Killed', 'Crashed', 'Never')
  for kind, count in pairs(counts) do redis.call('HSET', key, kind, int(count)) end
end

-- Tells of the end of a sweep.
function NOTICES.tell_sweep_end(sweep, notify, state, now)
  local names = {'name', 'project', 'author', 'created_at', 'made', 'ends', 'Finished', 'Failed', 'Killed', 'Crashed', 'Never'}
  local values = redis.call('HMGET', sweep_key(sweep), unpack(names))
  local facts = {group = sweep, kind = 'sweep', ended_at = int(now)}
  for at, name in ipairs(names) do facts[name] = values[at] or '' end
  facts.size, facts.sweep_state = facts.made, state
  facts['end'] = facts.Finished == facts.made and 'Finished' or 'Failed'
  NOTICES.tell_group(notify, 'group.ended', facts.ends, facts, now)
end

-- RUNNING | PAUSED -> FINISHED once all its runs were made, STOPPED -> FINISHED | CANCELED: when its last live run
-- ends.
function SWEEPS.close(sweep, now)
  local key = sweep_key(sweep)
  if redis.call('SCARD', key .. ':live') > 0 then return end
  local state, made, cap, cancelling = unpack(redis.call('HMGET', key, 'state', 'made', 'cap', 'cancelling'))
  local to
  if state == 'STOPPED' then
    to = cancelling == '1' and 'CANCELED' or 'FINISHED'
  elseif not SWEEPS.ENDED[state] and tonumber(cap or '') and tonumber(made) >= tonumber(cap) then
    to = 'FINISHED'
  end
  if not to then return end
  redis.call('HSET', key, 'state', to, 'ended_at', int(now))
  redis.call('SREM', 'launch:sweeps:live', sweep)
  add_act('sweep', sweep, string.lower(to), '', now)
  local counts, ended = redis.call('HMGET', key, 'Finished', 'Failed', 'Killed', 'Crashed', 'Never'), 0
  for at = 1, 5 do ended = ended + (tonumber(counts[at] or '') or 0) end
  if ended ~= tonumber(made) then SWEEPS.recount(sweep) end
  local notify, number = unpack(redis.call('HMGET', key, 'notify', 'ends'))
  if notify then
    redis.call('HSET', key, 'ends', int((tonumber(number or '') or 0) + 1))
    NOTICES.tell_sweep_end(sweep, notify, to, now)
  end
  redis.call('PUBLISH', 'launch:news:' .. sweep, to)
  if redis.call('EXISTS', 'launch:waiters:' .. sweep) == 1 then
    redis.call('SADD', 'launch:settle', sweep)
    redis.call('PUBLISH', 'launch:due', int(now))
  end
end

-- The metric of an ended run: the value in its summary, else the last value that it sent.
function SWEEPS.metric_of(id, metric)
  if not metric or metric == '' then return nil end
  local value = number_in(decoded(get(id, 'summary')[1]), metric)
  if value then return value end
  for _, row in ipairs(redis.call('LRANGE', run_key(id) .. ':metrics', -20, -1)) do
    value = number_in(decoded(row), metric) or value
  end
  return value
end

-- Notes why a run of a sweep failed, and which reason most of those have that failed: by the exception, whatever its
-- text. The record keeps the first 20 kinds.
function SWEEPS.note_why(key, id, reason)
  local kind = string.match(reason, '^[%a_][%w_.]*:') or string.sub(reason, 1, 100)
  local whys = decoded(redis.call('HGET', key, 'whys') or '')
  if type(whys) ~= 'table' then whys = {} end
  local kinds = 0
  for _ in pairs(whys) do kinds = kinds + 1 end
  if whys[kind] or kinds < 20 then whys[kind] = (tonumber(whys[kind]) or 0) + 1 end
  local most = 0
  for _, count in pairs(whys) do most = math.max(most, tonumber(count) or 0) end
  redis.call('HSET', key, 'whys', cjson.encode(whys))
  if (tonumber(whys[kind]) or 0) >= most then
    redis.call('HSET', key, 'failed', id, 'failed_why', reason, 'alike', int(most))
  end
end

-- Judges a sweep by the end of a run: whether all its first runs fail, or as many as it says (--max-fails), and whether
-- no run sends the metric.
function SWEEPS.judge(sweep, id, now, sweep_state, metric, value)
  local key = sweep_key(sweep)
  local state, reason = unpack(get(id, 'state', 'reason'))
  if state == 'Finished' then
    redis.call('HSET', key, 'has_finished', 1)
    redis.call('HDEL', key, 'failures')
    if not get(id, 'max_fails')[1] then redis.call('HDEL', key, 'failed', 'failed_why', 'alike', 'whys') end
    if value then
      redis.call('HSET', key, 'has_value', 1)
      redis.call('HDEL', key, 'unmeasured')
    elseif metric and metric ~= '' and not redis.call('HGET', key, 'has_value') then
      redis.call('HSET', key, 'unmeasured', id)
    end
  elseif state ~= 'Killed' then
    local most = tonumber(get(id, 'max_fails')[1] or '')
    local has_finished = redis.call('HGET', key, 'has_finished')
    if has_finished and not most then return end
    SWEEPS.note_why(key, id, reason or '')
    local failures = has_finished and 0 or redis.call('HINCRBY', key, 'failures', 1)
    local fails = most and redis.call('HINCRBY', key, 'fails', 1) or failures
    if sweep_state == 'RUNNING' and fails >= (most or SWEEPS.FIRST_FAILURES) then
      redis.call('HSET', key, 'state', 'PAUSED')
      add_act('sweep', sweep, 'paused', '', now, {failed = id})
    end
  end
end

-- Tells a sweep that a run of it has ended for good: the sweep keeps the result, and may make another run.
function SWEEPS.tell(id, now)
  local sweep, index = SWEEPS.of(id)
  if not sweep then return end
  local key = sweep_key(sweep)
  redis.call('SREM', key .. ':live', id)
  local state, metric, target, goal = unpack(redis.call('HMGET', key, 'state', 'metric', 'target', 'goal'))
  if not state then return end
  local value = SWEEPS.metric_of(id, metric)
  local known = decoded(redis.call('HGET', key .. ':results', index) or '')
  -- A run that was started again and sent no value keeps the value of its earlier attempt.
  if value or not (known and known.value) then
    redis.call('HSET', key .. ':results', index,
      cjson.encode({state = get(id, 'state')[1], value = value and string.format('%.17g', value)}))
  end
  if not known then redis.call('RPUSH', key .. ':ended', index) end
  SWEEPS.judge(sweep, id, now, state, metric, value)
  local wanted = tonumber(target or '')
  if value and wanted and (goal == 'maximize' and value >= wanted or goal ~= 'maximize' and value <= wanted)
    and not SWEEPS.ENDED[state] then
    redis.call('HSET', key, 'cap', redis.call('HGET', key, 'made'), 'reason', 'run ' .. id .. ' reached the target')
  end
  SWEEPS.close(sweep, now)
  redis.call('PUBLISH', 'launch:sweeps', sweep)
end

-- The same, where a damaged sweep must not hold up the end of a run.
function SWEEPS.try_tell(id, now)
  local fine, problem = pcall(SWEEPS.tell, id, now)
  if not fine then keep_aside('', 'the sweep of run ' .. id .. ' is damaged: ' .. tostring(problem)) end
end

-- Keeps rows of metrics (JSON) that a run sent, for a sweep that stops runs early.
function SWEEPS.keep_metrics(id, rows)
  if #rows == 0 then return end
  pcall(function()
    local sweep, index = SWEEPS.of(id)
    if not sweep then return end
    local metric, watched = unpack(redis.call('HMGET', sweep_key(sweep), 'metric', 'watched'))
    if watched ~= '1' then return end
    local curve = sweep_key(sweep) .. ':curve:' .. index
    local is_news = false
    for _, text in ipairs(rows) do
      local row = decoded(text)
      local value = number_in(row, metric)
      local length = value and redis.call('LLEN', curve)
      if length and length < 10000 then
        local step = as_number(row._step)
        redis.call('RPUSH', curve, int(step or length + 1) .. ' ' .. string.format('%.17g', value))
        is_news = true
      end
    end
    if is_news then redis.call('PUBLISH', 'launch:sweeps', sweep) end
  end)
end

-- Counts an ended run of a sweep as live again, for it is to run again.
function SWEEPS.rejoin(id)
  pcall(function()
    local sweep = SWEEPS.of(id)
    if sweep then redis.call('SADD', sweep_key(sweep) .. ':live', id) end
  end)
end

-- Forgets the metrics of a run's earlier attempt: the new attempt sends its own.
function SWEEPS.forget_curve(id)
  if not field_of(id, 'sweep') then return end
  pcall(function()
    local sweep, index = SWEEPS.of(id)
    if sweep then
      redis.call('DEL', sweep_key(sweep) .. ':curve:' .. index)
      redis.call('HDEL', sweep_key(sweep) .. ':stopped', index)
    end
  end)
end
