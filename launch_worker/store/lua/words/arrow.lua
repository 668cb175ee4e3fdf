-- Arrows: every change of a run's state is written here.

-- A fact as a part of a line of the history; '' for none.
local function fact(name, value) return value and value ~= '' and ',"' .. name .. '":' .. cjson.encode(value) or '' end

-- Adds a line to a run's history, and publishes the state to clients that wait for it. Returns the number of lines, and
-- this one.  `at`: the time as text. `more`: as for `enter`.
local function note(id, state, at, attempt, worker, reason, more)
  local history = run_key(id) .. ':history'
  -- The history is a list and no stream: Redis sets 4 KiB aside for every stream.
  attempt = tonumber(attempt) or 0
  local exit_code = more.exit_code
  -- At once: Lua makes a text of its own of each step.
  local line = '{"state":"' .. state .. '","at":' .. at .. (attempt > 0 and ',"attempt":' .. int(attempt) or '')
    .. (worker and worker ~= '' and ',"worker":' .. as_json(worker) or '')
    .. fact('reason', reason)
    .. (exit_code and exit_code ~= '' and ',"exit_code":' .. int(tonumber(exit_code)) or '')
    .. fact('signal', more.signal) .. fact('phase', more.phase) .. fact('actor', more.actor) .. '}'
  local lines = redis.pcall('RPUSH', history, line)
  if type(lines) == 'table' then
    redis.call('DEL', history)
    lines = redis.call('RPUSH', history, line)
  end
  redis.call('PUBLISH', 'launch:news:' .. id, state)
  return lines, line
end

-- Tells readers of the feed of an arrow, by its line in the history and what the line does not have.
local function add_arrow(id, lines, line, state, at, ended_at, more)
  if not is_followed() then return end
  local entry = {'run', id, 'n', int(lines), 'line', line}
  local function also(name, value)
    if value and value ~= '' then
      entry[#entry + 1] = name
      entry[#entry + 1] = value
    end
  end
  if state == 'Running' then
    local host, gpus, started_at = unpack(get(id, 'host', 'gpus', 'started_at'))
    also('host', host)
    if gpus ~= '[]' then also('gpus', gpus) end
    if started_at ~= at then also('started_at', started_at) end
  elseif FINAL[state] then
    if ended_at ~= at then also('ended_at', ended_at) end
    also('message', more.message)
    also('usage', more.usage)
  end
  also('restored', more.restored)
  add_change(entry)
end

-- The facts of an arrow that has no others.
local NO_MORE = {}

-- Writes a state: index, record, history, the counts of groups, places and metrics, and the feed. Only `arrow`, `regain` and
-- `restore` call this. `more`: what is known of a reported end (ended_at, exit_code, signal, phase, message, usage), who asked
-- for the arrow (actor), and restored = '1' for a run that Redis had lost.
local function enter(id, from, to, now, attempt, worker, reason, more)
  more = more or NO_MORE
  local at = int(now)
  local ended_at = more.ended_at and int(more.ended_at) or at
  local created = field_of(id, 'created_at') or ''
  -- Text as it is: Lua is slow to print a number.
  if #created > 18 or not string.find(created, '^%d+$') then created = at end
  redis.call('ZREM', 'launch:runs:state:' .. from, id)
  redis.call('ZADD', 'launch:runs:state:' .. to, created, id)
  if FINAL[to] then
    put(id, 'state', to, 'reason', reason, 'ended_at', ended_at)
  else
    put(id, 'state', to, 'reason', reason)
  end
  local lines, line = note(id, to, at, attempt, worker, reason, more)
  add_arrow(id, lines, line, to, at, ended_at, more)
  count_in_group(id, from, to)
  local notify = field_of(id, 'notify')
  if notify and notify ~= '' and not group_of(id) then NOTICES.tell_arrow(id, notify, from, to, now, reason, more) end
  if from == 'Running' or to == 'Running' then count_places(id, to == 'Running' and 'SADD' or 'SREM') end
  if from == 'Pending' or to == 'Pending' then count_waiting(id, to == 'Pending' and 'SADD' or 'SREM') end
  if FINAL[to] then
    -- Another end is to be confirmed by an archive too.
    if FINAL[from] then unlist_ended(id) end
    redis.call('ZADD', 'launch:ended', ended_at, id)
    redis.call('ZREM', 'launch:leases', id)
    if field_of(id, 'cancel_at') then redis.call('ZREM', 'launch:cancels', id) end
    local run = record_of(id, 'preempting', 'start_at', 'held')
    if run.preempting or run.start_at or run.held then drop(id, 'preempting', 'start_at', 'held') end
  elseif FINAL[from] then
    drop(id, 'ended_at')
    unlist_ended(id)
    SWEEPS.rejoin(id)
  end
  if from == 'Pending' and to == 'Running' then SWEEPS.forget_curve(id) end
  if FINAL[from] then COUNTS.add(field_of(id, 'queue'), 'left:' .. from, '1') end
  if FINAL[to] then COUNTS.add_end(id, from, to, tonumber(ended_at)) end
end

-- Makes one arrow. The caller has checked who may make it.
local function arrow(id, from, to, now, attempt, worker, reason, more)
  if not (ARROWS[from] and ARROWS[from][to]) then
    error('no arrow from ' .. tostring(from) .. ' to ' .. tostring(to))
  end
  enter(id, from, to, now, attempt, worker, reason, more)
end
