-- Claims: a worker asks for a run of an item, or for the next one of its lists.

-- One table: a library may have two hundred names.
local CLAIMS = {HELD = 'Redis was restored from a snapshot; workers report first'}

-- What a claim answers: the record as it was read, and what is other, or not in it; false for a field that is gone.
-- `list`: a worker's own list, if the run was in one.
function CLAIMS.answer(id, values, list)
  local queue = field_of(id, 'queue')
  local waiting = redis.pcall('LLEN', list or list_of(queue, field_of(id, 'priority')))
  -- `id`, `queue_config` and `waiting` are no fields of a record: one that somebody wrote into it must not stand for them.
  local fields, at = {'id', id, 'queue_config', queue_config(queue), 'waiting',
    type(waiting) == 'number' and int(waiting) or '0'}, 6
  for field, value in pairs(unwritten[id] or {}) do
    if field ~= 'id' and field ~= 'queue_config' and field ~= 'waiting' then
      fields[at + 1], fields[at + 2] = field, value
      at = at + 2
    end
  end
  return {1, values, fields}
end

-- Sends a run, which another worker shall try, to one of them; nil where the claim goes on. Returns the claim's answer, or
-- nil and the reason for which the run starts on this worker again.
function CLAIMS.apart(id, by, due, version, needs, now)
  local is_avoided = field_of(id, 'avoid') == by.worker
  if not (is_avoided or (by.capacity and by.capacity.unable and APART.is_unable(id, by.capacity.unable))) then return nil, '' end
  local is_any, other, free = APART.look(id, by.worker, version, needs, now)
  if not is_any then return nil, is_avoided and 'on ' .. by.worker .. ' again, for no other worker may take it' or '' end
  local why = 'not on ' .. by.worker .. (is_avoided and ' again, which failed it' or ', which fails to start such runs')
    .. ': waiting for another worker'
  withdraw(id)
  put_in_line(id, now)
  if due then
    schedule(id, due)
  elseif other then
    give(id, now, other, free, needs)
  else
    park(id, 'apart:' .. string.gsub(by.worker, '/', '_'), field_of(id, 'queue'), why)
  end
  release(id, now)
  return {0, why}
end

-- Sends a scheduler, of which this worker may run no more, to another worker, or puts it off. Returns the claim's answer.
function CLAIMS.put_off_scheduler(id, by, due, needs, now)
  local queue, lined_at = field_of(id, 'queue'), field_of(id, 'lined_at')
  local why = 'waiting for a worker that may run one more scheduler (max_schedulers)'
  withdraw(id)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', 'launch:consumers:' .. queue, int(now), '+inf', 'LIMIT', 0, 200)) do
    local free = not due and other ~= by.owner and free_of(other)
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

-- Sends a run that does not fit into this worker to another worker, or parks it. Returns the claim's answer; nil where it fits.
function CLAIMS.send_where_it_fits(id, by, due, needs, now)
  local queue, text = field_of(id, 'queue'), field_of(id, 'needs')
  local collected, collected_needs = collected_by(by.owner)
  -- What the worker was given was chosen with that in mind.
  local is_given = field_of(id, 'list') == direct_of(by.owner)
  local is_kept = collected and collected ~= id and not is_given and not fits(needs, without(by.capacity, collected_needs))
  if not is_kept and fits(needs, by.capacity) and #by.devices >= needs.gpus then return nil end
  withdraw(id)
  put_in_line(id, now)
  local other, free
  if not due then other, free = worker_for(queue, needs, now, by.owner) end
  if other then
    give(id, now, other, free, needs)
    return {0, words_for(needs)}
  end
  if due then schedule(id, due) else park_for_needs(id, queue, text) end
  release(id, now)
  return {0, words_for(needs)}
end

-- Claims the run of an item. `by`: the arguments of `claim` that say who asks; with `keeps_slot` the slot was the worker's
-- already, as its last call said. Returns the answer of `claim`.
function CLAIMS.claim(id, seq, by)
  local values = read_all(id)
  local run = seen[id] or {}
  local state, queue, needs = run.state, run.queue, run.needs
  if not state then return {0, 'there is no such run'} end
  if by.plain and (needs and needs ~= '' or run.scheduler == '1') then return {2, ''} end
  local now = now_us()
  if run.nonce == by.nonce and (state == 'Running' or state == 'Crashed') and run.closed ~= run.token then
    if state == 'Crashed' then
      -- No job of it has begun, and other runs may have what it held.
      if not run.cancel_at then
        go_on(id, state, now, run.attempt, by.worker, 0, 'back in its queue: its claim was answered too late', '2', {})
      end
      return {0, 'its lease was over before the claim was answered'}
    end
    redis.call('ZADD', 'launch:leases', int(now + tonumber(by.lease_us)), id)
    return CLAIMS.answer(id, values, run.list)
  end
  if LOOK.are_claims_held == nil then LOOK.is_nothing_of({}, queue or '', true) end
  if LOOK.is_held() then return {0, CLAIMS.HELD} end
  if state ~= 'Pending' then return {0, 'the run is ' .. state} end
  if run.seq ~= seq then return {0, 'the item is older than the run\'s latest dispatch'} end
  local damage = damage_of(id)
  if damage then
    WAITING.fail_damaged(id, now, damage)
    WAITING.settle(now, 100)
    return {0, 'its record is damaged: ' .. damage}
  end
  local why_halted = run.max_fails and WAITING.why_halted(id)
  if why_halted then
    WAITING.kill_pending(id, now, why_halted)
    WAITING.settle(now, 100)
    return {0, why_halted}
  end
  if not redis.call('ZSCORE', 'launch:consumers:' .. queue, by.owner) then return {3, queue, id, seq} end
  local expires_at = run.expires_us and tonumber(redis.call('ZSCORE', 'launch:expiring', id) or '')
  if expires_at and expires_at <= now then
    WAITING.kill_pending(id, now, 'it did not start in time (--expires)')
    WAITING.settle(now, 100)
    return {0, 'the run has expired'}
  end
  local due = run.due_at and tonumber(run.due_at)
  if due and due <= now then due = nil end
  -- Only `publish_due` gives a run to a worker ahead of its time, to be prepared, and the run is in a list then.
  if due and not run.list then return {0, 'the run waits for its time'} end
  local version = run.version and tonumber(run.version) or 1
  if version > by.reads_version then
    local needed = 'waiting for a worker that reads items of version ' .. int(version)
    withdraw(id)
    put_in_line(id, now)
    if due then
      schedule(id, due)
    else
      park(id, 'version:' .. int(version), queue, needed)
      -- Else every worker that has room would let it go, this one too.
      redis.call('SREM', 'launch:groups:' .. queue, 'version:' .. int(version))
    end
    return {0, needed .. '; this one reads them up to version ' .. int(by.reads_version)}
  end
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
  local needed = parse_needs(needs or '')
  local elsewhere, again_here = CLAIMS.apart(id, by, due, version, needed, now)
  if elsewhere then return elsewhere end
  if by.capacity and run.scheduler == '1' and (tonumber(by.capacity.schedulers) or 1) <= 0 then
    return CLAIMS.put_off_scheduler(id, by, due, needed, now)
  end
  if by.capacity and needs and needs ~= '' then
    elsewhere = CLAIMS.send_where_it_fits(id, by, due, needed, now)
    if elsewhere then return elsewhere end
  end
  return CLAIMS.start(id, by, due, needed, now, again_here, values)
end

-- Pending -> Running, once nothing is in the way. Returns the claim's answer.
function CLAIMS.start(id, by, due, needed, now, reason, values)
  local run, gpus = seen[id], {}
  for at = 1, math.min(needed.gpus, #by.devices) do gpus[at] = by.devices[at] end
  -- Server time keeps a token from being issued twice by a Redis that was rolled back (failover, power loss).
  local token = math.max(tonumber(run.token) + 1, now)
  local attempt, before, lined_at, list = int(tonumber(run.attempt) + 1), run.attempt, run.lined_at, run.list
  withdraw(id)
  if run.expires_us then redis.call('ZREM', 'launch:expiring', id) end
  put(id, 'attempt', attempt, 'token', int(token), 'nonce', by.nonce, 'owner', by.owner,
    'worker', by.worker, 'host', by.host, 'started_at', int(now), 'gpus', #gpus > 0 and cjson.encode(gpus) or '[]')
  if before ~= '0' then
    local used = run.usage
    -- The record has what the latest attempt used.
    if used and not redis.call('HGET', run_key(id) .. ':usage', before) then
      redis.call('HSET', run_key(id) .. ':usage', before, used)
    end
    drop(id, 'exit_code', 'signal', 'phase', 'message', 'pid', 'phases', 'closed', 'start_at',
      'preempting', 'log_missing', 'log_missing_lines', 'usage', 'avoid')
  end
  if run.collector then drop(id, 'collector') end
  if due then put(id, 'start_at', int(due)) end
  redis.call('ZADD', 'launch:leases', int(now + tonumber(by.lease_us)), id)
  arrow(id, 'Pending', 'Running', now, attempt, by.worker, reason)
  -- A run that is prepared ahead of its time has not waited yet.
  if not due then COUNTS.add_wait(run.queue, lined_at, now) end
  if by.plain then
    -- By one, as other claims of this worker may be on their way.
    if not by.keeps_slot then redis.call('HINCRBY', 'launch:free:' .. by.owner, 'slots', '-1') end
  elseif by.capacity then
    local left = without(by.capacity, needed)
    left.slots = by.capacity.slots
    keep_free(by.owner, left)
  end
  return CLAIMS.answer(id, values, list)
end

-- Pops the next run's item; nil when there is none, or something else comes first. Returns id, seq, and the item.
function CLAIMS.pop(list)
  local oldest = redis.pcall('RPOP', list)
  if type(oldest) ~= 'string' then return nil end
  local id, seq = named_in(oldest)
  if id and string.find(oldest, '"task": ?"launch_worker%.run"') then return id, seq, oldest end
  redis.call('RPUSH', list, oldest)
end

-- The run that this slot got by its latest call of `claim_next`, if that was this one; nil for none.
function CLAIMS.taken(slot, by)
  local kept = redis.call('HGET', 'launch:free:' .. by.owner, 'taken:' .. slot)
  return kept and string.match(kept, '^%w+') == by.nonce and string.match(kept, '%w+$') or nil
end

-- Pops items of the lists, in their order, until a run can be claimed. Returns the answer of `claim`.
function CLAIMS.next(slot, by, lists)
  -- What is refused would be lost until a pass finds it.
  if LOOK.is_held() then return {0, CLAIMS.HELD} end
  local answer = {0, ''}
  for _, list in ipairs(lists) do
    -- Bounded: what is refused costs as much as what is claimed.
    for _ = 1, 10 do
      local id, seq, item = CLAIMS.pop(list)
      if not id then break end
      answer = CLAIMS.claim(id, seq, by)
      if answer[1] == 2 then
        redis.call('RPUSH', list, item)
        return answer
      end
      if answer[1] == 3 then return answer end
      if answer[1] == 1 then
        redis.call('HSET', 'launch:free:' .. by.owner, 'taken:' .. slot, by.nonce .. ' ' .. id)
        return answer
      end
    end
  end
  return answer
end
