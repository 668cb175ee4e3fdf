-- Pending -> Killed; a Running run is marked and its owner told at once.  ARGV: id, grace_us ('' = the job's own), reason
-- Returns the answer 'killed' | 'requested' | 'final', and the run's state.
local id, grace_us, reason = unpack(ARGV)
local run = get(id, 'state', 'attempt', 'owner', 'cancel_at', 'token')
local state = run[1]
if not state then return {'unknown', ''} end
local now = now_us()
if state == 'Pending' then
  withdraw(id)
  arrow(id, 'Pending', 'Killed', now, run[2], '', reason)
  return {'killed', 'Killed'}
end
if state ~= 'Running' then return {'final', state} end
if not run[4] then
  redis.call('HSET', run_key(id), 'cancel_at', int(now))
  redis.call('ZADD', 'launch:cancels', int(now), id)
end
redis.call('HSET', run_key(id), 'cancel_grace_us', grace_us, 'cancel_reason', reason, 'reason', 'stopping: ' .. reason)
redis.call('PUBLISH', 'launch:orders:' .. run[3],
  cjson.encode({order = 'cancel', id = id, token = run[5], grace_us = grace_us, reason = reason}))
return {'requested', state}
