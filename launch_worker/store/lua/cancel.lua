-- Pending -> Killed; a Running run is marked and its owner told at once.
-- ARGV: id, grace_us ('' = the job's own), reason, preempt (1: it shall end only to run again, and must be Running)
-- Returns the answer 'killed' | 'requested' | 'final' | 'pending', and the run's state.
local id, grace_us, reason, preempt = unpack(ARGV)
local run = get(id, 'state', 'attempt', 'owner', 'cancel_at', 'token', 'preempting')
local state = run[1]
if not state then return {'unknown', ''} end
local now = now_us()
if state == 'Pending' then
  if preempt == '1' then return {'pending', state} end
  kill_pending(id, now, reason)
  settle(now, 100)
  return {'killed', 'Killed'}
end
if state ~= 'Running' then return {'final', state} end
-- What was asked to end must not come back.
if preempt == '1' and run[4] and not run[6] then return {'requested', state} end
if not run[4] then
  redis.call('HSET', run_key(id), 'cancel_at', int(now))
  redis.call('ZADD', 'launch:cancels', int(now), id)
end
redis.call('HSET', run_key(id), 'cancel_grace_us', grace_us, 'cancel_reason', reason, 'reason', 'stopping: ' .. reason)
if preempt == '1' then
  redis.call('HSET', run_key(id), 'preempting', '1')
else
  redis.call('HDEL', run_key(id), 'preempting')
end
redis.call('PUBLISH', 'launch:orders:' .. run[3], order_of(id))
return {'requested', state}
