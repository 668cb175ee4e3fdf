-- Pending -> Running, with a new attempt, a new fencing token and a lease. Crashed -> Pending for a repeated call that
-- was silent too long.
-- ARGV: id, seq, nonce, lease_us, owner, worker, host, capacity (free capacity of the worker without this slot; '' for any
--   run), devices (JSON: ids of its free GPUs), version (the newest format of items that it reads), plain (1: only a
--   run that needs nothing of which a worker has a limited amount), list…
-- With '' for id, and the caller's slot for seq, it pops the next item of the lists itself, in the order of the lists,
-- until a run can be claimed. An item that is not a run's is left to the broker's client, with all items behind it.
-- Refuses an item whose dispatch number is not the record's, and an item of a run whose queue the owner is not known to
-- consume (`launch:consumers`, which workers alone write), whatever list it was in.
-- Does something else with a run that
--   has a damaged record: it is Failed;
--   has expired, or is of a group of which too many runs failed: it is Killed;
--   breaks a limit: it is parked;
--   does not fit into this worker: it is given to another worker, or parked;
--   shall not be tried again by this worker, or is one of those that it fails to start now, and another one may take it: it is given to that one, or parked;
--   is a scheduler, and this worker may run no more of them: it is given to another worker, or looked at again later;
--   has a newer format: it is parked in the group version:N, from which newer workers fetch it (heartbeat).
-- A repeated nonce gets the same answer. A worker can make plain claims at the same time; a plain claim of a run that
-- is not plain does nothing.
-- Returns {1, the record's fields and values, with id, queue_config, and waiting (number of items in its list)},
--   {0, reason ('' when nothing waits)}, {2, ''} for a run that is not plain, {3, queue, id, seq} for a run whose queue
--   the owner is not known to consume, or an error LAUNCHNEW where `admit` is to be called first.
local asked_id, asked_seq, nonce, lease_us, owner, worker, host, capacity, devices, reads_version, plain = unpack(ARGV, 1, 11)
local FIRST_LIST = 12
capacity, devices, reads_version, plain = capacity_of(capacity), cjson.decode(devices), tonumber(reads_version), plain == '1'
if not server.is_known then return redis.error_reply('LAUNCHNEW nobody has looked at this server yet') end

local function claim(id, seq)
  read_all(id)
  local run = get(id, 'state', 'seq', 'nonce', 'attempt', 'token', 'closed', 'queue', 'needs', 'due_at', 'expires_us', 'list', 'version')
  local state = run[1]
  if not state then return {0, 'there is no such run'} end
  if plain and (run[8] and run[8] ~= '' or get(id, 'scheduler')[1] == '1') then return {2, ''} end
  local now = now_us()
  local function claimed()
    local list = run[11] or list_of(run[7], get(id, 'priority')[1])
    local waiting = redis.pcall('LLEN', list)
    local fields = {'id', id, 'queue_config', queue_config(run[7]), 'waiting', type(waiting) == 'number' and int(waiting) or '0'}
    for field, value in pairs(seen[id]) do
      -- These are no fields of a record: one that somebody wrote into it must not stand for the queue's settings.
      if value and field ~= 'id' and field ~= 'queue_config' and field ~= 'waiting' then
        fields[#fields + 1] = field
        fields[#fields + 1] = value
      end
    end
    return {1, fields}
  end
  if run[3] == nonce and (state == 'Running' or state == 'Crashed') and run[6] ~= run[5] then
    if state == 'Crashed' then
      -- No job of it has begun, and other runs may have what it held.
      if not get(id, 'cancel_at')[1] then
        go_on(id, state, now, run[4], worker, 0, 'back in its queue: its claim was answered too late', '2', {})
      end
      return {0, 'its lease was over before the claim was answered'}
    end
    redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
    return claimed()
  end
  if redis.call('EXISTS', 'launch:hold') == 1 then return {0, 'Redis was restored from a snapshot; workers report first'} end
  if state ~= 'Pending' then return {0, 'the run is ' .. state} end
  if run[2] ~= seq then return {0, 'the item is older than the run\'s latest dispatch'} end
  local damage = damage_of(id)
  if damage then
    WAITING.fail_damaged(id, now, damage)
    WAITING.settle(now, 100)
    return {0, 'its record is damaged: ' .. damage}
  end
  local why_halted = get(id, 'max_fails')[1] and WAITING.why_halted(id)
  if why_halted then
    WAITING.kill_pending(id, now, why_halted)
    WAITING.settle(now, 100)
    return {0, why_halted}
  end
  if not redis.call('ZSCORE', 'launch:consumers:' .. run[7], owner) then return {3, run[7], id, seq} end
  local expires_at = run[10] and tonumber(redis.call('ZSCORE', 'launch:expiring', id) or '')
  if expires_at and expires_at <= now then
    WAITING.kill_pending(id, now, 'it did not start in time (--expires)')
    WAITING.settle(now, 100)
    return {0, 'the run has expired'}
  end
  local due = tonumber(run[9] or '')
  if due and due <= now then due = nil end
  -- Only `publish_due` gives a run to a worker ahead of its time, to be prepared, and the run is in a list then.
  if due and not run[11] then return {0, 'the run waits for its time'} end
  local version = tonumber(run[12] or '') or 1
  if version > reads_version then
    local needed = 'waiting for a worker that reads items of version ' .. int(version)
    withdraw(id)
    put_in_line(id, now)
    if due then
      schedule(id, due)
    else
      park(id, 'version:' .. int(version), run[7], needed)
      -- Else every worker that has room would let it go, this one too.
      redis.call('SREM', 'launch:groups:' .. run[7], 'version:' .. int(version))
    end
    return {0, needed .. '; this one reads them up to version ' .. int(reads_version)}
  end
  -- With its configuration, which is part of the answer: read once.
  settings_of('queue', run[7], true)
  local group, line, why = no_room(id)
  if group then
    withdraw(id)
    put_in_line(id, now)
    -- One that was to be prepared ahead goes back to waiting for its time.
    if due then schedule(id, due) else park(id, group, line, why) end
    -- The place that it was let go for, in another group, is somebody else's.
    release(id, now)
    return {0, why}
  end
  local needs, again_here = parse_needs(run[8] or ''), ''
  local is_avoided = get(id, 'avoid')[1] == worker
  if is_avoided or (capacity and APART.is_unable(id, capacity.unable)) then
    local is_any, other, free = APART.look(id, worker, version, needs, now)
    if is_any then
      local why = 'not on ' .. worker .. (is_avoided and ' again, which failed it' or ', which fails to start such runs')
        .. ': waiting for another worker'
      withdraw(id)
      put_in_line(id, now)
      if due then
        schedule(id, due)
      elseif other then
        give(id, now, other, free, needs)
      else
        park(id, 'apart:' .. string.gsub(worker, '/', '_'), run[7], why)
      end
      release(id, now)
      return {0, why}
    end
    if is_avoided then again_here = 'on ' .. worker .. ' again, for no other worker may take it' end
  end
  local scheduler, lined_at = unpack(get(id, 'scheduler', 'lined_at'))
  if capacity and scheduler == '1' and (tonumber(capacity.schedulers) or 1) <= 0 then
    local why = 'waiting for a worker that may run one more scheduler (max_schedulers)'
    withdraw(id)
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. run[7], int(now), '+inf', 'LIMIT', 0, 200)) do
      local free = not due and other ~= owner and free_of(other)
      local left = free and tonumber(redis.call('HGET', 'launch:free:' .. other, 'schedulers') or '') or 0
      if left > 0 and free.slots > 0 and fits(needs, free) then
        put_in_line(id, now)
        give(id, now, other, free, needs)
        redis.call('HSET', 'launch:free:' .. other, 'schedulers', int(left - 1))
        return {0, why}
      end
    end
    -- Looked at again after a while, as W&B's agent does: parked, it would have to be woken by whoever has room first.
    schedule(id, due or now + 5000000)
    put(id, 'reason', why, 'lined_at', lined_at or int(now))
    return {0, why}
  end
  if capacity and run[8] and run[8] ~= '' then
    local collected, collected_needs = collected_by(owner)
    -- What the worker was given was chosen with that in mind.
    local is_given = run[11] == direct_of(owner)
    local is_kept = collected and collected ~= id and not is_given and not fits(needs, without(capacity, collected_needs))
    if is_kept or not fits(needs, capacity) or #devices < needs.gpus then
      withdraw(id)
      put_in_line(id, now)
      local other, free
      if not due then other, free = worker_for(run[7], needs, now, owner) end
      if other then
        give(id, now, other, free, needs)
        return {0, words_for(needs)}
      end
      if due then schedule(id, due) else park_for_needs(id, run[7], run[8]) end
      release(id, now)
      return {0, words_for(needs)}
    end
  end
  local gpus = {}
  for at = 1, math.min(needs.gpus, #devices) do gpus[at] = devices[at] end
  -- Server time keeps a token from being issued twice by a Redis that was rolled back (failover, power loss).
  local token = math.max(tonumber(run[5]) + 1, now)
  local attempt = tonumber(run[4]) + 1
  withdraw(id)
  if run[10] then redis.call('ZREM', 'launch:expiring', id) end
  put(id, 'attempt', attempt, 'token', int(token), 'nonce', nonce, 'owner', owner,
    'worker', worker, 'host', host, 'started_at', int(now), 'gpus', #gpus > 0 and cjson.encode(gpus) or '[]')
  local used = get(id, 'usage')[1]
  -- The record has what the latest attempt used.
  if used and not redis.call('HGET', run_key(id) .. ':usage', run[4]) then
    redis.call('HSET', run_key(id) .. ':usage', run[4], used)
  end
  drop(id, 'exit_code', 'signal', 'phase', 'message', 'pid', 'phases', 'closed', 'start_at',
    'preempting', 'collector', 'log_missing', 'log_missing_lines', 'usage', 'avoid')
  if due then put(id, 'start_at', int(due)) end
  redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
  arrow(id, 'Pending', 'Running', now, attempt, worker, again_here)
  -- A run that is prepared ahead of its time has not waited yet.
  if not due then COUNTS.add_wait(run[7], lined_at, now) end
  if plain then
    -- By one, as other claims of this worker may be on their way.
    redis.call('HINCRBY', 'launch:free:' .. owner, 'slots', -1)
  elseif capacity then
    local left = without(capacity, needs)
    left.slots = capacity.slots
    keep_free(owner, left)
  end
  return claimed()
end

-- Pops the next run's item; nil when there is none, or something else comes first. Returns id, seq, and the item.
local function pop(list)
  local oldest = redis.pcall('LINDEX', list, -1)
  if type(oldest) ~= 'string' or not string.find(oldest, '"task": ?"launch_worker%.run"') then return nil end
  local id, seq = named_in(oldest)
  if id then redis.call('RPOP', list) end
  return id, seq, oldest
end

if asked_id ~= '' then return claim(asked_id, asked_seq) end
local slot = asked_seq
-- There by now only if this call is repeated.
local kept = redis.call('HGET', 'launch:free:' .. owner, 'taken:' .. slot)
if kept and string.match(kept, '^%w+') == nonce then return claim(string.match(kept, '%w+$'), '') end
-- What is refused would be lost until a pass finds it.
if redis.call('EXISTS', 'launch:hold') == 1 then return {0, 'Redis was restored from a snapshot; workers report first'} end
local answer = {0, ''}
for at = FIRST_LIST, #ARGV do
  -- Bounded: what is refused costs as much as what is claimed.
  for _ = 1, 10 do
    local id, seq, item = pop(ARGV[at])
    if not id then break end
    answer = claim(id, seq)
    if answer[1] == 2 then
      redis.call('RPUSH', ARGV[at], item)
      return answer
    end
    if answer[1] == 3 then return answer end
    if answer[1] == 1 then
      redis.call('HSET', 'launch:free:' .. owner, 'taken:' .. slot, nonce .. ' ' .. id)
      return answer
    end
  end
end
return answer
