-- Words that every script shares; the store puts this text in front of each of them.
--
-- Keys (the same names as store/keys.py). All times are the server's, in microseconds.
--   launch:run:ID             hash    the record: the truth about a run
--   launch:run:ID:history     list    every transition, as JSON
--   launch:run:ID:log:N       stream  newest output of attempt N (append_log)
--   launch:run:ID:metrics     list    newest rows of metrics that its job told, as JSON (tell)
--   launch:run:ID:files       hash    files that were kept with it (save_file)
--   launch:run:ID:deleted     string  when and by whom it was deleted; expires (delete)
--   launch:runs[:project:P | :queue:Q | :state:S | :sweep:S | :array:A]   zset by created_at: the listings
--   launch:array:A            hash    how many runs an array has (size), and how many of them in each state; Never: ended
--                                     without an attempt. A is the id of its first run. Goes with the last of them
--   launch:leases             zset    Running runs by lease deadline; LATER for those that are held (hold)
--   launch:due                zset    Pending runs that wait for a time, by that time
--   launch:dispatched:LIST    zset    Pending runs that have an item in LIST, by dispatch time
--   launch:line:QUEUE         zset    Pending runs by rank: priority, then since when they are ready; LATER for the others
--   launch:places:GROUP       set     Running runs that count for a limit; GROUP is queue:Q, key:K or array:A
--   launch:parked:GROUP       set     the lines in which runs wait for a place in GROUP (pool:P and needs:N too), and
--   launch:parked:GROUP/LINE  zset    each of them by rank; LINE begins with a queue's name
--   launch:groups:QUEUE, launch:shapes:QUEUE   sets   the groups, and the needs, for which runs of QUEUE are parked
--   launch:waiters:ID         zset    Pending runs that wait for the end of ID, by their submission
--   launch:settle             set     ended runs whose waiters are not all told yet
--   launch:expiring           zset    Pending runs that must have started by a time, by that time
--   launch:sweeps             zset    hyperparameter sweeps by created_at; launch:sweeps:live  set  those that are not over
--   launch:sweep:ID           hash    a sweep: what it is and how far (create_sweep, next_run, steer_sweep)
--   launch:sweep:ID:runs      zset    its runs by their numbers; launch:sweep:ID:live  set  those that have not ended
--   launch:sweep:ID:trials, :results, :stopped   hashes by number   what was drawn, how the run ended, why it was stopped early
--   launch:sweep:ID:ended     list    the numbers of the ended ones, in that order
--   launch:sweep:ID:curve:N   list    what run N told of the metric, as "STEP VALUE" (sweeps that stop runs early only)
--   launch:sweep:ID:lock:WHAT string  somebody makes the sweep's next runs, or judges them; expires
--   launch:schedules          zset    recurring submissions by their next time; launch:schedule:NAME  string  each of them
--   launch:schedule:NAME:run  string  the last run of one that asks whether that has ended; goes with it
--   launch:cancels            zset    Running runs that shall stop, by the time of the request
--   launch:ended              zset    runs in a final state, by end; what retention deletes
--   launch:settling           string  for a while after an outage: no run is called Crashed, workers report first
--   launch:hold               string  for a while after a restore from a snapshot: no claim either
--   launch:restored_at        string  when a restore from a snapshot was last noticed
--   launch:queues             set     every queue that a run was submitted to
--   launch:queue:NAME         hash    what an admin configured of a queue: config (JSON, trusted by workers), limit, paused, pool, rank
--   launch:pools              set     every pool; launch:pool:NAME  hash  config, limit, paused of each
--   launch:pool_queues:NAME   zset    its queues by rank
--   launch:system             string  names this system on engines that others use too (system); stays
--   launch:worker:OWNER       string  a live worker's description (expires with its lease)
--   launch:free:OWNER         hash    what it had left when it last spoke: slots, gpus, cpus (thousandths), memory (bytes)
--   launch:collecting:OWNER   string  the run for which it collects what comes free (offer)
--   launch:workers            zset    live workers by the time at which they count as gone
--   launch:consumers:QUEUE    zset    the same, of those that consume QUEUE
--   launch:passes, launch:counters    hashes  time of each beat pass; refused reports and the like
--   launch:upload:SHA256      string  how many chunks a whole upload has (keep_upload; expires, as its chunks do)
--   launch:upload:SHA256:N    string  a chunk of it; expires soon unless the upload became whole
--   launch:refused            list    newest malformed items and damaged keys, for reading
-- Channels: launch:news:ID (a transition, or more output), launch:orders:OWNER (a cancel), launch:admin:OWNER (drain,
-- upgrade, resume), launch:due, launch:queues (a queue is new, configured or gone), launch:sweeps (one is to be looked at).
-- A queue's items are in the lists kombu reads: QUEUE, and QUEUE<sep>3, 6, 9 for lower priorities. A worker's own list,
-- launch.direct.OWNER, has those that were given to it alone.
--
-- A Pending run is in exactly one place: in a list (dispatch), parked, waiting for a time (schedule), or for other runs.

-- A Lua number above 2^47 prints as 1.7e+15 when concatenated.
local function int(number) return string.format('%.0f', number) end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- A whole number as text, within bounds; nil for everything else.
local function whole(text, least, most)
  local number = string.match(text or '', '^%d+$') and tonumber(text)
  if number and number >= least and number <= most then return number end
end

local function decoded(text)
  local fine, value = pcall(cjson.decode, text or '')
  return fine and value or nil
end

local function as_number(value)
  if type(value) ~= 'number' or value ~= value or math.abs(value) == math.huge then return nil end
  return value
end

-- The number with this name in a decoded JSON object, also where the dots of the name lead.
local function number_in(object, name)
  if type(object) ~= 'table' then return nil end
  local found = as_number(object[name])
  if found then return found end
  for at in string.gmatch(name, '()%.') do
    found = number_in(object[string.sub(name, 1, at - 1)], string.sub(name, at + 1))
    if found then return found end
  end
end

-- Text that can be part of an item: a damaged record may have bytes that are no UTF-8, and such an item is refused.
local function as_utf8(text)
  if not string.find(text, '[\128-\255]') then return text end
  local rest, more = text, '[\128-\191]'
  for _, first in ipairs({'\240[\144-\191]' .. more, '[\241-\243]' .. more .. more, '\244[\128-\143]' .. more,
    '\224[\160-\191]', '[\225-\236\238\239]' .. more, '\237[\128-\159]', '[\194-\223]'}) do
    rest = string.gsub(rest, first .. more, '')
  end
  if not string.find(rest, '[\128-\255]') then return text end
  return (string.gsub(text, '[\128-\255]', '?'))
end

local SEP = '\6\22'

local LEVELS = {['0'] = 0, ['3'] = 1, ['6'] = 2, ['9'] = 3}

local function run_key(id) return 'launch:run:' .. id end

local function array_key(array) return 'launch:array:' .. array end

local function sweep_key(sweep) return 'launch:sweep:' .. sweep end

local function upload_key(sha256, number)
  local key = 'launch:upload:' .. sha256
  if number then return key .. ':' .. int(number) end
  return key
end

-- A damaged priority is the default: no worker reads any other list.
local function list_of(queue, priority)
  if priority == '0' then return queue end
  return queue .. SEP .. (LEVELS[priority] and priority or '6')
end

local function direct_of(owner) return 'launch.direct.' .. owner end

local FINAL = {Finished = true, Failed = true, Killed = true, Crashed = true}
local ARROWS = {
  Pending = {Running = true, Killed = true, Failed = true},
  Running = FINAL,
  Crashed = {Pending = true, Running = true, Finished = true, Failed = true, Killed = true},
  Finished = {Pending = true}, Failed = {Pending = true}, Killed = {Pending = true},
}

-- Fields of records as this call found or left them: by id, field to value, false for one that is not there. Nobody else
-- writes meanwhile; here only `put`, `write_new`, `drop` and `forget` do.
local seen = {}
-- What a record that is there does not say of itself.
local DEFAULTS = {attempt = '0', token = '0', first_attempt = '1', seq = '0', project = '', priority = '6', reason = ''}
-- Of a record of which all is known.
local ABSENT = {__index = function() return false end}
local NEW = {__index = function(_, field) return DEFAULTS[field] or false end}

-- Reads fields of a record that were not read yet, in one go. nil for a damaged one.
local function read(id, fields)
  local record = seen[id]
  if not record then fields[#fields + 1] = 'state' end
  local values = redis.pcall('HMGET', run_key(id), unpack(fields))
  if values.err then return nil end
  if not record then record = {state = values[#values]} end
  for at = 1, #fields do
    local field = fields[at]
    if record[field] == nil then record[field] = values[at] or record.state and DEFAULTS[field] or false end
  end
  seen[id] = record
  return record
end

-- Fields of a record, each read once only; false for what is not there.
-- A damaged record (its key is not a hash) reads as an unknown run: it must not stop what others need.
local function get(id, ...)
  local found = {...}
  local record = seen[id] or read(id, {...})
  if not record then return {} end
  for at = 1, #found do
    local value = record[found[at]]
    if value == nil then
      read(id, {...})
      value = record[found[at]]
    end
    found[at] = value
  end
  return found
end

-- Reads all of a record, for one who needs most of it.
local function read_all(id)
  local values = redis.pcall('HGETALL', run_key(id))
  if values.err then return end
  local record = setmetatable({}, #values > 0 and NEW or ABSENT)
  for at = 1, #values, 2 do record[values[at]] = values[at + 1] end
  seen[id] = record
end

-- Whether there is no such run, nor was one that was deleted. What is written of it then is all that there is.
local function is_new(id)
  if redis.call('EXISTS', run_key(id), run_key(id) .. ':deleted') > 0 then return false end
  seen[id] = setmetatable({}, NEW)
  return true
end

-- Writes fields of a record: a flat list of names and values. What it has already, or by default, is not written.
local function put(id, ...)
  local given, changed = {...}, {}
  local record = seen[id] or read(id, {}) or {}
  for at = 1, #given, 2 do
    local field, value = given[at], given[at + 1]
    if type(value) == 'number' then value = string.format('%.17g', value) end
    if record[field] ~= value then
      changed[#changed + 1] = field
      changed[#changed + 1] = value
      record[field] = value
    end
  end
  if #changed > 0 then redis.call('HSET', run_key(id), unpack(changed)) end
end

-- Writes a new record, all of whose fields its creator has noted: a flat list of names and values.
local function write_new(id, fields) redis.call('HSET', run_key(id), unpack(fields)) end

-- Takes fields from a record.
local function drop(id, ...)
  local there = {}
  local record = seen[id] or read(id, {}) or {}
  for _, field in ipairs({...}) do
    if record[field] ~= false then there[#there + 1] = field end
    record[field] = false
  end
  if #there > 0 then redis.call('HDEL', run_key(id), unpack(there)) end
end

-- What a run counts as: its state, or Never for one that ended without having run.
local function kind_of(state, attempt)
  if (state == 'Killed' or state == 'Failed') and (tonumber(attempt) or 0) == 0 then return 'Never' end
  return state
end

-- A run of an array goes from one state to another ('' for one that comes, or is gone).
local function count_in_array(id, from, to)
  local array, attempt = unpack(get(id, 'array', 'attempt'))
  if not array or array == '' then return end
  if from ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(from, attempt), -1) end
  if to ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(to, attempt), 1) end
end

-- How what others wait for has ended, or Pending or Running where it has not: of a run its state or Never; of an array
-- Finished when all its runs are, Failed when one of them ran and is not, else Never. nil for what is not there.
local function end_of(id)
  local counts = redis.pcall('HMGET', array_key(id), 'size', 'Pending', 'Running', 'Finished', 'Never')
  local size = not counts.err and tonumber(counts[1] or '') or 0
  if size > 0 then
    local function count(at) return tonumber(counts[at] or '') or 0 end
    if count(2) + count(3) > 0 then return 'Running', true end
    if count(4) >= size then return 'Finished', true end
    return count(4) + count(5) >= size and 'Never' or 'Failed', true
  end
  local run = get(id, 'state', 'attempt')
  return run[1] and kind_of(run[1], run[2]) or nil, false
end

-- The attempts of which there may be output: by their number, or, where that is large or damaged, those that the run's
-- history names. Bounded, for whoever may write records may write any number.
local function attempts_of(id)
  local count, found, known = tonumber(get(id, 'attempt')[1]) or 0, {}, {}
  if count <= 1000 then
    for attempt = 1, count do found[attempt] = int(attempt) end
    return found
  end
  local lines = redis.pcall('LRANGE', run_key(id) .. ':history', -5000, -1)
  for _, line in ipairs(lines.err and {} or lines) do
    local attempt = string.match(line, '"attempt":(%d+)')
    if attempt and not known[attempt] then
      known[attempt] = true
      found[#found + 1] = attempt
    end
  end
  return found
end

-- The record is gone, with all that belongs to the run alone.
local function forget(id)
  local gone = {run_key(id), run_key(id) .. ':history', run_key(id) .. ':files', run_key(id) .. ':metrics'}
  local state, array = unpack(get(id, 'state', 'array'))
  if state and array and array ~= '' then
    redis.call('ZREM', 'launch:runs:array:' .. array, id)
    count_in_array(id, state, '')
    local size = redis.pcall('HINCRBY', array_key(array), 'size', -1)
    if type(size) == 'number' and size <= 0 then redis.call('DEL', array_key(array)) end
  end
  -- Others wait for an array by the id of its first run.
  if redis.call('EXISTS', array_key(id)) == 0 then gone[#gone + 1] = 'launch:waiters:' .. id end
  for _, attempt in ipairs(attempts_of(id)) do gone[#gone + 1] = run_key(id) .. ':log:' .. attempt end
  redis.call('DEL', unpack(gone))
  seen[id] = nil
end

-- Below 2^53: what Lua counts exactly, and more than the microseconds of any time that comes.
local MOST_TOKEN = 9007199254740991
local MOST_ATTEMPTS = 1000000

-- The arrows that a Redis which lost its newest writes (restored from a snapshot) makes necessary: the attempt that
-- holds a newer token than the record is the truth. So is one whose record has no token that can be one.
local function is_rolled_back(record_token, token)
  local kept = whole(record_token, 0, MOST_TOKEN)
  return not kept or kept < tonumber(token)
end

local function is_queue_name(queue) return queue and #queue <= 100 and string.find(queue, '^%w[%w_.-]*$') ~= nil end

-- What makes a record one with which nobody can execute its run; nil for a sound one. What is only shown, or has a
-- harmless meaning whatever it says, is not looked at; what the worker alone reads, the worker checks (`Record.check`).
local function damage_of(id)
  local run = get(id, 'id', 'queue', 'attempt', 'first_attempt', 'token', 'seq', 'version', 'needs', 'name')
  if #id ~= 15 or string.find(id, '[^0-9a-hjkmnp-tv-z]') then return 'its id is not a run id' end
  if run[1] and run[1] ~= id then return 'its id is another one than that of its key' end
  if not is_queue_name(run[2]) then return 'its queue has no valid name' end
  if not whole(run[3], 0, MOST_ATTEMPTS - 1) then
    return 'its attempt is not a whole number below ' .. int(MOST_ATTEMPTS)
  end
  if not whole(run[4], 0, MOST_ATTEMPTS) then return 'its first_attempt is not a whole number' end
  if not whole(run[5], 0, MOST_TOKEN) then return 'its token is not a whole number below 2^53' end
  if not whole(run[6], 0, MOST_TOKEN) then return 'its seq is not a whole number' end
  if run[7] and not whole(run[7], 1, 1000) then return 'its version is not a whole number from 1 to 1000' end
  if run[8] and run[8] ~= '' and not string.find(run[8], '^%d+:%d+:%d+$') then
    return 'its needs are not GPUS:MILLICORES:BYTES'
  end
  if not run[9] then return 'it has no name' end
end

-- For reading by `launch-worker doctor`.
local function keep_aside(queue, reason, item)
  redis.call('LPUSH', 'launch:refused', cjson.encode({at = int(now_us()), queue = queue, reason = reason, item = item}))
  redis.call('LTRIM', 'launch:refused', 0, 999)
end

-- A script met an error with a Pending run, and goes on with others: if the run's record is damaged, `publish_due` ends
-- it soon; else something beside the record is wrong, and that is kept for reading.
local function doubt(id, where, problem)
  if damage_of(id) then
    redis.call('ZADD', 'launch:expiring', 0, id)
  else
    keep_aside(where, 'run ' .. id .. ' could not go on: ' .. tostring(problem))
  end
end

-- A list of the wrong type would refuse every item and every consumer: it is set aside for reading. (`wanted`: or what
-- should be another kind of key.)
local function heal(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= (wanted or 'list') and kind ~= 'none' then
    local aside = 'launch:damaged:' .. key .. ':' .. int(now_us())
    redis.call('RENAME', key, aside)
    redis.call('EXPIRE', aside, 30 * 86400)
    keep_aside(key, (wanted and 'an index' or 'the queue\'s key') .. ' held a ' .. kind .. '; moved to ' .. aside)
  end
end

local known_settings = {}
-- limit, paused, pool and rank of a queue or a pool; its configuration too where that is asked for.
local function settings_of(kind, name, with_config)
  local key = 'launch:' .. kind .. ':' .. name
  local known = known_settings[key]
  if not known or (with_config and not known.config) then
    local found = with_config and redis.pcall('HMGET', key, 'limit', 'paused', 'pool', 'rank', 'config')
      or redis.pcall('HMGET', key, 'limit', 'paused', 'pool', 'rank')
    known = found.err and {config = ''} or {limit = tonumber(found[1] or ''), paused = found[2] == '1', pool = found[3],
      rank = tonumber(found[4] or ''), config = with_config and (found[5] or '')}
    known_settings[key] = known
  end
  return known
end

-- The JSON that an admin set for a queue; '' for none.
local function queue_config(queue) return settings_of('queue', queue, true).config end

-- The JSON that an admin set for the pool of a queue; '' for none.
local function pool_config(queue)
  local pool = settings_of('queue', queue, true).pool
  return pool and settings_of('pool', pool, true).config or ''
end

-- Of one upload. A mark with a larger number is none of ours.
local MOST_CHUNKS = 4096

-- Chunks first: the mark that it is whole must not outlive one of them.
local function keep_upload(sha256, chunks, keep_us)
  local keep_ms = math.max(1, math.floor(keep_us / 1000))
  for number = 0, chunks - 1 do redis.call('PEXPIRE', upload_key(sha256, number), int(keep_ms)) end
  redis.call('SET', upload_key(sha256), int(chunks), 'PX', int(keep_ms))
end

local SWEEP_ENDED = {FINISHED = true, CANCELED = true}

-- The sweep that made a run, and the run's number there; nil for none.
local function sweep_of(id)
  local sweep = get(id, 'sweep')[1]
  if not sweep or sweep == '' then return nil end
  local index = redis.call('ZSCORE', sweep_key(sweep) .. ':runs', id)
  if index then return sweep, index end
end

-- RUNNING | PAUSED -> FINISHED when all its runs were made, STOPPED -> FINISHED | CANCELED, when the last one has ended.
local function close_sweep(sweep, now)
  local key = sweep_key(sweep)
  if redis.call('SCARD', key .. ':live') > 0 then return end
  local state, made, cap, cancelling = unpack(redis.call('HMGET', key, 'state', 'made', 'cap', 'cancelling'))
  local to
  if state == 'STOPPED' then
    to = cancelling == '1' and 'CANCELED' or 'FINISHED'
  elseif not SWEEP_ENDED[state] and tonumber(cap or '') and tonumber(made) >= tonumber(cap) then
    to = 'FINISHED'
  end
  if not to then return end
  redis.call('HSET', key, 'state', to, 'ended_at', int(now))
  redis.call('SREM', 'launch:sweeps:live', sweep)
end

-- The metric of an ended run: of its summary, else the last that it told.
local function metric_of(id, metric)
  if not metric or metric == '' then return nil end
  local value = number_in(decoded(get(id, 'summary')[1]), metric)
  if value then return value end
  for _, row in ipairs(redis.call('LRANGE', run_key(id) .. ':metrics', -20, -1)) do
    value = number_in(decoded(row), metric) or value
  end
  return value
end

-- So many first runs of a sweep that all failed pause it (as many as W&B's agent bears).
local FIRST_FAILURES = 5

-- What a run's end says of its sweep as a whole: that its first runs all fail, or that nobody tells the metric.
local function judge_sweep(key, id, sweep_state, metric, value)
  local state, reason = unpack(get(id, 'state', 'reason'))
  if state == 'Finished' then
    redis.call('HSET', key, 'has_finished', 1)
    redis.call('HDEL', key, 'failures', 'failed', 'failed_why')
    if value then
      redis.call('HSET', key, 'has_value', 1)
      redis.call('HDEL', key, 'unmeasured')
    elseif metric and metric ~= '' and redis.call('HEXISTS', key, 'has_value') == 0 then
      redis.call('HSET', key, 'unmeasured', id)
    end
  elseif state ~= 'Killed' and redis.call('HEXISTS', key, 'has_finished') == 0 then
    redis.call('HSET', key, 'failed', id, 'failed_why', reason or '')
    local failures = redis.call('HINCRBY', key, 'failures', 1)
    if failures >= FIRST_FAILURES and sweep_state == 'RUNNING' then redis.call('HSET', key, 'state', 'PAUSED') end
  end
end

-- A run has ended for good: its sweep keeps the result, and may make another.
local function tell_sweep(id, now)
  local sweep, index = sweep_of(id)
  if not sweep then return end
  local key = sweep_key(sweep)
  redis.call('SREM', key .. ':live', id)
  local state, metric, target, goal = unpack(redis.call('HMGET', key, 'state', 'metric', 'target', 'goal'))
  if not state then return end
  local value = metric_of(id, metric)
  local known = decoded(redis.call('HGET', key .. ':results', index) or '')
  -- One that was started again and got nowhere still has the value that it had.
  if value or not (known and known.value) then
    redis.call('HSET', key .. ':results', index,
      cjson.encode({state = get(id, 'state')[1], value = value and string.format('%.17g', value)}))
  end
  if not known then redis.call('RPUSH', key .. ':ended', index) end
  judge_sweep(key, id, state, metric, value)
  local wanted = tonumber(target or '')
  if value and wanted and (goal == 'maximize' and value >= wanted or goal ~= 'maximize' and value <= wanted)
    and not SWEEP_ENDED[state] then
    redis.call('HSET', key, 'cap', redis.call('HGET', key, 'made'), 'reason', 'run ' .. id .. ' reached the target')
  end
  close_sweep(sweep, now)
  redis.call('PUBLISH', 'launch:sweeps', sweep)
end

-- A damaged sweep never holds up the end of a run.
local function try_tell_sweep(id, now)
  local fine, problem = pcall(tell_sweep, id, now)
  if not fine then keep_aside('', 'the sweep of run ' .. id .. ' is damaged: ' .. tostring(problem)) end
end

-- A run told of its metrics, JSON texts: kept for its sweep, where that stops runs early by them.
local function hear_metrics(id, rows)
  if #rows == 0 then return end
  pcall(function()
    local sweep, index = sweep_of(id)
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

-- An ended run of a sweep is to run again: it counts as live.
local function rejoin_sweep(id)
  pcall(function()
    local sweep = sweep_of(id)
    if sweep then redis.call('SADD', sweep_key(sweep) .. ':live', id) end
  end)
end

-- A new attempt tells its metrics anew.
local function forget_curve(id)
  pcall(function()
    local sweep, index = sweep_of(id)
    if sweep then
      redis.call('DEL', sweep_key(sweep) .. ':curve:' .. index)
      redis.call('HDEL', sweep_key(sweep) .. ':stopped', index)
    end
  end)
end

-- The groups whose limits a Running run counts for; its pool's is the sum of its queues'.
local function places_of(id)
  local run = get(id, 'queue', 'concurrency_key', 'array')
  local groups = {}
  if run[1] then groups[1] = 'queue:' .. run[1] end
  if run[2] and run[2] ~= '' then groups[#groups + 1] = 'key:' .. run[2] end
  if run[3] and run[3] ~= '' then groups[#groups + 1] = 'array:' .. run[3] end
  return groups
end

-- Runs that this call has let go, and that will count once they are claimed.
local promised = {}
local function promise(id)
  local groups = places_of(id)
  local pool = groups[1] and settings_of('queue', string.sub(groups[1], 7)).pool
  if pool then groups[#groups + 1] = 'pool:' .. pool end
  for _, group in ipairs(groups) do promised[group] = (promised[group] or 0) + 1 end
end

local function count_of(group)
  local count = promised[group] or 0
  local pool = string.match(group, '^pool:(.*)$')
  if not pool then return count + redis.call('SCARD', 'launch:places:' .. group) end
  for _, queue in ipairs(redis.call('ZRANGE', 'launch:pool_queues:' .. pool, 0, -1)) do
    count = count + redis.call('SCARD', 'launch:places:queue:' .. queue)
  end
  return count
end

-- Which limit a run would break if it ran now: the group, the line in which it waits there, the reason. nil for none.
local function no_room(id)
  local run = get(id, 'queue', 'concurrency_key', 'limit_key', 'array', 'array_limit')
  local queue = run[1]
  local of_queue = settings_of('queue', queue)
  local pool = of_queue.pool
  local of_pool = pool and settings_of('pool', pool) or {}
  if of_queue.paused then return 'queue:' .. queue, queue, 'queue paused' end
  if of_pool.paused then return 'pool:' .. pool, queue, 'pool ' .. pool .. ' paused' end
  local function is_full(group, limit) return limit and count_of(group) >= limit end
  local group, limit = 'array:' .. (run[4] or ''), tonumber(run[5] or '')
  if group ~= 'array:' and is_full(group, limit) then
    return group, queue, 'limit ' .. int(limit) .. ' of array ' .. run[4] .. ' reached'
  end
  group, limit = 'key:' .. (run[2] or ''), tonumber(run[3] or '') or 1
  if group ~= 'key:' and is_full(group, limit) then
    return group, queue .. '/' .. int(limit), 'limit ' .. int(limit) .. ' of key ' .. run[2] .. ' reached'
  end
  if is_full('queue:' .. queue, of_queue.limit) then
    return 'queue:' .. queue, queue, 'limit ' .. int(of_queue.limit) .. ' of queue ' .. queue .. ' reached'
  end
  if pool and is_full('pool:' .. pool, of_pool.limit) then
    return 'pool:' .. pool, queue, 'limit ' .. int(of_pool.limit) .. ' of pool ' .. pool .. ' reached'
  end
end

-- Whether any limit or pause says something of a run.
local function is_limited(id)
  local run = get(id, 'queue', 'concurrency_key', 'array_limit')
  local of_queue = settings_of('queue', run[1])
  local of_pool = of_queue.pool and settings_of('pool', of_queue.pool) or {}
  return of_queue.paused or of_pool.paused or of_queue.limit or of_pool.limit or (run[2] and run[2] ~= '')
    or (run[3] and run[3] ~= '')
end

-- One line of a run's history, and a word to those who wait for it.
local function note(id, state, now, attempt, worker, reason)
  local history = run_key(id) .. ':history'
  -- A list and not a stream: Redis sets 4 KiB aside for every stream.
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

-- Writes a state: index, record, history, and what it counts for. Only `arrow` and `regain` call it. `ended_at`: when a
-- run ended that is told now.
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
  put(id, 'phases', cjson.encode(phases))
end

-- What a run's owner is told when it shall stop.
local function order_of(id)
  local run = get(id, 'token', 'cancel_grace_us', 'cancel_reason', 'preempting')
  return cjson.encode({order = 'cancel', id = id, token = run[1], grace_us = run[2] or '', reason = run[3] or '',
    preempt = run[4] == '1'})
end

-- Asks a Running run's owner to end it, at once and at every heartbeat until it has.
local function ask_to_end(id, now, grace_us, reason, preempt)
  local run = get(id, 'owner', 'cancel_at')
  if not run[2] then
    put(id, 'cancel_at', int(now))
    redis.call('ZADD', 'launch:cancels', int(now), id)
  end
  put(id, 'cancel_grace_us', grace_us, 'cancel_reason', reason, 'reason', 'stopping: ' .. reason)
  if preempt then
    put(id, 'preempting', '1')
  else
    drop(id, 'preempting')
  end
  redis.call('PUBLISH', 'launch:orders:' .. (run[1] or ''), order_of(id))
end

-- Nobody asks the next attempt to stop.
local function forget_request(id)
  drop(id, 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'preempting')
end

-- A run's name and what Flower shows of it, as JSON; of many runs most have the same.
local shown = {}
local function shown_of(name, project)
  if name ~= shown.name or project ~= shown.project then
    name, project = as_utf8(name), as_utf8(project)
    local words = "{'name': '" .. name .. "'"
    if project ~= '' then words = words .. ", 'project': '" .. project .. "'" end
    shown = {name = name, project = project, shadow = cjson.encode(name), kwargsrepr = cjson.encode(words .. '}')}
  end
  return shown
end

-- The Celery message of a run, as kombu's Redis transport stores it. tests/redis/test_item.py holds it to what
-- the installed Celery publishes itself. It carries no more of the run than Flower may show.
local function item(id, seq, queue, priority, name, project, now)
  local as_json = shown_of(name, project)
  return '{"body":"[[\\"' .. id .. '\\",' .. seq .. '],{},{\\"callbacks\\":null,\\"errbacks\\":null,'
    .. '\\"chain\\":null,\\"chord\\":null}]","content-encoding":"utf-8","content-type":"application/json",'
    .. '"headers":{"lang":"py","task":"launch_worker.run","id":"' .. id .. '",'
    .. '"shadow":' .. as_json.shadow .. ',"eta":null,"expires":null,"group":null,"group_index":null,'
    .. '"retries":0,"timelimit":[null,null],"root_id":"' .. id .. '","parent_id":null,'
    .. '"argsrepr":"(\'' .. id .. '\',)","kwargsrepr":' .. as_json.kwargsrepr .. ','
    .. '"origin":"launch","ignore_result":true,"replaced_task_nesting":0,"stamped_headers":null,'
    .. '"stamps":{},"launch_dispatched_at":' .. int(now) .. '},'
    .. '"properties":{"correlation_id":"' .. id .. '","reply_to":"","delivery_mode":2,'
    .. '"delivery_info":{"exchange":"","routing_key":"' .. queue .. '"},"priority":' .. priority .. ','
    .. '"delivery_tag":"' .. id .. '.' .. seq .. '"}}'
end

-- When an item was dispatched; nil for a foreign one.
local function dispatched_at(made)
  return tonumber(string.match(made, '"launch_dispatched_at": ?(%d+)') or '')
end

-- The run that an item names, and its dispatch number; nil for what is no run's item.
local function named_in(item)
  return string.match(item, '"body": ?"%[%[\\"([%w]+)\\", ?(%d+)%]')
end

-- A place in a queue's line: the four priorities apart by more than any time in microseconds (until 2041).
local LEVEL = 2251799813685248
local LATER = 9000000000000000
local function rank_of(priority, lined_at)
  return (LEVELS[priority] or 2) * LEVEL + (tonumber(lined_at) or 0)
end

local function queue_of(line) return string.match(line, '^[^/]+') end

-- The same of the one at the head of a list; nil for none.
local function oldest_in(list)
  local oldest = redis.call('LINDEX', list, -1)
  return oldest and dispatched_at(oldest)
end

local function push(command, list, made)
  if type(redis.pcall(command, list, made)) ~= 'table' then return end
  heal(list)
  redis.call(command, list, made)
end

-- Puts a Pending run's item, with the next dispatch number, into its queue. An older item is refused at the claim.
-- `to.owner`: into that worker's own list. `to.head`: before all others; `to.after`: next before that item.
-- `to.since`: the same, as dispatched at that time. `to.early`: it keeps its due time.
local function dispatch(id, now, to)
  to = to or {}
  local run = get(id, 'queue', 'priority', 'name', 'project', 'seq')
  if not is_queue_name(run[1]) then error('its queue has no valid name') end
  local priority = LEVELS[run[2]] and run[2] or '6'
  local seq = int((whole(run[5], 0, MOST_TOKEN) or 0) + 1)
  local list = to.owner and direct_of(to.owner) or list_of(run[1], run[2])
  if to.head then heal(list) end
  local at = to.since or now
  -- A list is in order of dispatch: publish_lost goes by that.
  if to.head then at = math.min(now, (oldest_in(list) or now + 1) - 1) end
  if to.after then at = math.min(now, (dispatched_at(to.after) or now) - 1) end
  local made = item(id, seq, to.owner and list or run[1], priority, run[3], run[4], at)
  if to.after then
    redis.call('LINSERT', list, 'AFTER', to.after, made)
  else
    push((to.since or to.head) and 'RPUSH' or 'LPUSH', list, made)
  end
  redis.call('ZADD', 'launch:dispatched:' .. list, int(at), id)
  if to.owner then put(id, 'seq', seq, 'list', list) else put(id, 'seq', seq) end
  if not to.early and get(id, 'due_at')[1] then
    drop(id, 'due_at')
    redis.call('ZREM', 'launch:due', id)
  end
end

-- Since when the run of an item is ready; nil where the item does not tell.
local function lined_at_of(item)
  local id = item and string.match(item, '"correlation_id": ?"(%w+)"')
  return id and tonumber(get(id, 'lined_at')[1] or '')
end

-- Dispatches a run that waited elsewhere where it would be in its list had it not: before those that came later.
-- (A list is in line order but for what came back before others were looked for; it needs to be no better than that.)
local function dispatch_in_order(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local list, mine = list_of(run[1], run[2]), tonumber(run[3] or '') or now
  heal(list)
  -- From the newest (0) to the oldest: how many of them are later than this one.
  local low, high = 0, redis.call('LLEN', list)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at = lined_at_of(redis.call('LINDEX', list, middle))
    if at and at > mine then low = middle + 1 else high = middle end
  end
  if low == 0 then return dispatch(id, now) end
  local later = redis.call('LINDEX', list, low - 1)
  if low == redis.call('LLEN', list) or low > 1000 then return dispatch(id, now, {head = true}) end
  dispatch(id, now, {after = later})
end

-- A Pending run is ready from now on: its place in its queue's line.
local function put_in_line(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local lined_at = run[3] or int(now)
  if not run[3] then put(id, 'lined_at', lined_at) end
  redis.call('ZADD', 'launch:line:' .. run[1], int(rank_of(run[2], lined_at)), id)
  if redis.call('SADD', 'launch:queues', run[1]) == 1 then redis.call('PUBLISH', 'launch:queues', run[1]) end
end

-- It is not ready: it has no place.
local function put_off(id)
  local queue = get(id, 'queue')[1]
  drop(id, 'lined_at')
  redis.call('ZADD', 'launch:line:' .. queue, int(LATER), id)
  if redis.call('SADD', 'launch:queues', queue) == 1 then redis.call('PUBLISH', 'launch:queues', queue) end
end

-- Makes a Pending run wait for `due` (then `publish_due` lines it up).
local function schedule(id, due)
  put_off(id)
  -- A doubled older item must not start it before its time.
  put(id, 'seq', int((whole(get(id, 'seq')[1], 0, MOST_TOKEN) or 0) + 1), 'due_at', int(due))
  redis.call('ZADD', 'launch:due', int(due), id)
  redis.call('PUBLISH', 'launch:due', int(due))
end

-- gpus, cpus (thousandths), memory (bytes) of "2:1500:1073741824"
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

-- What an owner has left, as others see it until it speaks again; `more` are fields and values beside that.
local function keep_free(owner, free, gone_ms, more)
  redis.call('HSET', 'launch:free:' .. owner, 'slots', int(free.slots), 'gpus', int(free.gpus), 'cpus', int(free.cpus),
    'memory', int(free.memory), unpack(more or {}))
  if gone_ms then redis.call('PEXPIRE', 'launch:free:' .. owner, gone_ms) end
end

-- nil for one that takes by hand what was there when it began: nobody else may give it anything.
local function free_of(owner)
  local found = redis.pcall('HMGET', 'launch:free:' .. owner, 'slots', 'gpus', 'cpus', 'memory', 'by_hand')
  if found.err or not found[1] or found[5] then return nil end
  return {slots = tonumber(found[1]) or 0, gpus = tonumber(found[2]) or 0, cpus = tonumber(found[3]) or 0,
    memory = tonumber(found[4]) or 0}
end

-- The run for which an owner collects what comes free, and what that needs; nil for none.
local function collected_by(owner)
  local id = redis.call('GET', 'launch:collecting:' .. owner)
  if not id then return nil end
  local run = get(id, 'state', 'parked', 'needs')
  if run[1] == 'Pending' and run[2] and string.sub(run[2], 1, 6) == 'needs:' and not no_room(id) then
    return id, parse_needs(run[3])
  end
  redis.call('DEL', 'launch:collecting:' .. owner)
end

-- A live worker of the queue that has room for the run, by what each had left when it last spoke. Bounded.
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

-- What a worker says of itself: {owner, queues, slots, gpus, cpus, memory (left), total = {gpus, cpus, memory},
-- backfill_us, prefetch_us, before_us (it takes by hand what was ready by then, 0 for all others)}; nil for none.
local function card_of(text)
  if text == '' then return nil end
  local fine, card = pcall(cjson.decode, text)
  return fine and type(card) == 'table' and card or nil
end

-- Ends a run's waiting in a parked line.
local function unpark(id)
  local parked, queue = unpack(get(id, 'parked', 'queue'))
  if not parked then return end
  drop(id, 'parked')
  local group, name = string.match(parked, '^([^/]+)/(.*)$')
  if not group then return end
  local line = 'launch:parked:' .. parked
  redis.call('ZREM', line, id)
  if redis.call('EXISTS', line) == 1 then return end
  redis.call('SREM', 'launch:parked:' .. group, name)
  local needs = string.match(group, '^needs:(.*)$')
  if needs then
    redis.call('SREM', 'launch:shapes:' .. queue, needs)
    return
  end
  -- Another line of the group may have runs of the same queue (a key with two limits).
  for _, other in ipairs(redis.call('SRANDMEMBER', 'launch:parked:' .. group, 1000)) do
    if queue_of(other) == queue then return end
  end
  redis.call('SREM', 'launch:groups:' .. queue, group)
end

-- Takes a Pending run out of wherever it waits.
local function withdraw(id)
  local run = get(id, 'queue', 'priority', 'list', 'due_at')
  if not run[1] then return end
  redis.call('ZREM', 'launch:dispatched:' .. (run[3] or list_of(run[1], run[2])), id)
  if run[4] then redis.call('ZREM', 'launch:due', id) end
  redis.call('ZREM', 'launch:line:' .. run[1], id)
  unpark(id)
  drop(id, 'due_at', 'list')
end

-- Makes a ready run wait for a place in a group, in one of its lines, with the rank that it has anyway.
local function park(id, group, line, why)
  local run = get(id, 'queue', 'priority', 'lined_at')
  put(id, 'parked', group .. '/' .. line, 'reason', why)
  redis.call('ZADD', 'launch:parked:' .. group .. '/' .. line, int(rank_of(run[2], run[3])), id)
  redis.call('SADD', 'launch:parked:' .. group, line)
  local needs = string.match(group, '^needs:(.*)$')
  if needs then
    redis.call('SADD', 'launch:shapes:' .. run[1], needs)
  else
    redis.call('SADD', 'launch:groups:' .. run[1], group)
  end
end

local function park_for_needs(id, queue, needs)
  park(id, 'needs:' .. needs, queue, words_for(parse_needs(needs)))
end

-- A Pending run that is ready, and in no list and no line, goes where it belongs now. `is_back`: it was in line before.
local function line_up(id, now, is_back)
  put_in_line(id, now)
  local group, line, why = no_room(id)
  if group then return park(id, group, line, why) end
  local queue, needs = unpack(get(id, 'queue', 'needs'))
  if needs and needs ~= '' and redis.call('EXISTS', 'launch:parked:needs:' .. needs .. '/' .. queue) == 1 then
    -- Others like it wait already.
    return park_for_needs(id, queue, needs)
  end
  put(id, 'reason', '')
  if is_back then dispatch_in_order(id, now) else dispatch(id, now) end
end

-- The same for a pass, which one damaged record must not stop: that run is taken out of `waiting`.
local function try_line_up(id, now, waiting, is_back)
  local done, problem = pcall(line_up, id, now, is_back)
  if done then return 1 end
  redis.call('ZREM', waiting, id)
  doubt(id, waiting, problem)
  return 0
end

local served = {}
-- Whether a live worker of the queue has a slot free, by what each last said.
local function is_served(queue, now)
  if served[queue] == nil then
    served[queue] = false
    for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 100)) do
      local slots, by_hand = unpack(redis.call('HMGET', 'launch:free:' .. owner, 'slots', 'by_hand'))
      if not by_hand and (not slots or tonumber(slots) > 0) then
        served[queue] = true
        break
      end
    end
  end
  return served[queue]
end

-- Lets one run go from the head of a line, or moves it to where it must wait now. Returns how many moved, or 'blocked'.
local function let_go(id, group, line, now)
  local run = get(id, 'state', 'parked', 'queue', 'needs')
  if run[1] ~= 'Pending' or run[2] ~= group .. '/' .. line then
    redis.call('ZREM', 'launch:parked:' .. group .. '/' .. line, id)
    return 0
  end
  local other, other_line, why = no_room(id)
  if other == group and other_line == line then return 'blocked' end
  unpark(id)
  if other then
    park(id, other, other_line, why)
  elseif run[4] and run[4] ~= '' and redis.call('EXISTS', 'launch:parked:needs:' .. run[4] .. '/' .. run[3]) == 1 then
    -- Others like it wait already: it would only be refused.
    park_for_needs(id, run[3], run[4])
  else
    put(id, 'reason', '')
    promise(id)
    dispatch_in_order(id, now)
  end
  return 1
end

-- Runs that this call has let go or moved to another group's line.
local moves = 0
-- Lets runs go that were parked for a place in a group and have one now, the first in line first: in a pool that of the
-- first queue. Where the group has several queues, one that no worker could take is left in line, so that it keeps
-- nobody from the place. Returns how many it let go or moved to another group's line; at most `budget`.
local function wake(group, now, budget)
  local moved, blocked = 0, {}
  local is_shared = string.sub(group, 1, 6) ~= 'queue:'
  local is_pool = string.sub(group, 1, 5) == 'pool:'
  while moved < budget do
    local best, best_line, best_order, best_score
    -- Of all of them, unless somebody made more than there can be.
    for _, line in ipairs(redis.call('SRANDMEMBER', 'launch:parked:' .. group, 1000)) do
      local queue = queue_of(line)
      if not blocked[line] and (not is_shared or is_served(queue, now)) then
        local head = redis.call('ZRANGE', 'launch:parked:' .. group .. '/' .. line, 0, 0, 'WITHSCORES')
        local score = tonumber(head[2])
        local order = is_pool and (settings_of('queue', queue).rank or 1000) or 0
        if not head[1] then
          redis.call('SREM', 'launch:parked:' .. group, line)
        elseif not best or order < best_order or (order == best_order and score < best_score) then
          best, best_line, best_order, best_score = head[1], line, order, score
        end
      end
    end
    if not best then break end
    local fine, answer = pcall(let_go, best, group, best_line, now)
    if not fine then
      -- One damaged record must not keep the others, nor the run that ended, from going on.
      redis.call('ZREM', 'launch:parked:' .. group .. '/' .. best_line, best)
      doubt(best, group, answer)
    elseif answer == 'blocked' then
      blocked[best_line] = true
    else
      moved = moved + answer
    end
  end
  moves = moves + moved
  return moved
end

local woken = {}
-- For a script that ends many runs: after each of them places may have come free again.
local function wake_again() woken = {} end

local function wake_once(group, now, budget)
  if woken[group] or redis.call('EXISTS', 'launch:parked:' .. group) == 0 then return 0 end
  woken[group] = true
  return wake(group, now, budget)
end

-- A run has left Running, or will not run: others may have its places. The widest group first, or its own queue's next
-- run would always come before a better one of another queue.
local function release(id, now)
  local groups = places_of(id)
  local pool = groups[1] and settings_of('queue', string.sub(groups[1], 7)).pool
  if pool then wake_once('pool:' .. pool, now, 20) end
  for at = #groups, 1, -1 do wake_once(groups[at], now, 20) end
end

-- How many items of these queues have a higher priority than a rank: they have the next slots.
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

-- Whether runs of any of these queues are parked: mostly none are, and that is asked at each worker's every heartbeat.
local function is_any_parked(queues)
  -- Lua does not pass on more than some thousand values at once.
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

-- Gives a worker parked runs for which it has room, and picks one to collect for that has waited too long.
local function offer(card, now)
  local owner = card.owner
  local free = {slots = card.slots, gpus = card.gpus, cpus = card.cpus, memory = card.memory}
  if free.slots <= 0 then return end
  if not is_any_parked(card.queues) then return end
  local let = 0
  for _, queue in ipairs(card.queues) do
    for _, group in ipairs(redis.call('SRANDMEMBER', 'launch:groups:' .. queue, math.min(100, 3 + free.slots))) do
      if let < free.slots then let = let + wake_once(group, now, 5) end
    end
  end
  -- The lines of what workers have; as many as a worker can know of without keeping Redis from others.
  local lines = {}
  for _, queue in ipairs(card.queues) do
    for _, needs in ipairs(redis.call('SRANDMEMBER', 'launch:shapes:' .. queue, 100)) do
      lines[#lines + 1] = {key = 'launch:parked:needs:' .. needs .. '/' .. queue, needs = parse_needs(needs)}
    end
  end
  local function read_head(line)
    local head = redis.call('ZRANGE', line.key, 0, 0, 'WITHSCORES')
    line.id, line.rank = head[1], tonumber(head[2])
    if line.id and card.before_us > 0 and line.rank % LEVEL > card.before_us then line.id = nil end
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
    if waiting_before(card.queues, best_line.rank) >= free.slots then return end
    local run = get(best, 'state', 'needs', 'parked')
    unpark(best)
    if run[1] ~= 'Pending' or not run[2] then
      -- A line that names what is not there would be looked at for ever.
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
  if collected or not card.total then return end
  local first, first_at
  for _, line in ipairs(lines) do
    if line.id and fits(line.needs, card.total) then
      local run = get(line.id, 'lined_at', 'collector')
      local since = tonumber(run[1] or '')
      local taken = run[2] and run[2] ~= owner and redis.call('GET', 'launch:collecting:' .. run[2]) == line.id
      if since and not taken and since + card.backfill_us <= now and (not first or since < first_at)
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

-- What was given to a worker that takes nothing (any more) goes back into line.
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

local WISHED = {
  ok = {Finished = true}, any = {Finished = true, Failed = true, Killed = true, Crashed = true, Never = true},
  failed = {Failed = true, Killed = true, Crashed = true},
}
local function is_as_wished(wish, ended) return WISHED[wish] ~= nil and WISHED[wish][ended] == true end

-- Why one that waited for `other` will not run.
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

-- Whoever waits for it, or for its array, is told later (settle). Returns whether anybody does.
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

-- A run that waited for others, or for none, may run from its time on.
local function set_free(id, now)
  local due = tonumber(get(id, 'not_before')[1] or '')
  drop(id, 'waits_for')
  if due and due > now then
    put(id, 'reason', '')
    return schedule(id, due)
  end
  line_up(id, now)
end

-- Pending -> Killed (or Failed), for the reason given; whoever waits for it is told later (settle).
local function kill_pending(id, now, reason, to)
  local attempt = get(id, 'attempt')[1]
  withdraw(id)
  if get(id, 'expires_us')[1] then redis.call('ZREM', 'launch:expiring', id) end
  for other in pairs(waits_of(id)) do redis.call('ZREM', 'launch:waiters:' .. tostring(other), id) end
  drop(id, 'waits_for')
  arrow(id, 'Pending', to or 'Killed', now, attempt, '', reason)
  note_end(id)
  try_tell_sweep(id, now)
  release(id, now)
end

-- Pending -> Failed, for a record with which nobody can execute the run: kept aside once for reading, and never
-- dispatched again.
local function fail_damaged(id, now, damage)
  local reason = 'the record of this run is damaged: ' .. damage
  redis.call('ZREM', 'launch:expiring', id)
  -- Where it waited if its queue is what is damaged.
  local spec = decoded(get(id, 'spec')[1])
  local queue = type(spec) == 'table' and spec.queue or 'default'
  if type(queue) == 'string' and queue ~= get(id, 'queue')[1] then
    redis.call('ZREM', 'launch:line:' .. queue, id)
    redis.call('ZREM', 'launch:runs:queue:' .. queue, id)
  end
  put(id, 'phase', 'agent', 'message', reason)
  kill_pending(id, now, reason, 'Failed')
  drop(id, 'parked', 'list', 'due_at')
  keep_aside(get(id, 'queue')[1] or '', 'run ' .. id .. ' is Failed: ' .. reason, id)
end

-- One that waits for `ended`, a run or an array, hears how that ended.
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

-- Tells those that wait for ended runs; bounded, the rest is done by the pass. Returns how many were told.
local function settle(now, budget)
  local told = 0
  while told < budget do
    local ended = redis.call('SRANDMEMBER', 'launch:settle')
    if not ended then return told end
    local state, is_array = end_of(ended)
    local waiters = (state == 'Pending' or state == 'Running') and {} or redis.call('ZRANGE', 'launch:waiters:' .. ended, 0, budget - told - 1)
    if #waiters == 0 then redis.call('SREM', 'launch:settle', ended) end
    for _, id in ipairs(waiters) do
      redis.call('ZREM', 'launch:waiters:' .. ended, id)
      told = told + 1
      local fine, problem = pcall(meet, id, ended, state or 'Never', is_array, now)
      if not fine then doubt(id, 'launch:waiters:' .. ended, problem) end
    end
  end
  return told
end

-- Makes a rolled back record Running under the attempt that its worker still holds.
local function regain(id, state, now, token, attempt, owner, worker)
  if state == 'Pending' then withdraw(id) end
  put(id, 'token', token, 'attempt', attempt, 'owner', owner, 'worker', worker)
  drop(id, 'closed', 'exit_code', 'signal', 'phase', 'message')
  redis.call('HINCRBY', 'launch:counters', 'restored_runs', 1)
  enter(id, state, 'Running', now, attempt, worker, 'Redis had lost this attempt; its worker is alive')
end

-- Crashed -> Running: the same attempt, not superseded, proves alive.
local function revive(id, now, attempt, worker)
  arrow(id, 'Crashed', 'Running', now, attempt, worker, 'its worker is alive again')
  local cancelled = get(id, 'cancel_at')[1]
  if tonumber(cancelled or '') then redis.call('ZADD', 'launch:cancels', cancelled, id) end
end

-- From a final state to Pending: at once, or after delay_us. Those that waited longer have its place first.
local function again(id, from, now, attempt, worker, reason, delay_us)
  arrow(id, from, 'Pending', now, attempt, worker, reason)
  drop(id, 'lined_at')
  release(id, now)
  if delay_us > 0 then return schedule(id, now + delay_us) end
  line_up(id, now)
  -- Its reason tells why it waits, unless it waits for more.
  if not get(id, 'parked')[1] then put(id, 'reason', reason) end
end

-- A run is over for good.
local function over(id, now)
  try_tell_sweep(id, now)
  release(id, now)
  if not note_end(id) then return end
  settle(now, 100)
  -- Whoever hears it first goes on.
  if redis.call('EXISTS', 'launch:settle') == 1 then redis.call('PUBLISH', 'launch:due', int(now)) end
end

-- What follows an attempt's end in the state `from`: Pending again after retry_us, or over for good when that is below 0.
-- `counts_as`: '0' a retry, '1' a preemption, '2' nothing, '3' a start that failed through the worker.
local function go_on(id, from, now, attempt, worker, retry_us, retry_reason, counts_as)
  if retry_us < 0 then return over(id, now) end
  if counts_as == '1' then put(id, 'preemptions', (tonumber(get(id, 'preemptions')[1] or '') or 0) + 1) end
  if counts_as == '3' then put(id, 'misstarts', (tonumber(get(id, 'misstarts')[1] or '') or 0) + 1) end
  -- Counted in another way, or not at all: it is no retry.
  if counts_as ~= '0' then
    put(id, 'first_attempt', (tonumber(get(id, 'first_attempt')[1]) or 1) + 1)
  end
  forget_request(id)
  again(id, from, now, attempt, worker, retry_reason, retry_us)
end

-- When next something is due: a run, an expiry, a schedule; for a worker that prepares runs ahead, that much earlier.
local function next_due(now, prefetch_us)
  if redis.call('EXISTS', 'launch:settle', 'launch:due', 'launch:expiring', 'launch:schedules') == 0 then return '0' end
  if redis.call('EXISTS', 'launch:settle') == 1 then return int(now) end
  local first
  local function consider(key, from, ahead)
    local found = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    local at = found and tonumber(found) - ahead
    if at and (not first or at < first) then first = at end
  end
  consider('launch:due', '-inf', 0)
  if prefetch_us > 0 then consider('launch:due', '(' .. int(now + prefetch_us), prefetch_us) end
  consider('launch:expiring', '-inf', 0)
  -- One that cannot be fired stays where it is.
  consider('launch:schedules', '(' .. int(now), 0)
  return first and int(first) or '0'
end

-- What new runs add to sorted sets, to queues' lists, and to the set of queues: for many runs one command for each key.
local to_add = {entries = {}, items = {}, queues = {}, arrays = {}}
local function add(key, score, id)
  local entries = to_add.entries[key]
  if not entries then
    entries = {}
    to_add.entries[key] = entries
  end
  entries[#entries + 1] = score
  entries[#entries + 1] = id
end

-- Writes it. A script that creates runs calls this before it ends, and before anything else looks at their entries.
-- One damaged index must not keep the runs from their queues.
local function add_all()
  for key, entries in pairs(to_add.entries) do
    if type(redis.pcall('ZADD', key, unpack(entries))) == 'table' then
      heal(key, 'zset')
      redis.call('ZADD', key, unpack(entries))
    end
  end
  for list, made in pairs(to_add.items) do
    if type(redis.pcall('LPUSH', list, unpack(made))) == 'table' then
      heal(list)
      redis.call('LPUSH', list, unpack(made))
    end
  end
  for queue in pairs(to_add.queues) do
    if redis.call('SADD', 'launch:queues', queue) == 1 then redis.call('PUBLISH', 'launch:queues', queue) end
  end
  for array, count in pairs(to_add.arrays) do
    redis.pcall('HINCRBY', array_key(array), 'size', count)
    redis.pcall('HINCRBY', array_key(array), 'Pending', count)
  end
  to_add = {entries = {}, items = {}, queues = {}, arrays = {}}
end

-- The places of a new run that waits for its time or for other runs, some of which may have ended.
local function create_for_later(id, now, queue, due, expires_us, waits, states)
  local killed
  for other, wish in pairs(waits) do
    local state, is_array = unpack(states[other])
    if is_as_wished(wish, state) then
      waits[other] = nil
    elseif state ~= 'Pending' and state ~= 'Running' then
      killed = words_for_end(other, state, is_array, wish)
    end
  end
  if killed then
    kill_pending(id, now, killed)
    settle(now, 10)
    return
  end
  if due then put(id, 'not_before', int(due)) end
  if next(waits) == nil then return set_free(id, now) end
  put(id, 'waits_for', cjson.encode(waits), 'reason', words_for_wait(waits))
  put_off(id)
  for run in pairs(waits) do redis.call('ZADD', 'launch:waiters:' .. run, int(now), id) end
end

-- (nothing) -> Pending, for one that `is_new`. `fields` is a flat list of names and values. Returns 1, or -2 and why not
-- when it waits for a run that is not there. The caller calls `add_all` after it.
-- Its history begins unwritten unless there is a reason: that it was Pending at `created_at` goes without saying.
local function create(id, now, reason, queue, due, expires_us, fields)
  local record, at = {}, int(now)
  for n = 1, #fields, 2 do record[fields[n]] = fields[n + 1] end
  local waits, states
  if record.waits_for then
    waits, states = cjson.decode(record.waits_for), {}
    for other in pairs(waits) do
      local state, is_array = end_of(other)
      states[other] = {state, is_array}
      if not state then
        return -2, 'there is no run ' .. other .. ' to wait for; list the known ones with: launch-worker runs'
      end
    end
  end
  local function set(field, value)
    record[field] = value
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  set('state', 'Pending')
  set('created_at', at)
  set('queue', queue)
  if expires_us then set('expires_us', int(expires_us)) end
  seen[id] = setmetatable(record, NEW)
  local is_ready, needs = not due and not waits, record.needs
  local group, line, why, is_alike
  if is_ready then
    -- It is ready from the time at which it was made.
    set('lined_at', at)
    group, line, why = no_room(id)
    is_alike = not group and needs and redis.call('EXISTS', 'launch:parked:needs:' .. needs .. '/' .. queue) == 1
    if not group and not is_alike then set('seq', '1') end
  elseif reason ~= '' then
    set('reason', reason)
  end
  write_new(id, fields)
  add('launch:runs', at, id)
  add('launch:runs:queue:' .. queue, at, id)
  add('launch:runs:state:Pending', at, id)
  if record.project ~= '' then add('launch:runs:project:' .. record.project, at, id) end
  if record.sweep and record.sweep ~= '' then add('launch:runs:sweep:' .. record.sweep, at, id) end
  if record.array and record.array ~= '' then
    add('launch:runs:array:' .. record.array, at, id)
    to_add.arrays[record.array] = (to_add.arrays[record.array] or 0) + 1
  end
  if reason ~= '' then note(id, 'Pending', now, 0, '', reason) end
  if expires_us then
    local by = int(math.max(now, due or now) + expires_us)
    add('launch:expiring', by, id)
    redis.call('PUBLISH', 'launch:due', by)
  end
  if not is_ready then
    add_all()
    create_for_later(id, now, queue, due, expires_us, waits or {}, states)
    return 1
  end
  to_add.queues[queue] = true
  add('launch:line:' .. queue, int(rank_of(record.priority, at)), id)
  if group then
    park(id, group, line, why)
  elseif is_alike then
    -- Others like it wait already.
    park_for_needs(id, queue, needs)
  else
    local list = list_of(queue, record.priority)
    add('launch:dispatched:' .. list, at, id)
    local items = to_add.items[list] or {}
    to_add.items[list] = items
    items[#items + 1] = item(id, '1', queue, record.priority, record.name, record.project, now)
  end
  return 1
end
