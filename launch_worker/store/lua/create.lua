-- (nothing) -> Pending.  ARGV: id, delay_us, reason, field, value, …
-- Idempotent by id: a repeated call changes nothing.  Returns {created 0|1, number of live consumers of the queue}.
local id, delay_us, reason = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local created = 0
if redis.call('EXISTS', run_key(id)) == 0 then
  created = 1
  local now = now_us()
  redis.call('HSET', run_key(id), 'id', id, 'state', 'Pending', 'reason', reason, 'attempt', 0, 'first_attempt', 1,
    'token', 0, 'seq', 0, 'created_at', int(now), unpack(ARGV, 4))
  local run = get(id, 'queue', 'project')
  redis.call('ZADD', 'launch:runs', int(now), id)
  redis.call('ZADD', 'launch:runs:queue:' .. run[1], int(now), id)
  if run[2] ~= '' then redis.call('ZADD', 'launch:runs:project:' .. run[2], int(now), id) end
  redis.call('ZADD', 'launch:runs:state:Pending', int(now), id)
  redis.call('SADD', 'launch:queues', run[1])
  note(id, 'Pending', now, 0, '', reason)
  if delay_us > 0 then schedule(id, now + delay_us) else dispatch(id, now) end
end
local queue = redis.call('HGET', run_key(id), 'queue')
return {created, redis.call('ZCOUNT', 'launch:consumers:' .. queue, int(now_us()), '+inf')}
