-- A final state -> Pending: a new attempt that a person asked for. The retry policy counts from this attempt on.
-- ARGV: id, reason, actor.  Returns {1, ''} or {0, the state that refused} or {0, ''} for an unknown run.
local id, reason, actor = unpack(ARGV)
local run = get(id, 'state', 'attempt')
if not run[1] then return {0, ''} end
if not FINAL[run[1]] then return {0, run[1]} end
put(id, 'first_attempt', tonumber(run[2]) + 1)
drop(id, 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'exit_code', 'signal', 'phase',
  'message', 'pid', 'started_at', 'late_exit', 'preemptions', 'misstarts', 'preempting', 'not_before', 'log_missing',
  'log_missing_lines')
again(id, run[1], now_us(), run[2], '', reason, 0, actor)
return {1, ''}
