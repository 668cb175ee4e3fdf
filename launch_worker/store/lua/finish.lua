-- Running | Crashed -> Finished | Failed | Killed, and on to Pending when the retry policy says so.
-- ARGV: id, token, attempt, owner, worker, state, reason, phase, message, exit_code, signal, retry_us (-1: no retry),
--   retry_reason, counts_as (0: a retry, 1: a preemption, 2: nothing, 3: a start that failed through the worker), capacity
--   (free capacity of the worker now; '' for none), pid (of the main process; '' when `started` has noted it),
--   ended_ago_us (time since the end by the worker's clock; '' for now). An end is never noted as before its start.
--   usage (JSON of what the attempt used; '' where that is not known), samples (the same with samples over time; '' for
--   none), retried, avoid, needs (new values of these fields of the record where it is tried again; '' to leave them),
--   left ('1': outputs of the attempt wait to be sent, '0': none do; '' where that is not said)
-- Refuses a superseded attempt (counted), and an owner whose job another worker took over ('' speaks for any owner). A
-- repeated report of the same attempt changes nothing.
-- Returns 'done' | 'superseded' | 'unknown' (Redis has lost the record).
local id, token, attempt, owner, worker, state, reason, phase, message, exit_code, signal, retry_us, retry_reason,
  counts_as, capacity, pid, ended_ago_us, usage, samples, retried, avoid, needs, left = unpack(ARGV)
retry_us, capacity, ended_ago_us = tonumber(retry_us), capacity_of(capacity), tonumber(ended_ago_us)
local run = get(id, 'state', 'token', 'closed', 'attempt', 'worker', 'cancel_at', 'owner', 'preempting',
  -- Fields that are needed later, read by the same command.
  'created_at', 'start_at', 'queue', 'concurrency_key', 'array', 'array_limit', 'sweep', 'started_at', 'held', 'notify',
  'max_fails')
local now = now_us()
if capacity then keep_free(owner, capacity) end
if not run[1] then return 'unknown' end
if is_rolled_back(run[2], token) then
  regain(id, run[1], now, token, attempt, owner, worker)
  run = get(id, 'state', 'token', 'closed', 'attempt', 'worker', 'cancel_at', 'owner', 'preempting')
end
OUTPUTS.note_left(id, attempt, left)
if run[3] == token and run[2] == token then
  -- A repeated report; or the processes of a job that had called itself finished have ended now, freed their capacity,
  -- and used more than was known.
  note_usage(id, run[4], usage, samples)
  if capacity then pcall(offer, capacity, now) end
  return 'done'
end
local is_other = owner ~= '' and run[7] and run[7] ~= owner
if run[2] ~= token or is_other or (run[1] ~= 'Running' and run[1] ~= 'Crashed') then
  redis.call('HINCRBY', 'launch:counters', 'superseded_reports', 1)
  if capacity then pcall(offer, capacity, now) end
  return 'superseded'
end
if run[6] and not run[8] and retry_us >= 0 then
  retry_us, reason = -1, reason .. '; not retried, because it was cancelled'
end
-- A run that was claimed ahead of its time waits for that time.
local start_at = retry_us >= 0 and tonumber(get(id, 'start_at')[1] or '')
if start_at then retry_us = math.max(retry_us, start_at - now) end
if run[1] == 'Crashed' then reason = reason ~= '' and reason or 'reported after the worker was silent' end
if run[1] == 'Crashed' and state == 'Crashed' then
  -- The pass was quicker: the worker reports what the record says already.
  put(id, 'closed', token)
  note_usage(id, run[4], usage, samples)
  return 'done'
end
local ended = {'closed', token, 'phase', phase, 'message', message, 'signal', signal}
if exit_code ~= '' then ended[9], ended[10] = 'exit_code', exit_code end
if pid ~= '' then ended[#ended + 1], ended[#ended + 2] = 'pid', pid end
put(id, unpack(ended))
note_usage(id, run[4], usage, samples)
local ended_at = now - math.max(0, ended_ago_us or 0)
ended_at = math.min(now, math.max(ended_at, tonumber(get(id, 'started_at')[1] or '') or now))
arrow(id, run[1], state, now, run[4], run[5], reason,
  {ended_at = ended_at, exit_code = exit_code, signal = signal, phase = phase, message = message, usage = usage})
go_on(id, state, now, run[4], run[5], retry_us, retry_reason, counts_as, {retried = retried, avoid = avoid, needs = needs})
-- An error with other runs is no error of this report.
if capacity then pcall(offer, capacity, now) end
return 'done'
