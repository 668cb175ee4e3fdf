-- Running -> Crashed for runs whose leases ran out, and on to Pending when the retry policy says so.
-- ARGV, for each run: id, token, reason, retry_us (-1: no retry), retry_reason, counts_as (0: a retry, 1: a preemption,
-- 2: nothing), retried, avoid (new values of these fields of the record; '' to leave them)
-- Refuses a run whose lease was renewed meanwhile, another attempt, and a held run. A run with a damaged record is not
-- retried. A run that was only prepared ahead of its time waits for that time again.
-- Returns 1, 0 or an error for each run in order. After many dispatches of other runs it stops early, for Redis does
-- nothing else meanwhile: the answers are fewer than the runs then, and the caller calls again for the rest.
local runs = ARGV
local WORDS = 8
local now = now_us()

local function crash(id, token, reason, retry_us, retry_reason, counts_as, retried, avoid)
  local run = get(id, 'state', 'token', 'attempt', 'worker', 'cancel_at', 'preempting', 'start_at',
    -- Fields that are needed later, read by the same command.
    'created_at', 'queue', 'concurrency_key', 'array', 'sweep', 'first_attempt', 'seq', 'held', 'array_limit',
    'started_at', 'notify', 'max_fails')
  if run[1] ~= 'Running' then
    redis.call('ZREM', 'launch:leases', id)
    return 0
  end
  local deadline = redis.call('ZSCORE', 'launch:leases', id)
  if deadline and tonumber(deadline) > now then return 0 end
  local damage = damage_of(id)
  if damage then
    -- The run is not retried. If its worker is alive, the worker mends the record.
    arrow(id, 'Running', 'Crashed', now, run[3], run[4], reason .. '; the record of this run is damaged: ' .. damage)
    keep_aside('', 'run ' .. id .. ' is Crashed: the record of this run is damaged: ' .. damage, id)
    over(id, now)
    return 1
  end
  if run[2] ~= token then return 0 end
  if run[15] == token then
    -- The job of a held run may be alive.
    redis.call('ZADD', 'launch:leases', int(LATER), id)
    return 0
  end
  local start_at = tonumber(run[7] or '')
  if start_at and start_at > now and not run[5] then
    put(id, 'first_attempt', (tonumber(get(id, 'first_attempt')[1]) or 1) + 1)
    arrow(id, 'Running', 'Crashed', now, run[3], run[4], reason)
    again(id, 'Crashed', now, run[3], run[4], 'its time had not come', start_at - now)
    return 1
  end
  if run[5] and not run[6] then retry_us, reason = -1, reason .. ' while it was being cancelled' end
  arrow(id, 'Running', 'Crashed', now, run[3], run[4], reason)
  go_on(id, 'Crashed', now, run[3], run[4], retry_us, retry_reason, counts_as, {retried = retried, avoid = avoid})
  return 1
end

local answers = {}
for at = 1, #runs, WORDS do
  local id, token, reason, retry_us, retry_reason, counts_as, retried, avoid = unpack(runs, at, at + WORDS - 1)
  -- One damaged record must not keep the others from being called Crashed.
  local fine, answer = pcall(crash, id, token, reason, tonumber(retry_us), retry_reason, counts_as,
    retried, avoid)
  if not fine and type(answer) ~= 'table' then answer = redis.error_reply(tostring(answer)) end
  answers[#answers + 1] = answer
  wake_again()
  if moves >= 20 then break end
end
return answers
