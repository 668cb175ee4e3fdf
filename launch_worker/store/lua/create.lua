-- (nothing) -> Pending.  ARGV: id, delay_us, reason, queue, the queue's configuration as the caller knows it, field, value, …
-- Idempotent by id: a repeated call changes nothing. Refuses a caller that does not know the queue's configuration.
-- Returns {created 0|1, number of live consumers of the queue} or {-1, the configuration}.
local id, delay_us, reason, queue, config = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local created = 0
if redis.call('EXISTS', run_key(id)) == 0 then
  if queue_config(queue) ~= config then return {-1, queue_config(queue)} end
  created = 1
  local now = now_us()
  redis.call('HSET', run_key(id), 'id', id, 'state', 'Pending', 'reason', reason, 'attempt', 0, 'first_attempt', 1,
    'token', 0, 'seq', 0, 'created_at', int(now), 'queue', queue, unpack(ARGV, 6))
  local project = get(id, 'project')[1]
  redis.call('ZADD', 'launch:runs', int(now), id)
  redis.call('ZADD', 'launch:runs:queue:' .. queue, int(now), id)
  if project ~= '' then redis.call('ZADD', 'launch:runs:project:' .. project, int(now), id) end
  redis.call('ZADD', 'launch:runs:state:Pending', int(now), id)
  redis.call('SADD', 'launch:queues', queue)
  note(id, 'Pending', now, 0, '', reason)
  if delay_us > 0 then schedule(id, now + delay_us) else dispatch(id, now) end
end
return {created, redis.call('ZCOUNT', 'launch:consumers:' .. queue, int(now_us()), '+inf')}
