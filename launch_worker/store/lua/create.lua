-- (nothing) -> Pending.  ARGV: id, due ('' = now, else 'at:US' or 'in:US'), reason, queue, the queue's and its pool's
--   configuration as the caller knows them, expires_us ('' = never), only_known (1: refuse a new queue), field, value, …
-- Idempotent by id: a repeated call changes nothing. Refuses a caller that does not know the configurations.
-- Returns {created 0|1, number of live consumers of the queue} or {-1, the configuration, the pool's}
--   or {-2, why not} or {-3, the known queues}.
local id, due, reason, queue, config, config_of_pool, expires_us, only_known = unpack(ARGV, 1, 8)
local now = now_us()
local created = 0
if is_new(id) then
  if only_known == '1' and queue ~= 'default' and redis.call('SISMEMBER', 'launch:queues', queue) == 0 then
    return {-3, redis.call('SMEMBERS', 'launch:queues')}
  end
  local known, known_of_pool = queue_config(queue), pool_config(queue)
  if known ~= config or known_of_pool ~= config_of_pool then return {-1, known, known_of_pool} end
  local kind, us = string.match(due, '^(%a+):(%d+)$')
  local at = kind == 'at' and tonumber(us) or kind == 'in' and now + tonumber(us) or nil
  if at and at <= now then at = nil end
  local why
  created, why = create(id, now, reason, queue, at, tonumber(expires_us), {unpack(ARGV, 9)})
  if created == -2 then return {-2, why} end
end
return {created, redis.call('ZCOUNT', 'launch:consumers:' .. queue, int(now), '+inf')}
