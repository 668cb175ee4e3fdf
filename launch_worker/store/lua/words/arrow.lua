-- Arrows: every change of a run's state is written here.

-- Adds a line to a run's history, and publishes the state to clients that wait for it.
local function note(id, state, now, attempt, worker, reason)
  local history = run_key(id) .. ':history'
  -- The history is a list and no stream: Redis sets 4 KiB aside for every stream.
  local line = '{"state":"' .. state .. '","at":' .. int(now)
  attempt = tonumber(attempt) or 0
  if attempt > 0 then line = line .. ',"attempt":' .. int(attempt) end
  if worker and worker ~= '' then line = line .. ',"worker":' .. cjson.encode(worker) end
  if reason and reason ~= '' then line = line .. ',"reason":' .. cjson.encode(reason) end
  line = line .. '}'
  if type(redis.pcall('RPUSH', history, line)) == 'table' then
    redis.call('DEL', history)
    redis.call('RPUSH', history, line)
  end
  redis.call('PUBLISH', 'launch:news:' .. id, state)
end

-- Writes a state: index, record, history, and the counts of arrays and places. Only `arrow`, `regain` and `restore`
-- call this. `ended_at`: the time of an end that is reported later.
local function enter(id, from, to, now, attempt, worker, reason, ended_at)
  local created = tonumber(get(id, 'created_at')[1] or '') or now
  redis.call('ZREM', 'launch:runs:state:' .. from, id)
  redis.call('ZADD', 'launch:runs:state:' .. to, int(created), id)
  if FINAL[to] then
    put(id, 'state', to, 'reason', reason, 'ended_at', int(ended_at or now))
  else
    put(id, 'state', to, 'reason', reason)
  end
  note(id, to, now, attempt, worker, reason)
  count_in_array(id, from, to)
  if from == 'Running' or to == 'Running' then
    for _, group in ipairs(places_of(id)) do
      redis.call(to == 'Running' and 'SADD' or 'SREM', 'launch:places:' .. group, id)
    end
  end
  if FINAL[to] then
    redis.call('ZADD', 'launch:ended', int(ended_at or now), id)
    redis.call('ZREM', 'launch:leases', id)
    if get(id, 'cancel_at')[1] then redis.call('ZREM', 'launch:cancels', id) end
    drop(id, 'preempting', 'start_at', 'held')
  elseif FINAL[from] then
    drop(id, 'ended_at')
    redis.call('ZREM', 'launch:ended', id)
    rejoin_sweep(id)
  end
  if from == 'Pending' and to == 'Running' then forget_curve(id) end
end

-- Makes one arrow. The caller has checked who may make it.
local function arrow(id, from, to, now, attempt, worker, reason, ended_at)
  if not (ARROWS[from] and ARROWS[from][to]) then
    error('no arrow from ' .. tostring(from) .. ' to ' .. tostring(to))
  end
  enter(id, from, to, now, attempt, worker, reason, ended_at)
end
