-- Words that every script shares; the store puts this text in front of each of them.
--
-- Keys (the same names as store/keys.py). All times are the server's, in microseconds.
--   launch:run:ID             hash    the record: the truth about a run
--   launch:run:ID:history     list    every transition, as JSON
--   launch:run:ID:log:N       stream  newest output of attempt N (append_log)
--   launch:runs[:project:P | :queue:Q | :state:S]   zset by created_at: the listings
--   launch:leases             zset    Running runs by lease deadline
--   launch:due                zset    Pending runs that wait for a time, by that time
--   launch:dispatched:LIST    zset    Pending runs that have an item in LIST, by dispatch time
--   launch:cancels            zset    Running runs that shall stop, by the time of the request
--   launch:ended              zset    runs in a final state, by end; what retention deletes
--   launch:settling           string  for a while after an outage: no run is called Crashed, workers report first
--   launch:hold               string  for a while after a restore from a snapshot: no claim either
--   launch:restored_at        string  when a restore from a snapshot was last noticed
--   launch:queues             set     every queue that a run was submitted to
--   launch:queue:NAME         hash    what an admin configured of a queue (configure_queue); trusted by workers
--   launch:system             string  names this system on engines that others use too (system); stays
--   launch:worker:OWNER       string  a live worker's description (expires with its lease)
--   launch:workers            zset    live workers by the time at which they count as gone
--   launch:consumers:QUEUE    zset    the same, of those that consume QUEUE
--   launch:passes, launch:counters    hashes  time of each beat pass; refused reports and the like
--   launch:upload:SHA256      string  how many chunks a whole upload has (keep_upload; expires, as its chunks do)
--   launch:upload:SHA256:N    string  a chunk of it; expires soon unless the upload became whole
--   launch:refused            list    newest malformed items and damaged keys, for reading
-- Channels: launch:news:ID (a transition, or more output), launch:orders:OWNER (a cancel), launch:admin:OWNER (drain,
-- upgrade, resume), launch:due.
-- A queue's items are in the lists kombu reads: QUEUE, and QUEUE<sep>3, 6, 9 for lower priorities.

local SEP = '\6\22'
local FINAL = {Finished = true, Failed = true, Killed = true, Crashed = true}
local ARROWS = {
  Pending = {Running = true, Killed = true},
  Running = FINAL,
  Crashed = {Pending = true, Running = true, Finished = true, Failed = true, Killed = true},
  Finished = {Pending = true}, Failed = {Pending = true}, Killed = {Pending = true},
}

-- A Lua number above 2^47 prints as 1.7e+15 when concatenated.
local function int(number) return string.format('%.0f', number) end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function run_key(id) return 'launch:run:' .. id end

-- A damaged record (its key is not a hash) reads as an unknown run: it must not stop what others need.
local function get(id, ...)
  local values = redis.pcall('HMGET', run_key(id), ...)
  return values.err and {} or values
end

-- The JSON that an admin set for a queue; '' for none.
local function queue_config(queue)
  local config = redis.pcall('HGET', 'launch:queue:' .. queue, 'config')
  return type(config) == 'string' and config or ''
end

-- The arrows that a Redis which lost its newest writes (restored from a snapshot) makes necessary: the attempt that
-- holds a newer token than the record is the truth.
local function is_rolled_back(record_token, token)
  local kept = tonumber(record_token)
  return kept and kept < tonumber(token)
end

local function list_of(queue, priority)
  if priority == '0' then return queue end
  return queue .. SEP .. priority
end

local function upload_key(sha256, number)
  local key = 'launch:upload:' .. sha256
  if number then return key .. ':' .. int(number) end
  return key
end

-- Chunks first: the mark that it is whole must not outlive one of them.
local function keep_upload(sha256, chunks, keep_us)
  local keep_ms = math.max(1, math.floor(keep_us / 1000))
  for number = 0, chunks - 1 do redis.call('PEXPIRE', upload_key(sha256, number), int(keep_ms)) end
  redis.call('SET', upload_key(sha256), int(chunks), 'PX', int(keep_ms))
end

-- For reading by `launch-worker doctor`.
local function keep_aside(queue, reason, item)
  redis.call('LPUSH', 'launch:refused', cjson.encode({at = int(now_us()), queue = queue, reason = reason, item = item}))
  redis.call('LTRIM', 'launch:refused', 0, 999)
end

-- One line of a run's history, and a word to those who wait for it.
local function note(id, state, now, attempt, worker, reason)
  local history = run_key(id) .. ':history'
  -- A list and not a stream: Redis sets 4 KiB aside for every stream.
  local line = cjson.encode({state = state, at = int(now), attempt = tonumber(attempt) or 0, worker = worker or '',
    reason = reason or ''})
  if type(redis.pcall('RPUSH', history, line)) == 'table' then
    redis.call('DEL', history)
    redis.call('RPUSH', history, line)
  end
  redis.call('PUBLISH', 'launch:news:' .. id, state)
end

-- Writes a state: index, record, history. Only `arrow` and `regain` call it.
local function enter(id, from, to, now, attempt, worker, reason)
  local created = tonumber(redis.call('HGET', run_key(id), 'created_at')) or now
  redis.call('ZREM', 'launch:runs:state:' .. from, id)
  redis.call('ZADD', 'launch:runs:state:' .. to, int(created), id)
  redis.call('HSET', run_key(id), 'state', to, 'reason', reason)
  note(id, to, now, attempt, worker, reason)
  if FINAL[to] then
    redis.call('HSET', run_key(id), 'ended_at', int(now))
    redis.call('ZADD', 'launch:ended', int(now), id)
    redis.call('ZREM', 'launch:leases', id)
    redis.call('ZREM', 'launch:cancels', id)
  elseif FINAL[from] then
    redis.call('HDEL', run_key(id), 'ended_at')
    redis.call('ZREM', 'launch:ended', id)
  end
end

-- Makes one arrow. The caller has checked who may make it.
local function arrow(id, from, to, now, attempt, worker, reason)
  if not (ARROWS[from] and ARROWS[from][to]) then
    error('no arrow from ' .. tostring(from) .. ' to ' .. tostring(to))
  end
  enter(id, from, to, now, attempt, worker, reason)
end

-- A list of the wrong type would refuse every item and every consumer: it is set aside for reading.
local function heal(list)
  local kind = redis.call('TYPE', list).ok
  if kind ~= 'list' and kind ~= 'none' then
    local aside = 'launch:damaged:' .. list .. ':' .. int(now_us())
    redis.call('RENAME', list, aside)
    redis.call('EXPIRE', aside, 30 * 86400)
    keep_aside(list, 'the queue\'s key held a ' .. kind .. '; moved to ' .. aside)
  end
end

-- The Celery message of a run, as kombu's Redis transport stores it. tests/redis/test_item.py holds it to what
-- the installed Celery publishes itself. It carries no more of the run than Flower may show.
local function item(id, seq, queue, priority, name, project, now)
  local shown = "{'name': '" .. name .. "', 'queue': '" .. queue .. "', 'project': '" .. project .. "'}"
  local body = '[["' .. id .. '", ' .. seq .. '], {}, '
    .. '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
  return '{"body": ' .. cjson.encode(body) .. ', "content-encoding": "utf-8", "content-type": "application/json", '
    .. '"headers": {"lang": "py", "task": "launch_worker.run", "id": "' .. id .. '", '
    .. '"shadow": ' .. cjson.encode(name) .. ', "eta": null, "expires": null, "group": null, "group_index": null, '
    .. '"retries": 0, "timelimit": [null, null], "root_id": "' .. id .. '", "parent_id": null, '
    .. '"argsrepr": ' .. cjson.encode("('" .. id .. "',)") .. ', "kwargsrepr": ' .. cjson.encode(shown) .. ', '
    .. '"origin": "launch_worker", "ignore_result": true, "replaced_task_nesting": 0, "stamped_headers": null, '
    .. '"stamps": {}, "launch_dispatched_at": ' .. int(now) .. '}, '
    .. '"properties": {"correlation_id": "' .. id .. '", "reply_to": "", "delivery_mode": 2, '
    .. '"delivery_info": {"exchange": "", "routing_key": "' .. queue .. '"}, "priority": ' .. priority .. ', '
    .. '"delivery_tag": "' .. id .. '.' .. seq .. '"}}'
end

-- The parts of an attempt's start, and the one that is going on, if any.
local function phases_of(known)
  local fine, phases = pcall(cjson.decode, known or '[]')
  if not fine or type(phases) ~= 'table' then return {} end
  local last = phases[#phases]
  if last and not (type(last) == 'table' and tonumber(last.at)) then return {} end
  return phases, last and not last.us and last
end

-- Ends the part of an attempt's start that is going on, and begins `name` unless that is ''.
local function enter_phase(id, name, now)
  local known = get(id, 'phases')[1]
  if not known and name == '' then return end
  local phases, last = phases_of(known)
  if last then last.us = int(now - tonumber(last.at)) end
  if name ~= '' then phases[#phases + 1] = {name = name, at = int(now)} end
  redis.call('HSET', run_key(id), 'phases', cjson.encode(phases))
end

-- Puts a Pending run's item, with the next dispatch number, into its queue. An older item is refused at the claim.
-- With `since`, the time of its last dispatch, it goes back to the head of the queue, where it came from.
local function dispatch(id, now, since)
  local run = get(id, 'queue', 'priority', 'name', 'project')
  local seq = redis.call('HINCRBY', run_key(id), 'seq', 1)
  local list = list_of(run[1], run[2])
  heal(list)
  local at = since or now
  redis.call(since and 'RPUSH' or 'LPUSH', list, item(id, seq, run[1], run[2], run[3], run[4], at))
  redis.call('ZADD', 'launch:dispatched:' .. list, int(at), id)
  redis.call('HDEL', run_key(id), 'due_at')
  redis.call('ZREM', 'launch:due', id)
end

-- The same for a pass, which one damaged record must not stop: that run is taken out of `waiting` and kept aside.
local function try_dispatch(id, now, waiting)
  local done, problem = pcall(dispatch, id, now)
  if done then return 1 end
  redis.call('ZREM', waiting, id)
  keep_aside(waiting, 'the record of run ' .. id .. ' is damaged: ' .. tostring(problem))
  return 0
end

-- Makes a Pending run wait for `due` (then `publish_due_runs` dispatches it).
local function schedule(id, due)
  -- A doubled older item must not start it before its time.
  redis.call('HINCRBY', run_key(id), 'seq', 1)
  redis.call('HSET', run_key(id), 'due_at', int(due))
  redis.call('ZADD', 'launch:due', int(due), id)
  redis.call('PUBLISH', 'launch:due', int(due))
end

-- Takes a Pending run out of wherever it waits.
local function withdraw(id)
  local run = get(id, 'queue', 'priority')
  redis.call('ZREM', 'launch:dispatched:' .. list_of(run[1], run[2]), id)
  redis.call('ZREM', 'launch:due', id)
  redis.call('HDEL', run_key(id), 'due_at')
end

-- Makes a rolled back record Running under the attempt that its worker still holds.
local function regain(id, state, now, token, attempt, owner, worker)
  if state == 'Pending' then withdraw(id) end
  redis.call('HSET', run_key(id), 'token', token, 'attempt', attempt, 'owner', owner, 'worker', worker)
  redis.call('HDEL', run_key(id), 'closed', 'exit_code', 'signal', 'phase', 'message')
  redis.call('HINCRBY', 'launch:counters', 'restored_runs', 1)
  enter(id, state, 'Running', now, attempt, worker, 'Redis had lost this attempt; its worker is alive')
end

-- Crashed -> Running: the same attempt, not superseded, proves alive.
local function revive(id, now, attempt, worker)
  arrow(id, 'Crashed', 'Running', now, attempt, worker, 'its worker is alive again')
  local cancelled = redis.call('HGET', run_key(id), 'cancel_at')
  if tonumber(cancelled) then redis.call('ZADD', 'launch:cancels', cancelled, id) end
end

-- From a final state to Pending: at once, or after delay_us.
local function again(id, from, now, attempt, worker, reason, delay_us)
  arrow(id, from, 'Pending', now, attempt, worker, reason)
  if delay_us > 0 then schedule(id, now + delay_us) else dispatch(id, now) end
end
