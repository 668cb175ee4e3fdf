-- Ends of attempts, as their workers report them.

-- One table: a library may have two hundred names.
local ENDS = {FACTS = {'phase', 'message', 'signal'}}

-- What a report says, from the arguments of `finish` (there they are explained), of which the first one has this place.
-- Arguments at the end may be missing.
function ENDS.report_of(arguments, first)
  local id, token, attempt, owner, worker, state, exit_code, pid, ended_ago_us, usage, capacity, reason, phase, message, signal,
    retry_us, retry_reason, counts_as, samples, left, retried, avoid, needs = unpack(arguments, first, first + 22)
  return {id = id, token = token, attempt = attempt, owner = owner, worker = worker, state = state, exit_code = exit_code or '',
    pid = pid or '', ended_ago_us = tonumber(ended_ago_us or '') or 0, usage = usage or '', capacity = capacity or '',
    reason = reason or '', phase = phase or '', message = message or '', signal = signal or '',
    retry_us = tonumber(retry_us or '') or -1, retry_reason = retry_reason or '', counts_as = counts_as or '0',
    samples = samples or '', left = left or '', changes = {retried = retried, avoid = avoid, needs = needs}}
end

-- Whether anybody waits for this run, for its place, or for room on its worker, which consumes these queues.
function ENDS.is_awaited(id, queues)
  local group, _, is_sweep = group_of(id)
  if is_sweep or group and (emptied[group] or field_of(id, 'notify') or field_of(id, 'max_fails')) then return true end
  -- Lua passes on some thousand values at once, no more.
  if #queues > 500 then return true end
  local keys, queue = {'launch:waiters:' .. id}, field_of(id, 'queue')
  if group and group ~= id then keys[2] = 'launch:waiters:' .. group end
  for _, group in ipairs(places_of(id)) do keys[#keys + 1] = 'launch:parked:' .. group end
  for at = 1, #queues do
    keys[#keys + 1] = 'launch:groups:' .. queues[at]
    keys[#keys + 1] = 'launch:shapes:' .. queues[at]
  end
  if not LOOK.is_nothing_of(keys, queue or '', true) then return true end
  local pool = queue and settings_of('queue', queue).pool
  return pool and redis.call('EXISTS', 'launch:parked:pool:' .. pool) == 1
end

-- What the reporting worker has free; false where it does not say.
function ENDS.room_of(report)
  if report.room == nil then report.room = capacity_of(report.capacity) or false end
  return report.room
end

-- Notes what the reporting worker has free, once. Returns that.
function ENDS.note_room(report)
  local room = ENDS.room_of(report)
  if room and not report.is_noted then keep_free(report.owner, room) end
  report.is_noted = true
  return room
end

-- Running | Crashed -> the reported state, and on to Pending when the retry policy says so. `queues`: those that the worker
-- consumes. Returns the answer of `finish`; and true where the run's end was written now, and nobody waits for it, for its
-- place, or for room on its worker.
function ENDS.write(report, now, queues)
  local id, token = report.id, report.token
  read_all(id)
  local run = seen[id] or {}
  if not run.state then return 'unknown' end
  if is_rolled_back(run.token, token) then
    regain(id, run.state, now, token, report.attempt, report.owner, report.worker)
  end
  OUTPUTS.note_left(id, report.attempt, report.left)
  local state, attempt, worker = run.state, run.attempt, run.worker
  if run.closed == token and run.token == token then
    -- A repeated report; or the processes of a job that had called itself finished have ended now, freed their capacity,
    -- and used more than was known.
    note_usage(id, attempt, report.usage, report.samples)
    return 'done'
  end
  local is_other = report.owner ~= '' and run.owner and run.owner ~= report.owner
  if run.token ~= token or is_other or (state ~= 'Running' and state ~= 'Crashed') then
    redis.call('HINCRBY', 'launch:counters', 'superseded_reports', 1)
    return 'superseded'
  end
  local retry_us, reason = report.retry_us, report.reason
  if run.cancel_at and not run.preempting and retry_us >= 0 then
    retry_us, reason = -1, reason .. '; not retried, because it was cancelled'
  end
  -- A run that was claimed ahead of its time waits for that time.
  local start_at = retry_us >= 0 and tonumber(run.start_at or '')
  if start_at then retry_us = math.max(retry_us, start_at - now) end
  if state == 'Crashed' then reason = reason ~= '' and reason or 'reported after the worker was silent' end
  put(id, 'closed', token)
  note_usage(id, attempt, report.usage, report.samples)
  -- The pass was quicker: the worker reports what the record says already.
  if state == 'Crashed' and report.state == 'Crashed' then return 'done' end
  for _, field in ipairs(ENDS.FACTS) do
    if report[field] ~= '' or run[field] then put(id, field, report[field]) end
  end
  if report.exit_code ~= '' then put(id, 'exit_code', report.exit_code) end
  if report.pid ~= '' then put(id, 'pid', report.pid) end
  local ended_at = now - math.max(0, report.ended_ago_us)
  ended_at = math.min(now, math.max(ended_at, tonumber(run.started_at or '') or now))
  report.ended_at = ended_at
  arrow(id, state, report.state, now, attempt, worker, reason, report)
  if retry_us < 0 and not ENDS.is_awaited(id, queues) then return 'done', true end
  -- Before the place is given away: runs are woken for workers with room.
  ENDS.note_room(report)
  go_on(id, report.state, now, attempt, worker, retry_us, report.retry_reason, report.counts_as, report.changes)
  return 'done'
end

-- `write`, and then parked runs are offered to the worker. Returns what `write` returns.
function ENDS.finish(report, now, queues)
  local word, is_alone = ENDS.write(report, now, queues)
  local capacity = not is_alone and ENDS.note_room(report)
  -- An error with other runs is no error of this report.
  if capacity then pcall(offer, capacity, now) end
  return word, is_alone
end
