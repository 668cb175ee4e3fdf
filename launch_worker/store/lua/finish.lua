-- Running | Crashed -> Finished | Failed | Killed, and on to Pending when the retry policy says so.
-- ARGV: id, token, state, reason, phase, message, exit_code, signal, retry_us (-1: no retry), retry_reason
-- Refuses a superseded attempt (counted). A repeated report of the same attempt changes nothing.
-- Returns 'done' | 'superseded'.
local id, token, state, reason, phase, message, exit_code, signal = unpack(ARGV, 1, 8)
local retry_us, retry_reason = tonumber(ARGV[9]), ARGV[10]
local run = get(id, 'state', 'token', 'closed', 'attempt', 'worker', 'cancel_at')
if run[3] == token and run[2] == token then return 'done' end
if run[2] ~= token or (run[1] ~= 'Running' and run[1] ~= 'Crashed') then
  redis.call('HINCRBY', 'launch:counters', 'superseded_reports', 1)
  return 'superseded'
end
local now = now_us()
if run[6] and retry_us >= 0 then
  retry_us, reason = -1, reason .. '; not retried, because it was cancelled'
end
if run[1] == 'Crashed' then reason = reason ~= '' and reason or 'reported after the worker was silent' end
redis.call('HSET', run_key(id), 'closed', token, 'phase', phase, 'message', message, 'signal', signal)
if exit_code ~= '' then redis.call('HSET', run_key(id), 'exit_code', exit_code) end
arrow(id, run[1], state, now, run[4], run[5], reason)
if retry_us >= 0 then
  again(id, state, now, run[4], run[5], retry_reason, retry_us)
end
return 'done'
