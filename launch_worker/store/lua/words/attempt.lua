-- What follows the end of an attempt, or a sign of life of one that was given up.

-- Notes what an attempt has used: its figures in the record, and the samples, which are larger, beside it.
local function note_usage(id, attempt, usage, samples)
  if usage ~= '' then put(id, 'usage', usage) end
  if samples ~= '' then redis.call('HSET', run_key(id) .. ':usage', attempt, samples) end
end

-- Makes a record that Redis has rolled back Running again, under the attempt that its worker still holds.
local function regain(id, state, now, token, attempt, owner, worker)
  if state == 'Pending' then withdraw(id) end
  put(id, 'token', token, 'attempt', attempt, 'owner', owner, 'worker', worker)
  drop(id, 'closed', 'exit_code', 'signal', 'phase', 'message')
  redis.call('HINCRBY', 'launch:counters', 'restored_runs', 1)
  enter(id, state, 'Running', now, attempt, worker, 'Redis had lost this attempt; its worker is alive', {restored = '1'})
end

-- Crashed -> Running: the worker of the same attempt, which was not superseded, is alive.
local function revive(id, now, attempt, worker)
  arrow(id, 'Crashed', 'Running', now, attempt, worker, 'its worker is alive again')
  local cancelled = get(id, 'cancel_at')[1]
  if tonumber(cancelled or '') then redis.call('ZADD', 'launch:cancels', cancelled, id) end
end

-- A final state -> Pending: at once, or after delay_us. Runs that waited longer get its place first. `actor`: who asked
-- for it, nil for the retry policy.
local function again(id, from, now, attempt, worker, reason, delay_us, actor)
  arrow(id, from, 'Pending', now, attempt, worker, reason, {actor = actor})
  if not actor then COUNTS.add(get(id, 'queue')[1], 'retry:' .. from, '1') end
  drop(id, 'lined_at')
  release(id, now)
  if delay_us > 0 then return schedule(id, now + delay_us) end
  line_up(id, now)
  -- The reason tells why the run waits, unless it is parked for another reason.
  if not get(id, 'parked')[1] then put(id, 'reason', reason) end
end

-- A final state -> Pending, because a person asked for it. The retry policy counts from this attempt on. `elsewhere`: not
-- on the worker of the last attempt, while another one may take it.
local function retry_by_person(id, now, reason, actor, elsewhere)
  local state, attempt, worker = unpack(get(id, 'state', 'attempt', 'worker'))
  WAITING.go_on(id, now, actor)
  put(id, 'first_attempt', tonumber(attempt) + 1)
  drop(id, 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'exit_code', 'signal', 'phase',
    'message', 'pid', 'started_at', 'late_exit', 'preemptions', 'misstarts', 'retried', 'avoid', 'preempting', 'not_before',
    'log_missing', 'log_missing_lines')
  again(id, state, now, attempt, '', reason, 0, actor)
  if elsewhere and worker then put(id, 'avoid', worker) end
end

-- Ends a run for good: its sweep, its place and the runs that wait for it.
local function over(id, now)
  SWEEPS.try_tell(id, now)
  release(id, now)
  pcall(WAITING.halt, id, now)
  if not WAITING.note_end(id, now) then return end
  WAITING.settle(now, 100)
  -- The first worker that gets this publication tells the remaining runs.
  if redis.call('EXISTS', 'launch:settle') == 1 then redis.call('PUBLISH', 'launch:due', int(now)) end
end

-- Does what follows an attempt's end in the state `from`: Pending again after retry_us, or the end for good when
-- retry_us is below 0. `counts_as`: '0' a retry, '1' a preemption, '2' nothing, '3' a start that failed through the
-- worker. `changes`: new values of fields of the record (retried, avoid, needs), '' for those that stay.
local function go_on(id, from, now, attempt, worker, retry_us, retry_reason, counts_as, changes)
  if retry_us < 0 then return over(id, now) end
  if counts_as == '1' then put(id, 'preemptions', (tonumber(get(id, 'preemptions')[1] or '') or 0) + 1) end
  if counts_as == '3' then put(id, 'misstarts', (tonumber(get(id, 'misstarts')[1] or '') or 0) + 1) end
  -- Counted in another way, or not at all: the attempt does not count as a retry.
  if counts_as ~= '0' then
    put(id, 'first_attempt', (tonumber(get(id, 'first_attempt')[1]) or 1) + 1)
  end
  for field, value in pairs(changes) do
    if value ~= '' then put(id, field, value) end
  end
  forget_request(id)
  again(id, from, now, attempt, worker, retry_reason, retry_us)
end
